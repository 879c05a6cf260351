"""Tables between phases: what is read is what was written, or it is damaged."""

import random

import numpy as np
import pytest

from ripresa.families.stacking import Damaged, tables

ABOUT = {"frames": [{"name": "a", "noise": 1.5}, {"name": "b", "noise": None}], "width": 40}


def arrays():
    rng = np.random.default_rng(1)
    return {
        "image": rng.normal(size=(3, 40, 30)).astype(np.float32),
        "turned": np.asfortranarray(rng.normal(size=(4, 5))),
        "count": rng.integers(0, 9, 200).astype(np.uint16),
        "none": np.empty((0, 4), np.int32),
        "single": np.float64(2.5),
    }


def same(first, second):
    return set(first) == set(second) and all(
        first[name].dtype == second[name].dtype and np.array_equal(first[name], second[name])
        for name in first
    )


def test_what_is_written_is_read(tmp_path):
    path = str(tmp_path / "table.npz")
    tables.save(path, ABOUT, **arrays())
    about, found = tables.load(path)
    assert about == ABOUT and same(found, arrays())
    assert tables.load(path, "count")[1].keys() == {"count"}
    with tables.opened(path) as archive:
        joined = np.concatenate(list(tables.pieces(archive, "image", 5000)))
    assert np.array_equal(joined, arrays()["image"])


def test_the_same_content_gives_the_same_bytes(tmp_path):
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    tables.save(str(first), ABOUT, **arrays())
    tables.save(str(second), dict(reversed(ABOUT.items())), **arrays())
    assert first.read_bytes() == second.read_bytes()


def damage(content, rng):
    """Cut the file, or change one to 16 bytes: anywhere, or where archives and arrays say what they are."""
    content = bytearray(content)
    kind = rng.choice(["cut", "anywhere", "end", "begin"])
    if kind == "cut":
        return content[: rng.randrange(len(content))]
    first, last = {"anywhere": (0, 1), "end": (0.85, 1), "begin": (0, 0.05)}[kind]
    for _ in range(rng.choice([1, 1, 2, 16])):
        at = int(rng.uniform(first, last) * len(content))
        content[at] ^= rng.choice([0x55, 0xFF, 1 << rng.randrange(8)])
    return content


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_table_is_never_taken_for_another(tmp_path, seed):
    rng = random.Random(seed)
    path = tmp_path / "table.npz"
    tables.save(str(path), ABOUT, **arrays())
    whole = path.read_bytes()
    noticed = 0
    for _ in range(300):
        path.write_bytes(damage(whole, rng))
        try:
            about, found = tables.load(str(path))
        except Damaged:
            noticed += 1
        else:
            assert about == ABOUT and same(found, arrays())
    assert noticed > 150


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_array_is_noticed_in_pieces_too(tmp_path, seed):
    rng = random.Random(seed)
    path = tmp_path / "table.npz"
    tables.save(str(path), ABOUT, **arrays())
    whole = path.read_bytes()
    for _ in range(200):
        path.write_bytes(damage(whole, rng))
        try:
            with tables.opened(str(path)) as archive:
                found = np.concatenate(list(tables.pieces(archive, "image", 5000)))
        except Damaged:
            continue
        assert np.array_equal(found, arrays()["image"])


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_document_is_never_taken_for_another(tmp_path, seed):
    rng = random.Random(seed)
    path = tmp_path / "document.json"
    document = {"frames": [{"name": f"light_{n}", "x": n / 7, "reason": None} for n in range(30)]}
    tables.write_json(str(path), document)
    assert tables.read_json(str(path)) == document
    whole = path.read_bytes()
    for _ in range(300):
        path.write_bytes(damage(whole, rng))
        try:
            assert tables.read_json(str(path)) == document
        except Damaged:
            continue


def test_a_number_that_became_infinite_is_damage(tmp_path):
    path = tmp_path / "document.json"
    tables.write_json(str(path), {"x": 1.5})
    path.write_text(path.read_text().replace("1.5", "1e999"))
    with pytest.raises(Damaged):
        tables.read_json(str(path))


def test_a_missing_table_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        tables.load(str(tmp_path / "none.npz"))
    with pytest.raises(FileNotFoundError):
        tables.read_json(str(tmp_path / "none.json"))


def test_frames_of_several_tables_come_by_their_names(tmp_path):
    for number, names in enumerate([("c", "a"), ("b",)]):
        about = {"frames": [{"name": name} for name in names]}
        values = np.array([ord(name) for name in names])
        tables.save(str(tmp_path / f"{number}.npz"), about, code=values)
    frames, joined = tables.gather([str(tmp_path / "1.npz"), str(tmp_path / "0.npz")])
    assert [frame["name"] for frame in frames] == ["a", "b", "c"]
    assert joined["code"].tolist() == [97, 98, 99]

"""The files a stack ends in: what other programs read in them, and that equal input gives equal bytes."""

import csv
import io
import json
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from astropy.wcs import WCS
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ripresa.families.stacking import Damaged, fits, outputs
from ripresa.families.stacking.outputs import preview
from ripresa.families.stacking.validation import ValidationFailed
from stacking_tables import CARDS, final_of, limits, make, picture
from stacking_tables import settings as configured

RGB = ("R", "G", "B")


@pytest.fixture(autouse=True)
def strict():
    """What astropy does not like about a file is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", astropy_fits.verify.VerifyWarning)
        yield


def opened(path):
    hdus = astropy_fits.open(path, checksum=True)
    hdus.verify("exception")
    return hdus


def written(directory, channels=("L",), **changes):
    image = picture(len(channels), stars=25)
    final = final_of(image)
    final.rejected[:, 3, 5] = 2
    final.flagged[:, 7, 9] = True
    sources = make(directory / "tables", channels=channels, **changes)
    outputs.write(final, sources, configured(), f"{directory}/out")
    return final, directory / "out"


# --- the FITS file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [("L",), RGB])
def test_the_stack_and_its_maps_are_what_was_computed(tmp_path, channels):
    final, out = written(tmp_path, channels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a wrong checksum is a warning to astropy
        with opened(out / "stacked.fit") as hdus:
            names = {"WEIGHT": "weight", "COVERAGE": "coverage", "REJECTED": "rejected", "NEFF": "n_eff"}
            names["FLAGGED"] = "flagged"
            assert [hdu.name for hdu in hdus] == ["PRIMARY", *names, "FRAMES"]
            assert hdus[0].data.dtype == np.dtype(">f4")
            assert hdus[0].data.shape == (final.image.shape if len(channels) > 1 else final.image.shape[1:])
            for extension, name in {"PRIMARY": "image", **names}.items():
                expected = getattr(final, name)
                assert np.array_equal(hdus[extension].data.reshape(expected.shape), expected), extension
            assert all("CHECKSUM" in hdu.header and "DATASUM" in hdu.header for hdu in hdus)


def test_full_mode_shows_where_clusters_were_clipped(tmp_path):
    _, out = written(tmp_path, mode="full")
    with opened(out / "stacked.fit") as hdus:
        assert hdus["CLIPPED"].data.shape == hdus[0].data.shape
        assert "mode: full, 3 clusters" in "\n".join(hdus[0].header["HISTORY"])


def test_a_changed_byte_is_noticed(tmp_path):
    _, out = written(tmp_path)
    content = bytearray((out / "stacked.fit").read_bytes())
    content[20_000] ^= 1
    (out / "stacked.fit").write_bytes(content)
    with warnings.catch_warnings(record=True) as noticed:
        warnings.simplefilter("always")
        astropy_fits.open(out / "stacked.fit", checksum=True)
    assert any("Checksum verification failed" in str(one.message) for one in noticed)


def test_the_header_says_what_the_stack_is(tmp_path):
    _, out = written(tmp_path)
    with opened(out / "stacked.fit") as hdus:
        header = hdus[0].header
    assert header["NCOMBINE"] == 10 and header["EXPTIME"] == 600.0
    assert header["DATE-OBS"] == header["DATE-BEG"] == "2025-01-01T00:00:00.000"
    assert header["DATE-END"] == "2025-01-01T00:10:00.000", "the last of ten exposures of 60 s, one a minute"
    assert header["BUNIT"] == "adu" and header["CREATOR"].startswith("ripresa")
    assert header["OBJECT"] == "M 13" and header["INSTRUME"] == "Camera of O'Neill" and header["GAIN"] == 100
    assert "AIRMASS" not in header, "the frames do not agree on it"
    assert "DATE" not in header, "when it was written is not part of it"
    history = "\n".join(header["HISTORY"])
    for words in (
        "10 of 12 frames",
        "light_000.fits",
        "weighting: physical, scale^2 / (noise^2 r50^2)",
        "winsorized, 3 sigma below",
        "mode: reduced",
        "x_cloud.fits: 3 stars match, 6 are needed",
        "y_torn.fits: it is truncated",
    ):
        assert words in history


def test_world_coordinates_are_those_of_the_reference(tmp_path):
    _, out = written(tmp_path)
    with opened(out / "stacked.fit") as hdus:
        cards = [card.image for card in hdus[0].header.cards]
        warnings.simplefilter("ignore")  # dates that it adds
        x, y = WCS(hdus[0].header).world_to_pixel_values(250.42345678901234, 36.46132)
    assert [card.ljust(80) for card in CARDS if card[:2] in {"CT", "CR", "CD"}] == [
        card for card in cards if card[:2] in {"CT", "CR", "CD"} and not card.startswith("CREATOR")
    ]
    assert (float(x), float(y)) == pytest.approx((119.5, 79.5))


def test_a_reference_without_cards_gives_a_plain_header(tmp_path):
    _, out = written(tmp_path, reference={"cards": []})
    with opened(out / "stacked.fit") as hdus:
        assert "CTYPE1" not in hdus[0].header and "OBJECT" not in hdus[0].header


def test_time_zones_and_missing_dates(tmp_path):
    scan = {n: {"date_obs": None, "exposure_s": None} for n in range(10)}
    scan[3] = {"date_obs": "2017-12-19T18:33:43.317-0700", "exposure_s": 10.0}
    scan[4] = {"date_obs": "last night", "exposure_s": 5.0}
    _, out = written(tmp_path, scan=scan)
    with opened(out / "stacked.fit") as hdus:
        header = hdus[0].header
    assert header["DATE-BEG"] == "2017-12-20T01:33:43.317" and header["DATE-END"] == "2017-12-20T01:33:53.317"
    assert header["EXPTIME"] == 15.0


# --- the tables ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [("L",), RGB])
def test_both_tables_say_the_same(tmp_path, channels):
    _, out = written(tmp_path, channels, weights=[1, 3, *[1] * 8], mode="full")
    with open(out / "frames.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with opened(out / "stacked.fit") as hdus:
        table = hdus["FRAMES"].data
    assert [row["name"] for row in rows] == list(table["name"]) == sorted(table["name"])
    for n, row in enumerate(rows):
        for name, text in row.items():
            if name.startswith("to_frame_"):
                column = ("xx", "xy", "x0", "yx", "yy", "y0").index(name.removeprefix("to_frame_"))
                value = table["to_frame"][n][column]
            elif name.startswith("scale_"):
                value = np.atleast_1d(table["scale"][n])[channels.index(name.removeprefix("scale_"))]
            else:
                value = table[name][n]
            if isinstance(value, str):
                assert text == value
            elif np.isnan(value) or (name in {"matches", "cluster", "n_stars"} and value == -1):
                assert text == ""
            else:
                assert float(text) == pytest.approx(float(value))
    first, second, excluded = rows[0], rows[1], rows[-1]
    assert (first["status"], excluded["status"], excluded["reason"]) == (
        "stacked",
        "excluded",
        "it is truncated",
    )
    assert float(second["weight_share"]) == pytest.approx(3 / 12)
    assert float(first["rejected_fraction"]) == pytest.approx(0.01, rel=0.01)
    assert [row["cluster"] for row in rows] == [*[str(n % 3) for n in range(10)], "", ""]
    assert excluded["weight_share"] == excluded["to_frame_xx"] == ""


def test_the_share_of_the_field_that_a_frame_covers(tmp_path):
    moved = {1: {"to_frame": [[1, 0, 120], [0, 1, 0]]}, 2: {"to_frame": [[-1, 0, 239], [0, -1, 159]]}}
    _, out = written(tmp_path, registration=moved)
    with open(out / "frames.csv", newline="") as file:
        covered = [float(row["footprint"] or "nan") for row in csv.DictReader(file)]
    assert covered[:3] == pytest.approx([1.0, 0.5, 1.0], abs=0.02), (
        "half the field off; flipped, it covers all"
    )


def test_names_of_other_alphabets(tmp_path):
    strange = {"name": 'a_ηλιος, "β".fits', "status": "bad", "reason": "σ > 3"}
    _, out = written(tmp_path, scan={11: strange}, registration={11: strange})
    with open(out / "frames.csv", newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert (row["name"], row["reason"]) == (strange["name"], "σ > 3")
    with opened(out / "stacked.fit") as hdus:
        assert hdus["FRAMES"].data["name"][0].startswith("a_?????, ")


# --- all of it ----------------------------------------------------------------------------------------------


def test_chunks_and_repetitions_do_not_show(tmp_path):
    first = written(tmp_path / "a", RGB, chunks=1)[1]
    second = written(tmp_path / "b", RGB, chunks=3)[1]
    names = sorted(path.name for path in first.iterdir())
    assert names == ["frames.csv", "stacked.fit", "stacked.png", "validation.json"]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_stack_beyond_a_limit_is_kept_for_people(tmp_path, capsys):
    sources, rejected = make(tmp_path / "tables"), tmp_path / "rejected"
    final, out = final_of(picture()), str(tmp_path / "out")
    strict = {"validation": limits(frames=(11, "fail"), exposure_tolerance=(-1, "warn"))}
    with pytest.raises(ValidationFailed, match=r"frames: 10 of 12 frames .* limit of 11") as failed:
        outputs.write(final, sources, configured() | strict, out, str(rejected))
    assert str(rejected) in str(failed.value) and "\n" not in str(failed.value)
    assert "exposure_tolerance" not in str(failed.value), "which is but a warning"
    assert "warning: exposure_tolerance" in capsys.readouterr().err
    assert json.loads((rejected / "validation.json").read_text())["verdict"] == "fail"
    with opened(rejected / "stacked.fit") as hdus:
        assert np.array_equal(hdus[0].data, final.image[0])
    outputs.write(final, sources, configured(), out, str(rejected))
    assert not rejected.exists(), "a good stack leaves nothing of the bad one"


def test_a_damaged_table_is_named(tmp_path):
    sources = make(tmp_path)
    with open(sources.local_metrics, "r+b") as file:
        file.seek(400)
        file.write(b"\0" * 400)
    with pytest.raises(Damaged) as damaged:
        outputs.write(final_of(picture()), sources, configured(), str(tmp_path / "out"))
    assert damaged.value.path == sources.local_metrics


def test_writing_needs_no_slow_library():
    code = (
        "import sys; from ripresa.families.stacking import outputs, validation; "
        "print([name for name in ('astropy', 'numba', 'matplotlib', 'scipy') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


# --- FITS, bit by bit ---------------------------------------------------------------------------------------

PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=90)


@given(PRINTABLE, PRINTABLE)
@example("'/", "")
def test_text_on_a_card(text, comment):
    line = fits.card("KEYWORD", text, comment)
    assert len(line) == 80
    # By the standard (4.2.1) a quote in a text is two; astropy takes one before a slash for the end.
    value = re.match("KEYWORD = '((?:[^']|'')*)'", line)[1].replace("''", "'").rstrip()
    assert text.rstrip().startswith(value) and (len(value) == len(text.rstrip()) or len(text) > 30)
    assert "'" in text or astropy_fits.Card.fromstring(line).value == value


@given(
    st.one_of(st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False))
)
def test_numbers_on_a_card(number):
    line = fits.card("KEYWORD", number, "a comment")
    read = astropy_fits.Card.fromstring(line)
    read.verify("exception")
    assert len(line) == 80 and read.value == number and type(read.value) is type(number)


@given(st.text(max_size=400))
def test_history_keeps_every_word(text):
    lines = fits.history(text)
    assert all(len(line) == 80 and line.isascii() for line in lines)
    kept = "".join(line[8:].strip() for line in lines).replace(" ", "")
    assert kept == "".join(letter if " " <= letter <= "~" else "?" for letter in text).replace(" ", "")


@settings(deadline=None)
@given(st.sampled_from(["u1", "i2", "i4", "f4", "f8"]), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_any_image_has_the_checksums_of_astropy(kind, size, seed):
    data = np.random.default_rng(seed).integers(0, 256, size * 8, np.uint8).view(kind)[: size * 3 // 2 + 1]
    file = io.BytesIO()
    fits.image(file, data)
    fits.image(file, data[None], [fits.card("NUMBER", seed)], "SECOND")
    content = file.getvalue()
    assert len(content) % 2880 == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with astropy_fits.open(io.BytesIO(content), checksum=True) as hdus:
            hdus.verify("exception")
            assert (
                hdus[1].data.tobytes()
                == hdus[0].data.tobytes()
                == data.astype(data.dtype.newbyteorder(">")).tobytes()
            )


# --- the preview --------------------------------------------------------------------------------------------


def pixels(path):
    return np.asarray(Image.open(path))


def test_the_preview_is_upright_and_shows_the_sky_grey(tmp_path):
    image = picture(stars=0)
    image[0, 10:20, 30:40] += 10_000
    preview.write(f"{tmp_path}/up.png", image)
    preview.write(f"{tmp_path}/down.png", image, top_down=True)
    shown = pixels(tmp_path / "up.png")
    assert shown.shape == (160, 240) and shown.dtype == np.uint8
    assert np.median(shown) == pytest.approx(64, abs=3), "the sky is a quarter of white"
    assert shown[140:150, 30:40].min() > 240, "the first row of a FITS image is the lowest"
    assert np.array_equal(pixels(tmp_path / "down.png"), shown[::-1])


def test_faint_things_are_seen(tmp_path):
    image = picture(stars=0)
    image[0, 100, 200], image[0, 40:60, 40:60] = 50_000, image[0, 40:60, 40:60] + 3 * 3.0
    shown = preview.stretch(image)[0].astype(float)
    assert np.median(shown[40:60, 40:60]) - np.median(shown) > 25, (
        "three sigma above the sky, a star being full"
    )


def test_colours_stay(tmp_path):
    grey = np.repeat(picture(stars=10), 3, axis=0)
    red = grey.copy()
    red[0, 50:60, 50:60] += 2000
    shown = preview.stretch(grey)
    assert np.array_equal(shown[0], shown[1]) and np.array_equal(shown[1], shown[2])
    shown = preview.stretch(red)[:, 50:60, 50:60].astype(int)
    assert (shown[0] > shown[1] + 50).all()


def test_a_coloured_sky_becomes_grey(tmp_path):
    image = np.repeat(picture(stars=10), 3, axis=0)
    green = image + np.array([0, 200, -50], np.float32)[:, None, None]
    assert np.abs(preview.stretch(green).astype(int) - preview.stretch(image)).max() <= 1


def test_large_images_become_small_pictures(tmp_path):
    image = np.tile(picture(stars=0), (1, 30, 4))[:, :4100, :900]
    preview.write(f"{tmp_path}/a.png", image)
    height, width = pixels(tmp_path / "a.png").shape
    assert height <= 2000 and width / height == pytest.approx(900 / 4100, rel=0.01)


@pytest.mark.parametrize("value", [0.0, 7.5, np.nan])
def test_images_without_anything_in_them(tmp_path, value):
    image = np.full((1, 20, 30), value, np.float32)
    preview.write(f"{tmp_path}/a.png", image)
    assert len(np.unique(pixels(tmp_path / "a.png"))) == 1


def test_gaps_are_black_and_disturb_nothing(tmp_path):
    image = picture(stars=0)
    image[0, :40] = np.nan
    shown = preview.stretch(image)[0]
    assert not shown[:40].any() and np.median(shown[40:]) == pytest.approx(64, abs=3)


@settings(deadline=None)
@given(st.floats(0.01, 0.99), st.lists(st.floats(0, 1, width=32), min_size=2, max_size=20))
def test_midtones_keep_the_order_and_the_ends(balance, values):
    x = np.sort(np.array([0, *values, 1], np.float32))
    y = preview.midtones(x, balance)
    assert y[0] == 0 and y[-1] == pytest.approx(1, abs=1e-4) and (np.diff(y) >= -1e-6).all()
    assert preview.midtones(np.array([balance], np.float32), balance)[0] == pytest.approx(0.5, abs=1e-4)

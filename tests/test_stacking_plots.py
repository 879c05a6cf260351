"""The pictures of a stack: all there, the same at every time, and true."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from ripresa.families.stacking import plots, tables
from ripresa.families.stacking.outputs.evidence import collect
from stacking_tables import make

SCRIPT = Path(__file__).parents[1] / "workflow" / "scripts" / "stacking_plots.py"
LISTS = ("stars", "registrations", "reconstructions")
REPORT = Path(__file__).parents[1] / "workflow" / "report"


def with_maps(sources, shape=(160, 240), channels=1):
    """Give the reconstructions the maps of rejected values: some noise and one trail."""
    height, width = shape
    ends = np.linspace(0, height, len(sources.reconstructions) + 1).astype(int)
    rejected = np.random.default_rng(1).poisson(0.1, (channels, *shape)).astype(np.uint16)
    rejected[:, 50, :] += 5
    for path, y0, y1 in zip(sources.reconstructions, ends, ends[1:], strict=False):
        about, arrays = tables.load(path)
        coverage = np.full((channels, y1 - y0, width), 10, np.uint16)
        maps = {"rejected": rejected[:, y0:y1], "coverage": coverage}
        tables.save(path, about | {"y0": int(y0), "y1": int(y1)}, **arrays, **maps)
    return sources


def drawn(directory, **changes):
    channels = changes.get("channels", ("L",))
    plots.draw(with_maps(make(directory / "tables", **changes), channels=len(channels)), f"{directory}/plots")
    return directory / "plots"


def panels(directory, name, **changes):
    """The axes of one picture."""
    sources = with_maps(make(directory, **changes))
    return plots.PLOTS[name](collect(sources), sources).axes


def points(axes):
    return [
        (np.asarray(line.get_xdata()), np.asarray(line.get_ydata()))
        for line in axes.lines
        if line.get_marker() == "o"
    ]


def test_every_picture_is_drawn_and_has_a_caption(tmp_path):
    directory = drawn(tmp_path, channels=("R", "G", "B"), mode="full")
    assert {path.stem for path in directory.iterdir()} == set(plots.PLOTS)
    for path in directory.iterdir():
        image = np.asarray(Image.open(path).convert("RGB"))
        assert min(image.shape[:2]) > 250 and image.std() > 5
        caption = (REPORT / f"stacking_{path.stem}.rst").read_text()
        assert caption.strip().endswith(".") and len(caption) < 400


def test_the_same_tables_give_the_same_bytes(tmp_path):
    first, second = drawn(tmp_path / "a", chunks=1), drawn(tmp_path / "b", chunks=2)
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
        assert b"tEXt" not in path.read_bytes(), "neither dates nor versions"


def test_they_do_not_wait_for_the_clusters(tmp_path):
    sources = with_maps(make(tmp_path / "tables", mode="full"))
    os.unlink(sources.clusters)
    plots.draw(replace(sources, clusters=None), f"{tmp_path}/plots")
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == set(plots.PLOTS)


def test_the_script_draws_the_same(tmp_path):
    sources = with_maps(make(tmp_path / "tables"))
    plots.draw(sources, f"{tmp_path}/plots")
    tables_of = (
        sources.reference, sources.normalization, sources.global_metrics, sources.tile_grid,
        sources.local_metrics,
    )  # fmt: skip
    words = [word for name in LISTS for word in (f"--{name}", *getattr(sources, name))]
    first = tmp_path / "script" / "frames.png"
    subprocess.run([sys.executable, SCRIPT, str(first), *tables_of, *words], check=True)
    for path in (tmp_path / "plots").iterdir():
        assert path.read_bytes() == (first.parent / path.name).read_bytes()


def boxes(figure, renderer):
    """What a picture consists of, px: its title, and all axes with their titles and what is beside them."""
    yield 0, figure._suptitle.get_window_extent(renderer)
    for n, axes in enumerate(figure.axes, 1):
        yield n, axes.get_window_extent(renderer)
        titles = [axes.title, axes._left_title, axes._right_title]
        yield from ((n, title.get_window_extent(renderer)) for title in titles if title.get_text())
        yield from ((n, box) for axis in (axes.xaxis, axes.yaxis) if (box := axis.get_tightbbox(renderer)))


@pytest.mark.parametrize("shape", [(160, 240), (400, 100), (60, 600)])
def test_nothing_lies_on_anything_else(tmp_path, shape):
    """Places are given, not looked for, and have to do for frames of every shape and large numbers."""
    scan = {n: {"background": 1e5 * n} for n in range(10)}
    sources = with_maps(make(tmp_path, shape=shape, scan=scan), shape)
    for name, make_figure in plots.PLOTS.items():
        with matplotlib.rc_context(plots.STYLE):
            figure = make_figure(collect(sources), sources)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
        seen = []
        for owner, box in boxes(figure, canvas.get_renderer()):
            assert box.x0 >= 0 and box.y0 >= 0, name
            assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, name
            assert not [other for other, there in seen if owner != other and box.overlaps(there)], name
            seen.append((owner, box))


def test_weights_and_fwhm_over_time(tmp_path):
    scan = {n: {"fwhm_px": 3 + n / 10} for n in range(10)}
    fwhm, _, weight = panels(tmp_path, "frames", scan=scan, weights=[*[1] * 9, 11])
    x, y = points(fwhm)[0]
    assert y == pytest.approx(3 + np.arange(10) / 10) and x == pytest.approx(np.arange(10) / 60), (
        "a frame a minute"
    )
    assert points(weight)[0][1] == pytest.approx([*[0.5] * 9, 5.5])
    assert "2 more excluded" in fwhm.figure.get_suptitle()
    assert "2025-01-01 00:00:00" in weight.get_xlabel()


def test_frames_of_several_nights_come_one_after_the_other(tmp_path):
    scan = {n: {"date_obs": f"2025-02-{20 - n:02d}T00:00:00"} for n in range(10)}
    axes = panels(tmp_path, "frames", scan=scan)
    assert list(points(axes[0])[0][0]) == list(range(10, 0, -1))
    assert axes[-1].get_xlabel() == "frame, by date"


def test_frames_without_dates_come_by_name(tmp_path):
    axes = panels(tmp_path, "sky", scan={3: {"date_obs": None}})
    assert axes[-1].get_xlabel() == "frame, by name" and list(points(axes[0])[0][0]) == list(range(1, 11))


def test_shift_and_rotation(tmp_path):
    """A quarter of a degree about the centre, a shift, and a meridian flip."""
    angle = np.deg2rad(0.25)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([119.5, 79.5])
    to_frame = {
        1: np.column_stack([turn, centre - turn @ centre]),
        2: np.column_stack([np.eye(2), [7, -3]]),
        3: np.column_stack([-np.eye(2), 2 * centre]),
    }
    still = {"to_frame": [[1, 0, 0], [0, 1, 0]]}
    changed = dict.fromkeys(range(10), still) | {n: {"to_frame": m.tolist()} for n, m in to_frame.items()}
    residual, x, y, rotation = panels(tmp_path, "registration", registration=changed)
    assert points(residual)[0][1] == pytest.approx([0, *[0.1] * 9])
    assert points(x)[0][1] == pytest.approx([0, 0, 7, *[0] * 7], abs=1e-9)
    assert points(y)[0][1] == pytest.approx([0, 0, -3, *[0] * 7], abs=1e-9)
    assert points(rotation)[0][1] == pytest.approx([0, 0.25, *[0] * 8], abs=1e-9)
    assert rotation.get_title(loc="right") == "turned by 180 degrees more: 1 frames"


def test_tiles_of_the_best_and_the_worst_frame(tmp_path):
    axes = panels(tmp_path, "tiles", weights=[1, 5, *[3] * 8])
    assert [panel.get_title(loc="left") for panel in axes[:4]] == [
        "highest weight: light_001",
        "lowest weight: light_000",
    ] * 2
    r50 = axes[2].images[0].get_array()
    assert np.allclose(r50, 1.9 * np.linspace(0.9, 1.1, 10)[1])


def test_a_trail_is_seen_where_it_is(tmp_path):
    axes = panels(tmp_path, "rejection")
    picture = axes[1].images[0]
    assert picture.origin == "lower"
    rows = np.asarray(picture.get_array()).mean(axis=1)
    assert np.argmax(rows) == 50 and rows[50] > 40
    turned = panels(tmp_path / "b", "rejection", reference={"cards": ["ROWORDER= 'TOP-DOWN'".ljust(80)]})
    assert turned[1].images[0].origin == "upper"


def test_what_is_not_known_is_said(tmp_path):
    scan = {n: {"fwhm_px": None, "eccentricity": None} for n in range(10)}
    axes = panels(tmp_path, "frames", scan=scan)
    assert [text.get_text() for text in axes[0].texts] == ["not known"]


def test_frames_that_stand_out_are_named(tmp_path):
    scan = {n: {"background": 500.0 + n} for n in range(10)} | {4: {"background": 900.0}}
    axes = panels(tmp_path, "sky", scan=scan)
    assert [text.get_text() for text in axes[0].texts] == ["light_004"]


def test_one_frame_is_enough(tmp_path):
    sources = with_maps(make(tmp_path / "tables", frames=1))
    plots.draw(replace(sources), f"{tmp_path}/plots")
    assert len(list((tmp_path / "plots").iterdir())) == len(plots.PLOTS)


def test_no_global_state_of_matplotlib_is_touched():
    code = "import sys, ripresa.families.stacking.plots; print('matplotlib' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False", "imported where it is used"
    source = Path(plots.__file__).read_text()
    assert "pyplot" not in source

"""Pictures of what happened to the frames of a stack: how they differ, where they lie, what they weigh."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import tables
from ripresa.families.stacking.outputs.evidence import Evidence, Sources, collect
from ripresa.families.stacking.outputs.preview import reduced
from ripresa.families.stacking.outputs.stacked_file import instant, top_down

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, ORANGE, RED, GREY = "#2166ac", "#e08214", "#b2182b", "#666666"  # told apart by colour-blind readers too
GRID = "#dddddd"
WIDTH, HIGHEST = 8.0, 10.0  # inches
DPI = 100
LEFT, RIGHT, TOP, BOTTOM = 0.7, 0.2, 0.65, 0.45  # margins, inches
BAR, BAR_HIGH = 0.95, 1.6  # inches, what a bar of colours takes beside its map, and its label at least
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.labelpad": 2,
    "axes.labelsize": 8,
    "axes.titlepad": 4,
    "axes.titlesize": 8,
    "axes.titley": 1.0,  # at a given place, because matplotlib looks for one otherwise
    "figure.titlesize": 11,
    "text.parse_math": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}
NAMED = 3  # frames that stand out are named, so many
LONGEST = 600  # px, of the map of rejections

_Series = tuple[str, list[float | None], str]


def draw(sources: Sources, directory: str) -> None:
    """Write one PNG for each of `PLOTS` into ``directory``; the same tables give the same bytes."""
    import matplotlib

    evidence = collect(sources)
    os.makedirs(directory, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        for name, make in PLOTS.items():
            _write(f"{directory}/{name}.png", make(evidence, sources))


def _frames(evidence: Evidence, _: Sources) -> Figure:
    stacked = evidence.stacked
    count = len(stacked)
    weights = [None if f.weight_share is None else f.weight_share * count for f in stacked]
    return _time_lines(
        evidence,
        [
            ("FWHM (px)", [frame.fwhm_px for frame in stacked], BLUE),
            ("eccentricity", [frame.eccentricity for frame in stacked], GREY),
            ("weight / mean", weights, ORANGE),
        ],
        "Stars and weights",
    )


def _sky(evidence: Evidence, _: Sources) -> Figure:
    stacked = evidence.stacked
    return _time_lines(
        evidence,
        [
            ("background (ADU)", [frame.background for frame in stacked], BLUE),
            ("noise (ADU)", [frame.noise for frame in stacked], GREY),
            ("transparency", [frame.transparency for frame in stacked], ORANGE),
        ],
        "Sky",
    )


def _registration(evidence: Evidence, _: Sources) -> Figure:
    stacked, reference = evidence.stacked, evidence.reference
    centre = np.array([(reference["width"] - 1) / 2, (reference["height"] - 1) / 2, 1.0])
    matrices = [np.array(frame.to_frame) if frame.to_frame else None for frame in stacked]
    moved = [None if m is None else m @ centre - centre[:2] for m in matrices]
    turned = [None if m is None else math.degrees(math.atan2(m[1, 0], m[0, 0])) for m in matrices]
    figure = _time_lines(
        evidence,
        [
            ("residual (px)", [frame.residual_px for frame in stacked], BLUE),
            ("shift in x (px)", [None if d is None else float(d[0]) for d in moved], ORANGE),
            ("shift in y (px)", [None if d is None else float(d[1]) for d in moved], ORANGE),
            # A meridian flip is no rotation that anybody wants to see the drift beside.
            (
                "rotation (deg)",
                [None if t is None else (t + 90) % 180 - 90 for t in turned],
                GREY,
            ),
        ],
        "Registration",
    )
    flipped = sum(1 for angle in turned if angle is not None and abs(angle) > 90)
    if flipped:
        figure.axes[-1].set_title(f"turned by 180 degrees more: {flipped} frames", loc="right", color=GREY)
    return figure


def _tiles(evidence: Evidence, sources: Sources) -> Figure:
    _, local = tables.load(sources.local_metrics, "weights", "r50")
    weights = local["weights"].astype(np.float64).mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = weights / weights.mean(axis=0)
    share = np.array([frame.weight_share or 0.0 for frame in evidence.stacked])
    best, worst = int(np.argmax(share)), int(np.argmin(share))
    room = (WIDTH - LEFT - BAR - 0.2) / 2
    wide, high = _fitting(evidence, room, (HIGHEST - TOP - BOTTOM - 0.6) / 2)
    bar_high = max(high, BAR_HIGH)
    pitch = bar_high + 0.6
    figure = _figure(TOP + 2 * pitch - 0.6 + BOTTOM, "Tiles of the best and the worst frame")
    rows: list[tuple[str, NDArray[Any], str]] = [
        ("weight (mean frame: 1)", relative, "viridis"),
        ("half-light radius (px)", local["r50"], "magma_r"),
    ]
    shown = (best, "highest"), (worst, "lowest")
    bars = []
    for line, (label, maps, colours) in enumerate(rows):
        top = TOP + line * pitch
        limits = _limits(maps[[best, worst]])
        for column, (frame, which) in enumerate(shown):
            panel = _panel(figure, LEFT + column * (room + 0.2), top, wide, high)
            _field(panel, maps[frame], evidence, colours, limits, labelled=(line == 1, column == 0))
            panel.set_title(f"{which} weight: {_short(evidence.stacked[frame].name)}", loc="left")
        bars.append((LEFT + room + 0.2 + wide + 0.15, top, bar_high, label, colours, limits))
    for bar in bars:
        _bar(figure, *bar)
    return figure


def _rejection(evidence: Evidence, sources: Sources) -> Figure:
    share = reduced(_rejected_share(sources.reconstructions), LONGEST)[0]
    wide, high = _fitting(evidence, WIDTH - LEFT - BAR, HIGHEST - TOP - BOTTOM - 2.0)
    bar_high = max(high, BAR_HIGH)
    figure = _figure(TOP + 2.0 + bar_high + BOTTOM, "Rejected values, by frame and by place")
    above = _panel(figure, LEFT, TOP, WIDTH - LEFT - RIGHT, 1.4)
    below = _panel(figure, LEFT, TOP + 2.0, wide, high)
    percent = [None if f.rejected_fraction is None else 100 * f.rejected_fraction for f in evidence.stacked]
    _over_time([above], [("rejected (%)", percent, BLUE)], evidence)
    known = share[np.isfinite(share)]
    top = float(np.percentile(known, 99.9)) if known.size else 0.0
    limits = (0.0, 100 * top or 1.0)
    _field(below, 100 * np.minimum(share, top or 1.0), evidence, "inferno", limits)
    _bar(figure, LEFT + wide + 0.15, TOP + 2.0, bar_high, "rejected of all frames (%)", "inferno", limits)
    return figure


PLOTS: dict[str, Callable[[Evidence, Sources], Figure]] = {
    "frames": _frames,
    "sky": _sky,
    "registration": _registration,
    "tiles": _tiles,
    "rejection": _rejection,
}
"""The pictures by the names of their files; their captions are in workflow/report/stacking_NAME.rst."""


def _rejected_share(paths: Sequence[str]) -> NDArray[np.float32]:
    """Share of the covering frames whose value was rejected, over all channels, [1, H, W]."""
    parts = sorted(
        (tables.load(path, "rejected", "coverage") for path in paths), key=lambda part: part[0]["y0"]
    )
    rejected, coverage = (
        np.concatenate([part[name].sum(axis=0, dtype=np.float32) for _, part in parts])
        for name in ("rejected", "coverage")
    )
    return np.asarray(rejected / np.maximum(coverage, 1))[None]


# --- how they are drawn ------------------------------------------------------------------------------------


def _figure(height: float, title: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    figure.suptitle(title, y=1 - 0.1 / height, verticalalignment="top")
    return figure


def _panel(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes of a size and distance from the left and the top in inches: to look for places in which nothing
    overlaps takes matplotlib as long as to draw."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))


def _ticks(axis: Axis, most: int, *, whole: bool = False) -> list[float]:
    """Set about ``most`` round ticks, and those only that are seen: matplotlib's own have one more at either
    end, and its ticks with their labels and lines take longer than everything else in a picture."""
    from matplotlib.ticker import MaxNLocator

    low, high = sorted(axis.get_view_interval())
    locator = MaxNLocator(most, integer=whole, steps=[1, 2, 5, 10])
    ticks = [at for at in locator.tick_values(low, high) if low <= at <= high]
    axis.set_ticks(ticks)
    return ticks


def _write(path: str, figure: Figure) -> None:
    """A PNG without the name and version of what wrote it, with which the bytes would change."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    with open(path, "wb") as file:
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
        picture.save(file, format="PNG", compress_level=1)


def _time_lines(evidence: Evidence, series: Sequence[_Series], title: str) -> Figure:
    excluded = len(evidence.excluded)
    stacked = f"{len(evidence.stacked)} frames" + (f", {excluded} more excluded" if excluded else "")
    high, pitch = 1.2, 1.55
    figure = _figure(TOP + pitch * len(series) - (pitch - high) + BOTTOM, f"{title}: {stacked}")
    panels = [_panel(figure, LEFT, TOP + n * pitch, WIDTH - LEFT - RIGHT, high) for n in range(len(series))]
    _over_time(panels, series, evidence)
    return figure


def _over_time(panels: Sequence[Axes], series: Sequence[_Series], evidence: Evidence) -> None:
    """One series in each panel, from above, over the time of the frames."""
    times, label, whole = _times(evidence)
    first, last = float(times.min()), float(times.max())
    edge = 0.03 * (last - first) or 0.5
    for panel, one in zip(panels, series, strict=True):
        _series(panel, times, one, evidence)
        panel.set_xlim(first - edge, last + edge)
    ticks = _ticks(panels[-1].xaxis, 7, whole=whole)
    for panel in panels:
        # One line for all, and the ticks of the lowest panel only.
        panel.vlines(ticks, 0, 1, GRID, lw=0.6, zorder=0.5, transform=panel.get_xaxis_transform())
        panel.xaxis.set_visible(panel is panels[-1])
    panels[-1].set_xlabel(label)


def _series(panel: Axes, times: NDArray[np.float64], series: _Series, evidence: Evidence) -> None:
    label, values, colour = series
    y = np.array([np.nan if value is None else value for value in values], np.float64)
    panel.plot(times, y, ls="none", marker="o", ms=3.5, color=colour, alpha=0.8, mew=0)
    panel.set_ylabel(label)
    panel.yaxis.set_label_coords(-0.5 / (WIDTH - LEFT - RIGHT), 0.5)
    _ticks(panel.yaxis, 5)
    panel.grid(axis="y", color=GRID, lw=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    known = np.isfinite(y)
    if not known.any():
        panel.text(0.5, 0.5, "not known", transform=panel.transAxes, ha="center", color=GREY, fontsize=8)
        return
    middle = float(np.median(y[known]))
    panel.axhline(middle, color=colour, lw=0.8, alpha=0.6)
    panel.set_title(f"median {middle:.4g}", loc="right", color=GREY)
    centre = (times.min() + times.max()) / 2
    for n in _outstanding(y):
        name = _short(evidence.stacked[n].name, 18)
        side = -1 if times[n] > centre else 1  # towards the middle, where there is room
        panel.annotate(
            name, (times[n], y[n]), xytext=(4 * side, 2), textcoords="offset points", fontsize=6,
            color=RED, ha="left" if side > 0 else "right",
        )  # fmt: skip


def _outstanding(values: NDArray[np.float64]) -> list[int]:
    """The few frames that lie furthest from the median, if by more than five sigma (of the MAD)."""
    known = np.isfinite(values)
    distance = np.where(known, np.abs(values - np.median(values[known])), 0)
    sigma = 1.4826 * float(np.median(distance[known]))
    order = np.argsort(-distance, kind="stable")[:NAMED]
    return [int(n) for n in order if distance[n] > 5 * sigma > 0]


def _fitting(evidence: Evidence, width: float, height: float) -> tuple[float, float]:
    """The largest size of a map of the output grid within the given one, inches."""
    shape = evidence.grid["height"] / evidence.grid["width"]
    return min(width, height / shape), min(width * shape, height)


def _limits(values: NDArray[Any]) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    return low, high if high > low else low + 1


def _field(
    panel: Axes,
    values: NDArray[Any],
    evidence: Evidence,
    colours: str,
    limits: tuple[float, float],
    *,
    labelled: tuple[bool, bool] = (True, True),
) -> None:
    """A map of the whole output grid, upright, with px along the sides x and y that are ``labelled``."""
    width, height = evidence.grid["width"], evidence.grid["height"]
    down = top_down(evidence)
    y = (height - 0.5, -0.5) if down else (-0.5, height - 0.5)
    panel.imshow(
        values,
        origin="upper" if down else "lower",
        extent=(-0.5, width - 0.5, *y),
        aspect="auto",  # the panel has that of the grid
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
    )
    for axis, shown in zip((panel.xaxis, panel.yaxis), labelled, strict=True):
        if shown:
            _ticks(axis, 5)
        else:
            axis.set_visible(False)


def _bar(
    figure: Figure,
    left: float,
    top: float,
    height: float,
    label: str,
    colours: str,
    limits: tuple[float, float],
) -> None:
    """What the colours stand for (as an image: `Figure.colorbar` is several times slower)."""
    panel = _panel(figure, left, top, 0.15, height)
    ramp = np.linspace(*limits, 256)[:, None]
    panel.imshow(
        ramp, origin="lower", extent=(0, 1, *limits), aspect="auto", cmap=colours, interpolation="nearest"
    )
    panel.xaxis.set_visible(False)
    panel.yaxis.tick_right()
    panel.yaxis.set_label_position("right")
    panel.set_ylabel(label)
    panel.yaxis.set_label_coords(1 + 0.45 / 0.15, 0.5)
    _ticks(panel.yaxis, 5)


def _times(evidence: Evidence) -> tuple[NDArray[np.float64], str, bool]:
    """Where each stacked frame lies on the axis of time, what that shows, and whether in whole numbers: hours
    within one night, else the frames one after the other in the order of their dates, or of their names if
    some have no date."""
    stacked = evidence.stacked
    dates = [instant(frame.date_obs) for frame in stacked]
    known = [date for date in dates if date is not None]
    if len(known) < len(stacked) or not known:
        return np.arange(1.0, len(stacked) + 1), "frame, by name", True
    first, last = min(known), max(known)
    if first < last and (last - first).total_seconds() < 86400:
        hours = [(date - first).total_seconds() / 3600 for date in known]
        return np.array(hours), f"hours since {first.isoformat(sep=' ', timespec='seconds')}", False
    place = {n: at for at, n in enumerate(sorted(range(len(known)), key=lambda n: (known[n], n)), 1)}
    return np.array([float(place[n]) for n in range(len(known))]), "frame, by date", True


def _short(name: str, most: int = 30) -> str:
    """A frame's name without its folder and suffix, its end if it is long."""
    stem = os.path.splitext(os.path.basename(name))[0]
    return stem if len(stem) <= most else f"...{stem[3 - most :]}"

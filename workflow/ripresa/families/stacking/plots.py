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
    from matplotlib.figure import Figure

BLUE, ORANGE, RED, GREY = "#2166ac", "#e08214", "#b2182b", "#666666"  # told apart by colour-blind readers too
WIDTH, HIGHEST = 8.0, 10.0  # inches
DPI = 110
NAMED = 3  # frames that stand out are named, so many
LONGEST = 600  # px, of the map of rejections

_Series = tuple[str, list[float | None], str]


def draw(sources: Sources, directory: str) -> None:
    """Write one PNG for each of `PLOTS` into ``directory``; the same tables give the same bytes."""
    evidence = collect(sources)
    os.makedirs(directory, exist_ok=True)
    for name, make in PLOTS.items():
        figure = make(evidence, sources)
        # Without the version of the library, with which the bytes would change.
        figure.savefig(f"{directory}/{name}.png", dpi=DPI, format="png", metadata={"Software": None})


def _frames(evidence: Evidence, _: Sources) -> Figure:
    stacked = evidence.stacked
    count = len(stacked)
    weights = [None if f.weight_share is None else f.weight_share * count for f in stacked]
    return _over_time(
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
    return _over_time(
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
    figure = _over_time(
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
        figure.axes[-1].set_title(f"turned by 180 degrees more: {flipped} frames", fontsize=8, loc="right")
    return figure


def _tiles(evidence: Evidence, sources: Sources) -> Figure:
    _, local = tables.load(sources.local_metrics, "weights", "r50")
    weights = local["weights"].astype(np.float64).mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = weights / weights.mean(axis=0)
    share = np.array([frame.weight_share or 0.0 for frame in evidence.stacked])
    best, worst = int(np.argmax(share)), int(np.argmin(share))
    shape = evidence.grid["height"] / evidence.grid["width"]
    figure = _figure(min(max(3.2, WIDTH * shape + 1.4), HIGHEST))
    axes = figure.subplots(2, 2)
    rows: list[tuple[str, NDArray[Any], str]] = [
        ("weight (1: the mean frame there)", relative, "viridis"),
        ("half-light radius (px)", local["r50"], "magma_r"),
    ]
    for line, (label, maps, colours) in zip(axes, rows, strict=True):
        pair = np.stack([maps[best], maps[worst]])
        for panel, field, which, frame in zip(line, pair, ("highest", "lowest"), (best, worst), strict=True):
            picture = _field(panel, field, evidence, colours, pair)
            panel.set_title(f"{which} weight: {_short(evidence.stacked[frame].name)}", fontsize=8, loc="left")
        _bar(figure, picture, list(line), label)
    figure.suptitle("Tiles of the best and the worst frame", fontsize=11)
    return figure


def _rejection(evidence: Evidence, sources: Sources) -> Figure:
    share = reduced(_rejected_share(sources.reconstructions), LONGEST)[0]
    shape = evidence.grid["height"] / evidence.grid["width"]
    height = min(0.8 * WIDTH * shape, HIGHEST - 2.4)
    figure = _figure(2.4 + height)
    above, below = figure.subplots(2, 1, height_ratios=[2.0, height])
    percent = [None if f.rejected_fraction is None else 100 * f.rejected_fraction for f in evidence.stacked]
    times, label = _times(evidence)
    _series(above, times, ("rejected (%)", percent, BLUE), evidence)
    above.set_xlabel(label, fontsize=8)
    known = share[np.isfinite(share)]
    top = float(np.percentile(known, 99.9)) if known.size else 0.0
    field = 100 * np.minimum(share, top or 1.0)
    picture = _field(below, field, evidence, "inferno", np.array([0.0, 100 * top or 1.0]))
    _bar(figure, picture, [below], "rejected of all frames (%)")
    figure.suptitle("Rejected values, by frame and by place", fontsize=11)
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


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _over_time(evidence: Evidence, series: Sequence[_Series], title: str) -> Figure:
    figure = _figure(1.6 * len(series) + 0.8)
    panels = figure.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
    times, label = _times(evidence)
    for panel, one in zip(panels, series, strict=True):
        _series(panel, times, one, evidence)
    panels[-1].set_xlabel(label, fontsize=8)
    excluded = len(evidence.excluded)
    stacked = f"{len(evidence.stacked)} frames" + (f", {excluded} more excluded" if excluded else "")
    figure.suptitle(f"{title}: {stacked}", fontsize=11)
    return figure


def _series(panel: Axes, times: NDArray[np.float64], series: _Series, evidence: Evidence) -> None:
    label, values, colour = series
    y = np.array([np.nan if value is None else value for value in values], np.float64)
    panel.plot(times, y, ls="none", marker="o", ms=3.5, color=colour, alpha=0.8, mew=0)
    panel.set_ylabel(label, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(color="#dddddd", lw=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.ticklabel_format(axis="y", useOffset=False)
    known = np.isfinite(y)
    if not known.any():
        panel.text(0.5, 0.5, "not known", transform=panel.transAxes, ha="center", color=GREY, fontsize=8)
        return
    middle = float(np.median(y[known]))
    panel.axhline(middle, color=colour, lw=0.8, alpha=0.6)
    panel.set_title(f"median {middle:.4g}", fontsize=8, loc="right", color=GREY)
    for n in _outstanding(y):
        name = _short(evidence.stacked[n].name, 18)
        panel.annotate(
            name, (times[n], y[n]), xytext=(4, -2), textcoords="offset points", fontsize=6, color=RED
        )


def _outstanding(values: NDArray[np.float64]) -> list[int]:
    """The few frames that lie furthest from the median, if by more than five sigma (of the MAD)."""
    known = np.isfinite(values)
    distance = np.where(known, np.abs(values - np.median(values[known])), 0)
    sigma = 1.4826 * float(np.median(distance[known]))
    order = np.argsort(-distance, kind="stable")[:NAMED]
    return [int(n) for n in order if distance[n] > 5 * sigma > 0]


def _field(panel: Axes, values: NDArray[Any], evidence: Evidence, colours: str, scale: NDArray[Any]) -> Any:
    """A map of the whole output grid, upright, on the colours that the values in ``scale`` span."""
    width, height = evidence.grid["width"], evidence.grid["height"]
    known = scale[np.isfinite(scale)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    picture = panel.imshow(
        values,
        origin="upper" if top_down(evidence) else "lower",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5)
        if top_down(evidence)
        else (-0.5, width - 0.5, -0.5, height - 0.5),
        cmap=colours,
        vmin=low,
        vmax=high if high > low else low + 1,
        interpolation="nearest",
    )
    panel.tick_params(labelsize=7)
    return picture


def _bar(figure: Figure, picture: Any, panels: list[Axes], label: str) -> None:
    bar = figure.colorbar(picture, ax=panels, shrink=0.9)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _times(evidence: Evidence) -> tuple[NDArray[np.float64], str]:
    """Where each stacked frame lies on the axis of time, and what that shows: hours within one night, else
    the frames one after the other in the order of their dates, or of their names if some have no date."""
    stacked = evidence.stacked
    dates = [instant(frame.date_obs) for frame in stacked]
    known = [date for date in dates if date is not None]
    if len(known) < len(stacked) or not known:
        return np.arange(1.0, len(stacked) + 1), "frame, by name"
    first, last = min(known), max(known)
    if first < last and (last - first).total_seconds() < 86400:
        hours = [(date - first).total_seconds() / 3600 for date in known]
        return np.array(hours), f"hours since {first.isoformat(sep=' ', timespec='seconds')}"
    place = {n: at for at, n in enumerate(sorted(range(len(known)), key=lambda n: (known[n], n)), 1)}
    return np.array([float(place[n]) for n in range(len(known))]), "frame, by date"


def _short(name: str, most: int = 30) -> str:
    """A frame's name without its folder and suffix, its end if it is long."""
    stem = os.path.splitext(os.path.basename(name))[0].replace("$", r"\$")
    return stem if len(stem) <= most else f"...{stem[3 - most :]}"

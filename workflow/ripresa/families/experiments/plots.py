"""Pictures of a phase: accuracy over the share of poisoned clients, by whatever else the phase varies."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from ripresa.families.experiments.summary import interval
from ripresa.families.experiments.table import ALL_PARAMETERS, Row
from ripresa.families.intervals import confidence_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATIO, WIDTH, DEPTH, AGGREGATOR = "poison_ratio", "width_factor", "depth", "aggregator"
METRIC = "test_accuracy"
CHANCE = 0.1
"""What guessing reaches: all data sets have ten classes."""
COLORS = ("#2166ac", "#e08214", "#1b7837", "#b2182b", "#762a83", "#666666")  # told apart by the colour-blind
GREY = "#666666"
PANEL = (2.9, 2.2)
"""Width and height of a panel, inches."""
MOST_ROWS = 24
"""So many rows of panels are drawn; the tables have the rest."""
LEGEND = 1.7
"""Width of an entry of the legend, inches."""
NAMES = {RATIO: "poisoned clients"}
_LINES = (WIDTH, AGGREGATOR, "poison_type", "alpha", "data_ordering", "model_type", DEPTH)

Key = tuple[Any, ...]


def possible(experiments: Iterable[Mapping[str, Any]]) -> list[str]:
    """The pictures that say something about these parameter sets, by what varies among them."""
    varied = _varying(list(experiments))
    needed = {"accuracy": {RATIO}, "heatmap": {WIDTH, DEPTH}, "defences": {AGGREGATOR, RATIO}}
    return [name for name, names in needed.items() if names <= set(varied)]


def draw(plot: str, rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Write one of the pictures that are `possible` as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawings: dict[str, Callable[[Sequence[Row]], Figure]] = {
        "accuracy": _accuracy,
        "heatmap": _heatmap,
        "defences": _defences,
    }
    figure = drawings[plot](rows)
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)


def _accuracy(rows: Sequence[Row]) -> Figure:
    """Accuracy over the ratio: lines by width, columns of panels by depth, rows by all else that varies.

    Where width or depth does not vary, something else takes its place.
    """
    varied = [name for name in _varying(rows) if name != RATIO]
    line = next((name for name in _LINES if name in varied), None)
    others = [name for name in varied if name != line]
    column = DEPTH if DEPTH in others else next(reversed(others), None)
    rest = [name for name in others if name != column]
    facets, columns = _values(rows, rest), _values(rows, [column] if column else [])
    figure, axes = _panels(facets, columns, 0.75)
    styles = _styles(_values(rows, [line] if line else []))
    for n, ((facet, at), panel) in enumerate(zip(product(facets, columns), axes, strict=True)):
        here = _chosen(rows, rest, facet) if column is None else _chosen(rows, [*rest, column], facet + at)
        _lines(panel, here, line, styles)
        _titled(panel, _described([column] if column else [], at), _described(rest, facet), n % len(columns))
    _framed(figure, axes, len(columns), rows, "Test accuracy")
    return figure


def _defences(rows: Sequence[Row]) -> Figure:
    """For every attack and setting: accuracy of each aggregator, and below what it gains over the first."""
    rest = [name for name in _varying(rows) if name not in (RATIO, AGGREGATOR)]
    facets = _values(rows, rest)[: 2 * MOST_ROWS]
    first, *others = _values(rows, [AGGREGATOR])
    styles = _styles([first, *others])
    across = min(len(facets), 4)
    figure, axes = _panels([()] * (2 * math.ceil(len(facets) / across)), [()] * across, 0.75)
    shown, gained = [], []
    for n, facet in enumerate(facets):
        place = 2 * (n // across) * across + n % across
        top, below = axes[place], axes[place + across]
        here = _chosen(rows, rest, facet)
        _lines(top, here, AGGREGATOR, styles)
        _titled(top, _described(rest, facet), "", 0)
        below.axhline(0, color=styles[first], lw=1.2)
        for one in others:
            _band(below, _gains(here, first, one), confidence_interval, color=styles[one])
        below.set_ylabel(f"gain over {first[0]}", fontsize=8)
        shown += [top, below]
        gained.append(below)
    for panel in set(axes) - set(shown):
        panel.set_visible(False)
    most = max(0.02, *(abs(limit) for panel in gained for limit in panel.get_ylim()))
    for panel in gained:
        panel.set_ylim(-most, most)
    _framed(figure, axes, across, rows, "Defences against poisoned clients")
    return figure


def _heatmap(rows: Sequence[Row]) -> Figure:
    """Mean accuracy by width and depth: a map for each ratio, rows by all else that varies."""
    rest = [name for name in _varying(rows) if name not in (RATIO, WIDTH, DEPTH)]
    facets, ratios = _values(rows, rest), _values(rows, [RATIO])
    widths, depths = ([value for (value,) in _values(rows, [name])] for name in (WIDTH, DEPTH))
    figure, axes = _panels(facets, ratios, 0.9)
    image = None
    for n, ((facet, ratio), panel) in enumerate(zip(product(facets, ratios), axes, strict=True)):
        cells = _means(_chosen(rows, [*rest, RATIO], facet + ratio), [DEPTH, WIDTH])
        grid = [[cells.get((depth, width), math.nan) for width in widths] for depth in depths]
        image = panel.imshow(grid, vmin=0, vmax=1, cmap="viridis", origin="lower", aspect="auto")
        panel.set_xticks(range(len(widths)), [_text(width) for width in widths], fontsize=7)
        panel.set_yticks(range(len(depths)), [_text(depth) for depth in depths], fontsize=7)
        panel.tick_params(length=0)
        for (y, line), (x, _) in product(enumerate(grid), enumerate(widths)):
            if math.isfinite(line[x]):
                shade = "black" if line[x] > 0.6 else "white"
                panel.text(x, y, f"{line[x]:.2f}", ha="center", va="center", fontsize=6, color=shade)
        _titled(panel, _described([RATIO], ratio), _described(rest, facet), n % len(ratios))
    for n, panel in enumerate(axes):
        panel.set_xlabel("width factor" if n >= len(axes) - len(ratios) else "", fontsize=8)
        panel.set_ylabel("depth" if n % len(ratios) == 0 else "", fontsize=8)
    if image is not None:
        bar = figure.colorbar(image, ax=list(axes), shrink=0.8, aspect=30)
        bar.set_label("mean test accuracy", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    _headed(figure, rows, "Test accuracy by width and depth")
    return figure


def _panels(facets: list[Key], columns: list[Key], width: float) -> tuple[Figure, list[Axes]]:
    """A grid with a row for each facet, the list cut to what can be drawn, and its panels row by row."""
    import matplotlib.pyplot as plt

    del facets[MOST_ROWS:]
    across, down = len(columns), len(facets)
    figure, axes = plt.subplots(
        down,
        across,
        figsize=(max(across * PANEL[0] * width + 1.2, 2 * PANEL[0]), down * PANEL[1] + 1.1),
        squeeze=False,
        layout="constrained",
    )
    return figure, list(axes.flat)


def _lines(panel: Axes, rows: Sequence[Row], line: str | None, styles: Mapping[Key, Any]) -> None:
    """One line of mean accuracies over the ratio for each value of a parameter, with its interval."""
    names = [line] if line else []
    panel.axhline(CHANCE, color=GREY, lw=0.8, ls=":", label="guessing")
    for key in _values(rows, names):
        values: dict[float, list[float]] = {}
        for one in _chosen(rows, names, key):
            if one[f"mean_{METRIC}"] is not None:
                values.setdefault(one[RATIO], []).append(one[f"mean_{METRIC}"])
        label = _described(names, key) or "mean"
        _band(panel, values, _accuracies, color=styles[key], label=label)
    panel.set_ylim(0, 1.02)


def _band(
    panel: Axes,
    values: Mapping[float, list[float]],
    limits: Callable[[list[float]], tuple[float | None, float | None]],
    **style: Any,
) -> None:
    """Means over the ratio, with the interval of each as a band."""
    ratios = sorted(values)
    panel.plot(ratios, [statistics.fmean(values[one]) for one in ratios], marker="o", ms=3, lw=1.4, **style)
    ends = [limits(values[one]) for one in ratios if len(values[one]) > 1]
    if ratios and len(ends) == len(ratios):
        low, high = zip(*ends, strict=True)
        panel.fill_between(ratios, low, high, color=style["color"], alpha=0.15, lw=0)


def _accuracies(values: list[float]) -> tuple[float | None, float | None]:
    return interval(values, METRIC)


def _gains(rows: Sequence[Row], first: Key, other: Key) -> dict[float, list[float]]:
    """By ratio the differences of accuracy between two aggregators, seed by seed."""
    by: dict[Key, dict[tuple[float, int], float]] = {first: {}, other: {}}
    for one in rows:
        found = by.get((one[AGGREGATOR],))
        if found is not None and one[f"mean_{METRIC}"] is not None:
            found[one[RATIO], one["seed"]] = one[f"mean_{METRIC}"]
    gains: dict[float, list[float]] = {}
    for (ratio, seed), accuracy in by[other].items():
        if (ratio, seed) in by[first]:
            gains.setdefault(ratio, []).append(accuracy - by[first][ratio, seed])
    return gains


def _framed(figure: Figure, axes: Sequence[Axes], across: int, rows: Sequence[Row], title: str) -> None:
    """What all panels over the ratio share."""
    for n, panel in enumerate(axes):
        panel.set_xlim(-0.02, 1.02)
        panel.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        panel.tick_params(labelsize=7)
        panel.grid(color="#dddddd", lw=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        if n % across == 0 and not panel.get_ylabel():
            panel.set_ylabel("accuracy", fontsize=8)
        if n >= len(axes) - across:
            panel.set_xlabel("share of poisoned clients", fontsize=8)
    handles = {
        label: handle
        for panel in axes
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    columns = max(1, int(figure.get_figwidth() / LEGEND))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(len(handles), columns),
        fontsize=8,
        frameon=False,
    )
    _headed(figure, rows, title)


def _headed(figure: Figure, rows: Sequence[Row], title: str) -> None:
    """Say what the picture shows, of which phase, and what is the same in all of it."""
    same = [name for name in ("dataset", "model_type", "poison_type") if len(_values(rows, [name])) == 1]
    seeds = len({one["seed"] for one in rows})
    words = [*(_text(rows[0][name]) for name in same), f"{seeds} seed{'s' * (seeds != 1)}"]
    if seeds > 1:
        words.append("95 % intervals of the mean")
    figure.suptitle(f"{title}: {rows[0]['phase']}\n{', '.join(words)}", fontsize=9)


def _titled(panel: Axes, own: str, of_row: str, column: int) -> None:
    """Say above a panel what is special about it, and above the first one of a row what is about the row."""
    panel.set_title("\n".join(filter(None, [of_row if column == 0 else "", own])), fontsize=8, loc="left")


def _described(names: Sequence[str], values: Key) -> str:
    return ", ".join(
        _text(value) if isinstance(value, str | None) else f"{_name(name)} {_text(value)}"
        for name, value in zip(names, values, strict=True)
    )


def _name(name: str) -> str:
    return NAMES.get(name, name.replace("_", " "))


def _text(value: Any) -> str:
    if value is None:
        return "iid"
    return f"{value:g}" if isinstance(value, int | float) else str(value).replace("_", " ")


def _varying(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The parameters, but for the seed, that have several values."""
    return [name for name in ALL_PARAMETERS if len({one[name] for one in rows}) > 1]


def _values(rows: Sequence[Row], names: Sequence[str]) -> list[Key]:
    """The combinations of values that there are: numbers in their order, then names as they come first."""
    found = dict.fromkeys(tuple(one[name] for name in names) for one in rows)
    first = {key: n for n, key in enumerate(found)}

    def order(key: Key) -> list[tuple[int, float]]:
        return [(0, value) if isinstance(value, int | float) else (1, first[key]) for value in key]

    return sorted(found, key=order)


def _chosen(rows: Sequence[Row], names: Sequence[str], values: Key) -> list[Row]:
    return [one for one in rows if tuple(one[name] for name in names) == values]


def _means(rows: Sequence[Row], names: Sequence[str]) -> dict[Key, float]:
    groups: dict[Key, list[float]] = {}
    for one in rows:
        if one[f"mean_{METRIC}"] is not None:
            groups.setdefault(tuple(one[name] for name in names), []).append(one[f"mean_{METRIC}"])
    return {key: statistics.fmean(values) for key, values in groups.items()}


def _styles(values: Sequence[Key]) -> dict[Key, Any]:
    """Colours: shades for numbers, which have an order, else colours that stand apart."""
    import matplotlib

    if all(isinstance(value, int | float) for key in values for value in key) and len(values) > 1:
        shades = matplotlib.colormaps["viridis_r"]
        return {key: shades(0.15 + 0.85 * n / (len(values) - 1)) for n, key in enumerate(values)}
    return {key: COLORS[n % len(COLORS)] for n, key in enumerate(values)}

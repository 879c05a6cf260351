"""A picture of all repetitions of one workload on one host."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ripresa.families.benchmarks.adaptive import coefficient_of_variation
from ripresa.families.benchmarks.summary import outliers
from ripresa.families.intervals import confidence_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 4
PANEL = (3.1, 2.3)  # inches
# An axis spans at least this share of the mean, so that noise of a few permille looks like what it is.
LEAST_SPAN = 0.04

BLUE, ORANGE, RED, GREY = "#2166ac", "#e08214", "#b2182b", "#666666"  # told apart by colour-blind readers too


def draw(results: Sequence[Mapping[str, Any]], retried: Sequence[bool], path: str | os.PathLike[str]) -> None:
    """A PNG with one panel for each metric: every repetition, their mean and its 95 % confidence interval."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    order = sorted(range(len(results)), key=lambda i: results[i]["repetition"])
    results = [results[i] for i in order]
    again = [retried[i] for i in order]
    first = results[0]
    rows = math.ceil(len(first["metrics"]) / COLUMNS)
    columns = min(len(first["metrics"]), COLUMNS)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(max(columns * PANEL[0], 2 * PANEL[0]), rows * PANEL[1] + 0.9),
        squeeze=False,
        layout="constrained",
    )
    for panel in axes.flat:
        panel.set_visible(False)
    for panel, metric in zip(axes.flat, first["metrics"], strict=False):
        panel.set_visible(True)
        values = [m["value"] for result in results for m in result["metrics"] if m["name"] == metric["name"]]
        numbers = [result["repetition"] for result in results]
        _panel(panel, numbers, values, again)
        panel.set_title(
            f"{metric['name']}{' (primary)' if metric['name'] == first['primary'] else ''}",
            fontsize=9,
            fontweight="bold" if metric["name"] == first["primary"] else "normal",
            loc="left",
        )
        better = "higher" if metric["direction"] == "higher" else "lower"
        panel.set_ylabel(f"{metric['unit']} ({better} is better)", fontsize=7)
        cv = coefficient_of_variation(values)
        if math.isfinite(cv):
            panel.set_title(f"CV {100 * cv:.2g} %", fontsize=8, loc="right", color=GREY)
    figure.suptitle(
        f"{first['workload']} on {first['host']}, {first['preset']} preset, n = {len(results)}", fontsize=11
    )
    handles = {
        label: handle
        for panel in axes.flat
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=len(handles),
        fontsize=8,
        frameon=False,
    )
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)


def _panel(axes: Axes, numbers: Sequence[int], values: Sequence[float], retried: Sequence[bool]) -> None:
    from matplotlib.ticker import MaxNLocator

    mean = sum(values) / len(values)
    low, high = confidence_interval(values)
    if math.isfinite(low):
        axes.axhspan(low, high, color=BLUE, alpha=0.13, lw=0, label="95 % confidence interval of the mean")
    axes.axhline(mean, color=BLUE, lw=1, label="mean")
    beyond = outliers(values)
    markers: tuple[tuple[str, Sequence[bool], dict[str, Any]], ...] = (
        ("repetition", [not one for one in beyond], {"marker": "o", "ms": 5, "color": BLUE}),
        ("outlier", beyond, {"marker": "D", "ms": 5, "color": ORANGE}),
        ("needed a retry", retried, {"marker": "o", "ms": 11, "mec": RED, "mfc": "none", "mew": 1.5}),
    )
    for label, chosen, style in markers:
        points = [(n, value) for n, value, wanted in zip(numbers, values, chosen, strict=True) if wanted]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, ls="none", zorder=3, label=label, **style)
    for_limits = [value for value in (*values, low, high) if math.isfinite(value)]
    middle = (min(for_limits) + max(for_limits)) / 2
    half = max((max(for_limits) - min(for_limits)) * 0.58, LEAST_SPAN / 2 * abs(mean)) or 1.0
    axes.set_ylim(middle - half, middle + half)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlim(min(numbers) - 0.6, max(numbers) + 0.6)
    axes.set_xlabel("repetition", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.ticklabel_format(axis="y", useOffset=False)

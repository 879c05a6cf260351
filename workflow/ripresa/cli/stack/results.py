"""What a finished stack says of itself."""

import csv
import os
from collections.abc import Iterable
from typing import Any

from ripresa.cli.answers import Refusal, Table
from ripresa.cli.stack import directory
from ripresa.journal import records
from ripresa.journal.paths import Run
from ripresa.journal.text import printable

_FILES = {"stacked": "stacked.fit", "table": "frames.csv", "preview": "stacked.png"}
_SHOWN = (
    "name",
    "status",
    "residual_px",
    "fwhm_px",
    "eccentricity",
    "n_stars",
    "transparency",
    "weight_share",
)


def files(run: Run) -> dict[str, str]:
    """The results that are there, as absolute paths."""
    places = {key: os.path.abspath(f"{directory(run)}/outputs/{name}") for key, name in _FILES.items()}
    return {key: path for key, path in places.items() if os.path.isfile(path)}


def document(run: Run, seconds: float) -> dict[str, Any]:
    """The result of `ripresa stack run`; refuses where there is none."""
    there, report = files(run), summary(run)
    if report is None or len(there) < len(_FILES):
        raise Refusal(f"{directory(run)}/outputs lacks the results of a stack", 1, "STACK_FAILED")
    figures = {
        key: report.get(key) for key in ("mode", "frames", "registered", "excluded", "n_eff", "fwhm_px")
    }
    return {**there, **figures, "seconds": round(seconds, 3)}


def summary(run: Run) -> dict[str, Any] | None:
    """The figures of a stack from its report; None if there is none."""
    report = records.read_json(f"{directory(run)}/outputs/validation.json")
    found = report.get("summary") if isinstance(report, dict) else None
    return found if isinstance(found, dict) else None


def warnings(run: Run) -> list[str]:
    """The limits that a stack is beyond."""
    report = records.read_json(f"{directory(run)}/outputs/validation.json")
    checks = report.get("checks", []) if isinstance(report, dict) else []
    return [printable(check.get("message")) for check in checks if check.get("verdict") in ("warn", "fail")]


def table(path: str) -> Table:
    """The table of frames, the columns that people look at first."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    heading = [name for name in _SHOWN if rows and name in rows[0]]
    lines = [(*(_short(row[name]) for name in heading), printable(row.get("reason"))) for row in rows]
    return Table((*(name.upper() for name in heading), "REASON"), lines)


def text(run: Run, result: dict[str, Any]) -> Iterable[str | Table]:
    """The result for people."""
    yield table(result["table"])
    yield ""
    figures = (result[key] for key in ("fwhm_px", "n_eff"))
    fwhm, n_eff = ("?" if figure is None else f"{figure:.3g}" for figure in figures)
    yield (
        f"run {run.run_id}: {result['registered']} of {result['frames']} frames stacked "
        f"({result['mode']} mode), FWHM {fwhm} px, N_eff {n_eff}, {result['seconds']:.1f} s"
    )
    yield from (
        f"excluded: {printable(one['frame'])}: {printable(one['reason'])}" for one in result["excluded"]
    )
    yield from (f"warning: {message}" for message in warnings(run))
    yield from (f"{key + ':':<9}{result[key]}" for key in _FILES)


def _short(value: str) -> str:
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return printable(value)

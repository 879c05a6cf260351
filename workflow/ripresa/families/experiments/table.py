"""The results of a phase as a table: one row an experiment, in the order of its sweep."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ripresa.families.experiments.parameters import DEFAULTS

METRICS = ("test_accuracy", "test_loss", "val_accuracy", "val_loss")
PARAMETERS = (
    *("dataset", "model_type", "width_factor", "depth", "poison_ratio", "poison_type"),
    *("alpha", "data_ordering", "aggregator", "batch_size"),
)
"""The parameters that have a column of their own in every table, but for the seed, which comes last."""
ALL_PARAMETERS = (*PARAMETERS, *(name for name in DEFAULTS if name not in (*PARAMETERS, "seed")))
"""With those that no column of `COLUMNS` tells; what differs in one of them is no repetition."""
COLUMNS = (
    "phase",
    "signature",
    *PARAMETERS,
    *(f"{figure}_{metric}" for metric in METRICS for figure in ("mean", "std")),
    *("num_parameters", "best_epoch", "seed"),
)

Row = dict[str, Any]


def result_path(run: str, digest: str) -> str:
    """Where the result of an experiment is published."""
    return f"{run}/experiments/{digest}.json"


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A published result."""
    document: dict[str, Any] = json.loads(Path(path).read_bytes())
    return document


def published(run: str, digests: Iterable[str]) -> list[dict[str, Any]]:
    """The results that there are, in the order of the digests. A target that exists is complete and valid."""
    found = []
    for digest in digests:
        try:
            found.append(load(result_path(run, digest)))
        except FileNotFoundError:
            continue
    return found


def row(phase: str, result: Mapping[str, Any]) -> Row:
    """The columns of one result, then what it has beside them: all other parameters, status and reason.

    Mean and standard deviation are over the evaluation shards of the clients; None where an experiment
    diverged and so has none.
    """
    parameters = result["parameters"]
    figures = {
        f"{figure}_{metric}": result["per_client"].get(metric, {}).get(figure)
        for metric in METRICS
        for figure in ("mean", "std")
    }
    return {
        "phase": phase,
        "signature": result["digest"],
        **{name: parameters[name] for name in PARAMETERS},
        **figures,
        "num_parameters": result["num_parameters"],
        "best_epoch": result["best_epoch"],
        "seed": parameters["seed"],
        **{name: value for name, value in parameters.items() if name not in COLUMNS},
        "status": result["status"],
        "reason": result["reason"],
    }


def write_csv(path: str | os.PathLike[str], rows: Iterable[Row], columns: Sequence[str] = COLUMNS) -> None:
    """Write the columns as CSV: equal values as equal text, nothing where there is no value.

    Numbers are written so that reading them gives the very same ones.
    """
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows([_text(one[name]) for name in columns] for one in rows)


def write_parquet(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """Write all that `row` has as Parquet."""
    import polars

    names = list(rows[0])
    # Numbers of one column may be written 1 and 0.5.
    polars.DataFrame(
        {name: polars.Series(name, [one[name] for one in rows], strict=False) for name in names},
        infer_schema_length=None,
    ).write_parquet(Path(path))


def read_parquet(path: str | os.PathLike[str]) -> list[Row]:
    """The rows that `write_parquet` wrote."""
    import polars

    return polars.read_parquet(Path(path)).to_dicts()


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)

"""One experiment from its parameters to its result file."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ripresa.dsl.digests import digest
from ripresa.families.experiments import ExperimentError, backends, datasets, result
from ripresa.families.experiments.checkpoint import Checkpoint, remove_finished
from ripresa.families.experiments.federated import Federation
from ripresa.families.experiments.parameters import canonical
from ripresa.families.experiments.progress import Progress
from ripresa.families.experiments.training import train


def run(
    given: Mapping[str, Any],
    output: str,
    checkpoints: str,
    micro_batch: int | None = None,
    backend: str = "auto",
) -> dict[str, Any]:
    """Compute an experiment, resuming from its checkpoint if there is one, and write its result.

    ``micro_batch`` is how many samples of a batch are computed at a time; all if it is not given. Returns the
    result. ExperimentError for what cannot be computed.
    """
    began, started = time.perf_counter(), datetime.now(UTC)
    parameters = canonical(given)
    name = digest(parameters)
    batch = parameters["batch_size"]
    micro_batch = batch if micro_batch is None else micro_batch
    if not 1 <= micro_batch <= batch:
        raise ExperimentError(
            f"invalid micro-batch {micro_batch}: must be from 1 to batch_size, which is {batch}"
        )
    remove_finished(checkpoints, _results(output))
    chosen = backends.choose(backend, parameters, micro_batch)
    folder = os.environ.get("RIPRESA_DATASETS", "datasets")
    means = {"backend": chosen.name, "micro_batch": micro_batch, **chosen.versions}
    dataset = datasets.load(parameters["dataset"], folder)
    progress = Progress(parameters, dataset)
    with np.errstate(all="ignore"):  # what matters shows in the losses
        federation = Federation(parameters, dataset, chosen, progress.count)
        outcome = train(parameters, federation, Checkpoint(checkpoints, name, parameters), means, progress)
    found = result.document(name, parameters, outcome)
    found |= {
        "micro_batch": micro_batch,
        "backend": chosen.name,
        "provenance": {
            "source": "computed",
            "started": started.isoformat(timespec="milliseconds"),
            "segments": outcome.state.segments,
        },
        "timings": {
            "rounds_s": round(outcome.state.elapsed_s, 6),
            "process_s": round(time.perf_counter() - began, 6),
        },
    }
    result.write(output, found)
    return found


def _results(output: str) -> str:
    """Where results are published: the output itself is a staged file, beside which there may be nothing."""
    run_directory, target = os.environ.get("RIPRESA_RUN"), os.environ.get("RIPRESA_TARGET")
    return os.path.dirname(f"{run_directory}/{target}" if run_directory and target else output)

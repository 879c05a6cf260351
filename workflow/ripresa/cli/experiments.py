"""The experiments of a run, for the commands about them."""

from typing import Any

from ripresa.cli import runs
from ripresa.cli.answers import Refusal
from ripresa.families.experiments import ExperimentError
from ripresa.families.experiments.plan import Phase, phases
from ripresa.journal.paths import Run


def of(run: Run, config: dict[str, Any]) -> list[Phase]:
    """The phases that a configuration asks for. Refuses one without, or that cannot be meant so."""
    if "experiments" not in config["families"]:
        raise Refusal(
            f"run '{run.run_id}' has no experiments; add 'experiments' to families", name="NO_EXPERIMENTS"
        )
    try:
        return phases(config["experiments"])
    except ExperimentError as error:
        raise Refusal(str(error), name="CONFIG_INVALID") from None


def configuration(run: Run, run_id: str | None) -> dict[str, Any]:
    """What a run was started with; before that, what is configured."""
    from ripresa.configuration import load_snapshot

    return load_snapshot(run.dir) or runs.configured(run_id)

"""How long sweeps take to expand: 1,024 and 100,000 parameter sets, and the 1,024 in a dry run of Snakemake.

Of the first two is timed what the rule file calls, a whole process from its start to its end: it expands the
phases, completes and checks every parameter set, names it by its digest, and merges what phases have in
common. The same study is asked for twice, by two phases, of which the second one must cost no experiment.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from workspace import ROOT, Workspace, section

STUDY = {
    "model_type": ["MLP", "CNN"],
    "dataset": ["fashion_mnist", "cifar10"],
    "width_factor": [1, 4, 16, 64],
    "depth": [1, 4, 16, 64],
    "poison_ratio": [0, 0.25, 0.5, 0.75, 0.8125, 0.875, 0.9375, 1],
    "poison_type": ["label_flip", "random_noise"],
}
SIZE = 1024


def study(seeds: int) -> dict[str, Any]:
    """The study with so many seeds, and a second phase that asks for a half of it again."""
    half = STUDY | {"poison_type": ["label_flip"]}
    phases = {"all": {"sweep": {"product": STUDY}}, "half": {"sweep": {"product": half}}}
    return section(seeds=list(range(seeds)), phases=phases)


def planned(asked: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Seconds that the plan took as a process of its own, and what it says."""
    command = [sys.executable, str(ROOT / "workflow/scripts/experiment_plan.py"), json.dumps(asked)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    plan: dict[str, Any] = json.loads(done.stdout)
    return seconds, plan


def expanded(seeds: int, rounds: int, limit_s: float) -> bool:
    """Print how long a study takes; whether that is within the limit and the plan is right."""
    asked = study(seeds)
    durations = []
    for _ in range(rounds):
        seconds, plan = planned(asked)
        durations.append(seconds)
    number, wanted = len(plan["experiments"]), SIZE * seeds
    shared = sum(len(phase["digests"]) for phase in plan["phases"]) - number
    right = number == wanted and shared == wanted // 2
    took = statistics.median(durations)
    print(
        f"  {'met   ' if right and took <= limit_s else 'MISSED'} {number:,} experiments, {shared:,} of them "
        f"in two phases: {took:.2f} s, worst of {rounds} {max(durations):.2f} s (at most {limit_s:g} s)",
        flush=True,
    )
    return right and took <= limit_s


def dry_run() -> float:
    """Seconds that a whole dry run of Snakemake takes on the 1,024."""
    with tempfile.TemporaryDirectory() as name:
        workspace = Workspace(Path(name) / "study", study(1))
        began = time.perf_counter()
        workspace.finish("--dry-run", "--quiet", "all")
        return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slack", type=float, default=1.0, help="factor on the limits, for a busy machine")
    arguments = parser.parse_args()
    print("expand, check, digest and merge:")
    met = [
        expanded(1, arguments.rounds, 0.5 * arguments.slack),
        expanded(98, max(1, arguments.rounds // 2), 10 * arguments.slack),
    ]
    print(f"snakemake --dry-run with the {SIZE:,}: {dry_run():.1f} s, all included")
    print("verdict:", "met" if all(met) else "missed")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())

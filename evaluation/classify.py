"""Measures the failure classifier on labelled real logs.

    python evaluation/classify.py [FAILURES.jsonl] [--errors] [--half even|odd]

Each line of the file holds `label`, `alt` (a second acceptable class or null), `retry`, `exit` ("exit N",
"signal N", "slurm STATE" or null) and `log`. Exits with 1 if a goal is missed, 2 if the file cannot be read.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ripresa.recovery.classifier import Verdict, classify

CASES = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "failures" / "dev.jsonl"
PERMANENT = {"configuration", "environment", "permission", "code", "numerical", "data"}
GOALS = {"classes": 0.90, "retry": 0.97, "permanent_called_retryable": 0.02}


class Score(NamedTuple):
    """Shares of the cases given, and the cases that are wrong in class or retry."""

    cases: int
    classes: float
    retry: float
    permanent_called_retryable: float
    wrong: list[tuple[dict[str, Any], Verdict]]

    @property
    def passed(self) -> bool:
        return (
            self.classes >= GOALS["classes"]
            and self.retry >= GOALS["retry"]
            and self.permanent_called_retryable <= GOALS["permanent_called_retryable"]
        )


def arguments_of(exit_field: str | None) -> dict[str, Any]:
    """The keywords of `classify` for "exit 137", "signal 9" or "slurm TIMEOUT"."""
    if not exit_field:
        return {}
    kind, value = exit_field.split(maxsplit=1)
    if kind == "slurm":
        return {"slurm_state": value}
    return {{"exit": "exit_code", "signal": "signal"}[kind]: int(value)}


def measure(cases: Iterable[dict[str, Any]]) -> Score:
    """Classify every case and compare."""
    right = retries = permanent = called_retryable = total = 0
    wrong = []
    for case in cases:
        verdict = classify(case["log"], **arguments_of(case["exit"]))
        class_right = verdict.failure_class in (case["label"], case["alt"])
        retry_right = verdict.retry == case["retry"]
        total += 1
        right += class_right
        retries += retry_right
        if case["label"] in PERMANENT and not case["retry"]:
            permanent += 1
            called_retryable += verdict.retry
        if not (class_right and retry_right):
            wrong.append((case, verdict))
    count = max(total, 1)
    return Score(total, right / count, retries / count, called_retryable / max(permanent, 1), wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the failure classifier on labelled logs.")
    parser.add_argument("file", nargs="?", type=Path, default=CASES)
    parser.add_argument("--errors", action="store_true", help="show every wrong verdict with its evidence")
    parser.add_argument("--half", choices=["even", "odd"], help="only cases whose number is even or odd")
    options = parser.parse_args()
    try:
        cases = [json.loads(line) for line in options.file.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, ValueError) as error:
        print(f"cannot read {options.file}: {error}", file=sys.stderr)
        return 2
    if options.half:
        parity = ["even", "odd"].index(options.half)
        cases = [case for case in cases if int(case["id"].lstrip("f")) % 2 == parity]
    started = time.perf_counter()
    score = measure(cases)
    if options.errors:
        for case, verdict in score.wrong:
            expected = case["label"] + (f" or {case['alt']}" if case["alt"] else "")
            print(f"{case['id']} {case['tool']}: expected {expected}, retry {case['retry']}")
            print(f"    said {verdict.failure_class}, retry {verdict.retry}, by {verdict.rule}:")
            print(f"    {verdict.evidence}")
    print(
        f"{score.cases} logs: classes {score.classes:.1%}, retry {score.retry:.1%}, "
        f"permanent called retryable {score.permanent_called_retryable:.1%}, "
        f"{1000 * (time.perf_counter() - started) / max(score.cases, 1):.1f} ms a log"
    )
    return 0 if score.passed else 1


if __name__ == "__main__":
    sys.exit(main())

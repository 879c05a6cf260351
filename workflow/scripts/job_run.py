"""Run a job or one of its segments: UNIT (JSON) RESULT [--output DIRECTORY] [--amount NAME=N]... < COMMAND

What does not determine the result (patterns, limits, markers) is read from the configuration of the run.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import yaml

from ripresa.families.jobs import execution, running
from ripresa.families.jobs.errors import JobError
from ripresa.families.jobs.result import put_together
from ripresa.journal import events, processes
from ripresa.journal.paths import Run


def settings_of(run: Run, job: str) -> dict:
    """What config/jobs.yaml says of a job, as it was when the run last started."""
    config = yaml.load(Path(run.config).read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    try:
        return config["jobs"]["jobs"][job]
    except (KeyError, TypeError):
        raise JobError(f"job {job} is no longer in the configuration of the run") from None


def send(pid: int, number: int) -> None:
    """Signal a process and its descendants; a warning only those that do not simply die of it."""
    for one in (pid, *processes.descendants(pid)):
        if number not in execution.WARNINGS or processes.catches(one, number):
            processes.kill(one, number)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("unit", type=json.loads)
    parser.add_argument("result", type=Path)
    parser.add_argument("--output")
    parser.add_argument("--amount", action="append", default=[])
    asked = parser.parse_args(arguments)
    run, target = Run(os.environ["RIPRESA_RUN"]), os.environ["RIPRESA_TARGET"]
    attempt = int(os.environ["RIPRESA_ATTEMPT"])
    given = running.Surroundings(
        run=run.dir,
        folder=os.path.dirname(run.path(target)),
        log=os.environ["RIPRESA_LOG"],  # on a host it is not where the journal will have it
        log_name=os.path.relpath(run.log(target, attempt), run.dir),
        progress=os.environ["RIPRESA_PROGRESS"],
        session=os.environ.get("RIPRESA_SESSION", "none"),
        forced="RIPRESA_FORCED" in os.environ,
        tell=lambda type, **fields: events.emit(run, type, target=target, attempt=attempt, **fields),
        send=send,
    )
    try:
        segment = running.run(
            asked.unit,
            sys.stdin.read().rstrip("\n"),
            settings_of(run, asked.unit["job"]),
            given,
            output=asked.output,
            amounts=dict(one.split("=", 1) for one in asked.amount),
        )
    except running.Failed as failed:
        if failed.message:
            print(f"ripresa: {failed.message}", file=sys.stderr)
        sys.exit(failed.code)
    except JobError as error:
        sys.exit(f"ripresa: {error}")
    document = segment if "segment" in asked.unit else put_together([segment])
    asked.result.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Bad input: broken configurations and damaged files of a run, through the real commands.

Three tables of cases, each with its outcome:

- every broken configuration of tests/test_configuration.py, told to `ripresa status` (and every eighth
  of them to `snakemake`): it must be refused with lines that name the file, and nothing may run;
- every kind of damage of tests/test_guard.py done to every file that a guard reads, with a failed attempt
  or a published but unknown one before: the guard must recover or say one line and publish nothing;
- every kind of damage done to all journal files of a finished campaign of which one result is missing:
  `snakemake`, `ripresa status` and `ripresa verify` must bring and show it complete, the missing result
  made again and the others left as they are.

Exits 1 on any traceback, wrongly accepted or lost result.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from conftest import Campaign, Guarded  # noqa: E402
from test_configuration import BROKEN, GOOD  # noqa: E402
from test_guard import GARBAGE  # noqa: E402

RIPRESA = str(Path(sys.executable).with_name("ripresa"))
RESULT = "result\n"


class Outcome(NamedTuple):
    """``told`` is what happened, in a few words; ``ok`` whether that is right."""

    case: str
    told: str
    ok: bool


def configurations(root: Path, *, every: int) -> Iterator[Outcome]:
    """Refuse every broken configuration; one in ``every`` is told to snakemake, too."""
    for number, (case, (file, content, _, _)) in enumerate(BROKEN.items()):
        directory = root / f"configuration{number}"
        (directory / "config").mkdir(parents=True)
        for name, text in {**GOOD, file: content}.items():
            if text is not None:
                data = text.encode() if isinstance(text, str) else text
                (directory / "config" / f"{name}.yaml").write_bytes(data)
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--cores", "1"]
        calls: dict[str, tuple[list[str | Path], int]] = {"ripresa": ([RIPRESA, "status"], 2)}
        if number % every == 0:
            calls["snakemake"] = ([*snakemake, "--workflow-profile", "none"], 1)
        for name, (call, code) in calls.items():
            done = subprocess.run(
                call, cwd=directory, capture_output=True, text=True, timeout=120, check=False
            )
            said = done.stdout + done.stderr
            named = [line for line in said.splitlines() if "config/" in line]
            ok = done.returncode == code and bool(named) and "Traceback" not in said
            ok = ok and not (directory / "runs").exists()
            told = named[0].removeprefix("ripresa: ") if named else said[-200:]
            yield Outcome(f"{name}, {file}.yaml: {case}", told, ok)


def damaged_units(root: Path) -> Iterator[Outcome]:
    """One unit, one damaged file at a time."""
    command = f"printf '{RESULT}' > {{output}}".replace("\n", "\\n")
    for before in ("failed", "published"):
        first = root / before
        first.mkdir(parents=True)
        unit = Guarded(first)
        unit("exit 255" if before == "failed" else command)
        if before == "published":
            unit.path.unlink()
        for file in ("attempts", "lease", "breakers", "recovery", "events", "guard", "staged"):
            if file == "staged" and before == "failed":
                continue
            for kind, data in GARBAGE.items():
                unit = Guarded(shutil.copytree(first, root / f"{before}-{file}-{kind}"))
                path = _file(unit, file)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                yield Outcome(f"guard, {before} before, {file}: {kind}", *_guarded(unit, command))


def _file(unit: Guarded, file: str) -> Path:
    run = unit.run
    if file == "staged":
        return Path(run.staged(unit.target, 1), unit.target)
    name = {"attempts": unit.target, "lease": unit.target, "guard": "digest"}.get(file)
    return Path(getattr(run, file)(name) if name else getattr(run, file))


def _guarded(unit: Guarded, command: str) -> tuple[str, bool]:
    try:
        code = unit(command, session="two")
    except AssertionError:
        return unit.said[-200:], False
    if code:
        # Refused: one line, nothing published, and all well once the file is there again.
        refused = not unit.path.exists() and len(unit.said.splitlines()) == 1
        unit.options({})
        again = unit(command, session="three") == 0 and unit.path.read_text() == RESULT
        return f"refused: {unit.said.strip()}" if not again else "refused, then repaired", refused and again
    adopted = unit.last.get("outcome") == "adopted"
    return "adopted" if adopted else "executed again", unit.path.read_text() == RESULT


def damaged_campaigns(root: Path) -> Iterator[Outcome]:
    """A finished campaign, all files of its journal damaged in one way, and one result missing."""
    first = root / "campaign"
    first.mkdir(parents=True)
    finished = Campaign(first)
    finished.units(a=1, b=2, c=3)
    made = finished() == 0
    expected = {name: finished.path(name).read_text() for name in "abc"}
    for kind, data in GARBAGE.items():
        campaign = Campaign(shutil.copytree(first, root / f"campaign-{kind}"))
        before = {name: campaign.path(name).stat().st_mtime_ns for name in "ab"}
        campaign.path("c").unlink()
        Path(campaign.run.lease("units/c.txt")).parent.mkdir(parents=True, exist_ok=True)
        for path in (campaign.run.lease("units/c.txt"), campaign.run.breakers, campaign.run.config):
            Path(path).touch()
        for folder, _, files in os.walk(campaign.run.journal):
            for file in files:
                Path(folder, file).write_bytes(data)
        for path in (campaign.run.config, campaign.run.events):
            Path(path).write_bytes(data)
        told = []
        try:
            for call in ("status", "why units/a.txt", "verify"):
                campaign.ripresa(f"{call} --run test")
            ok = campaign() == 0 and made
            counts = json.loads(campaign.ripresa("status --run test --json"))["counts"]
            told = [f"{number} {state}" for state, number in counts.items()]
        except (AssertionError, ValueError) as error:
            told, ok = [str(error)[-200:]], False
        now = {name: campaign.path(name).read_text() for name in "abc" if campaign.path(name).exists()}
        same = before == {name: campaign.path(name).stat().st_mtime_ns for name in "ab"}
        ok = ok and now == expected and same
        told.append(f"executed {' '.join(campaign.executions()[3:])} again")
        yield Outcome(f"snakemake, the whole journal: {kind}", ", ".join(told), ok)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory() as root:
        tables = [
            configurations(Path(root), every=8),
            damaged_units(Path(root)),
            damaged_campaigns(Path(root)),
        ]
        for outcome in (outcome for table in tables for outcome in table):
            outcomes.append(outcome)
            print(f"{'ok' if outcome.ok else 'WRONG':<6}{outcome.case:<58}{outcome.told[:150]!r}", flush=True)
    wrong = [outcome for outcome in outcomes if not outcome.ok]
    print(f"{len(outcomes)} cases, {len(BROKEN)} of them broken configurations: {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

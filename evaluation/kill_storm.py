"""Kill storm: the controller is killed with -9 at random moments and must lose, repeat and damage nothing.

One campaign (units that succeed, fail for a while, and are slow) runs twice at the same time: undisturbed,
and with its `snakemake` killed again and again, in turn alone (its guards and commands live on) and with its
whole process group. Every resume is the same plain call. A judge that shares nothing with Ripresa watches:
each command locks a file of its unit while it runs, and whatever a target ever held is compared with that of
the undisturbed run.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from ripresa.journal import clock, leases, records
from ripresa.journal.paths import Run

SNAKEFILE = """
import json
from ripresa.dsl import Units, guard, open_run
from ripresa.recovery import policy

campaign = open_run("storm", main=workflow.is_main_process)
storm = Units("storm/{kind}/{n}.txt", parameters=json.load(open("units.json")))

rule all:
    input: storm.targets()

rule unit:
    output: storm.target
    log: storm.log
    params: p=storm.params
    shell: guard("bash unit.sh {params.p[kind]} {params.p[n]} {params.p[seconds]} {output}")

onstart:
    rules = policy.default()
    rules["time_scale"] = 0.002
    jobs = ((job.output[0], job.rule.name) for job in workflow.dag.jobs if job.output)
    campaign.start(jobs, config_sha256="", policy=rules)

onsuccess:
    campaign.end()

onerror:
    campaign.end()
"""

UNIT = """
kind=$1; n=$2; seconds=$3; output=$4
exec 9> judge/$kind.$n.lock
flock -n 9 || echo "$kind/$n attempt $RIPRESA_ATTEMPT overlaps" >> judge/overlaps
echo "$kind/$n" >> judge/executions
printf 'first half of %s %s\\n' $kind $n > $output
sleep $seconds
if [ $kind = transient ] && ! [ -e judge/$kind.$n.failed ]; then
    touch judge/$kind.$n.failed
    echo 'ssh: connect to host n1 port 22: Connection timed out'; exit 255
fi
printf 'second half of %s %s\\n' $kind $n >> $output
"""

CALL = [
    sys.executable, "-m", "snakemake", "--rerun-incomplete", "--cores", "2", "--keep-going", "--nolock",
    "--retries", "100", "--scheduler", "recovery", "--logger", "journal", "--workflow-profile", "none",
]  # fmt: skip


def prepare(directory: Path, units: list[dict[str, object]]) -> None:
    """Lay out a campaign of these units."""
    (directory / "judge").mkdir(parents=True)
    (directory / "Snakefile").write_text(SNAKEFILE)
    (directory / "unit.sh").write_text(UNIT)
    (directory / "units.json").write_text(json.dumps(units))


def mix(number: int, rng: random.Random) -> list[dict[str, object]]:
    """Three in five units are quick, one in five fails the first time, one in five is slow."""
    kinds = [
        ("ok", 0.0, 0.3),
        ("ok", 0.0, 0.3),
        ("ok", 0.0, 0.3),
        ("transient", 0.0, 0.2),
        ("slow", 0.5, 2.5),
    ]
    return [
        {"kind": kind, "n": n, "seconds": round(rng.uniform(low, high), 2)}
        for n in range(number)
        for kind, low, high in [kinds[n % len(kinds)]]
    ]


def finish(directory: Path) -> float:
    """Call snakemake once and let it end; returns how long it took, in s."""
    began = time.perf_counter()
    done = subprocess.run(CALL, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the campaign did not come to its end:\n{done.stderr[-6000:]}")
    return time.perf_counter() - began


def targets(directory: Path) -> dict[str, bytes]:
    """Target -> content of everything published so far."""
    root = directory / "runs/storm"
    found = {}
    for path in root.glob("storm/*/*.txt"):
        try:
            found[str(path.relative_to(root))] = path.read_bytes()
        except FileNotFoundError:
            continue
    return found


class Judge(threading.Thread):
    """Notes what every target holds as long as the storm lasts."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self.directory = directory
        self.looks = 0
        self.seen: set[tuple[str, bytes]] = set()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.05):
            self.looks += 1
            self.seen.update(targets(self.directory).items())

    def wrong(self, expected: dict[str, bytes]) -> set[str]:
        """The targets that held something else at any time."""
        return {target for target, content in self.seen if content != expected.get(target)}


def storm(directory: Path, kills: int, rng: random.Random) -> Counter[str]:
    """Start and kill the controller; counts the kills alone, with its group, and too late (it had ended)."""
    done: Counter[str] = Counter()
    for number in range(kills):
        with open(directory / "output.log", "ab") as log:
            controller = subprocess.Popen(CALL, cwd=directory, stdout=log, stderr=log, start_new_session=True)
        time.sleep(rng.uniform(0.3, 4.0))
        if controller.poll() is not None:
            done["ended before the kill"] += 1
        elif number % 2:
            os.killpg(controller.pid, signal.SIGKILL)
            done["with its process group"] += 1
        else:
            os.kill(controller.pid, signal.SIGKILL)
            done["alone, children alive"] += 1
        controller.wait()
    return done


def overlaps(history: list[dict[str, object]]) -> int:
    """Attempts that began before the one before had ended, by their records."""
    real = [r for r in history if r["outcome"] != "adopted"]
    return sum(
        clock.seconds(str(later["started"])) < clock.seconds(str(earlier["ended"]))
        for earlier, later in pairwise(real)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=500)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    units = mix(arguments.units, rng)
    with tempfile.TemporaryDirectory() as root:
        calm, stormy = Path(root, "calm"), Path(root, "stormy")
        prepare(calm, units)
        prepare(stormy, units)
        judge = Judge(stormy)
        judge.start()
        with ThreadPoolExecutor() as pool:
            undisturbed = pool.submit(finish, calm)
            began = time.perf_counter()
            kills = storm(stormy, arguments.kills, rng)
            finish(stormy)
            seconds = time.perf_counter() - began
            print(f"undisturbed {undisturbed.result():.1f} s; storm {seconds:.1f} s with kills {dict(kills)}")
        judge.over.set()
        judge.join()
        good = verdict(stormy, targets(calm), judge)
    hit = arguments.kills - kills["ended before the kill"]
    print(f"kills that hit a running controller: {hit} of {arguments.kills}")
    return 0 if good and hit == arguments.kills else 1


def verdict(directory: Path, expected: dict[str, bytes], judge: Judge) -> bool:
    """Print what became of a campaign after the storm; whether nothing was lost, repeated or damaged."""
    run = Run(directory / "runs/storm")
    histories = {target: records.read(run.attempts(target)) for target in expected}
    outcomes = Counter(str(record["outcome"]) for history in histories.values() for record in history)
    published = {t: sum(r["outcome"] == "published" for r in histories[t]) for t in histories}
    twice = [target for target, times in published.items() if times != 1]
    recorded = sum(map(overlaps, histories.values()))
    seen = directory / "judge/overlaps"
    locked = len(seen.read_text().splitlines()) if seen.exists() else 0
    executions = len((directory / "judge/executions").read_text().splitlines())
    same = targets(directory) == expected
    wrong = judge.wrong(expected)
    held = sum(bool(leases.held(str(path))) for path in Path(run.leases).glob("*.lock"))
    print(f"units {len(expected)}, executions {executions}, attempt records {dict(outcomes)}")
    print(f"targets equal to the undisturbed ones, byte for byte: {same}")
    print(f"units not published exactly once: {len(twice)} {twice[:5]}")
    print(f"overlapping attempts: {recorded} by the records, {locked} by the judge's locks")
    print(f"targets seen wrong in between, in {judge.looks} looks at all: {len(wrong)}")
    print(f"leases held after the end: {held}; manual commands: 0")
    return same and not (twice or recorded or locked or wrong or held)


if __name__ == "__main__":
    sys.exit(main())

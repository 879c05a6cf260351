"""Availability: the controller is killed with -9 every 10 minutes of a day; the documented loop restarts it.

The loop is taken out of docs/supervisor.md as it stands there. Time is shortened between restarts only. A
period of 600 s is the downtime after its kill, in real seconds as measured, and then (600 s - downtime) *
scale of a controller at work. Restarts are not shortened, so the availability at scale 1 is the mean of
(600 - downtime) / 600. Downtime is counted from the kill until the next controller has the run and selects
jobs (its event `run_resume`).

A judge that shares nothing with Ripresa watches the units: each command locks a file of its unit while it
runs, and every target must be what its command writes. Every fifth unit fails at first, so that retries
survive the kills too. The controller alone is killed; its guards live on, and what they publish while there
is none is counted.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ripresa.journal import attempts, clock, controller, leases, records
from ripresa.journal.paths import Run

ROOT = Path(__file__).parents[1]
PERIOD_S = 600.0
GOAL = 0.995
PATIENCE_S = 120.0

SNAKEFILE = f"""
configfile: "config/config.yaml"
include: "{ROOT}/rules/common.smk"

day = Units("day/{{kind}}/{{n}}.txt", parameters=config["day"]["units"])

rule all:
    input: day.targets()

rule unit:
    output: day.target
    log: day.log
    params: p=day.params
    shell: guard("bash unit.sh {{params.p[kind]}} {{params.p[n]}} {{params.p[seconds]}} {{output}}")
"""

UNIT = """
kind=$1; n=$2; seconds=$3; output=$4
exec 9> judge/$kind.$n.lock
flock -n 9 || echo "$kind/$n attempt $RIPRESA_ATTEMPT overlaps" >> judge/overlaps
printf 'first half of %s %s\\n' $kind $n > $output
sleep $seconds
if [ $kind = transient ] && ! [ -e judge/$kind.$n.failed ]; then
    touch judge/$kind.$n.failed
    echo 'ssh: connect to host n1 port 22: Connection timed out'; exit 255
fi
printf 'second half of %s %s\\n' $kind $n >> $output
"""


def loop() -> str:
    """The shell loop of the documentation."""
    page = (ROOT / "docs/supervisor.md").read_text()
    found = re.search(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    if found is None:
        raise SystemExit("docs/supervisor.md has no shell loop")
    return found[1]


def prepare(directory: Path, units: int, unit_s: float) -> dict[str, str]:
    """Lay out a campaign as a checkout has it; returns what each target must hold."""
    shutil.copytree(ROOT / "profiles", directory / "profiles")
    (directory / "judge").mkdir()
    (directory / "config").mkdir()
    (directory / "Snakefile").write_text(SNAKEFILE)
    (directory / "unit.sh").write_text(UNIT)
    (directory / "supervise.sh").write_text(loop())
    points = [
        {
            "kind": "transient" if n % 5 == 4 else "steady",
            "n": n,
            "seconds": round(unit_s * (0.5 + n % 7 / 6), 3),
        }
        for n in range(units)
    ]
    (directory / "config/config.yaml").write_text("run_id: day\nfamilies: [day]\n")
    (directory / "config/day.yaml").write_text(json.dumps({"units": points}))
    # The waits of a network failure, 5 min and more, are shortened like everything but a restart.
    (directory / "config/recovery.yaml").write_text("time_scale: 0.002\n")
    names = [(point["kind"], point["n"]) for point in points]
    return {
        f"day/{kind}/{n}.txt": f"first half of {kind} {n}\nsecond half of {kind} {n}\n" for kind, n in names
    }


class Supervised:
    """The loop at work on a campaign, and the kills of its controllers."""

    def __init__(self, directory: Path, scale: float) -> None:
        self.run = Run(directory / "runs/day")
        self.scale = scale
        self.downtimes: list[float] = []
        self.killed_at: list[float] = []
        self.cpu_s: list[float] = []
        """What each restart took of a processor: the rest is a machine busy with other things."""
        self._seen = 0
        names = {name: value for name, value in os.environ.items() if not name.startswith("RIPRESA_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{names['PATH']}"
        with open(directory / "output.log", "ab") as log:
            self.process = subprocess.Popen(
                ["sh", "supervise.sh", "--cores", "2"],
                cwd=directory,
                env={**names, "PATH": path, "RIPRESA_QUICK_S": str(round(60 * scale))},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def attached(self) -> float | None:
        """When the next controller began to select jobs, in s since the epoch; None if the loop ended."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            begun = [
                e for e in records.iterate(self.run.events) if e.get("type") in ("run_start", "run_resume")
            ]
            if len(begun) > self._seen:
                self._seen = len(begun)
                self.cpu_s += _cpu(begun[-1]["pid"])
                return clock.seconds(begun[-1]["ts"])
            if self.process.poll() is not None:
                return None
            time.sleep(0.02)
        raise SystemExit(f"no controller began within {PATIENCE_S:g} s")

    def day(self, kills: int) -> int:
        """Kill the controller once a period; returns how many kills hit one that was at work."""
        began = self.attached()
        for _ in range(kills):
            if began is None:
                break
            down = self.downtimes[-1] if self.downtimes else 0.0
            time.sleep(max(0.0, (PERIOD_S - down) * self.scale - (time.time() - began)))
            holder = controller.holder(self.run) or {}
            if not isinstance(holder.get("pid"), int):
                break
            killed = time.time()
            os.kill(holder["pid"], signal.SIGKILL)
            began = self.attached()
            if began is not None:
                self.killed_at.append(killed)
                self.downtimes.append(began - killed)
        return len(self.downtimes)


def _cpu(pid: int) -> list[float]:
    """The processor seconds of a process so far; nothing if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return [sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")]


def report(supervised: Supervised) -> bool:
    """Print the availability and its distribution; whether it meets the goal."""
    downtimes = sorted(supervised.downtimes)
    each = [(PERIOD_S - down) / PERIOD_S for down in downtimes]
    mean = statistics.fmean(each)
    p90 = downtimes[min(len(downtimes) - 1, round(0.9 * len(downtimes)))]
    print(
        f"downtime per kill, real s: median {statistics.median(downtimes):.2f}, p90 {p90:.2f}, "
        f"min {downtimes[0]:.2f}, max {downtimes[-1]:.2f}"
    )
    if supervised.cpu_s:
        cores, load = os.cpu_count(), os.getloadavg()[1]
        took = statistics.median(supervised.cpu_s)
        print(f"  of it processor time: median {took:.2f} s; load {load:.1f} on {cores} cores")
    print(f"availability at scale 1, a kill every {PERIOD_S:g} s: {mean:.3%} (goal: more than {GOAL:.1%})")
    print(f"  of single periods: median {statistics.median(each):.3%}, worst {min(each):.3%}")
    return mean > GOAL


def verdict(directory: Path, supervised: Supervised, expected: dict[str, str]) -> bool:
    """Print what became of the units; whether none was lost, published twice or damaged."""
    run = supervised.run
    histories = {target: attempts.read(run, target) for target in expected}
    published = {
        target: [clock.seconds(r["ended"]) for r in history if r["outcome"] == "published"]
        for target, history in histories.items()
    }
    lost = [target for target in expected if not os.path.exists(run.path(target))]
    wrong = [t for t in expected if t not in lost and Path(run.path(t)).read_text() != expected[t]]
    twice = [target for target, times in published.items() if len(times) > 1]
    spans = list(zip(supervised.killed_at, supervised.downtimes, strict=True))
    alone = sum(
        any(at <= t <= at + down for at, down in spans) for times in published.values() for t in times
    )
    overlaps = directory / "judge/overlaps"
    overlapped = len(overlaps.read_text().splitlines()) if overlaps.exists() else 0
    held = sum(bool(leases.held(str(path))) for path in Path(run.leases).glob("*.lock"))
    recovered = sum(any(r["outcome"] == "failed" for r in history) for history in histories.values())
    print(f"units {len(expected)}: lost {len(lost)}, wrong {len(wrong)}, published twice {len(twice)}")
    print(f"executed twice at a time {overlapped}, leases held after the end {held}, recovered {recovered}")
    print(f"published while there was no controller: {alone}")
    return not (lost or wrong or twice or overlapped or held) and alone > 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=144, help="144 are a day of 10-minute periods (144)")
    parser.add_argument("--scale", type=float, default=1 / 400, help="of the time between restarts (1/400)")
    arguments = parser.parse_args()
    period = PERIOD_S * arguments.scale
    # Two at a time for the whole day, restarts of at most some 2 s included: the rest follows after it.
    unit_s = max(0.4, period)
    units = round(2 * arguments.kills * (period + 2.0) / unit_s)
    with tempfile.TemporaryDirectory() as root:
        directory = Path(root)
        expected = prepare(directory, units, unit_s)
        began = time.monotonic()
        supervised = Supervised(directory, arguments.scale)
        try:
            hit = supervised.day(arguments.kills)
            code = supervised.process.wait(timeout=600)
        finally:
            if supervised.process.poll() is None:
                supervised.process.terminate()
        print(
            f"{hit} kills of {arguments.kills} hit a controller, one every {period:.2g} s after its restart "
            f"(scale {arguments.scale:.4g}); {units} units, {time.monotonic() - began:.0f} s in all"
        )
        if not hit:
            return 1
        good = report(supervised)
        sound = verdict(directory, supervised, expected)
        print(f"exit code of the loop: {code}; manual commands: 0")
    return 0 if good and sound and code == 0 and hit == arguments.kills else 1


if __name__ == "__main__":
    sys.exit(main())

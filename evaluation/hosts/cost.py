"""What a unit costs on a host of an inventory: over the same unit here, and beside `ansible` itself.

    python evaluation/hosts/cost.py [--units 30] [--many 150] [--calls 6]

Needs root, and Debian's packages (`python tests/hosts packages`): it brings up three hosts on this machine
and takes them down. All units are trivial, guarded and validated; each writes one line. Four things are
timed:

- *here*: one unit after the other by the local executor (`--cores 1`);
- *on a host*: the same by `--executor ansible`, one after the other on one host. The time of a unit is that
  from one end to the next, so that connections are warm and no start of Snakemake or Ansible counts;
- *on three hosts*: many units at a time, units a second from the first end to the last;
- *ansible*: the same command by one call of `ansible` each (pipelining and ControlPersist on, warm).

Exits 1 if a unit costs more than 0.25 s over one here, or three hosts do less than 8 units a second.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

from hosts import packages
from hosts.handle import Hosts
from ripresa.journal import clock, records

MOST_S, LEAST_PER_S = 0.25, 8.0
NAMES = ("h1", "h2", "h3")

SNAKEFILE = """
import json
from ripresa.dsl import Units, guard, open_run
from ripresa.recovery import policy

campaign = open_run("test", main=workflow.is_main_process)
units = Units("units/{host}/{number}.txt", parameters=json.load(open("units.json")))

rule all:
    input: units.targets()

rule unit:
    output: units.target
    log: units.log
    params: p=units.params
    shell: guard("echo {params.p[number]} > {output}", scopes={"host": "{wildcards.host}"})

onstart:
    campaign.start(
        ((job.output[0], job.rule.name) for job in workflow.dag.jobs if job.output),
        config_sha256="",
        policy=policy.default() | {"rules": []},
    )

onsuccess:
    campaign.end(job.output[0] for job in workflow.dag.jobs if job.output)
"""


def main() -> int:
    """Measure, print the table and compare it with the requirements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--units", type=int, default=30, help="units one after the other")
    parser.add_argument("--many", type=int, default=150, help="units at a time")
    parser.add_argument("--calls", type=int, default=6, help="calls of ansible")
    arguments = parser.parse_args()
    if reason := packages.hindrance():
        print(f"no hosts can run here: {reason}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="hosts-") as folder:
        place = Path(folder)
        hosts = Hosts(place / "hosts")
        hosts.up(tied=True)
        try:
            inventory = hosts.inventory(place / "inventory").path
            one = [{"host": "h1", "number": number} for number in range(arguments.units)]
            many = [{"host": NAMES[n % len(NAMES)], "number": n} for n in range(arguments.many)]
            here = _ends(place / "here", one, ["--cores", "1"])
            there = _ends(place / "there", one, [*_executor(inventory), "--jobs", "1"])
            spread = _ends(place / "spread", many, [*_executor(inventory), "--jobs", "500"])
            time.sleep(1)  # sshd takes a moment to see that a connection has ended
            left = {host: hosts.files(host) + hosts.processes(host) for host in NAMES}
            calls = _calls(inventory, arguments.calls)
        finally:
            hosts.down()
    here_s, there_s = _median(here), _median(there)
    rate = (len(spread) - 1) / (spread[-1] - spread[0])
    print(f"{'':34}{'s a unit':>10}{'units/s':>10}")
    print(f"{'here, one after the other':34}{here_s:>10.3f}{1 / here_s:>10.1f}")
    print(f"{'on one host, one after the other':34}{there_s:>10.3f}{1 / there_s:>10.1f}")
    print(f"{'on three hosts':34}{1 / rate:>10.3f}{rate:>10.1f}")
    if calls:
        print(f"{'one call of ansible each':34}{_middle(calls):>10.3f}{1 / _middle(calls):>10.1f}")
    print(f"cost over a unit here: {there_s - here_s:+.3f} s (limit {MOST_S})")
    print(f"three hosts: {rate:.1f} units/s (at least {LEAST_PER_S:g}); left on hosts: {left}")
    met = there_s - here_s <= MOST_S and rate >= LEAST_PER_S and not any(left.values())
    print("met" if met else "MISSED")
    return 0 if met else 1


def _executor(inventory: Path) -> list[str]:
    return ["--executor", "ansible", "--ansible-inventory", str(inventory)]


def _ends(directory: Path, units: list[dict[str, object]], how: list[str]) -> list[float]:
    """When the units of a campaign ended, in order, in s since the epoch."""
    directory.mkdir()
    (directory / "Snakefile").write_text(SNAKEFILE)
    (directory / "units.json").write_text(json.dumps(units))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RIPRESA_")}
    call = [sys.executable, "-m", "snakemake", "--scheduler", "recovery", "--logger", "journal", "--nolock"]
    done = subprocess.run(
        [*call, "--workflow-profile", "none", *how],
        cwd=directory, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    events = records.read(str(directory / "runs/test/logs/run_events.jsonl"))
    ends = [clock.seconds(event["ts"]) for event in events if event["type"] == "unit_end"]
    if len(ends) != len(units):
        raise RuntimeError(f"{len(ends)} of {len(units)} units ended")
    return sorted(ends)


def _calls(inventory: Path, count: int) -> list[float]:
    """The time of each call of `ansible` for a unit, in s; the first, which connects, does not count."""
    environment = os.environ | {
        "ANSIBLE_PIPELINING": "true",
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=60s",
    }
    ansible = Path(sys.executable).parent / "ansible"
    times = []
    for number in range(count + 1 if count else 0):
        began = time.monotonic()
        command = [
            str(ansible),
            "-i",
            str(inventory),
            "h1",
            "-m",
            "ansible.builtin.shell",
            "-a",
            f"echo {number}",
        ]
        subprocess.run(command, env=environment, capture_output=True, check=True)
        times.append(time.monotonic() - began)
    return times[1:]


def _median(ends: list[float]) -> float:
    return statistics.median(after - before for before, after in pairwise(ends))


def _middle(times: list[float]) -> float:
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())

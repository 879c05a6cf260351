"""How long `ripresa status` takes over a large run: whole processes, from their start to their end.

The run is made up but complete: a manifest, attempt records in all outcomes, published files, leases
held by a living process and left by dead ones, breakers, events, and the configuration of this checkout.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ripresa.configuration import load, load_policy, sha256, snapshot
from ripresa.journal import clock, events, leases, processes, publish, records
from ripresa.journal.paths import Run

ROOT = Path(__file__).parents[1]
RIPRESA = [sys.executable, "-c", "import sys; from ripresa.cli import main; sys.exit(main())", "status"]

# Of every 40 units: what their last attempt came to.
KINDS = (
    ("published",) * 30
    + ("waiting",) * 3
    + ("retry",) * 2
    + ("quarantine", "refused", "pending", "live", "stale")
)


def make(directory: Path, units: int) -> tuple[Run, list[leases.Lease]]:
    """A run of so many units in a directory with a configuration; returns the leases that stay held."""
    shutil.copytree(ROOT / "config", directory / "config")
    config = load(directory / "config", {"run_id": "large"})
    run = Run(directory / "runs/large")
    snapshot(run.dir, config)
    records.write_json(run.recovery, load_policy(config["recovery"]))
    until = clock.iso(time.time() + 600)
    breaker = {"state": "open", "failures": 5, "probes": 0, "opened_at": clock.iso(), "until": until}
    records.write_json(run.breakers, {f"host:n{n}": breaker for n in range(3)})
    manifest: list[dict[str, object]] = []
    held = []
    for number in range(units):
        target = f"experiments/sweep/depth{number % 64}/width{number // 64}/result.json"
        unit = {"target": target, "rule": "experiment", "family": "experiments", "skipped": None}
        # Every unit needs the two before it, so there are chains to follow and units that block others.
        manifest.append({**unit, "needs": [one["target"] for one in manifest[-2:]]})
        lease = attempt(run, target, KINDS[number % len(KINDS)], number)
        held += [lease] if lease else []
    header = {"session": "evaluation", "started": clock.iso(), "config_sha256": sha256(config)}
    records.write_lines(run.units, [header, *manifest])
    return run, held


def attempt(run: Run, target: str, kind: str, number: int) -> leases.Lease | None:
    """Write the history of one unit; every third failed once before."""
    last = 1 + (number % 3 == 0)
    for this in range(1, last + 1):
        if kind == "pending":
            break
        final = this == last
        record: dict[str, object] = {
            **{"attempt": this, "target": target, "rule": "experiment", "run_id": run.run_id},
            **{"outcome": "failed", "failure_class": "network", "classifier_rule": "ssh-timeout"},
            **{"evidence": "ssh: connect to host n1 port 22: Connection timed out", "exit_code": 255},
            **{"signal": None, "host": f"n{number % 5}", "pid": 4711, "external_jobid": None, "device": None},
            **{"started": clock.iso(), "ended": clock.iso(), "max_rss_mb": 52.1, "cpu_s": 1.25},
            **{"resources": {"threads": "1", "mem_mb": "500"}, "decision": "retry", "not_before": None},
            **{"log": os.path.abspath(run.log(target, this)), "output_sha256": None},
            **{"session": "evaluation", "command_sha256": "0" * 64, "scopes": [f"host:n{number % 5}"]},
        }
        if final and kind == "published":
            path = Path(run.path(target))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"unit": number}))
            record.update(
                outcome="published", failure_class=None, evidence=None, decision="done", exit_code=0
            )
            record["output_sha256"] = publish.checksum(str(path))
        elif final and kind == "waiting":
            record["not_before"] = clock.iso(time.time() + 900)
        elif final and kind in ("quarantine", "refused"):
            record["decision"] = kind
        records.append(run.attempts(target), record, fsync=False)
        events.emit(run, "unit_start", target=target, rule="experiment", attempt=this, pid=4711, host="n1")
        events.emit(run, "unit_end", target=target, attempt=this, outcome=record["outcome"], seconds=1.0)
    if kind not in ("live", "stale"):
        return None
    lease = leases.acquire(run, target)
    assert lease is not None
    lease.write(
        {
            **processes.me(),
            "target": target,
            "session": "evaluation",
            "attempt": last + 1,
            "started": clock.iso(),
        }
    )
    if kind == "live":
        return lease
    os.close(lease.fd)
    return None


def seconds(directory: Path, run: Run, options: list[str]) -> tuple[float, str]:
    """Duration and output of one whole call."""
    began = time.perf_counter()
    done = subprocess.run(
        [*RIPRESA, "--run", run.run_id, *options], cwd=directory, capture_output=True, text=True, check=False
    )
    duration = time.perf_counter() - began
    if done.returncode != 1:  # there are units in quarantine
        raise SystemExit(f"ripresa status {' '.join(options)} returned {done.returncode}:\n{done.stderr}")
    return duration, done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--goal", type=float, default=1.0)
    arguments = parser.parse_args()
    # Many leases are held at once, by open files of this process.
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as root:
        run, held = make(Path(root), arguments.units)
        slowest = 0.0
        for options in ([], ["--all"], ["--json"]):
            durations = []
            for _ in range(arguments.rounds):
                duration, output = seconds(Path(root), run, options)
                durations.append(duration)
            slowest = max(slowest, statistics.median(durations))
            print(
                f"ripresa status {' '.join(options):7} median {statistics.median(durations):.2f} s, "
                f"worst {max(durations):.2f} s",
                flush=True,
            )
        document = json.loads(output)
        print(f"{len(document['units'])} units, {len(held)} held: {document['counts']}")
        print(f"configuration compared: changed is {document['config']['changed']}")
    complete = len(document["units"]) == arguments.units and document["config"]["changed"] is False
    print(f"slowest median: {slowest:.2f} s (goal: at most {arguments.goal} s)")
    return 0 if complete and slowest <= arguments.goal else 1


if __name__ == "__main__":
    sys.exit(main())

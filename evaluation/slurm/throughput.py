"""Throughput on SLURM: trivial jobs as a plain job array, by `--profile slurm`, by the official plugin.

    python evaluation/slurm/throughput.py [--jobs 200] [--plugin-jobs 200] [--arrays]

Needs root, and Debian's packages (`python tests/cluster packages`): it brings up a cluster of four nodes on
this machine, whose `cpu` partition has room for 24 jobs at a time, and takes it down. Every job appends a
line to one file when it starts, so the table counts what really ran. Times are those of whole processes; that
of the array ends with its last target. The plugin has the fastest settings it offers, and with `--arrays` its
job arrays in a further line; `--plugin-jobs` gives it fewer jobs, or none, and its time is compared per job.
Snakemake's own start is a second call of ours, which finds everything done.
Exits 1 if a target is wrong or missing, a job of ours started twice, ours takes longer than three arrays and
Snakemake's start together, or is not at least 8 times as fast as the plugin.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import campaign as campaigns
import place
import plugin
from campaign import Campaign, Count
from place import Cluster

MOST_ARRAYS, TIMES_AS_FAST = 3.0, 8.0
ARRAY = 1000
"""Tasks of one array; the cluster takes one more."""


class Row(NamedTuple):
    name: str
    jobs: int
    seconds: float
    became: Count

    @property
    def each(self) -> float:
        """Seconds per job."""
        return self.seconds / self.jobs


def main() -> int:
    """Measure, print the table and compare it with the requirements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument(
        "--plugin-jobs", type=int, help="jobs of the official plugin (default: as many; 0: none)"
    )
    parser.add_argument("--arrays", action="store_true", help="the official plugin's job arrays as well")
    place.add_argument(parser)
    arguments = parser.parse_args()
    plugin_jobs = arguments.jobs if arguments.plugin_jobs is None else arguments.plugin_jobs
    with (
        tempfile.TemporaryDirectory(prefix="throughput-") as folder,
        place.cluster(arguments.state) as cluster,
    ):
        return measure(cluster, Path(folder), arguments.jobs, plugin_jobs, arguments.arrays)


def measure(cluster: Cluster, folder: Path, jobs: int, plugin_jobs: int, arrays: bool) -> int:
    """Run every campaign after the other; returns the exit code."""
    warm = campaigns.ours(folder / "warm", 1)
    call(cluster, warm, "warm", ours)
    array = by_array(cluster, campaigns.plain(folder / "array", jobs))
    campaign = campaigns.ours(folder / "ours", jobs)
    own = call(cluster, campaign, "--profile slurm", ours)
    start = call(cluster, campaign, "the same again, all done", ours)
    rows = [array, own, start]
    variants = {"official plugin": (), "official plugin, arrays": plugin.ARRAYS} if plugin_jobs else {}
    for name, options in variants.items():
        if options and not arrays:
            continue
        theirs = campaigns.plain(folder / name.replace(" ", "-"), plugin_jobs)
        rows.append(call(cluster, theirs, name, official, *options))
    table(rows, array)
    return verdict(array, own, start, rows[3:])


def ours(cluster: Cluster, *_: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of a call of ours."""
    return ["snakemake", "--profile", "slurm", "--rerun-incomplete"], campaigns.surroundings(
        cluster.environment
    )


def official(cluster: Cluster, *options: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of a call with the official plugin."""
    return plugin.command(*options), plugin.surroundings(cluster.environment)


def call(
    cluster: Cluster,
    campaign: Campaign,
    name: str,
    made: Callable[..., tuple[list[str], dict[str, str]]],
    *options: str,
) -> Row:
    """Run a campaign by a call of snakemake; returns its row. What it said is shown if it failed."""
    command, environment = made(cluster, *options)
    log = campaign.directory / "said"
    with log.open("w") as said:
        began = time.monotonic()
        done = subprocess.run(
            command, cwd=campaign.directory, env=environment, stdout=said, stderr=said, check=False
        )
        seconds = time.monotonic() - began
    if done.returncode != 0:
        print(f"{name}: exit code {done.returncode}\n{log.read_text()[-3000:]}", file=sys.stderr)
    cluster.wait_until(lambda: not cluster.squeue("-h", "-o", "%i"), 60, cluster.squeue)
    return Row(name, campaign.jobs, seconds, campaign.count())


def by_array(cluster: Cluster, campaign: Campaign) -> Row:
    """Run a campaign as plain job arrays, nothing else."""
    began = time.monotonic()
    for first in range(0, campaign.jobs, ARRAY):
        tasks = min(ARRAY, campaign.jobs - first)
        number = f"$(({first} + SLURM_ARRAY_TASK_ID))"
        script = f"n={number}; {campaign.command('$n', 'out/$n.new')}; mv out/$n.new out/$n.txt"
        cluster.submit(
            script, f"--array=0-{tasks - 1}", "--mem=400", "--time=10", "--output=/dev/null",
            directory=campaign.directory,
        )  # fmt: skip
    waiting = set(range(campaign.jobs))
    while waiting:
        waiting = {number for number in waiting if not campaign.target(number).exists()}
        time.sleep(0.05)
    return Row("sbatch --array", campaign.jobs, time.monotonic() - began, campaign.count())


def table(rows: list[Row], array: Row) -> None:
    """Print what was measured; the ratio is to the time per job of the plain array."""
    print(f"{'':26} {'jobs':>6} {'s':>8} {'ms/job':>8} {'ratio':>6} {'right':>6} {'started':>8} {'again':>6}")
    for row in rows:
        figures = f"{row.seconds:8.1f} {1000 * row.each:8.1f} {row.each / array.each:6.1f}"
        count = f"{row.became.right:6} {row.became.started:8} {row.became.again:6}"
        print(f"{row.name:26} {row.jobs:6} {figures} {count}", flush=True)


def verdict(array: Row, own: Row, start: Row, theirs: list[Row]) -> int:
    """Say what is missed; returns the exit code."""
    missed = []
    if own.became != Count(own.jobs, own.jobs, 0) or start.became != own.became:
        missed.append("not every job of ours ran exactly once to its end")
    limit = MOST_ARRAYS * array.seconds + start.seconds
    print(f"ours {own.seconds:.1f} s, at most {MOST_ARRAYS:.0f} arrays and one start: {limit:.1f} s")
    if own.seconds > limit:
        missed.append("slower than that")
    for row in theirs:
        faster = row.each / own.each
        print(f"{faster:.1f} times as fast as the {row.name}, at least {TIMES_AS_FAST:.0f} wanted")
        if faster < TIMES_AS_FAST:
            missed.append(f"not {TIMES_AS_FAST:.0f} times as fast as the {row.name}")
    for text in missed:
        print(f"missed: {text}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Every fault that SLURM is known for, made to happen under a campaign, and judged.

It takes a cluster of its own. A fault is right if the attempt records have the right class and decision,
the unit comes to the right end, nothing of it ran twice at a time or started more often than SLURM or an
administrator made it start, no call hangs, and the decision follows within 15 s of what SLURM itself took.

The table has for each unit SLURM's time: s from the fault until its own record says that the job ended, was
requeued or is refused, or, for daemons, until they answer again; and ours: s from then until the journal has
the decision, or the unit is submitted.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import place
from acts import SMALL
from catalogue import GROUPS, Fault, Group
from judge import Row, judge
from place import Cluster
from stricken import Campaign


def run(cluster: Cluster, base: Path, group: Group, faults: list[Fault], down_s: float) -> Iterator[Row]:
    """One campaign, its faults, and what became of each."""
    units = [one for fault in faults for one in fault.units]
    campaign = Campaign(cluster, base / group.name.replace(" ", "_"), units, group.scale)
    campaign.down_s = down_s
    failed = {}
    try:
        group.before(campaign)
        campaign.call()
        for fault in faults:
            try:
                fault.act(campaign)
            except (RuntimeError, subprocess.SubprocessError) as error:
                failed[fault.name] = str(error).splitlines()[0]
        (campaign.directory / "held").unlink(missing_ok=True)
        campaign.end()
        for _ in range(1, group.calls):
            campaign.call()
            campaign.end()
        for fault in faults:
            for expected in fault.expected:
                row = judge(campaign, expected)
                if fault.name in failed:
                    row.problems.append(failed.pop(fault.name))
                yield row
    finally:
        campaign.stop()
        group.after(cluster)
        cluster.heal()


def table(rows: list[Row]) -> Iterator[str]:
    """The rows for people."""
    yield "| fault | SLURM (s) | ours (s) | class | decision | end | starts | verdict |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        took = ["-" if value is None else f"{value:.1f}" for value in (row.slurm_s, row.ours_s)]
        verdict = "; ".join(row.problems) or "right"
        words = (row.fault, *took, row.classes, row.decisions, row.end, str(row.starts), verdict)
        yield f"| {' | '.join(words)} |"


def chosen(only: list[str], *, short: bool) -> list[tuple[Group, list[Fault]]]:
    """The faults whose name, or whose group's, begins so, and of them the most telling ones; or all."""

    def is_meant(group: Group, fault: Fault) -> bool:
        names = (group.name, fault.name)
        return (fault.short or not short) and (not only or any(n.startswith(o) for n in names for o in only))

    found = [(group, [fault for fault in group.faults if is_meant(group, fault)]) for group in GROUPS]
    return [(group, faults) for group, faults in found if faults]


@contextlib.contextmanager
def small_disk(base: Path) -> Iterator[None]:
    """A disk with room for few files. Nodes see what is mounted before they are there."""
    folder = base / SMALL
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=200", "small", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the most telling faults only")
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="faults whose name, or group, begins so"
    )
    parser.add_argument("--down", type=float, default=120, metavar="S", help="how long slurmctld stays away")
    place.add_argument(parser)
    arguments = parser.parse_args()
    wanted = chosen(arguments.only or [], short=arguments.short)
    if not wanted:
        names = ", ".join(fault.name for group in GROUPS for fault in group.faults)
        parser.error(f"no fault is called so; there are {names}")
    base = Path(tempfile.mkdtemp(prefix="faults-"))
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        if any(group.name == "disk" for group, _ in wanted):
            if arguments.state:
                parser.error("a full disk has to be there before the cluster: leave out --state")
            stack.enter_context(small_disk(base))
        cluster = stack.enter_context(place.cluster(arguments.state))
        for group, faults in wanted:
            for row in run(cluster, base, group, faults, arguments.down):
                rows.append(row)
                word = "WRONG" if row.problems else "right"
                print(f"{word}: {row.fault.strip()}", file=sys.stderr, flush=True)
    print("\n".join(table(rows)))
    met = not any(row.problems for row in rows)
    print(f"verdict: {'met' if met else f'not met; see {base}'}")
    if met:
        shutil.rmtree(base)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

"""What a SLURM that does not answer costs calls of snakemake that have nothing to do with it.

`snakemake --version` and a small local campaign, in turn with a configured SLURM whose slurmctld is dead and
with none at all. Medians of whole calls; they may differ by 0.2 s at most.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import campaign as campaigns

LIMIT_S = 0.2
CONFIGURATION = """\
ClusterName=dead
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=1
AuthType=auth/munge
MessageTimeout=10
NodeName=n1
PartitionName=cpu Nodes=n1 Default=YES
"""


def timed(call: list[str], directory: Path, environment: dict[str, str]) -> float:
    """Seconds of a call that must succeed."""
    shutil.rmtree(directory / "runs", ignore_errors=True)
    shutil.rmtree(directory / ".snakemake", ignore_errors=True)
    began = time.monotonic()
    subprocess.run(call, cwd=directory, env=environment, check=True, capture_output=True)
    return time.monotonic() - began


def main() -> int:
    """Measure, print and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    met = True
    with tempfile.TemporaryDirectory(prefix="dead-") as folder:
        conf = Path(folder) / "slurm.conf"
        conf.write_text(CONFIGURATION)
        campaign = campaigns.ours(Path(folder) / "campaign", 4)
        without = {k: v for k, v in campaigns.surroundings(dict(os.environ)).items() if k != "SLURM_CONF"}
        dead = {**without, "SLURM_CONF": str(conf)}
        asked = shutil.which("squeue")
        if asked:
            began = time.monotonic()
            answer = subprocess.run([asked], env=dead, capture_output=True, check=False)
            print(f"squeue itself: exit code {answer.returncode} after {time.monotonic() - began:.1f} s")
        local = ["snakemake", "--profile", "local", "--rerun-incomplete"]
        for name, call in (("snakemake --version", ["snakemake", "--version"]), ("a local campaign", local)):
            times: dict[str, list[float]] = {"none": [], "dead": []}
            for _ in range(arguments.rounds):
                times["none"].append(timed(call, campaign.directory, without))
                times["dead"].append(timed(call, campaign.directory, dead))
            none, other = (statistics.median(times[kind]) for kind in ("none", "dead"))
            met &= other - none <= LIMIT_S
            print(
                f"{name:20} without SLURM {none:.2f} s, slurmctld dead {other:.2f} s: {other - none:+.2f} s"
            )
    print("verdict:", "met" if met else f"not met: more than {LIMIT_S} s")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

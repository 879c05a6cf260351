"""A real SLURM cluster of four nodes on this machine, on loopback only, as root.

    python tests/cluster up         # brings up what does not run
    . <(python tests/cluster env)   # this shell's sbatch, squeue and so on meet it
    python tests/cluster down       # ends all of it and deletes its folder

`packages` installs what it needs by apt-get, without starting any service. See docs/slurm.md.
"""

import argparse
import shlex
import sys
import tempfile
import time
from pathlib import Path

# The package is this folder itself; scripts get the folder where it should be its parent.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from cluster import packages  # noqa: E402
from cluster.handle import Cluster  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["packages", "up", "env", "down"])
    parser.add_argument(
        "--state",
        metavar="FOLDER",
        type=Path,
        default=Path(tempfile.gettempdir()) / "ripresa-cluster",
        help="where the cluster keeps its files; another folder is another cluster (default: %(default)s)",
    )
    arguments = parser.parse_args()
    try:
        if arguments.what == "packages":
            packages.install()
            return 0
        if arguments.what == "up" and (reason := packages.hindrance()):
            raise RuntimeError(reason)
        began = time.monotonic()
        cluster = Cluster(arguments.state)
        if arguments.what == "env" and not cluster.layout.conf.exists():
            raise RuntimeError(f"no cluster in {cluster.state}; bring one up first")
        if arguments.what == "up":
            cluster.up()
            print(f"{' '.join(cluster.nodes)} ready after {time.monotonic() - began:.1f} s", file=sys.stderr)
        elif arguments.what == "down":
            cluster.down()
        else:
            print(f"export SLURM_CONF={shlex.quote(str(cluster.layout.conf))}")
    except RuntimeError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

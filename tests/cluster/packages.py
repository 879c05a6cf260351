"""What the machine must have for a cluster, and how to get the programs on Debian."""

import os
import socket
from pathlib import Path

from machines import packages

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "slurmdbd", "munge", "mariadb-server")
PROGRAMS = (
    "slurmctld",
    "slurmd",
    "sbatch",
    "slurmdbd",
    "munged",
    "mariadbd",
    "mariadb-install-db",
    "nsenter",
)
MEMORY = Path("/sys/fs/cgroup/memory")


def hindrance() -> str:
    """Why no cluster can run on this machine, in one line; empty if one can."""
    if os.geteuid() != 0:
        return "only root can start one"
    if programs := packages.missing(PROGRAMS):
        return f"{', '.join(programs)} not installed (as root: python tests/cluster packages)"
    if not os.access(MEMORY / "cgroup.procs", os.W_OK):
        return f"no memory controller of cgroup v1 under {MEMORY}"
    if packages.refused("mount", "uts"):
        return "the kernel or the container refuses mount and host name namespaces"
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        return f"no ports on 127.0.0.1: {error}"
    return ""


def install() -> None:
    """Install what is missing by apt-get, as root, without starting any of its services."""
    packages.install(PROGRAMS, PACKAGES)

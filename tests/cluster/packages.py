"""What the machine must have for a cluster, and how to get the programs on Debian."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

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
POLICY = Path("/usr/sbin/policy-rc.d")


def missing() -> list[str]:
    """The programs that are not installed."""
    # Debian keeps daemons out of the search path of ordinary users.
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [program for program in PROGRAMS if shutil.which(program, path=path) is None]


def hindrance() -> str:
    """Why no cluster can run on this machine, in one line; empty if one can."""
    if os.geteuid() != 0:
        return "only root can start one"
    if programs := missing():
        return f"{', '.join(programs)} not installed (as root: python tests/cluster packages)"
    if not os.access(MEMORY / "cgroup.procs", os.W_OK):
        return f"no memory controller of cgroup v1 under {MEMORY}"
    namespaces = ["unshare", "--mount", "--uts", "--propagation", "private", "true"]
    if subprocess.run(namespaces, capture_output=True, check=False).returncode != 0:
        return "the kernel or the container refuses mount and host name namespaces"
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        return f"no ports on 127.0.0.1: {error}"
    return ""


def install() -> None:
    """Install what is missing by apt-get, as root, without starting any of its services."""
    if not missing():
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RuntimeError(f"{', '.join(missing())} not installed, and only root can do that, with apt-get")
    own_policy = not POLICY.exists()
    if own_policy:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    try:
        for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
            done = subprocess.run(
                [*apt, *command], env=environment, capture_output=True, text=True, check=False, timeout=600
            )
            if done.returncode != 0:
                raise RuntimeError(
                    f"apt-get {command[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
                )
    finally:
        if own_policy:
            POLICY.unlink()

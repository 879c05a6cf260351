"""Programs that machines need: which are missing, and how to get them on Debian."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")


def missing(programs: Sequence[str]) -> list[str]:
    """Those that are not installed."""
    # Debian keeps daemons out of the search path of ordinary users.
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [program for program in programs if shutil.which(program, path=path) is None]


def refused(*namespaces: str) -> bool:
    """Whether such namespaces, e.g. "mount", cannot be made here."""
    command = ["unshare", *(f"--{kind}" for kind in namespaces), "--fork", "--propagation", "private", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode != 0


def install(programs: Sequence[str], packages: Sequence[str]) -> None:
    """Install packages by apt-get, as root, if a program is missing; none of their services is started."""
    absent = missing(programs)
    if not absent:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RuntimeError(f"{', '.join(absent)} not installed, and only root can do that, with apt-get")
    own_policy = not POLICY.exists()
    if own_policy:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    try:
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
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

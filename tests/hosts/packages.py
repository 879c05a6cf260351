"""What the machine must have for hosts, and how to get the programs on Debian."""

import os
import shutil

from machines import packages
from machines.machine import ENVIRONMENT

PACKAGES = ("openssh-server", "openssh-client", "sudo")
PROGRAMS = ("sshd", "ssh", "ssh-keygen", "sudo", "nsenter")


def hindrance() -> str:
    """Why no hosts can run on this machine, in one line; empty if they can."""
    if os.geteuid() != 0:
        return "only root can make them"
    if programs := packages.missing(PROGRAMS):
        return f"{', '.join(programs)} not installed (as root: python tests/hosts packages)"
    if shutil.which("python3", path=ENVIRONMENT["PATH"]) is None:
        return f"no python3 in {ENVIRONMENT['PATH']}"
    if packages.refused("mount", "uts", "ipc", "pid"):
        return "the kernel or the container refuses mount, host name, IPC and process namespaces"
    return ""


def install() -> None:
    """Install what is missing by apt-get, as root, without starting any service."""
    packages.install(PROGRAMS, PACKAGES)

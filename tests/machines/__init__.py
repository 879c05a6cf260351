"""Machines made of kernel namespaces, on which `cluster` runs SLURM and `hosts` sshd; no test imports it."""

from machines.daemons import Daemon
from machines.machine import Machine

__all__ = ["Daemon", "Machine"]

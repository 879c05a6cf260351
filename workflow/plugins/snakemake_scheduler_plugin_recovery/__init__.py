"""Snakemake's `--scheduler recovery`."""

from snakemake_scheduler_plugin_recovery.scheduler import Scheduler

__all__ = ["Scheduler"]

"""What Snakemake offers to the executor: a job, and the unit that it is."""

import os
from collections.abc import Callable
from typing import Any

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from ripresa.dsl.guarding import call_of
from ripresa.recovery.remote import Remote
from ripresa.recovery.unit import parse
from ripresa.slurm import batch, request
from ripresa.slurm.batch import Batch, Task

Job = Any
"""A single or a group job; Snakemake's own classes offer more than the interface of executors."""


class Offer:
    """A job on its way through SLURM.

    ``remote`` is its unit, if the batch script can be its guard; the script of other jobs calls Snakemake.
    """

    def __init__(self, job: Job, target: str, script: str, remote: Remote | None) -> None:
        self.job = job
        self.target = target
        self.script = script
        self.remote = remote
        self.digest = batch.digest(script) if remote else None
        self.anywhere = False
        """Whether it may run on nodes that failed, because SLURM has no others for it."""
        self.not_before = 0.0
        """By the monotonic clock."""
        self.info: SubmittedJobInfo | None = None

    def request(self) -> list[str]:
        """What to ask of SLURM. Raises ValueError for resources that cannot be asked for."""
        return request.options(dict(self.job.resources.items()), threads=self.job.threads)

    def task(self, token: str) -> Task:
        """Its place in a batch; ``token`` tells this submission from others of the unit."""
        return Task(self.target, self.script, self.digest, token)

    def is_made_since(self, made: Batch) -> bool:
        """Whether all outputs are newer than a submission."""
        try:
            since = os.stat(made.directory).st_mtime
            return all(os.stat(path).st_mtime >= since for path in self.job.output)
        except OSError:
            return False


def offer(job: Job, workflow: Any, in_snakemake: Callable[[Job], str]) -> Offer:
    """The offer of a job; ``in_snakemake`` makes the command that runs it in a Snakemake of its own."""
    call = call_of(job.shellcmd) if _is_plain(job, workflow) else None
    if call is not None:
        try:
            remote = Remote(parse(*call))
            return Offer(job, remote.unit.target, job.shellcmd, remote)
        except ValueError:
            pass  # the guard says it, where somebody can read it
    return Offer(job, str(next(iter(job.output), f"job {job.jobid}")), in_snakemake(job), None)


def _is_plain(job: Job, workflow: Any) -> bool:
    """Whether the shell text of a job is all that has to run, and nothing of Snakemake around it."""
    if job.is_group() or not job.is_shell or job.shellcmd is None:
        return False
    cached = workflow.workflow_settings.cache is not None and job.rule.cache.output
    if job.is_shadow or job.benchmark is not None or cached:
        return False
    if workflow.deployment_settings.deployment_method and (
        job.conda_env or job.container_img_url or job.env_modules
    ):
        return False
    special = ("pipe", "service", "nodelocal", "update")
    return not any(
        file.is_storage or any(file.is_flagged(flag) for flag in special)
        for file in (*job.input, *job.output)
    )

"""What Snakemake calls; the work is done by `watch`, imported when there are jobs for SLURM only."""

import asyncio
import os
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

if TYPE_CHECKING:
    from snakemake_executor_plugin_slurm_resume.watch import Watch

_TURN_S = 0.3


class Executor(RemoteExecutor):
    """Submits units as arrays where they are alike, and takes over what earlier controllers submitted."""

    _watch: "Watch | None" = None
    """None until `__post_init__`, before which Snakemake starts the thread that watches."""

    def __post_init__(self) -> None:
        from snakemake_executor_plugin_slurm_resume.watch import Watch

        directory = os.environ.get("RIPRESA_RUN")
        if not directory:
            raise WorkflowError("no run is open: include rules/common.smk before the rules of a family")
        # `cores`, which a plain call needs, is that of this machine and would cut the threads of jobs.
        self.workflow.global_resources["_cores"] = None
        self._watch = Watch(
            os.path.relpath(directory),
            self,
            self.logger,
            most_s=float(self.workflow.remote_execution_settings.seconds_between_status_checks),
        )

    def run_jobs(self, jobs: list[Any]) -> None:
        """Take jobs in; the thread that watches submits them."""
        assert self._watch is not None
        for job in jobs:
            self.run_job_pre(job)
        self._watch.take(jobs, self.workflow, self.format_job_exec)

    def run_job(self, job: Any) -> None:
        """Take one job in."""
        self.run_jobs([job])

    async def check_active_jobs(
        self, active_jobs: list[SubmittedJobInfo]
    ) -> AsyncGenerator[SubmittedJobInfo, None]:
        """One turn. What is active is known by unit, so nothing is handed back."""
        if self._watch is not None:
            self._watch.turn()
        for nothing in active_jobs[:0]:
            yield nothing

    async def sleep(self) -> None:
        """Between two turns; SLURM itself is asked less often."""
        await asyncio.sleep(_TURN_S)

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """End what this call runs, and nothing else."""
        if self._watch is not None:
            self._watch.cancel()

"""What Snakemake calls; the work is done by `watch`, imported when there are jobs for hosts only."""

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator
from types import FrameType
from typing import TYPE_CHECKING, Any

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

if TYPE_CHECKING:
    from snakemake_executor_plugin_ansible.watch import Watch

_TURN_S = 1.0
"""The longest time between two turns; whatever happens on a host brings the next one about at once."""


class Executor(RemoteExecutor):
    """Runs jobs on the hosts of an Ansible inventory, and takes over what earlier controllers sent there."""

    _watch: "Watch | None" = None
    """None until `__post_init__`, before which Snakemake starts the thread that watches."""
    _hears = False

    def __post_init__(self) -> None:
        from snakemake_executor_plugin_ansible.watch import Watch

        # `cores`, which a plain call needs, is that of this machine and would cut the threads of jobs.
        self.workflow.global_resources["_cores"] = None
        settings = self.workflow.executor_settings
        watch = Watch(settings.inventory if settings else None, self, self.logger)
        if len(self.workflow.dag):
            self._watch = watch
        else:
            # Snakemake shuts no executor down that has nothing to do; earlier calls may have left something.
            watch.close()

    @staticmethod
    def _hear_term(watch: "Watch") -> None:
        """TERM ends a run once its jobs are done. For Snakemake those that wait for a host run, too."""
        original = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread() or not callable(original):
            return

        def drain(number: int, frame: FrameType | None) -> None:
            watch.drain()
            original(number, frame)

        signal.signal(signal.SIGTERM, drain)

    def run_jobs(self, jobs: list[Any]) -> None:
        """Take jobs in; the thread that watches sends them."""
        assert self._watch is not None
        if not self._hears:
            self._hears = True
            self._hear_term(self._watch)  # now, as Snakemake sets its own handler after making executors
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
        """Until something happens."""
        if self._watch is None:
            await asyncio.sleep(0.05)
        else:
            # Nothing else runs in this loop, and a thread of its own cannot be had while Python ends.
            self._watch.wait(_TURN_S)

    def cancel(self) -> None:
        """End what this call runs, here as well; asked again meanwhile, leave the rest to the next call."""
        try:
            super().cancel()
        except KeyboardInterrupt:
            self.logger.warning("interrupted again: what is left on the hosts is removed by the next call")
        # Snakemake does not wait for its local jobs, and tears down what their threads still use.
        if (local := self.workflow.scheduler._local_executor) is not None:
            local.cancel()

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """End what this call runs."""
        if self._watch is not None:
            self._watch.cancel()

    def shutdown(self) -> None:
        """Leave nothing on the hosts, and end the connections."""
        if self._watch is not None:
            self._watch.wake()
        super().shutdown()
        if self._watch is not None:
            self._watch.close()

"""What Snakemake offers to the executor: a job, the work that it is for a host, and where it may go."""

from collections.abc import Callable, Mapping
from typing import Any

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from ripresa.dsl.guarding import call_of
from ripresa.hosts.fleet import Needs
from ripresa.hosts.work import Limits, Work
from ripresa.journal import devices
from ripresa.placement import asking
from ripresa.placement.wishes import CPU
from ripresa.recovery.dispatch import Dispatch, Sent
from ripresa.recovery.unit import parse
from snakemake_executor_plugin_ansible.peer import Peer
from snakemake_executor_plugin_ansible.plain import Plain, threads_of

Job = Any
"""A single or a group job; Snakemake's own classes offer more than the interface of executors."""

HOST, EXCLUSIVE, PEER, SHARED = "host", "exclusive", "peer", "shared"
"""The resources that say where a job may run (a pattern of Ansible), whether nothing may run beside it, which
other host takes part (its name), and whether it needs the file system of the controller."""


class Offer:
    """A job on its way to a host."""

    def __init__(self, job: Job, task: Dispatch | Plain, make: Callable[[Sent], Work], needs: Needs) -> None:
        self.job = job
        self.task = task
        self.make = make
        """The work of an attempt."""
        self.needs = needs
        self.pattern = _pattern(job)
        self.peer = Peer(task) if isinstance(task, Dispatch) and job.resources.get(PEER) else None
        """What runs on another host meanwhile, ``peer_host``."""
        self.peer_host = str(job.resources.get(PEER)) if self.peer else None
        self.info: SubmittedJobInfo | None = None
        self.not_before = 0.0
        """By the monotonic clock."""
        self.looked_at = False
        """Whether it is known that nothing of it runs, and that it is to run."""
        self.host: str | None = None
        """Where it is."""

    @property
    def target(self) -> str:
        """By what the unit is known."""
        return self.task.target


def offer(job: Job, workflow: Any, in_snakemake: Callable[[Job], str]) -> Offer:
    """The offer of a job; ``in_snakemake`` makes the command that runs it in a Snakemake of its own."""
    asked = asking.asked(job.resources, "")
    # Devices of hosts are not assigned: what runs on a GPU only has the host for itself.
    alone = asked is not None and CPU not in asked.kinds
    needs = Needs(
        cores=int(job.threads),
        mem_mb=_number(job.resources.get("mem_mb")),
        exclusive=alone or bool(_number(job.resources.get(EXCLUSIVE))),
        shared=bool(_number(job.resources.get(SHARED))),
    )
    call = call_of(job.shellcmd) if _is_plain(job, workflow) else None
    if call is not None:
        try:
            # What can do without a GPU sees none where others may be beside it.
            hidden = devices.environment(devices.SLOT) if asked and not needs.exclusive else {}
            return _guarded(job, Dispatch(parse(*call)), needs, hidden)
        except ValueError:
            pass  # the guard says it, where somebody can read it
    members = [job] if not job.is_group() else [one for level in job.toposorted for one in sorted(level)]
    if all(_is_plain(one, workflow, benchmark=True) and call_of(one.shellcmd) is None for one in members):
        plain = Plain(job, members)
        return Offer(job, plain, plain.work, needs)
    task = Plain(job, members, command=in_snakemake(job))
    return Offer(job, task, task.work, needs._replace(shared=True))


def _guarded(job: Job, task: Dispatch, needs: Needs, environment: Mapping[str, str]) -> Offer:
    unit = task.unit
    inputs, mentioned = task.files()

    def make(sent: Sent) -> Work:
        stall = unit.stall
        return Work(
            command=task.command(sent.attempt),
            inputs=inputs,
            mentioned=mentioned,
            outputs=task.outputs(sent.attempt),
            environment={**threads_of(job), **environment},
            limits=Limits(unit.wall_s, stall.limit_s, stall.source, unit.grace_s, unit.beat_s),
            progress=unit.options.get("progress"),
        )

    return Offer(job, task, make, needs)


def _pattern(job: Job) -> str:
    """Which hosts a job may go to: its resource ``host``, else its wildcard of that name, else any."""
    asked = job.resources.get(HOST)
    if asked:
        return str(asked)
    members = [job] if not job.is_group() else list(job.jobs)
    named = {str(one.wildcards_dict["host"]) for one in members if "host" in one.wildcards_dict}
    return named.pop() if len(named) == 1 else "all"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _is_plain(job: Job, workflow: Any, *, benchmark: bool = False) -> bool:
    """Whether the shell text of a job is all that has to run, and nothing of Snakemake around it."""
    if job.is_group() or not job.is_shell or job.shellcmd is None:
        return False
    cached = workflow.workflow_settings.cache is not None and job.rule.cache.output
    measured = job.benchmark is not None and (not benchmark or (job.benchmark_repeats or 1) > 1)
    if job.is_shadow or measured or cached:
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

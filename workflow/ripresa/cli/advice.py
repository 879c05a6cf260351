"""What a person should do about a unit, if anything: one line."""

import re
from collections.abc import Mapping
from typing import Any

from ripresa.cli.answers import lasted, local, printable
from ripresa.journal import clock, state

AGAIN = "`snakemake --rerun-incomplete`"

# What is missing, as the usual messages name it.
_MISSING = re.compile(
    r"No module named ['\"]?(?P<module>[\w.]+)|"
    r"(?P<library>lib[\w.+-]+\.so[.\d]*): cannot open shared object|"
    r"there is no package called ['\"‘](?P<package>[\w.]+)|"
    r"(?:[:\s]|^)(?P<command>[\w.+/-]+): (?:command )?not found|"
    r"[Cc]ommand ['\"]?(?P<program>[\w.+/-]+)['\"]? not found"
)
_KINDS = {
    "module": "the Python module",
    "library": "the library",
    "package": "the R package",
    "command": "the program",
    "program": "the program",
}
_PATH = re.compile(r"['\"`]?(?P<path>(?:\.{0,2}/)[\w.+@%=,~/-]+)")

_REMEDIES = {
    "network": "check that the machine reaches the host in the evidence",
    "service": "check the service that the evidence names",
    "memory": "give the unit more memory (mem_mb of its rule), or make it smaller",
    "gpu_memory": "make its batch smaller, or give it a larger GPU",
    "gpu_fault": "check the GPU (nvidia-smi, the kernel log) and take it out if it is faulty",
    "communication": "check the network between the nodes, and the ports that the program uses",
    "node": "check the machine on which it ran",
    "preempted": "use a partition or hours without preemption",
    "time_limit": "give the unit more time (runtime, or wall of its guard), or make it smaller",
    "hang": "see in its log where it stopped; if it merely is silent, declare progress= or a longer stall=",
    "disk": "free space, or raise the quota, on the file system of the evidence",
    "file_system": "check the file system (mount, server, kernel log)",
    "configuration": "correct the option or file that the evidence names",
    "environment": "install what the evidence says is missing",
    "permission": "give access to what the evidence names",
    "code": "correct the program at the place the log shows",
    "numerical": "correct the model, its parameters or its step sizes: the same input gives the same numbers",
    "data": "replace or exclude the input that the evidence names",
    "output_invalid": "see in the log why the output is not what the rule declares, or correct its validate=",
    "cancelled": "none is needed: it was stopped on purpose",
    "unknown": "read the log; a rule for this message in config/recovery.yaml gives it a class",
}


def advise(
    unit: state.UnitState,
    record: Mapping[str, Any],
    controller: Mapping[str, Any] | None,
    now: float,
) -> str:
    """The line for a unit in its state, with its newest failed or published attempt, if any."""
    target = unit.target
    if unit.state == state.COMPLETED:
        return "nothing: it is done"
    if unit.state == state.RUNNING:
        return "nothing: an attempt of it is running"
    if unit.state == state.SKIPPED:
        return f"nothing, unless it should run here: {printable(unit.reason)}"
    if unit.state == state.STALE:
        return f"call {AGAIN}, which clears up after the attempt that was cut short and runs it again"
    if unit.state == state.QUARANTINED:
        return f"{_remedy(record)}; then `ripresa release {target}` and {AGAIN}"
    if unit.state == state.FAILED:
        return f"{_remedy(record)}; then {AGAIN}, which tries it again"
    when = "when its turn comes"
    if unit.state == state.WAITING:
        when = f"at {local(unit.not_before)}, in {lasted(clock.seconds(unit.not_before) - now)}"
    if controller is None:
        return f"call {AGAIN}, which starts it {when}"
    return f"nothing: the running controller starts it {when}"


def _remedy(record: Mapping[str, Any]) -> str:
    """What helps against a failure, with the culprit of the evidence where it names one."""
    failure_class = str(record.get("failure_class"))
    remedy = _REMEDIES.get(failure_class, _REMEDIES["unknown"])
    evidence = printable(record.get("evidence"))
    host = printable(record.get("host") or "its host")
    if failure_class == "environment" and (missing := _MISSING.search(evidence)):
        kind = str(missing.lastgroup)
        return f"install {_KINDS[kind]} {missing[kind]} on {host}"
    if failure_class == "permission" and (path := _PATH.search(evidence)):
        return f"give access to {path['path']} on {host}"
    if failure_class == "disk" and (path := _PATH.search(evidence)):
        return f"free space on the file system of {path['path']} on {host}"
    return remedy

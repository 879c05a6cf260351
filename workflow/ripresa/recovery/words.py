"""What failures and decisions mean in plain words. Read by people only: nothing here decides anything.

What is said of a decision follows from the record that holds it, never from the class alone: a policy of the
user's may retry what the packaged one does not.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ripresa.journal.text import printable
from ripresa.recovery import policy
from ripresa.recovery.admission import NO_DEVICE


class Words(NamedTuple):
    """A failure class for people."""

    happened: str
    """Completes "the attempt failed:"."""
    hope: str
    """Why another try may help, for an attempt that will be tried again."""
    never: str
    """Why it would not, for one that will not."""
    remedy: str
    """What a person does, as a request."""


_PASSES = "trouble of this kind often passes"
_CHANCE = "it may have been chance"
_STAYS = "the evidence says that this one does not pass by itself"
_TOLD = "what it printed, or the policy of this run, says that another try may help"

WORDS = {
    "network": Words(
        "it could not reach something over the network",
        _PASSES,
        _STAYS,
        "check that the machine reaches the host in the evidence",
    ),
    "service": Words(
        "a service that it needs was down, overloaded or refused it",
        "services usually come back",
        _STAYS,
        "check the service that the evidence names",
    ),
    "memory": Words(
        "it needed more memory than it had",
        "with more memory it may fit",
        "more memory than it had is not to be had here",
        "give the unit more memory (mem_mb of its rule), or make it smaller",
    ),
    "gpu_memory": Words(
        "it needed more memory than its GPU had",
        "with a smaller batch or on a larger GPU it may fit",
        "a smaller batch or a larger GPU is not to be had here",
        "make its batch smaller, or give it a larger GPU",
    ),
    "gpu_fault": Words(
        "the GPU or its driver failed",
        "another GPU, or this one later, may do",
        _STAYS,
        "check the GPU (nvidia-smi, the kernel log) and take it out if it is faulty",
    ),
    "communication": Words(
        "its processes lost touch with each other",
        "on other machines, or later, it may work",
        _STAYS,
        "check the network between the nodes, and the ports that the program uses",
    ),
    "node": Words(
        "the machine that it ran on failed or went away",
        "it was not the unit's fault",
        _STAYS,
        "check the machine on which it ran",
    ),
    "preempted": Words(
        "it had to make room for other work",
        "it was not the unit's fault",
        _STAYS,
        "use a partition or hours without preemption",
    ),
    "time_limit": Words(
        "it ran into its time limit",
        "with more time, or from where it got to, it may come to its end",
        "more time than it had is not to be had here",
        "give the unit more time (runtime, or wall of its guard), or make it smaller",
    ),
    "hang": Words(
        "it made no more progress",
        _CHANCE,
        _STAYS,
        "see in its log where it stopped; if it merely is silent, declare progress= or a longer stall=",
    ),
    "disk": Words(
        "a disk or a quota was full",
        "space may become free",
        _STAYS,
        "free space, or raise the quota, on the file system of the evidence",
    ),
    "file_system": Words(
        "the file system did not work as it should",
        _PASSES,
        _STAYS,
        "check the file system (mount, server, kernel log)",
    ),
    "configuration": Words(
        "an option or a file of settings is wrong",
        _TOLD,
        "it stays wrong until somebody corrects it",
        "correct the option or file that the evidence names",
    ),
    "environment": Words(
        "something that it needs is not installed here",
        _TOLD,
        "it stays missing until somebody installs it",
        "install what the evidence says is missing",
    ),
    "permission": Words(
        "it was not allowed to use something",
        _TOLD,
        "it stays forbidden until somebody allows it",
        "give access to what the evidence names",
    ),
    "code": Words(
        "the program has a fault",
        _TOLD,
        "the same program fails in the same way every time",
        "correct the program at the place the log shows",
    ),
    "numerical": Words(
        "the computation went wrong (not a number, an overflow, no convergence)",
        _TOLD,
        "the same numbers come out every time",
        "correct the model, its parameters or its step sizes: the same input gives the same numbers",
    ),
    "data": Words(
        "its input is damaged, or not what it should be",
        _TOLD,
        "the same input fails in the same way every time",
        "replace or exclude the input that the evidence names",
    ),
    "cancelled": Words(
        "it was stopped on request",
        _TOLD,
        "it was stopped on purpose",
        "none is needed: it was stopped on purpose",
    ),
    "output_invalid": Words(
        "it ended without an error, but what it wrote is not valid",
        _CHANCE,
        _STAYS,
        "see in the log why the output is not what the rule declares, or correct its validate=",
    ),
    "unknown": Words(
        "no known cause fits what it printed",
        _CHANCE,
        _STAYS,
        "read the log; a rule for this message in config/recovery.yaml gives it a class",
    ),
}

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


def of(record: Mapping[str, Any]) -> Words:
    """The words for the class of a record; those of ``unknown`` for a class that nobody knows."""
    return WORDS.get(str(record.get("failure_class")), WORDS["unknown"])


def happened(record: Mapping[str, Any]) -> str:
    """What came of an attempt, to complete "attempt 1 ..." (``failed: it ran into its time limit``)."""
    outcome = record.get("outcome")
    if outcome == "published" and record.get("source") == "imported":
        return f"counts: {printable(record.get('evidence'))}, and nothing ran"
    if outcome == "published":
        return "succeeded: its output is valid and published"
    if outcome == "adopted":
        return "counts: its published output was taken over, and nothing ran again"
    if outcome == "interrupted" and not record.get("failure_class"):
        return "was cut short: its guard was killed, or the machine went down"
    if record.get("failure_class") == "cancelled":
        return f"ended early: {of(record).happened}"
    return f"failed: {of(record).happened}"


def remedy(record: Mapping[str, Any]) -> str:
    """What helps against a failure, with the culprit of the evidence where it names one."""
    failure_class = record.get("failure_class")
    evidence = printable(record.get("evidence"))
    host = printable(_host(record))
    if record.get("outcome") == "interrupted" and not failure_class:
        return f"see in the kernel log of {host} what kills the guards of this unit"
    if failure_class == "environment" and (missing := _MISSING.search(evidence)):
        kind = str(missing.lastgroup)
        return f"install {_KINDS[kind]} {missing[kind]} on {host}"
    if failure_class == "permission" and (path := _PATH.search(evidence)):
        return f"give access to {path['path']} on {host}"
    if failure_class == "disk" and (path := _PATH.search(evidence)):
        return f"free space on the file system of {path['path']} on {host}"
    if record.get("classifier_rule") == NO_DEVICE:
        return f"ask for less in its rule, or run it where there is more than on {host}"
    return of(record).remedy


def _host(record: Mapping[str, Any]) -> str:
    """The host that a failure is about: one of its scopes if the evidence names it, else where it ran."""
    scopes, evidence = record.get("scopes"), str(record.get("evidence"))
    for scope in scopes if isinstance(scopes, list) else []:
        kind, _, name = str(scope).partition(":")
        if kind == "host" and f"host {name}:" in evidence:
            return name
    return str(record.get("host") or "its host")


class Budget(NamedTuple):
    """Retries for failures of one class, this one's included."""

    failure_class: str
    used: int
    limit: int
    left: int
    counts: bool
    """False: this class uses up no budget, and ``limit`` is a cap against endless repetition."""
    best: float | None = None
    """How far the unit came, if restarts that get it no further are what is counted."""


def budget(rules: policy.Policy, before: list[dict[str, Any]], record: Mapping[str, Any]) -> Budget | None:
    """The retries for the class of a failed attempt; None where they are not what decides.

    ``before`` are the records of the unit before this one.
    """
    failure_class = record.get("failure_class")
    granted = record.get("decision") == "retry"
    if not isinstance(failure_class, str) or record.get("decision") not in ("retry", "refused"):
        return None
    rule = policy.rule_of(rules, failure_class, sensible=True)  # else it would be in quarantine
    if rule["retry"] == "next_run":
        return None
    used, limit, best = policy.spent(
        rules, rule, before, failure_class, progress=record.get("progress"), session=record.get("session")
    )
    used += granted
    return Budget(failure_class, used, limit, max(0, limit - used), bool(rule.get("counts", True)), best)


def decided(record: Mapping[str, Any], left: Budget | None, when: str = "soon") -> str:
    """What was decided on a failed attempt and why, in a sentence or two; empty where nothing was.

    ``when`` tells when a retry comes, such as ``at 12:03:04, in 5 min``.
    """
    decision, words = record.get("decision"), of(record)
    interrupted = record.get("outcome") == "interrupted" and not record.get("failure_class")
    if decision == "retry" and interrupted:
        return f"It is tried again {when}; that uses up no retry."
    if decision == "retry":
        how = ", ".join(part for part in (when, changes(record)) if part)
        return f"It is tried again {how}: {words.hope}. {_counted(left)}".rstrip()
    if decision == "quarantine":
        reason = printable(record.get("reason")) if record.get("spent") else words.never
        return (
            f"It is in quarantine and not tried again: {reason}. That ends by itself when its command or "
            "what the failure blames changes, or by hand."
        )
    if decision == "refused" and record.get("failure_class") == "cancelled":
        return "Nothing is wrong with it: it runs with the next call."
    if decision == "refused":
        nowhere = record.get("classifier_rule") == NO_DEVICE
        why = "it cannot run on this machine" if nowhere else _used_up(left, interrupted)
        return f"This call has given it up: {why}. The next call tries it anew, with all its retries."
    return ""


def changes(record: Mapping[str, Any]) -> str:
    """What the retry after a record changes: ``with mem_mb x 2, on another node``."""
    told = []
    for name, change in (record.get("changes") or {}).items():
        if isinstance(change, int | float):
            told.append(f"with {printable(name)} x {change:g}")
        elif change in ("other", "larger"):
            told.append(
                f"on {'another' if change == 'other' else 'a larger'} {printable(name)} where there is one"
            )
    return ", ".join(told)


def _counted(left: Budget | None) -> str:
    if left is None:
        return ""
    if left.best is not None:
        return f"So far {left.used} of at most {left.limit} restarts brought no progress."
    if not left.counts:
        return f"Failures of this kind use up no retry (so far {left.used} of at most {left.limit})."
    return f"This is retry {left.used} of {left.limit} for failures of this kind."


def _used_up(left: Budget | None, interrupted: bool) -> str:
    if interrupted:
        return "its guards ended without a word again and again"
    if left is None or left.used < left.limit:
        return "its failure could not be judged"
    if left.best is not None:
        return policy.no_progress(left.used, left.best)
    if not left.limit:
        return "the policy grants no retry for failures of this kind"
    if not left.counts:
        return f"{left.limit} failures of this kind in a row are the most there may be"
    return (
        f"all {left.limit} {'retry' if left.limit == 1 else 'retries'} for failures of this kind are used up"
    )

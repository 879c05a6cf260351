"""What every state of SLURM means. This table is the only one: the classifier reads it too.

Nothing here knows success. COMPLETED says that the batch script exited with 0, and only the journal says
whether something was published. A state that is missing, or that nobody has heard of, is never an end.
"""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ripresa.slurm.sighting import Sighting

WAITING, RUNNING, ENDED, UNKNOWN = "waiting", "running", "ended", "unknown"


class Verdict(NamedTuple):
    """What became of a job. `failure_class` is set for failed ones that ended, and for them only."""

    phase: str
    failure_class: str | None
    evidence: str


class Meaning(NamedTuple):
    """One state. `strength` is on the scale of the classifier's rules; 0 says nothing about a failure."""

    phase: str
    failure_class: str | None = None
    strength: float = 0.0
    note: str = ""


# SLURM knows why it ended a job; what the job wrote while dying is secondary. FAILED says only that something
# else does. CANCELLED is below a log line that gives the reason of the cancelling.
STATES = {
    "BOOT_FAIL": Meaning(ENDED, "node", 4.0, "its nodes could not be booted"),
    "CANCELLED": Meaning(ENDED, "cancelled", 2.5),
    "COMPLETED": Meaning(ENDED),
    "COMPLETING": Meaning(RUNNING, note="processes of it may still be alive"),
    "CONFIGURING": Meaning(WAITING, note="its nodes are being made ready"),
    "DEADLINE": Meaning(ENDED, "time_limit", 4.0, "it could not end before its deadline"),
    "EXPEDITING": Meaning(WAITING, note="it was requeued and goes first"),
    "FAILED": Meaning(ENDED, "unknown"),
    # This one and RECONFIG_FAIL stand beside the state proper, so they may belong to a job that was requeued.
    "LAUNCH_FAILED": Meaning(UNKNOWN, "node", 2.5, "its nodes could not start it"),
    "NODE_FAIL": Meaning(ENDED, "node", 4.0, "a node of it failed"),
    "OUT_OF_MEMORY": Meaning(ENDED, "memory", 3.5, "a process of it was killed for want of memory"),
    "PENDING": Meaning(WAITING),
    "POWER_UP_NODE": Meaning(WAITING, note="its nodes are being switched on"),
    "PREEMPTED": Meaning(ENDED, "preempted", 4.0, "it had to make room for another job"),
    "RECONFIG_FAIL": Meaning(UNKNOWN, "node", 4.0, "its nodes could not be configured"),
    # In sacct the record of an instance that is over; the next one has the same id and may not be listed yet.
    "REQUEUED": Meaning(WAITING, note="it starts again under the same id"),
    "REQUEUE_FED": Meaning(WAITING, note="another cluster of the federation gets it"),
    "REQUEUE_HOLD": Meaning(WAITING, note="it was requeued and is held"),
    "RESIZING": Meaning(RUNNING),
    "RESV_DEL_HOLD": Meaning(WAITING, note="it is held, its reservation was deleted"),
    # Here only: it goes on, or has ended, on another cluster of the federation.
    "REVOKED": Meaning(UNKNOWN, "node", 2.5, "another cluster of the federation took it"),
    "RUNNING": Meaning(RUNNING),
    "SIGNALING": Meaning(RUNNING),
    "SPECIAL_EXIT": Meaning(WAITING, note="it was requeued in a special state and is held"),
    "STAGE_OUT": Meaning(RUNNING, note="its files are being staged out"),
    "STOPPED": Meaning(RUNNING, note="it is stopped and keeps its processors"),
    "SUSPENDED": Meaning(RUNNING, note="it is suspended"),
    "TIMEOUT": Meaning(ENDED, "time_limit", 4.0, "it ran into its time limit"),
}

# Ends that a process out of memory brings about by itself: the others befell the job from outside.
_BY_MEMORY = {"FAILED", "CANCELLED", "TIMEOUT", "DEADLINE"}

# How slurmstepd reports that it could not open the job's standard output or change to its folder.
_NO_OUTPUT = 53


def parse(text: str) -> tuple[str, str]:
    """Return the state in any text of SLURM's, and what follows it: "CANCELLED by 0" -> "CANCELLED", "by 0".

    Case does not matter. "State=TIMEOUT" is understood, as are "TIMEOUT+" and names that sacct cut short
    ("OUT_OF_ME+") unless they could be several. A state that is not in the table comes back as it is.
    """
    first, *rest = text.rsplit("=", 1)[-1].upper().split() or [""]
    name = first.partition("+")[0]
    if "+" in first and name and name not in STATES:
        full = [state for state in STATES if state.startswith(name)]
        name = full[0] if len(full) == 1 else name
    return name, " ".join(rest).lower()


def meaning(state: str) -> Meaning | None:
    """What a state says, as any text of SLURM's; None for one that is not in the table."""
    return STATES.get(parse(state)[0])


def cause(sighting: "Sighting") -> str:
    """The state that tells why a job ended, "" if there is none: its own, or that of a step out of memory.

    A job whose batch script outlives the step that was killed is FAILED; only the step says why.
    """
    state = parse(sighting.state)[0]
    if state in _BY_MEMORY and _steps_out_of_memory(sighting):
        return "OUT_OF_MEMORY"
    return state


def judge(sighting: "Sighting | None") -> Verdict:
    """Say what one job came to; None is a job that SLURM does not list.

    Of a FAILED job nothing is known but its exit code, so whoever has its log asks the classifier; and the
    journal comes before any verdict on an end, as a unit may have been published all the same.
    """
    if sighting is None:
        return Verdict(UNKNOWN, None, "SLURM does not know the job")
    state, cut = parse(sighting.state)
    known = STATES.get(state)
    if known is None:
        return Verdict(
            UNKNOWN, None, f"SLURM state {state} is not known" if state else "SLURM gives no state"
        )
    evidence = [f"SLURM state {state}{_by(f'{cut} {sighting.detail}') if state == 'CANCELLED' else ''}"]
    steps = _steps_out_of_memory(sighting)
    if steps and state != "OUT_OF_MEMORY":
        evidence.append(f"step {', '.join(steps)} OUT_OF_MEMORY")
    failure_class = STATES[cause(sighting)].failure_class
    if state in ("FAILED", "COMPLETED") and not steps:
        failure_class, said = _by_exit(sighting, state)
        evidence += said
    if known.note:
        evidence.append(known.note)
    if known.phase == WAITING and sighting.reason:
        evidence.append(f"reason {sighting.reason}")
    return Verdict(known.phase, failure_class if known.phase == ENDED else None, ", ".join(evidence))


def interrupted(instance: "Sighting | None") -> Verdict:
    """Say why SLURM took a job back and starts it again, of what accounting has of the instance that is over.

    None is an instance that nobody accounts for: it is over, and nothing says why.
    """
    if instance is None:
        return Verdict(ENDED, None, "SLURM took the job back and starts it again")
    verdict = judge(instance)
    if verdict.failure_class is not None:
        return verdict
    # An administrator, or what he has set up, wants its place, as a job of higher priority does.
    return Verdict(
        ENDED, "preempted", f"SLURM state {parse(instance.state)[0]}, it was put back into the queue"
    )


def _steps_out_of_memory(sighting: "Sighting") -> list[str]:
    return [name for name, state in sighting.steps if parse(state)[0] == "OUT_OF_MEMORY"]


def _by_exit(sighting: "Sighting", state: str) -> tuple[str | None, list[str]]:
    """Failure class and evidence of a job that ended by itself."""
    from ripresa.recovery.evidence import Ended, facts

    code, signal = sighting.exit_code or None, sighting.signal or None
    if state == "COMPLETED" and code is None and signal is None:
        return None, []
    if state == "FAILED" and _never_started(sighting):
        return "configuration", ["it was refused at submission", sighting.reason or "reason not kept"]
    if signal == _NO_OUTPUT:
        return "file_system", [f"exit 0:{signal}", "its log could not be opened"]
    ended = Ended(code, signal)
    claims = sorted(facts(ended), key=lambda fact: fact.strength)
    said = [] if code is None and signal is None else [str(ended)]
    return claims[-1].failure_class if claims else "unknown", said


def _never_started(sighting: "Sighting") -> bool:
    """Whether it is what sbatch leaves behind when it refuses: a job that failed the moment it was submitted.

    squeue gives the reason. sacct gives no useful one, but no nodes and three times that are the same.
    """
    if sighting.nodes or sighting.steps:
        return False
    times = {sighting.submitted, sighting.started, sighting.ended}
    return sighting.reason == "BadConstraints" or (len(times) == 1 and None not in times)


def _by(detail: str) -> str:
    """Who cancelled, of SLURM's "by 1000": " by anna (uid 1000)"; the user who asks is "yourself"."""
    import os
    import pwd

    word, _, uid = detail.strip().partition(" ")
    if word != "by" or not (uid.isascii() and uid.isdigit()):
        return ""
    try:
        name = pwd.getpwuid(int(uid)).pw_name
    except (KeyError, OverflowError):
        name = "somebody"
    own = ", yourself" if int(uid) == os.getuid() else ""
    return f" by {name} (uid {uid}{own})"

"""What exit codes, signals and out-of-memory counters say about a failure, as tables.

What SLURM's states say is in `ripresa.slurm.states`.
"""

from collections.abc import Iterator
from typing import NamedTuple


class Ended(NamedTuple):
    """How a command ended, as far as the system told."""

    exit_code: int | None = None
    signal: int | None = None
    slurm_state: str | None = None
    oom_killed: bool = False

    def __str__(self) -> str:
        if self.oom_killed:
            return "out-of-memory kill counted by the kernel"
        if self.slurm_state:
            return f"SLURM state {self.slurm_state}"
        if self.signal is not None:
            return f"signal {self.signal}"
        return "no output" if self.exit_code is None else f"exit code {self.exit_code}"


class Fact(NamedTuple):
    """Strengths are on the scale of the classifier's rules: 3 a root cause, 2 an error, 1 a symptom."""

    name: str
    failure_class: str
    strength: float


# A signal is how a process died, seldom why.
SIGNALS = {
    1: ("node", 0.6),  # HUP: the terminal or the connection went away
    2: ("cancelled", 1.6),  # INT
    3: ("cancelled", 1.0),  # QUIT
    4: ("environment", 1.9),  # ILL: built for another CPU
    6: ("code", 0.7),  # ABRT
    7: ("file_system", 0.8),  # BUS: a mapped file could not be read
    8: ("numerical", 1.2),  # FPE
    9: ("memory", 1.1),  # KILL: with nothing else known, the out-of-memory killer
    10: ("time_limit", 0.8),  # USR1, USR2: the warning that batch systems send ahead of a limit
    11: ("code", 0.9),  # SEGV
    12: ("time_limit", 0.8),
    13: ("communication", 0.6),  # PIPE
    15: ("cancelled", 0.9),  # TERM
    24: ("time_limit", 1.9),  # XCPU
    25: ("disk", 1.9),  # XFSZ
    31: ("code", 1.2),  # SYS
}

# Conventions of shells, coreutils and sysexits.h. Many programs use small codes freely, so all are weak.
EXIT_CODES = {
    64: ("configuration", 0.7),
    65: ("data", 0.7),
    66: ("data", 0.7),
    69: ("service", 0.7),
    70: ("code", 0.6),
    71: ("node", 0.6),
    72: ("environment", 0.7),
    73: ("file_system", 0.6),
    74: ("file_system", 0.7),
    75: ("service", 0.7),
    77: ("permission", 0.7),
    78: ("configuration", 0.7),
    124: ("time_limit", 1.2),  # timeout(1)
    126: ("permission", 0.8),  # found but not executable
    127: ("environment", 1.2),  # command not found
}


def facts(ended: Ended) -> Iterator[Fact]:
    """Yield what the explicit evidence claims."""
    if ended.oom_killed:
        yield Fact("oom-kill-counted", "memory", 3.5)
    if ended.slurm_state:
        from ripresa.slurm import states  # only here: the guard imports this module

        state, _ = states.parse(ended.slurm_state)
        said = states.STATES.get(state)
        if said and said.failure_class and said.strength:
            yield Fact(f"slurm-state-{state.lower()}", said.failure_class, said.strength)
    signal, code = ended.signal, ended.exit_code
    if code is not None and signal is None:
        if code < 0:
            signal = -code
        elif code > 128:
            signal = code - 128
        elif code in EXIT_CODES:
            yield Fact(f"exit-code-{code}", *EXIT_CODES[code])
    if signal in SIGNALS:
        yield Fact(f"signal-{signal}", *SIGNALS[signal])

"""What a command is wrapped in, so that its answer tells for certain whether it began and how it ended.

A connection plugin of Ansible reports the exit code of its client, in which a lost connection, a failed sudo
and a failed command look alike. So the shell on the host writes a mark to the standard error before the
command and one with the exit code behind it. What stands before the first mark is of ssh, sudo or the login
shell; what has no first mark and an error that ssh only has before it asks for a session, never began.
"""

import re
import secrets
from typing import NamedTuple


class Ending(NamedTuple):
    """How a wrapped command went: whether it began, its exit code if it is known to have ended, its stderr.

    ``stderr`` is the command's own if it began, and what ssh, sudo and the login shell said if not.
    """

    began: bool
    exit_code: int | None
    stderr: str


def mark() -> str:
    """A new mark, which also names the client's process: the command line of ssh has it."""
    return f"ripresa-{secrets.token_hex(8)}"


def wrap(command: str, mark: str, fed: bool) -> str:
    """The command of a POSIX shell in its marks. Not ``fed``: its standard input is empty.

    It is one line, as csh as a login shell allows no other within quotes.
    """
    source = "" if fed else " </dev/null"
    return f"echo {mark} >&2; ({command}){source}; echo {mark} $? >&2"


def ending(mark: str, stderr: str) -> Ending:
    """What the standard error of a wrapped command says of it."""
    _, began, rest = stderr.partition(f"{mark}\n")
    if not began:
        return Ending(False, None, stderr)
    # The command may have left its last line open.
    ends = list(re.finditer(rf"{mark} (\d+)\r?\n", rest))
    if not ends:
        return Ending(True, None, rest)
    last = ends[-1]
    return Ending(True, int(last.group(1)), rest[: last.start()] + rest[last.end() :])

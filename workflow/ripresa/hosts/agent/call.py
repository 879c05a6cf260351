"""One call of the agent: a request from standard input, what it asks for, and the answer on standard output.

Hosts print what they like at a login, so the answer is what follows the last line `ripresa-answer`.
"""

from __future__ import annotations

import codecs
import os
import sys
import time

from ripresa.hosts.agent import cleaning, errors, facts, operations, request, starting, store, waiting
from ripresa.hosts.agent.units import run_at
from ripresa.journal import processes, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from ripresa.journal.paths import Run

FAILED, NOT_UNDERSTOOD = 1, 2


class Here:
    """Where a call runs: the agent's root, the bundle it is part of, and what the login gave it."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self.bundle = os.path.abspath(f"{__file__}/../../../..")
        self.environment = dict(os.environ)
        self.umask = os.umask(0o077)


def main(arguments: list[str]) -> int:
    """Answer one request; returns the exit code.

    That is 2 for a request that cannot be understood and 1 where files of followed units cannot be read, each
    with a line on standard error.
    """
    try:
        if len(arguments) != 1:
            raise ValueError("one argument is expected, the root of the agent")
        wanted = request.parse(sys.stdin.buffer.readline())
    except ValueError as error:
        print(f"ripresa agent: {error}", file=sys.stderr)
        return NOT_UNDERSTOOD
    here = Here(arguments[0])
    run = run_at(here.root, wanted.run)
    done = [_do(operation, run, here, sys.stdin.buffer) for operation in wanted.operations]
    try:
        units = {}
        if wanted.follow:
            units = waiting.follow(run, wanted.follow, wanted.wait_s, wanted.door)
    except OSError as error:
        told = errors.answer(error)
        print(f"ripresa agent: {told['evidence']} ({told['error']})", file=sys.stderr)
        return FAILED
    answer = {"done": done, "units": units, "now": time.time(), "boot_id": processes.boot_id()}
    try:
        sys.stdout.write(f"ripresa-answer\n{_ascii(answer)}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(FAILED)  # nobody is there any more; Python would try once more to flush
    return 0


def _do(operation: dict[str, Any], run: Run, here: Here, payload: BinaryIO) -> dict[str, Any]:
    """Do one operation; whatever goes wrong with it is its answer."""
    try:
        name = operation["op"]
        if name == "hello":
            return facts.hello(here.root)
        if name == "have":
            return {"missing": store.missing(run, operation["files"])}
        if name == "put":
            return store.put(run, operation, payload)
        if name == "start":
            return starting.start(run, operation, here)
        if name == "ring":
            return waiting.ring(run, operation["door"])
        if name == "clean":
            return cleaning.clean(here.root, run, kill=operation["kill"])
        if name == "end":
            return cleaning.end(here.root, run, operation["targets"])
        return operations.BY_NAME[name](run, operation)
    except Exception as error:  # of one unit, perhaps; the others' operations are not to suffer for it
        return errors.answer(error)


def _ascii(document: Any) -> str:
    """A document as JSON that survives whatever a host's locale does to text."""
    codecs.register_error("json", _escaped)
    return records.dumps(document).encode("ascii", "json").decode()


def _escaped(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[n : n + 4]}" for n in range(0, len(units), 4)), error.end

"""Commands of a workload: texts for sh in which `{name}` stands for a value, quoted.

Names are those of the parameters, and

    {threads}   the parameter of this name; if there is none, or it is null, how many CPUs we may use
    {scratch}   a folder of their own on the disk under test, in which commands start
    {python}    the interpreter that runs this, which finds the programs of this package by `-m`
    {peer}      the address of the other host

null is an empty word, true and false are 1 and 0, and a list is as many words.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from ripresa import template
from ripresa.families.benchmarks.hardware import usable_cpus
from ripresa.families.benchmarks.measurement import BenchmarkError

PLACES = ("threads", "scratch", "python", "peer")
THIS_MACHINE = "127.0.0.1"
LISTENING_S = 10.0
"""How long a server may take until it listens."""
_AGAIN_S = 0.2

_PACKAGES = str(Path(__file__).parents[3])


class Output(NamedTuple):
    """What a command said."""

    stdout: str
    stderr: str


class Shell:
    """Runs commands in a folder, with these parameters in their places."""

    def __init__(self, parameters: Mapping[str, Any], folder: str, peer: str | None = None) -> None:
        self.threads: int = parameters.get("threads") or usable_cpus()
        places = {"threads": self.threads, "scratch": folder, "python": sys.executable}
        places["peer"] = peer or THIS_MACHINE
        self._values = {name: _words(value) for name, value in {**parameters, **places}.items()}
        self._folder = folder

    def run(self, command: str) -> Output:
        """What a command said; of one that fails it goes to the log, its last line into a BenchmarkError."""
        done = subprocess.run(
            self._call(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd=self._folder,
            env=_environment(),
        )
        if done.returncode == 0:
            return Output(done.stdout, done.stderr)
        print(done.stdout + done.stderr, end="", flush=True)
        how = f"exit code {done.returncode}"
        if done.returncode < 0:
            how = f"ended by {signal.Signals(-done.returncode).name}"
        raise BenchmarkError(f"{how}: {_last_line(done.stderr) or _last_line(done.stdout) or 'no output'}")

    @contextmanager
    def serving(self, server: str, ready: str) -> Iterator[subprocess.Popen[bytes]]:
        """Keep a server running meanwhile, from when a line of its output matches `ready`.

        One that ends before is started again: its port may be in use by one that is about to end.
        BenchmarkError if none listens in time.
        """
        deadline = time.monotonic() + LISTENING_S
        with tempfile.TemporaryFile() as said:
            while True:
                begin = os.fstat(said.fileno()).st_size
                with self._server(server, said) as process:
                    try:
                        if _listens(process, said, begin, ready, deadline):
                            yield process
                            return
                    finally:
                        process.terminate()
                time.sleep(_AGAIN_S)

    def _server(self, command: str, said: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._call(f"exec {command}"),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd=self._folder,
            env=_environment(),
        )

    def _call(self, command: str) -> list[str]:
        return ["sh", "-euc", template.finish(template.fill(command, self._values, quote=str))]


def _listens(
    process: subprocess.Popen[bytes], said: IO[bytes], begin: int, ready: str, deadline: float
) -> bool:
    """Whether a server listens, by what it says from `begin` on.

    False if it has ended, and may be started again until the deadline.
    BenchmarkError, with what it said last, once that is over.
    """
    while True:
        ended = process.poll() is not None
        # At a position, because the server writes at the one that it shares with us.
        if re.search(ready, _text(said, begin), re.MULTILINE):
            return True
        if time.monotonic() > deadline:
            last = _last_line(_text(said, 0))
            raise BenchmarkError(f"its server does not listen: {last or 'no output'}")
        if ended:
            return False
        time.sleep(0.01)


def _text(file: IO[bytes], begin: int) -> str:
    return os.pread(file.fileno(), 1 << 16, begin).decode(errors="replace")


def _environment() -> dict[str, str]:
    paths = [_PACKAGES, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "LC_ALL": "C", "PYTHONPATH": os.pathsep.join(paths)}


def _words(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_words, value))
    if isinstance(value, bool):
        value = int(value)
    return shlex.quote("" if value is None else str(value))


def _last_line(text: str) -> str:
    """The last line with words: programs that print JSON end with a brace."""
    return next((line.strip() for line in reversed(text.splitlines()) if re.search("[A-Za-z]", line)), "")

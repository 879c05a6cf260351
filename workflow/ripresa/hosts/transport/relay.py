"""The controller's side of a relay: one process of Ansible and a channel for each of its hosts."""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ripresa.hosts.transport.failures import classify
from ripresa.hosts.transport.folder import Folder
from ripresa.hosts.transport.frames import encode, receive

KEEPER = f"""import sys
sys.path.insert(0, {os.path.abspath(__file__).rsplit(os.sep, 4)[0]!r})
from ripresa.hosts.transport.keeper import main
main()
"""
"""Finds this package wherever the controller has it from, with an environment that is left as it is."""
END_S = 5.0
"""What a relay has to end once it is told so."""


class Reply(NamedTuple):
    """What a command answered. Bytes that are no UTF-8 are surrogates, as in file names of Python."""

    exit_code: int
    stdout: str
    stderr: str


class Unreachable(Exception):
    """A command had no answer: the host or the way there failed.

    ``failure_class`` is one of the project's classes, ``evidence`` one line in the words of ssh, sudo or
    Ansible. ``sent`` is False only if it is certain that the command never began to run on the host.
    """

    def __init__(self, failure_class: str, evidence: str, *, sent: bool) -> None:
        super().__init__(f"{failure_class}: {evidence}")
        self.failure_class = failure_class
        self.evidence = evidence
        self.sent = sent


class Channel:
    """The calls of one host. Safe to use from several threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._waiting: dict[int, Answer] = {}
        self._numbers = itertools.count(1)
        self.alive = True

    def call(self, command: str, data: bytes, timeout_s: float) -> Reply:
        """Run a command; raises Unreachable."""
        header, payload = self._ask({"do": "call", "command": command}, data, timeout_s)
        if "exit_code" in header:
            return Reply(header["exit_code"], payload.decode("utf-8", "surrogateescape"), header["stderr"])
        failure = classify(header["said"], header["began"])
        raise Unreachable(failure.failure_class, failure.evidence, sent=failure.sent)

    def _ask(self, header: dict[str, Any], data: bytes, timeout_s: float) -> tuple[dict[str, Any], bytes]:
        number, answer = next(self._numbers), Answer()
        frame = encode({**header, "call": number}, data)
        self._waiting[number] = answer
        try:
            with self._sending:
                self._connection.sendall(frame)
        except OSError:
            self._lost()
        if not self.alive:  # also if it ended before the call was among those that wait
            self._lost()
        if not answer.came.wait(timeout_s):
            self._waiting.pop(number, None)
            with self._sending, contextlib.suppress(OSError):
                self._connection.sendall(encode({"do": "cancel", "call": number}))
            raise Unreachable("network", f"no answer within {timeout_s:.3g} s", sent=True)
        if answer.frame is None:
            raise Unreachable("network", "the process of Ansible that has the connection ended", sent=True)
        return answer.frame

    def follow(self) -> None:
        """Take answers until the relay hangs up; the work of a thread."""
        while frame := receive(self._connection):
            answer = self._waiting.pop(frame[0]["call"], None)
            if answer:
                answer.frame = frame
                answer.came.set()
        self._lost()

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _lost(self) -> None:
        self.alive = False
        for number in list(self._waiting):
            answer = self._waiting.pop(number, None)
            if answer:
                answer.came.set()


class Answer:
    """What a call waits for; without a frame if the relay is gone."""

    def __init__(self) -> None:
        self.came = threading.Event()
        self.frame: tuple[dict[str, Any], bytes] | None = None


class Relay:
    """One process of Ansible. Starts at once, in the background."""

    def __init__(
        self, inventory: Sequence[str], directory: str, pattern: str, warn: Callable[[str], None]
    ) -> None:
        self.described: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self.problem: str | None = None
        self.ended = False
        self._channels: dict[str, Channel] = {}
        self._changed = threading.Condition()
        self._warn = warn
        self._folder = Folder.make()
        try:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self._folder.socket)
            self._listener.listen(1024)
            # A session of its own: an interrupt from the terminal is the controller's business.
            self._keeper = subprocess.Popen(
                [sys.executable, "-c", KEEPER, self._folder.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,  # nothing, unless it cannot even start
                start_new_session=True,
            )
        except OSError:
            self._folder.remove()
            raise
        told = {
            "inventory": list(inventory),
            "directory": os.path.abspath(directory),
            "pattern": pattern,
        }
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(json.dumps(told).encode() + b"\n")
        self._keeper.stdin.flush()
        for target in (self._accept, self._listen):
            threading.Thread(target=target, daemon=True).start()

    def complete(self) -> None:
        """Wait until every host of the pattern has come or failed, or the relay has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended or self._is_complete())

    def channel(self, host: str, timeout_s: float) -> Channel | None:
        """The channel of a host, as soon as it is there; None if it did not come in time or never will."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.ended or host in self._channels or host in self.failed or self._is_complete(),
                timeout_s,
            )
            return self._channels.get(host)

    def lost(self, host: str) -> bool:
        """Whether a host was there and its action is gone."""
        with self._changed:
            channel = self._channels.get(host)
        return channel is not None and not channel.alive

    def drop(self, host: str) -> None:
        """Let go of a host; its action ends."""
        with self._changed:
            channel = self._channels.pop(host, None)
        if channel:
            channel.close()

    def end(self) -> None:
        """End Ansible and all connections. At most a few seconds."""
        self._close()
        assert self._keeper.stdin is not None
        with contextlib.suppress(OSError):
            self._keeper.stdin.close()
        try:
            self._keeper.wait(END_S)
        except subprocess.TimeoutExpired:
            self._keeper.terminate()

    def _is_complete(self) -> bool:
        come = self.described.keys() | self.failed.keys()
        return any(come >= set(host["hosts"]) for host in itertools.islice(self.described.values(), 1))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """One host, from its description to its end."""
        frame = receive(connection)
        if frame is None:
            return
        description, channel = frame[0], Channel(connection)
        with self._changed:
            self.described[description["host"]] = description
            self._channels[description["host"]] = channel
            self._changed.notify_all()
        channel.follow()
        connection.close()

    def _listen(self) -> None:
        """Hear what the keeper says, until it ends."""
        assert self._keeper.stdout is not None
        killed = "the process that starts Ansible was killed"
        for line in self._keeper.stdout:
            if not line.startswith(b"{"):
                killed = line.decode(errors="replace").strip() or killed
                continue
            told = json.loads(line)
            if "warning" in told:
                self._warn(told["warning"])
            elif "host" in told:
                with self._changed:
                    self.failed[told["host"]] = told["problem"]
                    self._changed.notify_all()
            else:
                self._lost(told["ended"])
        if not self.ended:
            self._lost(killed)
        self._folder.remove()  # the keeper has done so, if it was not killed

    def _lost(self, problem: str | None) -> None:
        with self._changed:
            self.problem, self.ended = problem, True
            self._changed.notify_all()
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            channels = list(self._channels.values())
        for channel in channels:
            channel.close()

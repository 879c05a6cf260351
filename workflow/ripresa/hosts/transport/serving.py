"""The relay's side of a host: runs the controller's calls over the connection that Ansible has configured.

It is part of an action of Ansible, in the process that Ansible forks for the host, and has nothing but that
action to reach the host with. It knows no failure classes: it sends back what was said, and the controller
judges it.
"""

import contextlib
import socket
import threading
import time
from typing import Any

import psutil

from ripresa.hosts.transport import masters, wrapping
from ripresa.hosts.transport.failures import classify, too_many_sessions
from ripresa.hosts.transport.frames import encode, receive
from ripresa.hosts.transport.line import Line
from ripresa.hosts.transport.slots import Slots

PARALLEL = 8
"""Calls of a host at a time. sshd allows ten sessions a connection unless told otherwise."""
REOPENINGS = 2
"""So often a call that certainly never ran is tried over a new connection."""
OPEN_S = 30.0
"""What a host has to run a command that does nothing, with the connection, the login and sudo."""
CANCEL_S = 10.0
"""So long a cancelled call is looked for, which may be about to start."""


class Session:
    """Serves one host until the controller hangs up."""

    def __init__(self, action: Any, controller: socket.socket, folder: str) -> None:
        self._line = Line(action, folder)
        self._controller = controller
        self._sending = threading.Lock()
        self._folder = folder
        self._slots = Slots(PARALLEL)
        self._marks: dict[int, str] = {}
        self._cancelled: set[int] = set()
        self._opening = threading.Lock()
        self._openings = 0
        self._closed = ""

    def serve(self) -> None:
        """Take calls until the end of the socket; then end everything that was started for them."""
        works = {"call": self._call, "cancel": self._cancel}
        while frame := receive(self._controller):
            header, payload = frame
            if header["do"] == "call":
                self._marks[header["call"]] = wrapping.mark()
            threading.Thread(target=works[header["do"]], args=(header, payload), daemon=True).start()
        for process in psutil.Process().children(recursive=True):
            _kill(process)
        masters.end(self._folder)

    def _call(self, header: dict[str, Any], data: bytes) -> None:
        """Run a command and send what came of it: its ending and output, or what was said instead."""
        number, mark = header["call"], self._marks[header["call"]]
        answer, output = self._answer(number, wrapping.wrap(header["command"], mark, bool(data)), mark, data)
        del self._marks[number]
        self._send({"call": number, **answer}, output.encode("utf-8", "surrogateescape"))

    def _answer(self, number: int, command: str, mark: str, data: bytes) -> tuple[dict[str, Any], str]:
        reopenings = 0
        while True:
            with self._slots:
                closed = self._open()
                if closed is not None or number in self._cancelled:
                    return {"said": closed or "", "began": False}, ""
                said, output, ending = self._line.execute(command, mark, data)
            if ending.exit_code is not None:
                return {"exit_code": ending.exit_code, "stderr": ending.stderr}, output
            failed = {"said": said, "began": True if ending.began else None}, ""
            if ending.began or classify(said, None).sent:
                self._line.opened = False
                return failed
            if too_many_sessions(said):
                if not self._slots.shrink():
                    return failed
            elif reopenings < REOPENINGS:
                self._line.opened, reopenings = False, reopenings + 1
            else:
                return failed

    def _open(self) -> str | None:
        """Open the connection if it is not, with a command that does nothing; None, or what was said instead.

        So what keeps commands from a host comes up before any is sent. One call does it for all that wait:
        each would bring a connection of its own, and a host that refuses them would be asked once a call.
        """
        seen = self._openings
        with self._opening:
            if self._line.opened:
                return None
            if self._openings != seen:
                return self._closed
            mark = wrapping.mark()
            timer = threading.Timer(OPEN_S, _kill_client, (mark,))
            timer.start()
            said, _, ending = self._line.execute(wrapping.wrap("true", mark, False), mark, b"")
            late = not timer.is_alive()
            timer.cancel()
            self._openings += 1
            if ending.exit_code is not None:
                self._line.opened = True
                return None
            self._closed = f"connection timed out: no shell within {OPEN_S:g} s" if late else said
            return self._closed

    def _send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        # The end of the controller is seen where it is read from.
        with self._sending, contextlib.suppress(OSError):
            self._controller.sendall(encode(header, payload))

    def _cancel(self, header: dict[str, Any], _: bytes) -> None:
        """End the client of a call that nobody waits for any more."""
        number, until = header["call"], time.monotonic() + CANCEL_S
        self._cancelled.add(number)
        while (mark := self._marks.get(number)) and time.monotonic() < until:
            _kill_client(mark)
            time.sleep(0.1)


def _kill_client(mark: str) -> None:
    """Kill the process that runs a marked command, and what it has started here."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if mark in " ".join(process.cmdline()):
                for child in process.children(recursive=True):
                    _kill(child)
                _kill(process)


def _kill(process: psutil.Process) -> None:
    # Ended, or of another user: a sudo, which ends with its standard input.
    with contextlib.suppress(psutil.Error):
        process.kill()

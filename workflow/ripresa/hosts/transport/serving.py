"""The relay's side of a host: runs the calls of the controller over the connection that Ansible has configured.

It is part of an action of Ansible, in the process that Ansible forks for the host, and has nothing but that action to
reach the host with. It knows no failure classes: it sends back what was said, and the controller judges it.
"""

import contextlib
import copy
import socket
import threading
from typing import Any

import psutil

from ripresa.hosts.transport import masters, wrapping
from ripresa.hosts.transport.failures import too_many_sessions
from ripresa.hosts.transport.frames import encode, receive
from ripresa.hosts.transport.slots import Slots

PARALLEL = 8
"""Calls of a host at a time. sshd allows ten sessions a connection unless told otherwise."""
KEEPALIVES = "-o ServerAliveInterval=5 -o ServerAliveCountMax=3"
"""A connection that nothing comes through any more ends after 20 s at the latest."""
PERSISTENT = "-C -o ControlMaster=auto -o ControlPersist=600s"
"""Ansible's own default with a longer life: the relay ends its masters itself."""


class Session:
    """Serves one host until the controller hangs up."""

    def __init__(self, action: Any, controller: socket.socket, folder: str) -> None:
        self._action = action
        self._controller = controller
        self._sending = threading.Lock()
        self._folder = folder
        self._slots = Slots(PARALLEL)
        self._marks: dict[int, str | None] = {}
        self._opening = threading.Lock()
        self._open = False
        self._openings = 0
        self._closed = ""
        _adjust(action._connection, folder)

    def serve(self) -> None:
        """Take calls until the end of the socket; then end everything that was started for them."""
        while frame := receive(self._controller):
            header, payload = frame
            number = header.get("call", 0)
            if header["do"] == "call":
                self._marks[number] = wrapping.mark()
                threading.Thread(target=self._answer, args=(number, header["command"], payload), daemon=True).start()
            elif header["do"] == "cancel":
                self._cancel(number)
            elif header["do"] == "reset":
                threading.Thread(target=self._reset, args=(number,), daemon=True).start()
        for process in psutil.Process().children(recursive=True):
            _kill(process)
        masters.end(self._folder)

    def _answer(self, number: int, command: str, data: bytes) -> None:
        """Run one call and send what came of it: an ending with its output, or what was said instead."""
        mark = self._marks[number] or ""
        while True:
            with self._slots:
                closed = self._closed_because()
                if closed is not None:
                    answer, output = {"said": closed, "sent": False}, ""
                    break
                said, output, ending = self._execute(wrapping.wrap(command, mark, bool(data)), mark, data)
            if ending.exit_code is not None:
                answer = {"exit_code": ending.exit_code, "stderr": ending.stderr}
                break
            self._open = False
            if ending.began or not too_many_sessions(said) or not self._slots.shrink():
                answer = {"said": said, "sent": True if ending.began else None}
                break
        if self._marks.pop(number):
            self._send({"call": number, **answer}, output.encode("utf-8", "surrogateescape"))

    def _send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        with self._sending, contextlib.suppress(OSError):  # the end of the controller is seen where it is read from
            self._controller.sendall(encode(header, payload))

    def _closed_because(self) -> str | None:
        """Open the connection if it is not, with a command that does nothing; None, or what was said instead.

        One call does so for all that wait: else each would bring a connection of its own, and a host that refuses
        them would be asked once a call.
        """
        seen = self._openings
        with self._opening:
            if self._open:
                return None
            if self._openings != seen:
                return self._closed
            mark = wrapping.mark()
            said, _, ending = self._execute(wrapping.wrap("true", mark, False), mark, b"")
            self._openings += 1
            self._open = ending.exit_code is not None
            self._closed = said
            return None if self._open else said

    def _execute(self, command: str, mark: str, data: bytes) -> tuple[str, str, wrapping.Ending]:
        """What was said if it failed, the standard output, and the ending."""
        # A connection plugin keeps the state of a command in itself, and so does one that becomes another user.
        action = copy.copy(self._action)
        action._connection = copy.copy(self._action._connection)
        if action._connection.become:
            action._connection.become = copy.copy(action._connection.become)
        _never_twice(action._connection)
        try:
            result = action._low_level_execute_command(
                command, in_data=data or None, encoding_errors="surrogateescape"
            )
        except Exception as error:  # of any plugin; it must not end the session of the host
            said = str(error) or type(error).__name__
            ending = wrapping.ending(mark, said)
            return said, "", ending._replace(exit_code=None)
        ending = wrapping.ending(mark, result["stderr"])
        said = f"{ending.stderr}\n{result['stdout']}" if not ending.began else ending.stderr
        return said.strip() or f"the client ended with exit code {result['rc']}", result["stdout"], ending

    def _cancel(self, number: int) -> None:
        """End the client of a call that nobody waits for any more."""
        mark = self._marks.get(number)
        if mark is None:
            return
        self._marks[number] = None
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if mark in " ".join(process.cmdline()):
                    for child in process.children(recursive=True):
                        _kill(child)
                    _kill(process)

    def _reset(self, number: int) -> None:
        """Drop the connection, with what runs over it."""
        masters.end(self._folder)
        connection = copy.copy(self._action._connection)
        said = None
        try:
            if getattr(connection, "_persistent", False):
                connection.reset()
        except Exception as error:
            said = str(error)
        self._open = False
        self._send({"call": number, "said": said})


def _adjust(connection: Any, folder: str) -> None:
    """Give a connection what a relay needs and nobody has configured otherwise."""
    options = connection.option_definitions

    def is_default(option: str) -> bool:
        return option in options and connection.get_option_and_origin(option)[1] == "default"

    if "pipelining" in options:
        connection.set_option("pipelining", True)  # what is sent are bytes for a standard input, never files
    if "ssh_args" not in options:
        return
    if is_default("ssh_args"):
        connection.set_option("ssh_args", PERSISTENT)
    if is_default("control_path_dir"):
        connection.set_option("control_path_dir", folder)
    # ssh takes the first of several values, so here at the end they only count if the user has none.
    extra = connection.get_option("ssh_extra_args") or ""
    connection.set_option("ssh_extra_args", f"{extra} {KEEPALIVES}".strip())
    connection.set_option("use_tty", False)  # one would mix the outputs
    connection.set_option("reconnection_retries", 0)


def _never_twice(connection: Any) -> None:
    """Keep the ssh plugin from running a command again by itself.

    It does so once, whatever is configured, if ssh ends with 255 and has said that the control master is gone. But
    ssh then has gone on without the master, and the command may have run. The copy of a connection is ours, so it
    gets the plain function without its decorator; it also hands out what was said before an error.
    """
    plain = getattr(connection, "_bare_run", None)
    if plain is not None:
        connection._run = lambda cmd, in_data, sudoable=True, checkrc=True: plain(
            cmd, in_data, sudoable=sudoable, checkrc=False
        )


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill()

"""The connection of a host as Ansible has configured it, made fit for many commands."""

import copy
import json
import os
from typing import Any

from ripresa.hosts.transport import wrapping

ORIGINAL = "RIPRESA_RELAY_ORIGINAL"
"""The variable with what stood in the environment before the relay changed it: JSON, null for nothing."""
KEEPALIVES = "-o ServerAliveInterval=5 -o ServerAliveCountMax=3"
"""A connection that nothing comes through any more ends after 20 s at the latest."""
PERSISTENT = "-C -o ControlMaster=auto -o ControlPersist=600s"
"""Ansible's own default with a longer life: the relay ends its masters itself."""
NO_OTHER = "-o ProxyCommand=false"
"""ssh goes on with a connection of its own if the control master fails it, and by then the master may have
passed the command on: it would run twice. So whoever has a master gets no other way to the host."""


class Line:
    """Runs commands by an action of Ansible; ``opened`` while the last command is known to have ended."""

    def __init__(self, action: Any, folder: str) -> None:
        """``folder`` is for control sockets, unless the user has configured another one."""
        self._action = action
        self._folder = folder
        self._alone = action._connection
        self._shared = action._connection
        self._opened = False
        _adjust(self._alone, folder)

    @property
    def opened(self) -> bool:
        return self._opened

    @opened.setter
    def opened(self, value: bool) -> None:
        self._shared = self._over_master() if value and self._has_master() else self._alone
        self._opened = value

    def execute(self, command: str, mark: str, data: bytes) -> tuple[str, str, wrapping.Ending]:
        """Run a wrapped command: what was said if it has no exit code, its standard output, its ending."""
        # Plugins keep the state of a command in themselves, those for connections and those for sudo.
        action = copy.copy(self._action)
        action._connection = copy.copy(self._shared)
        if action._connection.become:
            action._connection.become = copy.copy(action._connection.become)
        _never_twice(action._connection)
        try:
            result = action._low_level_execute_command(
                command, in_data=data or None, encoding_errors="surrogateescape"
            )
        except Exception as error:  # of any plugin: the call fails, the host stays in service
            said = str(error) or type(error).__name__
            return said, "", wrapping.ending(mark, said)._replace(exit_code=None)
        ending = wrapping.ending(mark, result["stderr"])
        said = ending.stderr if ending.began else f"{ending.stderr}\n{result['stdout']}".strip()
        if not said and result["rc"] != 255:  # which is ssh's own
            said = f"the shell of the host ended with exit code {result['rc']} before the command"
        return said, result["stdout"], ending

    def _has_master(self) -> bool:
        return os.path.isdir(self._folder) and bool(os.listdir(self._folder))

    def _over_master(self) -> Any:
        connection = copy.copy(self._alone)
        connection._options = dict(connection._options)
        connection._origins = dict(connection._origins)
        connection.set_option("ssh_args", f"{NO_OTHER} {connection.get_option('ssh_args')}")
        return connection


def restore_environment() -> None:
    """Take what a relay needs out of the environment, which commands on this very machine inherit."""
    for name, value in json.loads(os.environ.pop(ORIGINAL)).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _adjust(connection: Any, folder: str) -> None:
    """Give a connection what many commands need and nobody has configured otherwise."""
    options = connection.option_definitions
    if "pipelining" in options:
        connection.set_option("pipelining", True)  # what is sent are bytes for a standard input, never files
    if "ssh_args" not in options:
        return
    for option, value in (("ssh_args", PERSISTENT), ("control_path_dir", folder)):
        if connection.get_option_and_origin(option)[1] == "default":
            connection.set_option(option, value)
    # ssh takes the first of several values, so here at the end they only count if the user has none.
    extra = connection.get_option("ssh_extra_args") or ""
    connection.set_option("ssh_extra_args", f"{extra} {KEEPALIVES}".strip())
    connection.set_option("use_tty", False)  # one would mix the outputs
    connection.set_option("reconnection_retries", 0)


def _never_twice(connection: Any) -> None:
    """Keep the ssh plugin from running a command again by itself.

    It does so once, whatever is configured, if ssh ends with 255 and has said that the control master is
    gone. But ssh then has gone on without the master, and the command may have run. The copy of a connection
    is ours, so it gets the plain function without its decorator; that one also hands out what was said before
    an error.
    """
    plain = getattr(connection, "_bare_run", None)
    if plain is not None:
        connection._run = lambda cmd, in_data, sudoable=True, checkrc=True: plain(
            cmd, in_data, sudoable=sudoable, checkrc=False
        )

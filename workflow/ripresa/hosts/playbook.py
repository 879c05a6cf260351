"""Playbooks on one host of the inventory, through ansible-runner, which leaves nothing here."""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ansible_runner import Runner, RunnerConfig

from ripresa.hosts.transport import failures, masters
from ripresa.hosts.transport.folder import Folder
from ripresa.recovery.classifier import classify

_LONGEST = 300


class PlayFailed(Exception):
    """A playbook did not come to its end; the message is one line: which task, and what it said."""


def play(
    playbook: str, host: str, variables: Mapping[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """Run a playbook on a host; returns what it told by ``set_stats``.

    The inventory is the one that Ansible uses by itself here. ``say`` gets its output, a line each, without
    failures: one that was passed over must not look like the cause, which the exception tells. SIGTERM ends
    it, so this is for the main thread. Raises PlayFailed.
    """
    told_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told_to_end.set())
    heard = _Heard(say)
    folder = Folder.make()
    private = folder.runner(folder.path)
    try:
        runner = _runner(os.path.abspath(playbook), host, variables, folder, private, heard)
        runner.cancel_callback = told_to_end.is_set
        runner.run()
    finally:
        masters.end(folder.masters)
        shutil.rmtree(folder.path, ignore_errors=True)
    if told_to_end.is_set():
        raise PlayFailed(f"host {host}: told to end")
    if heard.failure:
        raise PlayFailed(f"host {host}: {heard.failure}")
    if runner.rc:
        raise PlayFailed(f"host {host}: {heard.last or f'ansible-playbook ended with exit code {runner.rc}'}")
    return heard.told


class _Heard:
    """What Ansible said, as ansible-runner hands it on."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.failure = ""
        self.told: dict[str, Any] = {}
        self.last = ""
        self._say = say

    def hear(self, event: dict[str, Any]) -> bool:
        """Take one event; False, as it is not to be written to a disk."""
        kind, about = event.get("event"), event.get("event_data", {})
        failed = kind in ("runner_on_failed", "runner_on_unreachable")
        if failed and not about.get("ignore_errors"):
            self.failure = self.failure or _failure(about, unreachable=kind == "runner_on_unreachable")
        elif kind == "playbook_on_stats":
            self.told = dict(about.get("artifact_data") or {})
        if not failed:
            for line in (event.get("stdout") or "").splitlines():
                if line.strip():
                    self.last = line.strip()
                    self._say(line)
        return False


def _failure(about: Mapping[str, Any], *, unreachable: bool) -> str:
    """What a task said when it failed, in one line."""
    result = about.get("res") or {}
    said = next(
        (str(result[key]) for key in ("stderr", "module_stderr", "msg", "stdout") if result.get(key)),
        "failed",
    )
    if unreachable or failures.classify(said, False).failure_class != "unknown":
        # Of several lines of ssh or sudo the one that names the cause.
        said = failures.classify(said, False).evidence
    elif result.get("stderr") or result.get("module_stderr"):
        said = classify(said, exit_code=result.get("rc")).evidence
    text = " ".join(said.split())[:_LONGEST]
    return f"it cannot be reached: {text}" if unreachable else f"{about.get('task', 'a task')}: {text}"


def _runner(
    playbook: str, host: str, variables: Mapping[str, Any], folder: Folder, private: str, heard: _Heard
) -> Runner:
    search = filter(None, (os.path.dirname(sys.executable), os.environ.get("PATH")))
    configuration = RunnerConfig(
        private_data_dir=private,
        project_dir=os.getcwd(),  # where Ansible looks for ansible.cfg, and where relative paths begin
        playbook=playbook,
        limit=host,
        extravars=dict(variables),
        ident="play",
        quiet=True,
        envvars={
            "PATH": os.pathsep.join(search),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": folder.masters,
            # Without it every module becomes a file on the host first, where there may be no room.
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_DEPRECATION_WARNINGS": "false",
            "ANSIBLE_RETRY_FILES_ENABLED": "false",
            "ANSIBLE_NOCOWS": "true",
            "ANSIBLE_NOCOLOR": "true",
            "ANSIBLE_VERBOSITY": "0",
        },
        settings={"suppress_output_file": True},
    )
    configuration.prepare()
    if "ANSIBLE_HOST_KEY_CHECKING" not in os.environ:
        # ansible-runner turns the check off for whoever has not set the variable, whatever ansible.cfg says.
        del configuration.env["ANSIBLE_HOST_KEY_CHECKING"]

    def forget(status: dict[str, Any], **_: Any) -> None:
        if status["status"] == "running":
            # It has the whole environment in it, which may hold a password.
            os.unlink(os.path.join(configuration.artifact_dir, "command"))

    return Runner(configuration, event_handler=heard.hear, status_handler=forget)

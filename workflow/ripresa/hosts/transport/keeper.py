"""The process between a controller and Ansible: starts a relay, and lets nothing of it outlive the two.

Its argument is the folder of the relay's sockets. It has what starting Ansible needs (ansible-runner, a
terminal, the environment) and a controller had better not have. Its standard input is one line of JSON and
then stays open: its end is the end of the relay. Its standard output is lines of JSON: ``{"warning": TEXT}``,
``{"host": NAME, "problem": TEXT}`` of a host for which Ansible could not begin, and at last ``{"ended": TEXT
or null}`` with the error that ended Ansible.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
from typing import Any

import psutil
from ansible_runner import Runner, RunnerConfig

from ripresa.hosts.transport.folder import Folder
from ripresa.hosts.transport.line import ORIGINAL
from ripresa.hosts.transport.speech import Speech

PLAY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ansible", "relay.yml")
FORKS = 10_000
"""No host may wait for another one: an action lives as long as its host is in use."""
LEAVE_S = 1.0
"""What Ansible has to leave on its own, its actions having seen the end of their sockets."""


def environment(folder: Folder, pattern: str) -> dict[str, str]:
    """What Ansible's process has in its environment beside the user's own: the relay, and less noise."""
    action_plugins = os.path.join(os.path.dirname(PLAY), "action_plugins")
    configured = os.environ.get("ANSIBLE_ACTION_PLUGINS") or configured_action_plugins()
    package = os.path.abspath(__file__).rsplit(os.sep, 4)[0]
    search = filter(None, (os.path.dirname(sys.executable), os.environ.get("PATH")))
    return {
        "RIPRESA_RELAY_FOLDER": folder.path,
        "RIPRESA_RELAY_PATTERN": pattern,
        "ANSIBLE_ACTION_PLUGINS": os.pathsep.join([configured, action_plugins]),
        "PATH": os.pathsep.join(search),
        "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
        # A pattern that matches only in part is a mistake, and its warning would be read by nobody.
        "ANSIBLE_HOST_PATTERN_MISMATCH": "error",
        # What reports on plays, by mail or to a dashboard, has no business with this one.
        "ANSIBLE_CALLBACKS_ENABLED": "awx_display",  # that of ansible-runner, which is there anyway
        "ANSIBLE_STDOUT_CALLBACK": "default",
        "ANSIBLE_DEPRECATION_WARNINGS": "false",
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_NOCOWS": "true",
        "ANSIBLE_NOCOLOR": "true",
        # Both print commands and, at the higher levels, what is sent to them.
        "ANSIBLE_VERBOSITY": "0",
        "ANSIBLE_DEBUG": "false",
    }


def configured_action_plugins() -> str:
    """Where Ansible looks for action plugins as it is configured, which a variable would hide from it."""
    from ansible.constants import config

    return os.pathsep.join(config.get_config_value("DEFAULT_ACTION_PLUGIN_PATH"))


def runner(told: dict[str, Any], folder: Folder, speech: Speech) -> Runner:
    """The relay, ready to run."""
    os.makedirs(folder.runner(told["directory"]), mode=0o700)
    configuration = RunnerConfig(
        private_data_dir=folder.runner(told["directory"]),
        project_dir=os.getcwd(),  # where Ansible looks for ansible.cfg, and where relative paths begin
        playbook=PLAY,
        inventory=told["inventory"],
        forks=FORKS,
        ident="relay",
        quiet=True,
        envvars=environment(folder, told["pattern"]),
        settings={"suppress_output_file": True, "pexpect_timeout": 3600},
    )
    configuration.prepare()
    if "ANSIBLE_HOST_KEY_CHECKING" not in os.environ:
        # ansible-runner turns the check off for whoever has not set the variable, whatever ansible.cfg says.
        del configuration.env["ANSIBLE_HOST_KEY_CHECKING"]
    changed = [name for name in configuration.env if configuration.env[name] != os.environ.get(name)]
    configuration.env[ORIGINAL] = json.dumps({name: os.environ.get(name) for name in changed})

    def forget(status: dict[str, Any], **_: Any) -> None:
        if status["status"] == "running":
            # It has the whole environment in it, which may hold a password.
            os.unlink(os.path.join(configuration.artifact_dir, "command"))

    return Runner(configuration, event_handler=speech.hear, status_handler=forget)


def tell(**line: Any) -> None:
    """One line to the controller, which may be gone."""
    try:
        os.write(1, json.dumps(line).encode() + b"\n")
    except OSError:
        done.set()


def end_ansible() -> None:
    """Wait a moment until Ansible has left, then kill it with all that it started and did not detach."""
    until = time.monotonic() + LEAVE_S
    me = psutil.Process()
    while me.children() and time.monotonic() < until:
        time.sleep(0.02)
    for process in me.children(recursive=True):
        try:
            process.kill()
        except psutil.Error:
            continue  # ended, or of another user: that is its sudo, which ends with its standard input


done = threading.Event()


def main() -> None:
    """Read what is wanted, run the relay until it ends or the controller does, and clean up."""
    told = json.loads(sys.stdin.readline())
    folder, speech = Folder(sys.argv[1]), Speech(tell)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: done.set())

    def work() -> None:
        try:
            relay = runner(told, folder, speech)
            relay.run()
            speech.end(relay.rc)
        except Exception as error:  # whatever it is, the controller must learn of it in one line
            speech.fail(f"ansible-runner: {type(error).__name__}: {error}")
        done.set()

    def watch() -> None:
        sys.stdin.read()
        done.set()

    for target in (work, watch):
        threading.Thread(target=target, daemon=True).start()
    done.wait()
    tell(ended=speech.problem)  # first, so that no further call goes to what is being cleaned up
    end_ansible()
    folder.remove()
    shutil.rmtree(folder.runner(told["directory"]), ignore_errors=True)
    os._exit(0)  # the threads may hang in a read

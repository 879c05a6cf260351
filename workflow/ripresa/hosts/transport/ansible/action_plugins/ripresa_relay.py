"""The action of the relay: runs on its host what the controller sends, as long as the controller is there."""

from __future__ import annotations

import os
import socket
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

from ansible import constants as C
from ripresa.hosts.transport.folder import Folder
from ripresa.hosts.transport.frames import encode
from ripresa.hosts.transport.line import restore_environment
from ripresa.hosts.transport.serving import Session

# This module is loaded by the process of the play too, which looks for results of its workers a thousand
# times a second; a relay has none for hours.
C.DEFAULT_INTERNAL_POLL_INTERVAL = 0.1


class ActionModule(ActionBase):
    """Connects to the controller, describes the host and serves its calls until the controller hangs up."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        variables = task_vars or {}
        folder = Folder(os.environ["RIPRESA_RELAY_FOLDER"])
        restore_environment()
        name = str(variables["inventory_hostname"])
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(folder.socket)
            connection.sendall(encode(self._description(name, variables)))
            Session(self, connection, folder.masters_of(name)).serve()
        return result

    def _description(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        """What the controller must know of the host, and how many hosts it may expect."""
        description = {
            "host": name,
            "hosts": list(variables["ansible_play_hosts_all"]),
            "groups": list(variables["group_names"]),
        }
        try:
            return {
                **description,
                "variables": {
                    key: self._templar.template(variables[key])
                    for key in variables
                    if key.startswith("ripresa_")
                },
                "python": self._python(variables),
                "address": str(self._templar.template(variables.get("ansible_host", name))),
            }
        except AnsibleError as error:
            return {**description, "problem": str(error)}

    def _python(self, variables: dict[str, Any]) -> str | None:
        """The interpreter that inventory or configuration names; None if Ansible is to discover one."""
        named = variables.get("ansible_python_interpreter") or C.config.get_config_value("INTERPRETER_PYTHON")
        path = str(self._templar.template(named))
        return None if path.startswith("auto") else path

"""What the tests of the hosts themselves share."""

import subprocess
import time

import pytest
import yaml

OPTIONS = ("BatchMode=yes", "ConnectTimeout=30", "LogLevel=ERROR")


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what the test waits for did not happen"
        time.sleep(0.01)


class Ssh:
    """Plain ssh to a host, with nothing but what its inventory says."""

    def __init__(self, hosts, folder):
        tree = yaml.safe_load(hosts.inventory(folder).path.read_text())["all"]
        self.variables = {host: own | tree["vars"] for host, own in tree["hosts"].items()}

    def command(self, host, line, user="root"):
        own = self.variables[host]
        options = [
            *own["ansible_ssh_common_args"].split(),
            *(word for one in OPTIONS for word in ("-o", one)),
        ]
        key, port = own["ansible_ssh_private_key_file"], str(own["ansible_port"])
        return ["ssh", "-F", "none", "-i", key, "-p", port, *options, f"{user}@{own['ansible_host']}", line]

    def __call__(self, host, line, user="root", given=""):
        """The ended process; what it said on both channels is its ``stdout``."""
        return subprocess.run(
            self.command(host, line, user),
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )

    def start(self, host, line):
        """A session that is open for what the test sends and waits for."""
        return subprocess.Popen(
            self.command(host, line), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )


@pytest.fixture
def ssh(hosts, tmp_path):
    return Ssh(hosts, tmp_path / "inventory")

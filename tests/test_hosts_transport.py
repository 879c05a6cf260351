"""Commands on the hosts of an Ansible inventory, over a real sshd with users and sudo of its own."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from conftest import wait_until
from ripresa.hosts.transport import PatternError, Transport, Unreachable

NEEDED = ("/usr/sbin/sshd", "ssh-keygen", "sudo", "unshare", "openssl")
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, NEEDED)),
    reason="brings up an sshd: needs root, OpenSSH, sudo and util-linux",
)

ADDRESS = f"127.9.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"  # of this process, and so are its ports
PASSWORD = "correct-horse"
NAMESPACE = """
mount -t tmpfs tmpfs /root
for file in passwd shadow group sudoers; do mount --bind {0}/etc/$file /etc/$file; done
mkdir -p /run/sshd
exec /usr/sbin/sshd -D -f {0}/sshd_config -E {0}/sshd.log
"""


def free_port():
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return probe.getsockname()[1]


class Machine:
    """An sshd in a mount namespace of its own, with root, alice, who may use sudo, and bob, who may not."""

    def __init__(self, folder, *options):
        self.folder = folder
        self.port = free_port()
        self.options = options
        self.key = folder / "id"
        for name in ("host", "id", "other"):
            subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", folder / name], check=True)
        self.known(self.folder / "known", "host")
        self.users()
        self.start()

    def known(self, path, key):
        path.write_text(f"[{ADDRESS}]:{self.port} {(self.folder / f'{key}.pub').read_text()}")

    def users(self):
        etc, home = self.folder / "etc", self.folder / "home"
        etc.mkdir()
        home.mkdir()
        hashed = subprocess.check_output(["openssl", "passwd", "-6", PASSWORD], text=True).strip()
        for name in ("passwd", "shadow", "group"):
            shutil.copy(f"/etc/{name}", etc)
        for uid, name in ((4001, "alice"), (4002, "bob")):
            with (etc / "passwd").open("a") as file:
                file.write(f"{name}:x:{uid}:{uid}::{home}:/bin/sh\n")
            with (etc / "shadow").open("a") as file:
                file.write(f"{name}:{hashed}:19000:0:99999:7:::\n")
            with (etc / "group").open("a") as file:
                file.write(f"{name}:x:{uid}:\n")
        (etc / "sudoers").write_text("root ALL=(ALL) NOPASSWD: ALL\nalice ALL=(ALL) ALL\n")
        (etc / "sudoers").chmod(0o440)

    def start(self):
        (self.folder / "sshd_config").write_text(
            textwrap.dedent(f"""
            ListenAddress {ADDRESS}
            Port {self.port}
            HostKey {self.folder}/host
            AuthorizedKeysFile {self.folder}/id.pub
            StrictModes no
            UsePAM no
            PidFile none
            """)
            + "\n".join(self.options)
        )
        script = f"set -e{NAMESPACE.format(self.folder)}"
        self.process = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], start_new_session=True)
        wait_until(self.listens)

    def listens(self):
        with contextlib.suppress(OSError), socket.create_connection((ADDRESS, self.port), 1):
            return True
        return False

    def stop(self):
        """As if the machine lost its power, but for the packets that say so."""
        for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()

    def host(self, **variables):
        """Variables of a host that reach this machine, as root with the key unless told otherwise."""
        return {
            "ansible_host": ADDRESS,
            "ansible_port": self.port,
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": f"-o IdentitiesOnly=yes -o UserKnownHostsFile={self.folder}/known",
            **variables,
        }


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    # bob must get at the keys, so none of pytest's folders will do.
    with tempfile.TemporaryDirectory(prefix="sshd-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        there = Machine(folder)
        yield there
        there.stop()


@pytest.fixture(autouse=True)
def own_environment(tmp_path, monkeypatch):
    """No configuration of whoever runs the tests, and a place for temporary files that shows what is left."""
    for name in [name for name in os.environ if name.startswith("ANSIBLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        yield


class Bench:
    """Transports of one test, and what they leave."""

    def __init__(self, folder):
        self.folder = folder
        self.said = []
        self.transports = []

    def transport(self, inventory):
        """A transport of hosts with their variables, or of inventory sources."""
        if isinstance(inventory, dict):
            path = self.folder / "inventory.json"
            path.write_text(json.dumps({"all": {"hosts": inventory}}))
            inventory = [str(path)]
        self.transports.append(Transport(inventory, str(self.folder / "private"), self.said.append))
        return self.transports[-1]

    def close(self):
        for transport in self.transports:
            transport.close()
        # Only then may their folder be removed.
        wait_until(lambda: not ours())


@pytest.fixture
def bench(tmp_path):
    there = Bench(tmp_path)
    yield there
    there.close()


def below(words, name=""):
    """Processes that relays of this test have started and that have some words on their command line."""
    found = []
    for keeper in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "transport.keeper" in " ".join(keeper.cmdline()):
                found += keeper.children(recursive=True)
    return [process for process in found if words in command_line(process)]


def command_line(process):
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def ours():
    """What is there of transports of this test, wherever it was started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and (
                tempfile.gettempdir() in " ".join(process.cmdline())
                or tempfile.gettempdir() in process.environ().get("RIPRESA_RELAY_FOLDER", "")
            ):
                found.append(process)
    return found


def failure(transport, host, command="true", timeout_s=120.0):
    with pytest.raises(Unreachable) as caught:
        transport.call(host, command, timeout_s=timeout_s)
    return caught.value


@pytest.fixture(scope="module")
def warm(machine, tmp_path_factory):
    """A transport for tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("warm")
    inventory = folder / "inventory.json"
    hosts = {"one": machine.host(), "here": {"ansible_connection": "local"}}
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("ANSIBLE_")]:
            patch.delenv(name)
        transport = Transport([str(inventory)], str(folder / "private"), lambda line: None)
        transport.hosts("all")
    yield transport
    transport.close()


@pytest.mark.parametrize("host", ["one", "here"])
def test_a_command_gets_bytes_and_gives_all_it_says(warm, host):
    data = bytes(range(256)) * 1000
    count = warm.call(host, "wc -c; echo oh >&2; exit 7", data, timeout_s=120)
    assert (count.exit_code, count.stdout.strip(), count.stderr) == (7, "256000", "oh\n")
    echoed = warm.call(host, "cat", data, timeout_s=120)
    assert echoed.stdout.encode("utf-8", "surrogateescape") == data


@pytest.mark.parametrize("host", ["one", "here"])
@pytest.mark.parametrize("code", [0, 1, 126, 255])
def test_every_exit_code_is_the_command_s_own(warm, host, code):
    """255 is what ssh ends with if a connection fails."""
    says = "Permission denied (publickey)."
    reply = warm.call(host, f"printf '{says}' >&2; exit {code}", timeout_s=120)
    assert reply == (code, "", says)


@pytest.mark.parametrize("host", ["one", "here"])
def test_without_data_the_standard_input_is_empty(warm, host):
    assert warm.call(host, "cat; echo end", timeout_s=120).stdout == "end\n"


def test_a_command_on_this_machine_has_the_controller_s_environment(warm):
    """Whatever the relay needs: a unit may call Ansible itself, as the user has configured it."""
    lines = warm.call("here", "env -0", timeout_s=120).stdout.split("\0")
    there = dict(line.partition("=")[::2] for line in lines if line)
    mine = {name: value for name, value in os.environ.items() if name in {"HOME", "PATH", "PYTHONPATH"}}
    assert {name: there.get(name) for name in mine} == mine
    assert not [name for name in there if name.startswith(("ANSIBLE_", "AWX_", "RUNNER_", "RIPRESA_RELAY"))]


def test_calls_of_one_host_run_at_a_time(warm):
    """Each waits for the others, so none would end if fewer ran."""
    folder = tempfile.mkdtemp(dir="/tmp")
    command = f"touch {folder}/$(cat); until [ $(ls {folder} | wc -l) = 4 ]; do sleep 0.01; done"
    try:
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(warm.call, "one", command, b"%d" % n, timeout_s=120) for n in range(4)]
            assert [call.result().exit_code for call in calls] == [0] * 4
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("host", ["one", "here"])
def test_a_call_ends_in_its_time_and_so_does_its_client(warm, host):
    assert warm.call(host, "true", timeout_s=120).exit_code == 0  # the connection is there
    began = time.monotonic()
    error = failure(warm, host, "sleep 3141", timeout_s=0.5)
    assert time.monotonic() - began < 60, "not when the command ends"
    assert (error.failure_class, error.evidence, error.sent) == ("network", "no answer within 0.5 s", True)
    wait_until(lambda: not below("sleep 3141"))


def test_hosts_are_described_by_ansible_without_a_connection(bench, tmp_path):
    folder = tmp_path / "inventory"
    (folder / "group_vars").mkdir(parents=True)
    (folder / "group_vars" / "gpu.yml").write_text(
        "ripresa_dir: /data/{{ inventory_hostname }}\nripresa_slots: 2"
    )
    (folder / "hosts").write_text(
        f"[gpu]\nn[1:2] ansible_host={ADDRESS} ansible_port=1\n[cpu]\nn3 ansible_python_interpreter=/opt/py\n"
        "[cpu:vars]\nansible_password=hidden\n"
    )
    (folder / "more.yml").write_text(
        "all: {hosts: {n4: {ripresa_slots: 1, ansible_python_interpreter: auto_silent}}}"
    )
    transport = bench.transport([str(folder / "hosts"), str(folder / "more.yml")])
    hosts = transport.hosts("all:!n2")
    assert sorted(hosts) == ["n1", "n3", "n4"]
    assert hosts["n1"].variables == {"ripresa_dir": "/data/n1", "ripresa_slots": 2}
    assert (hosts["n1"].groups, hosts["n3"].groups) == ({"gpu"}, {"cpu"})
    assert (hosts["n1"].python, hosts["n3"].python, hosts["n4"].python) == (None, "/opt/py", None)
    assert hosts["n3"].variables == {}
    local = transport.hosts("localhost")["localhost"]
    assert transport.call("localhost", "echo here", timeout_s=120).stdout == "here\n"
    assert local.python and bench.said == []


@pytest.mark.slow
def test_a_pattern_that_names_nothing_tells_what_there_is(bench, tmp_path):
    path = tmp_path / "hosts"
    path.write_text("[gpu]\nn1\nn2\n")
    transport = bench.transport([str(path)])
    for pattern in ("nosuch", "gpu:nosuch"):
        with pytest.raises(PatternError, match=r"nosuch.*groups: gpu; hosts: n1, n2") as caught:
            transport.hosts(pattern)
        assert "\n" not in str(caught.value)


@pytest.fixture
def vault(tmp_path, monkeypatch):
    """Encrypts group variables beside the inventory."""
    password = tmp_path / "password"
    password.write_text("of the vault")
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(password))
    (tmp_path / "group_vars").mkdir()

    def encrypt(group, text):
        tool = Path(sys.executable).with_name("ansible-vault")
        output = tmp_path / "group_vars" / f"{group}.yml"
        command = [tool, "encrypt", "--output", output, "-"]
        subprocess.run(command, input=text.encode(), capture_output=True, check=True)

    return encrypt


@pytest.mark.slow
def test_an_unreadable_inventory_is_told_in_ansible_s_words(bench, tmp_path):
    path = tmp_path / "hosts.yml"
    path.write_text("all: [")
    with pytest.raises(PatternError, match="groups: none; hosts: none"):
        bench.transport([str(path)]).hosts("gpu")
    assert any("hosts.yml" in line for line in bench.said)
    assert all("\n" not in line for line in bench.said)


@pytest.mark.slow
def test_a_vault_without_its_password_is_told(bench, vault, tmp_path, monkeypatch):
    path = tmp_path / "hosts.yml"
    path.write_text("all: {hosts: {n1: {}}}")
    vault("all", "a: b")
    monkeypatch.delenv("ANSIBLE_VAULT_PASSWORD_FILE")
    with pytest.raises(PatternError, match="no vault secrets found"):
        bench.transport([str(path)]).hosts("n1")


def test_sudo_passwords_come_from_the_vault_and_lie_in_no_file(bench, machine, vault, tmp_path):
    """The inventory is a program, its group variables are encrypted, and alice is to become root."""
    program = tmp_path / "hosts.py"
    listing = {
        "vaulted": {"hosts": ["v1"]},
        "_meta": {"hostvars": {"v1": machine.host(ansible_user="alice")}},
    }
    program.write_text(f"#!/bin/sh\necho '{json.dumps(listing)}'\n")
    program.chmod(0o755)
    vault("vaulted", f"ansible_become: true\nansible_become_password: {PASSWORD}\nripresa_slots: 5\n")
    transport = bench.transport([str(program)])
    assert transport.hosts("vaulted")["v1"].variables == {"ripresa_slots": 5}
    assert transport.call("v1", "id -un; cat", b"input", timeout_s=120).stdout == "root\ninput"
    assert transport.call("v1", "id -un; cat", timeout_s=120).stdout == "root\n"
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(transport.call, "v1", "cat", b"%d" % n, timeout_s=120) for n in range(8)]
        assert [call.result().stdout for call in calls] == [str(n) for n in range(8)]
    for folder in (tmp_path / "private", Path(tempfile.gettempdir())):
        tops = [folder, *folder.iterdir()]
        assert len(tops) == 2 and all(top.stat().st_mode & 0o077 == 0 for top in tops)
        for path in filter(Path.is_file, folder.rglob("*")):
            assert PASSWORD not in path.read_text() and os.environ["PATH"] not in path.read_text()


def test_what_keeps_commands_from_a_host_has_its_class_and_its_words(bench, machine, tmp_path):
    machine.known(tmp_path / "changed", "other")
    options = "-o IdentitiesOnly=yes -o UserKnownHostsFile="
    alice = {"ansible_user": "alice", "ansible_become": True}
    no_key = {"ansible_user": "alice", "ansible_ssh_private_key_file": "/nosuch"}
    closed = free_port()
    expected = {
        "refused": (
            {"ansible_port": closed},
            "network",
            f"connect to host {ADDRESS} port {closed}: Connection refused",
        ),
        "nameless": (
            {"ansible_host": "no.such.invalid"},
            "network",
            "Could not resolve hostname no.such.invalid",
        ),
        "key": (
            {"ansible_ssh_private_key_file": str(machine.folder / "other")},
            "permission",
            "Permission denied (pu",
        ),
        "changed": (
            {"ansible_ssh_common_args": f"{options}{tmp_path}/changed"},
            "permission",
            f"has changed and you have requested strict checking. ({tmp_path}/changed:1); if that is right,",
        ),
        "unknown": (
            {"ansible_ssh_common_args": f"{options}/dev/null"},
            "permission",
            "Host key verification failed",
        ),
        "password": ({**no_key, "ansible_password": "wrong"}, "permission", "Permission denied (publickey"),
        "sudo": ({**alice, "ansible_become_password": "wrong"}, "permission", "Incorrect sudo password"),
        "missing": (alice, "configuration", "Missing sudo password"),
        "sudoer": (
            {**alice, "ansible_user": "bob", "ansible_become_password": PASSWORD},
            "permission",
            "bob is not in the sudoers file",
        ),
        "plugin": (
            {"ansible_connection": "nosuch"},
            "configuration",
            "the connection plugin 'nosuch' was not found",
        ),
        "template": ({"ansible_user": "{{ nosuch }}"}, "configuration", "'nosuch' is undefined"),
        "variable": ({"ripresa_dir": "{{ nosuch }}"}, "configuration", "'nosuch' is undefined"),
    }
    works = {**no_key, "ansible_password": PASSWORD}
    hosts = {name: machine.host(**variables) for name, (variables, _, _) in expected.items()}
    transport = bench.transport({**hosts, "works": machine.host(**works)})
    assert sorted(transport.hosts("all")) == sorted([*hosts, "works"])
    assert {line.partition(":")[0] for line in bench.said} == {"plugin", "template", "variable"}
    with ThreadPoolExecutor(len(expected)) as pool:
        found = dict(zip(expected, pool.map(lambda name: failure(transport, name), expected), strict=True))
    for name, (_, failure_class, words) in expected.items():
        error = found[name]
        assert (error.failure_class, error.sent) == (failure_class, False), (name, error)
        assert words in error.evidence and len(error.evidence) <= 300 and "\n" not in error.evidence
        assert PASSWORD not in error.evidence
    assert transport.call("works", "id -un", timeout_s=120).stdout == "alice\n"
    assert failure(transport, "nobody").failure_class == "configuration"


def test_what_the_user_has_configured_stands(bench, machine, tmp_path):
    """Without ControlPersist there is a connection for each call, and the relay does not force one."""
    (tmp_path / "ansible.cfg").write_text("[ssh_connection]\nssh_args = -o ServerAliveInterval=77\n")
    transport = bench.transport({"one": machine.host()})
    assert transport.call("one", "echo $(cat)", b"a", timeout_s=120).stdout == "a\n"
    assert not list(Path(tempfile.gettempdir()).rglob("masters/*/*"))


def test_a_jump_host_of_the_inventory_is_used(bench, machine):
    common = machine.host()["ansible_ssh_common_args"]
    jump = f"ssh {common} -i {machine.key} -p {machine.port} {ADDRESS} -W %h:%p"
    transport = bench.transport(
        {"far": machine.host(ansible_ssh_common_args=f"{common} -o ProxyCommand='{jump}'")}
    )
    assert transport.call("far", "echo there", timeout_s=120).stdout == "there\n"
    assert transport.call("far", "echo again", timeout_s=120).stdout == "again\n"


def test_sessions_that_a_host_refuses_are_waited_for(bench):
    with tempfile.TemporaryDirectory(prefix="sshd-") as name:
        few = Machine(Path(name), "MaxSessions 2")
        try:
            transport = bench.transport({"few": few.host()})
            with ThreadPoolExecutor(6) as pool:
                calls = [
                    pool.submit(transport.call, "few", "cat; sleep 0.2", b"%d" % n, timeout_s=120)
                    for n in range(6)
                ]
                assert [call.result().stdout for call in calls] == [str(n) for n in range(6)]
            log = (few.folder / "sshd.log").read_text()
            assert log.count("Accepted publickey") == 1  # no call went round the master
        finally:
            few.stop()


FLAKY = """#!/bin/sh
case "$*" in
*"(true)"*) for last; do :; done; exec sh -c "$last" ;;
esac
echo run >>{count}
echo 'mux_client_hello_exchange: write packet: Broken pipe' >&2
exit 255
"""


def test_a_command_is_never_run_twice_by_itself(bench, machine, tmp_path):
    """Ansible repeats a command if ssh says this, although ssh may have run it."""
    ssh, count = tmp_path / "ssh", tmp_path / "count"
    ssh.write_text(FLAKY.format(count=count))
    ssh.chmod(0o755)
    transport = bench.transport({"one": machine.host(ansible_ssh_executable=str(ssh), ansible_ssh_retries=3)})
    error = failure(transport, "one", "date")
    assert count.read_text() == "run\n"
    assert (error.failure_class, error.sent) == ("network", True)


def test_a_host_that_goes_and_comes_back(bench, tmp_path):
    with tempfile.TemporaryDirectory(prefix="sshd-") as name:
        lost = Machine(Path(name))
        transport = bench.transport({"lost": lost.host()})
        transport.call("lost", "true", timeout_s=120)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(failure, transport, "lost", f"touch {tmp_path}/began; sleep 100")
            wait_until((tmp_path / "began").exists)
            lost.stop()
            error = call.result(50)
        assert (error.failure_class, error.sent) == ("network", True)
        assert error.evidence.startswith("the connection ended while the command ran")
        error = failure(transport, "lost")
        assert (error.failure_class, error.sent) == ("network", False)
        assert "Connection refused" in error.evidence
        lost.start()
        try:
            assert transport.call("lost", "echo back", timeout_s=120).stdout == "back\n"
        finally:
            lost.stop()


class Forwarder:
    """A TCP proxy that can stop to forward without a word."""

    def __init__(self, port):
        self.stopped = threading.Event()
        self.server = socket.create_server((ADDRESS, 0))
        self.port = self.server.getsockname()[1]
        self.target = port
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.server.accept()
                far = socket.create_connection((ADDRESS, self.target))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self.pump, args=pair, daemon=True).start()

    def pump(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self.stopped.is_set():
                    time.sleep(0.02)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.mark.slow
def test_a_black_hole_is_noticed(bench, machine):
    forwarder = Forwarder(machine.port)
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    host = machine.host(ansible_port=forwarder.port, ansible_ssh_common_args=options)
    transport = bench.transport({"hole": host})
    transport.call("hole", "true", timeout_s=120)
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(failure, transport, "hole", "sleep 200", 200.0)
        time.sleep(0.5)
        forwarder.stopped.set()
        error = call.result(100)
    assert (error.failure_class, error.sent) == ("network", True)
    error = failure(transport, "hole", timeout_s=200.0)
    assert (error.failure_class, error.sent) == ("network", False)
    assert "timed out" in error.evidence
    assert time.monotonic() - began < 180, "less than a call may take"
    forwarder.stopped.clear()
    assert transport.call("hole", "echo back", timeout_s=120).stdout == "back\n"
    forwarder.server.close()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["ansible-playbook", "transport.keeper"])
def test_a_relay_that_is_killed_is_started_again(bench, machine, victim):
    transport = bench.transport({"one": machine.host(), "two": machine.host()})
    transport.hosts("all")
    transport.call("two", "true", timeout_s=120)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(failure, transport, "one", "sleep 100")
        wait_until(lambda: below("sleep 100"))
        [keeper] = [process for process in ours() if "transport.keeper" in command_line(process)]
        [playbook] = keeper.children()
        (keeper if victim == "transport.keeper" else playbook).kill()
        error = call.result(50)
    assert (error.failure_class, error.sent) == ("network", True)
    for host in ("one", "two"):
        assert transport.call(host, "echo again", timeout_s=120).stdout == "again\n"
    transport.close()
    wait_until(lambda: not ours(), 20)
    assert os.listdir(tempfile.gettempdir()) == []


def test_nothing_is_left_after_close(bench, machine):
    transport = bench.transport({"one": machine.host(), "here": {"ansible_connection": "local"}})
    transport.close()  # nothing has begun
    transport = bench.transport({"one": machine.host(), "here": {"ansible_connection": "local"}})
    transport.hosts("all")
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(failure, transport, host, "sleep 100.5") for host in ("one", "here")]
        wait_until(lambda: {process.name() for process in below("sleep 100.5")} >= {"ssh", "sleep"})
        assert [process for process in ours() if "[mux]" in command_line(process)]
        began = time.monotonic()
        transport.close()
        assert time.monotonic() - began < 40
        assert [call.result(40).sent for call in calls] == [True, True]
    transport.close()
    wait_until(lambda: not ours(), 20)
    assert os.listdir(tempfile.gettempdir()) == []
    assert os.listdir(bench.folder / "private") == []
    assert failure(transport, "one").sent is False


CONTROLLER = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from ripresa.hosts.transport import Transport
transport = Transport([sys.argv[2]], sys.argv[3], print)
transport.hosts("all")
transport.call("one", "true", timeout_s=120)
print("ready", flush=True)
transport.call("one", "sleep 60", timeout_s=60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["start", "call"])
def test_nothing_is_left_of_a_killed_controller(machine, tmp_path, moment):
    inventory, folder = tmp_path / "inventory.json", tempfile.gettempdir()
    inventory.write_text(json.dumps({"all": {"hosts": {"one": machine.host()}}}))
    arguments = [folder, str(inventory), str(tmp_path / "private")]
    controller = subprocess.Popen([sys.executable, "-c", CONTROLLER, *arguments], stdout=subprocess.PIPE)
    try:
        if moment == "call":
            assert controller.stdout.readline() == b"ready\n"
            wait_until(lambda: [process for process in ours() if "sleep 60" in command_line(process)])
        else:
            wait_until(lambda: [process for process in ours() if "ansible-playbook" in command_line(process)])
    finally:
        controller.send_signal(signal.SIGKILL)
        controller.wait()
    wait_until(lambda: not ours(), 20)
    wait_until(lambda: os.listdir(folder) == [], 20)
    assert os.listdir(tmp_path / "private") == []

"""Every fault of the hosts, as ssh and the kernel report it, and its end."""

import os
import select
import socket
import time
from pathlib import Path

import pytest

from hosts.configuration import ADDRESSES
from hosts.conftest import wait_until

DETACHED = "setsid sleep {} >/dev/null 2>&1 </dev/null & exit"
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def works(ssh, host="h1"):
    return ssh(host, "echo works").stdout == "works\n"


def answer(session, seconds):
    """What a session says within so many seconds; None if it says nothing, b"" if it has ended."""
    if not select.select([session.stdout], [], [], seconds)[0]:
        return None
    return os.read(session.stdout.fileno(), 1000)


def lost(session):
    """Whether ssh says that it has lost the connection, which it notices when it reads or when it writes."""
    said = answer(session, 60)
    return b"reset by peer" in said or b"Broken pipe" in said


@pytest.fixture
def echo(ssh):
    """A session to h1 that answers with what it is told."""
    session = ssh.start("h1", "echo ready; exec cat")
    assert answer(session, 60) == b"ready\n"
    yield session
    session.kill()
    session.communicate()


def tell(session, text):
    session.stdin.write(text)
    session.stdin.flush()


def test_sshd_is_down_and_up(hosts, ssh, echo):
    ssh("h1", DETACHED.format(621))
    hosts.sshd_down("h1")
    assert b"closed" in answer(echo, 60)
    assert "Connection refused" in ssh("h1", "true").stdout
    # What a session ran notices by its channels only, and cat does.
    wait_until(lambda: [line for line in hosts.processes("h1") if line != "cat"] == ["sleep 621"])
    assert works(ssh, "h2")
    hosts.sshd_up("h1")
    assert works(ssh)


def test_a_power_cut_is_silent_and_takes_every_process(hosts, ssh, echo):
    ssh("h1", DETACHED.format(622))
    ssh("h1", "touch ~/kept /home/bench/kept /var/tmp/kept /tmp/lost /dev/shm/lost")
    before = ssh("h1", BOOT_ID).stdout
    hosts.power_off("h1")
    assert answer(echo, 0.3) is None
    with pytest.raises(TimeoutError):
        connect(hosts, 0.3)
    with pytest.raises(RuntimeError, match="the machine h1 is off"):
        hosts.execute("h1", "true")
    assert (hosts.disk("h1") / "homes/root/kept").exists()
    assert works(ssh, "h2")
    hosts.power_on("h1")
    assert lost(echo)
    assert hosts.processes("h1") == []
    assert ssh("h1", "ls ~ /home/bench /var/tmp /tmp /dev/shm").stdout.split() == [
        "/dev/shm:", "/home/bench:", "kept", "/root:", "kept", "/tmp:", "/var/tmp:", "kept",
    ]  # fmt: skip
    assert ssh("h1", BOOT_ID).stdout != before
    hosts.power_off("h1")
    hosts.power_on("h1", wiped=True)
    assert ssh("h1", "ls -A ~ /home/bench /var/tmp").stdout.split() == [
        "/home/bench:", "/root:", "/var/tmp:",
    ]  # fmt: skip


def connect(hosts, seconds):
    """A connection to h1. Raises TimeoutError if nothing answers."""
    return socket.create_connection((ADDRESSES["h1"], hosts.layout.port), timeout=seconds)


def test_connections_are_cut(hosts, ssh, echo):
    ssh("h1", DETACHED.format(623))
    with connect(hosts, 60) as raw:
        assert raw.recv(4) == b"SSH-"
        hosts.cut("h1")
        with pytest.raises(ConnectionResetError):
            raw.makefile("rb").read()
    assert lost(echo)
    assert works(ssh)
    wait_until(lambda: "sleep 623" in hosts.processes("h1"))


def test_packets_vanish_and_come_back(hosts, ssh, echo):
    hosts.black_hole("h1")
    tell(echo, b"lost?\n")
    assert answer(echo, 0.3) is None
    with pytest.raises(TimeoutError):
        connect(hosts, 0.3)
    assert hosts.execute("h1", "hostname") == "h1\n"
    assert works(ssh, "h2")
    hosts.heal("h1")
    assert answer(echo, 60) == b"lost?\n"
    assert works(ssh)


def test_what_ends_while_packets_vanish_is_not_told_before_they_pass(hosts, echo):
    hosts.black_hole("h1")
    hosts.execute("h1", "pkill -x cat")
    assert answer(echo, 0.3) is None
    hosts.heal("h1")
    assert answer(echo, 60) == b""


def test_a_cut_in_the_dark_leaves_no_connection_and_allows_none(hosts, echo):
    hosts.black_hole("h1")
    hosts.cut("h1")
    assert lost(echo)
    with pytest.raises(TimeoutError):
        connect(hosts, 0.3)


def test_a_dead_wire_is_replaced(hosts, ssh, echo):
    hosts.wires["h1"].kill()
    assert answer(echo, 60) is not None
    assert "Connection refused" in ssh("h1", "true").stdout
    hosts.heal("h1")
    assert works(ssh)


def test_the_disk_is_full(hosts, ssh):
    hosts.fill_disk("h1")
    for user in ("root", "bench"):
        assert "No space left on device" in ssh("h1", "echo x >x", user).stdout
    assert ssh("h1", "echo x >/tmp/x && echo x >/var/tmp/x").returncode == 0
    assert ssh("h2", "echo x >x").returncode == 0
    hosts.free_disk("h1")
    assert ssh("h1", "echo x >x").returncode == 0


def test_there_is_no_python(hosts, ssh):
    ssh("h1", "setsid python3 -c 'import time; time.sleep(624)' >/dev/null 2>&1 </dev/null & exit")
    wait_until(lambda: any(line.startswith("python3") for line in hosts.processes("h1")))
    hosts.no_python("h1")
    for name in ("python3", "/usr/bin/python3", "/usr/bin/python3.11"):
        done = ssh("h1", f"{name} -V")
        assert done.returncode == 127, done.stdout
        assert ssh("h1", f"command -v {name}").returncode != 0
    assert ssh("h1", "sudo -V && ls /usr/bin/env && ps").returncode == 0
    assert any("sleep(624)" in line for line in hosts.processes("h1"))
    assert ssh("h2", "python3 -V").returncode == 0
    hosts.python_back("h1")
    assert ssh("h1", "python3 -V").stdout.startswith("Python 3")


def test_the_host_key_is_another(hosts, ssh, echo):
    hosts.wrong_host_key("h1")
    assert "Host key verification failed" in ssh("h1", "true").stdout
    tell(echo, b"still here\n")
    assert answer(echo, 60) == b"still here\n"
    hosts.right_host_key("h1")
    assert works(ssh)


def test_the_key_is_revoked(hosts, ssh, echo):
    hosts.revoke_key("h1")
    for user in ("root", "bench"):
        assert "Permission denied (publickey)" in ssh("h1", "true", user).stdout
    tell(echo, b"still here\n")
    assert answer(echo, 60) == b"still here\n"
    hosts.grant_key("h1")
    assert works(ssh)


def test_every_fault_is_healed_between_tests(hosts, ssh):
    hosts.execute("h1", "touch ~/x /tmp/x; setsid sleep 625 >/dev/null 2>&1 &")
    for fault in ("fill_disk", "no_python", "wrong_host_key", "revoke_key", "sshd_down", "black_hole"):
        getattr(hosts, fault)("h1")
    hosts.power_off("h2")
    hosts.wires["h3"].kill()
    began = time.monotonic()
    hosts.restore()
    assert time.monotonic() - began < 60
    for host in hosts.names:
        assert ssh(host, "python3 -c 'open(\"/root/y\", \"w\").write(\"y\")'; ls ~ /tmp").stdout.split() == [
            "/root:", "y", "/tmp:",
        ]  # fmt: skip
        wait_until(lambda host=host: hosts.processes(host) == [])
    assert Path("/usr/bin/python3").exists()

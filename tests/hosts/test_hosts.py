"""The hosts themselves: that they are real in all that other tests build on, and gone when they are down."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hosts import Hosts
from hosts.configuration import ADDRESSES, PASSWORD
from hosts.conftest import wait_until
from machines import ports

CHECKOUT = Path(__file__).resolve().parents[2]
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
FOLDERS = ("/dev/shm", "/root", "/tmp", "/var/tmp")


@pytest.fixture
def state(hosts_possible):
    """A folder whose path is short enough for sockets, where hosts may live that are not the session's."""
    folder = Path(tempfile.mkdtemp(prefix="hosts-"))
    yield folder
    Hosts(folder).down()
    shutil.rmtree(folder, ignore_errors=True)


def test_each_is_a_host_of_its_own(hosts, ssh):
    own = Path(BOOT_ID.split()[1]).read_text()
    assert len({own, *(ssh(host, BOOT_ID).stdout for host in hosts.names)}) == 4
    for host in hosts.names:
        assert ssh(host, "hostname; cat /proc/1/comm").stdout.split() == [host, "sleep"]
    ssh("h1", f"touch {' '.join(f'{folder}/mine' for folder in FOLDERS)}")
    seen = "".join(f"{folder}:\n\n" for folder in FOLDERS)
    assert ssh("h2", f"ls -A {' '.join(FOLDERS)}").stdout == seen.rstrip("\n") + "\n"
    assert not any(Path(folder, "mine").exists() for folder in FOLDERS)


def test_nothing_is_shared_with_the_controller_but_the_system(hosts, ssh, tmp_path):
    for path in (CHECKOUT / "Snakefile", tmp_path, hosts.state, sys.executable):
        assert Path(path).exists()
        assert "No such file" in ssh("h1", f"ls {path}").stdout
    assert "No module named 'ripresa'" in ssh("h1", "python3 -c 'import ripresa'").stdout
    for folder in ("/", "/usr/bin", "/etc", "/opt", "/var/lib"):
        said = ssh("h1", f"touch {folder}/mine").stdout
        assert said == f"touch: cannot touch '{folder}/mine': Read-only file system\n"


def test_a_user_becomes_root_by_a_password_only(hosts, ssh):
    assert ssh("h1", "id -un; echo $HOME; touch ~/mine", user="bench").stdout == "bench\n/home/bench\n"
    assert ssh("h1", "sudo -n id -un", user="bench").returncode == 1
    assert ssh("h1", "sudo -S -p '' id -un", user="bench", given="wrong\n").returncode == 1
    assert ssh("h1", "sudo -S -p '' id -un", user="bench", given=f"{PASSWORD}\n").stdout == "root\n"


@pytest.mark.parametrize(("become", "group", "number"), [(False, "bench", 3), (True, "fast", 2)])
def test_ansible_enters_them(hosts, tmp_path, become, group, number):
    path, vault = hosts.inventory(tmp_path, become=become)
    arguments = ["--vault-password-file", vault] if vault else []
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible", "-i", path, group, *arguments, "-a", "id -un"],
        cwd=tmp_path,
        env=os.environ | {"ANSIBLE_SSH_ARGS": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.count("rc=0 >>\nroot\n") == number, done.stdout + done.stderr
    assert PASSWORD not in path.read_text()


def test_processes_and_files_are_found(hosts, ssh):
    assert [hosts.processes(host) for host in hosts.names] == [[], [], []]
    assert [hosts.files(host) for host in hosts.names] == [[], [], []]
    ssh("h1", "mkdir -p .ripresa/runs; touch .ripresa/x /tmp/y other", user="bench")
    ssh("h1", "touch /dev/shm/z; setsid sleep 611 >/dev/null 2>&1 </dev/null & exit")
    wait_until(lambda: hosts.processes("h1") == ["sleep 611"])
    bench = "/home/bench/.ripresa"
    assert hosts.files("h1") == ["/dev/shm/z", bench, f"{bench}/runs", f"{bench}/x", "/tmp/y"]
    assert hosts.processes("h2") == hosts.files("h2") == []
    session = ssh.start("h2", "sleep 612")
    wait_until(lambda: "sleep 612" in hosts.processes("h2"))
    assert "sshd: root@notty" in hosts.processes("h2")
    session.kill()
    session.communicate()


def test_sockets_of_the_controller_are_found(hosts, ssh, state):
    command = ssh.command("h1", "true")
    control = ["-o", "ControlMaster=auto", "-o", f"ControlPath={state}/%C", "-o", "ControlPersist=60"]
    subprocess.run([command[0], *control, *command[1:]], check=True, timeout=120, stderr=subprocess.DEVNULL)
    assert [path.parent for path in Hosts.control_sockets(state)] == [state]
    # The master belongs to a connection, so it ends with that one.
    hosts.cut("h1")
    wait_until(lambda: Hosts.control_sockets(state) == [])


def test_orphans_are_buried(hosts):
    hosts.execute("h1", "sh -c 'sleep 0.1 & sleep 0.05 & exit 0'")
    wait_until(lambda: hosts.processes("h1") == [])
    assert "Z" not in hosts.execute("h1", "ps -e -o stat=")


def test_shared_hosts_have_files_in_common_with_us(shared_hosts, tmp_path):
    (tmp_path / "input").write_text("read\n")
    reading = f"cat {tmp_path}/input; echo written >{tmp_path}/output; ls {CHECKOUT}/Snakefile"
    assert shared_hosts.execute("h3", reading).split() == ["read", f"{CHECKOUT}/Snakefile"]
    assert (tmp_path / "output").read_text() == "written\n"
    assert shared_hosts.execute("h3", f"{sys.executable} -c 'import yaml'; ls -A /var/tmp /dev/shm")
    assert shared_hosts.files("h3") == []


def spaces(hosts):
    """The namespaces by which processes of the hosts can be told."""
    machines = (hosts.keeper, *hosts.machines.values())
    return {os.readlink(f"/proc/{machine.holder}/ns/uts") for machine in machines if machine.up()}


def inside(spaces):
    """All living processes in these namespaces, by number and start, for both are used again."""
    found = set()
    for space in Path("/proc").glob("[0-9]*/ns/uts"):
        with contextlib.suppress(OSError):
            if os.readlink(space) in spaces:
                found.add((space.parts[2], (space.parents[1] / "stat").read_text().split()[21]))
    return found


def gone(hosts, spaces):
    listening = (
        ports.listening(port, address)
        for port in (hosts.layout.port, hosts.layout.sshd_port)
        for address in ADDRESSES.values()
    )
    mounts = Path("/proc/self/mountinfo").read_text()
    return not (inside(spaces) or any(listening) or hosts.state.exists() or str(hosts.state) in mounts)


def test_nothing_is_left_of_hosts_that_are_down(state):
    hosts = Hosts(state)
    hosts.up()
    hosts.execute("h1", "setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 613; done' >/dev/null 2>&1 &")
    known = spaces(hosts)
    hosts.power_off("h3")
    assert len(inside(known)) > 10
    hosts.down()
    assert gone(hosts, known)


def test_tied_hosts_end_with_their_process(state):
    program = (
        "import sys, time; from pathlib import Path; from hosts import Hosts\n"
        "Hosts(Path(sys.argv[1])).up(tied=True); print('up', flush=True); time.sleep(600)"
    )
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "tests")}
    with subprocess.Popen(
        [sys.executable, "-c", program, state], env=environment, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout and owner.stdout.readline() == "up\n"
        hosts = Hosts(state)
        known = spaces(hosts)
        owner.kill()
    wait_until(lambda: gone(hosts, known))


@pytest.mark.parametrize(("file", "again"), [("h2.machine", "up"), ("h1.pid", "down")])
def test_what_a_killed_up_leaves_is_cleaned(state, file, again):
    call = [sys.executable, str(CHECKOUT / "tests" / "hosts"), "--state", str(state)]
    with subprocess.Popen([*call, "up"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as first:
        wait_until((state / "run" / file).exists)
        first.kill()
    left = Hosts(state)
    wait_until(left.keeper.up)
    known = spaces(left)
    before = inside(known)
    done = subprocess.run([*call, again], capture_output=True, text=True, check=True, timeout=120)
    assert before and not before & inside(known)
    if again == "up":
        assert done.stderr.startswith("h1 h2 h3 ready after ")
        assert Hosts(state).execute("h3", "hostname") == "h3\n"
    else:
        assert not state.exists()


def test_a_folder_of_something_else_is_left_alone(state):
    (state / "mine").touch()
    with pytest.raises(RuntimeError, match="is not empty"):
        Hosts(state).up()
    assert (state / "mine").exists()

"""The hosts as tests hold them: up and down, every fault, and all that a judge can ask."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hosts import configuration, furnishing, inventory, witness
from hosts.configuration import ADDRESSES, NAMES, USER, USER_ID, Layout
from hosts.host import Host
from hosts.inventory import Inventory
from hosts.witness import Execution
from machines import Daemon, Machine, ports

WIRE = Path(__file__).with_name("wire.py")
FULL = "full"  # the file that takes up the room


class Hosts:
    """Three hosts in the folder ``state``; nothing runs before `up`.

    Each is a machine with an own host name, processes, users, homes, temporary folders and sshd; they share
    with this machine the kernel, its network and, read-only, its system. ``shared`` hosts have the checkout,
    Python's environment and the folder for temporary files in common with it.

    Methods that take a host take its name, e.g. "h1".
    """

    names = NAMES

    def __init__(self, state: Path, shared: bool = False) -> None:
        self.state = state.resolve()
        self._shared = shared
        self.layout = Layout.load(self.state) or self._new_layout()
        self._lifeline: int | None = None
        self._make(tied=False)

    def _new_layout(self) -> Layout:
        return Layout(self.state, ports.free(2, tuple(ADDRESSES.values())), self._shared)

    def _make(self, tied: bool) -> None:
        layout, run = self.layout, self.layout.run
        self.keeper = Machine(
            "keeper",
            run / "keeper.machine",
            furnishing.keeper(layout),
            namespaces=("mount", "uts", "pid"),
            sleep=furnishing.keeper_sleep(layout, tied),
        )
        self.machines = {host: Host(layout, host, self.keeper) for host in NAMES}
        self.wires = {
            host: Daemon(
                self.keeper,
                ("setsid", "--fork", sys.executable, "-IS", str(WIRE), address,
                 *map(str, (layout.port, layout.sshd_port, self._orders(host), run / f"{host}.pid"))),
                run / f"{host}.pid",
                log=run / f"{host}.log",
                ready=lambda: True,
            )
            for host, address in ADDRESSES.items()
        }  # fmt: skip

    # -- up and down

    def up(self, tied: bool = False) -> None:
        """Bring up all hosts, fresh: what an earlier set has left in the folder is removed first.

        Hosts that are ``tied`` end, and their folder with them, when this process does, however that happens.
        """
        if self.state.exists() and any(self.state.iterdir()) and not (self.state / "hosts.json").exists():
            raise RuntimeError(f"{self.state} is not empty, and what is in it are no hosts")
        self.down()
        self.layout = self._new_layout()
        self._make(tied)
        self._write()
        if tied:
            end, self._lifeline = os.pipe()
            with open(end, "rb") as stdin:
                self.keeper.power_on(stdin)
        else:
            self.keeper.power_on()
        self._everywhere(self._renew)

    def down(self) -> None:
        """End every process of the hosts, and delete their folder."""
        if Layout.load(self.state) is not None:
            for machine in (*self.machines.values(), self.keeper):
                machine.remove()
            shutil.rmtree(self.state)
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    def restore(self) -> None:
        """As after `up`: no fault, no process, no file but those of a fresh host; connections are cut."""
        self._everywhere(self._renew)

    def _renew(self, host: str) -> None:
        self.wires[host].start()
        if self.machines[host].up():
            self.power_off(host)
        self._put_key(host, "right")
        self.grant_key(host)
        self.power_on(host, wiped=True)

    # -- faults, each with its end

    def sshd_down(self, host: str) -> None:
        """End sshd and its sessions: connections end, new ones are refused, and what was detached goes on."""
        self._order(host, "closed")
        self.machines[host].kill_sshd()

    def sshd_up(self, host: str) -> None:
        """Start sshd there unless it runs; connections are accepted again."""
        self.machines[host].start_sshd()
        self._order(host, "open")

    def power_off(self, host: str) -> None:
        """Cut the power: every process is gone at once and nobody is told; connections just fall silent.

        What stays are the homes and /var/tmp.
        """
        self._order(host, "silent")
        self.machines[host].remove()

    def power_on(self, host: str, wiped: bool = False) -> None:
        """Boot a host that is off, with another boot id, and with fresh disks if they are to be ``wiped``.

        It answers by a reset to what is left of connections of before.
        """
        if self.machines[host].up():
            raise RuntimeError(f"{host} is on")
        if wiped:
            self._format(host)
        self.layout.boot_id(host).write_text(f"{uuid.uuid4()}\n")
        self.machines[host].power_on()
        self._order(host, "cut")
        self.sshd_up(host)

    def cut(self, host: str) -> None:
        """Reset the established connections; new ones are possible at once, unless a fault prevents them."""
        self._order(host, "cut")

    def black_hole(self, host: str) -> None:
        """Let packets to and from the host vanish: nothing arrives, and nobody is told."""
        self._order(host, "silent")

    def heal(self, host: str) -> None:
        """End a `black_hole`, of which connections recover, or make a wire anew that was killed."""
        self._order(host, "open")

    def fill_disk(self, host: str) -> None:
        """Leave no room in the file system of the homes there."""
        with contextlib.suppress(OSError), open(self.disk(host) / "homes" / FULL, "ab", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    def free_disk(self, host: str) -> None:
        """End `fill_disk`."""
        (self.disk(host) / "homes" / FULL).unlink(missing_ok=True)

    def no_python(self, host: str) -> None:
        """Let there be no Python: no python3 is found by name or path. What runs already goes on."""
        self.execute(
            host,
            "mkdir /run/bin /run/bin/all /run/bin/less\n"
            "mount --bind /usr/bin /run/bin/all\n"
            "cp -rs /run/bin/all/. /run/bin/less && rm -f /run/bin/less/python*\n"
            "mount --bind /run/bin/less /usr/bin\n",
        )

    def python_back(self, host: str) -> None:
        """End `no_python`."""
        self.execute(host, "umount --lazy /usr/bin && umount --lazy /run/bin/all && rm -r /run/bin")

    def wrong_host_key(self, host: str) -> None:
        """Give the host another key than the one the inventory knows; connections that exist go on."""
        self._put_key(host, "wrong")
        self.machines[host].restart_sshd()

    def right_host_key(self, host: str) -> None:
        """End `wrong_host_key`."""
        self._put_key(host, "right")
        self.machines[host].restart_sshd()

    def revoke_key(self, host: str) -> None:
        """Let nobody log in there any more; connections that exist go on."""
        for file in self._authorized(host):
            file.write_text("")

    def grant_key(self, host: str) -> None:
        """End `revoke_key`."""
        for file in self._authorized(host):
            file.write_text(self.layout.key.with_suffix(".pub").read_text())

    # -- what a controller gets, and what a judge asks

    def inventory(self, folder: Path, become: bool = False) -> Inventory:
        """Write an inventory of the hosts into a folder, with what belongs to it: see `inventory.write`."""
        return inventory.write(self.layout, folder, become)

    def execute(self, host: str, command: str, seconds: float = 60) -> str:
        """Standard output of lines of sh run by root on a host, not through ssh.

        Raises CalledProcessError, with all that it said as a note, if it fails.
        """
        return self.machines[host].execute(command, seconds)

    def processes(self, host: str) -> list[str]:
        """The command lines of all that runs on a host but its first process and the sshd that listens.

        Sessions of sshd count, also those that a client keeps for later; zombies do not.
        """
        return self.machines[host].command_lines()

    def files(self, host: str) -> list[str]:
        """All paths on a host in and below .ripresa of every home, and below /tmp and /dev/shm.

        A host that is off has the homes only, and of a shared one /tmp does not count.
        """
        homes = self.disk(host) / "homes"
        tops = {home / ".ripresa": f"/{home.relative_to(homes)}/.ripresa" for home in _homes(homes)}
        found = [name for path, name in tops.items() if path.exists()]
        if (holder := self.machines[host].holder) is not None:
            memory = ("/dev/shm",) if self.layout.shared else ("/dev/shm", "/tmp")
            tops |= {Path(f"/proc/{holder}/root{name}"): name for name in memory}
        for top, shown in tops.items():
            for folder, folders, files in os.walk(top):
                place = shown + folder.removeprefix(str(top))
                found += [f"{place}/{name}" for name in (*folders, *files)]
        return sorted(found)

    def disk(self, host: str) -> Path:
        """Where this process sees the disk of a host, also while it is off: folders ``homes`` and ``var``."""
        if (keeper := self.keeper.holder) is None:
            raise RuntimeError(f"no hosts in {self.state}")
        return Path(f"/proc/{keeper}/root{self.layout.disk(host)}")

    def witnessed(self) -> dict[str, list[Execution]]:
        """The executions of each target that witnesses saw on any host, also on one that is off."""
        logs = {host: self.disk(host) / "var" / Path(witness.LOG).name for host in NAMES}
        return witness.executions((host, log.read_text()) for host, log in logs.items() if log.exists())

    @staticmethod
    def control_sockets(folder: Path) -> list[Path]:
        """The sockets below a folder of the controller, e.g. those of ssh connections kept for later."""
        return sorted(path for path in folder.rglob("*") if path.is_socket())

    # -- inside

    def _write(self) -> None:
        layout = self.layout
        for folder in (layout.run, layout.key.parent):
            folder.mkdir(parents=True)
        # Its users look into the folders of their host, but nobody else has a way to the keys.
        self.state.chmod(0o711)
        layout.key.parent.chmod(0o700)
        layout.save()
        keys = [layout.key, *(layout.host_key(host, kind) for host in NAMES for kind in ("right", "wrong"))]
        for key in keys:
            key.parent.mkdir(parents=True, exist_ok=True)
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)]
            subprocess.run(make, check=True, stdin=subprocess.DEVNULL)
        for host in NAMES:
            for name, (mode, text) in configuration.etc_files(layout, host).items():
                file = layout.etc(host) / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
                file.chmod(mode)
            layout.tools(host).mkdir()
            witness.install(layout.tools(host))

    def _format(self, host: str) -> None:
        """Make the disk of a host that is off a fresh one."""
        homes, var = self.disk(host) / "homes", self.disk(host) / "var"
        for path in (*homes.iterdir(), *var.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        for home in ("root", f"home/{USER}"):
            (homes / home).mkdir(parents=True)
            (homes / home).chmod(0o700)
        os.chown(homes / "home" / USER, USER_ID, USER_ID)

    def _put_key(self, host: str, kind: str) -> None:
        installed = self.layout.etc(host) / "ssh" / "host_key"
        installed.touch(mode=0o600)
        installed.write_bytes(self.layout.host_key(host, kind).read_bytes())

    def _authorized(self, host: str) -> list[Path]:
        return [self.layout.etc(host) / "ssh" / "authorized_keys" / user for user in ("root", USER)]

    def _orders(self, host: str) -> Path:
        return self.layout.run / f"{host}.orders"

    def _order(self, host: str, order: str) -> None:
        """Have the wire of a host do something; see wire.py. One that was killed is made anew."""
        self.wires[host].start()
        with socket.socket(socket.AF_UNIX) as orders:
            orders.settimeout(10)
            orders.connect(str(self._orders(host)))
            orders.sendall(f"{order}\n".encode())
            if orders.recv(16) != b"done\n":
                raise RuntimeError(
                    f"the wire to {host} does not obey:\n{self.wires[host].log.read_text()[-2000:]}"
                )

    @staticmethod
    def _everywhere(do: Callable[[str], None]) -> None:
        with ThreadPoolExecutor(len(NAMES)) as threads:
            for _ in threads.map(do, NAMES):
                pass


def _homes(homes: Path) -> list[Path]:
    return [homes / "root", *(homes / "home").iterdir()]

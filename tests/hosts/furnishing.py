"""How the machines of a set of hosts are furnished: lines of sh, run in their own namespaces."""

import shlex
import sys
import tempfile
from pathlib import Path

from hosts.configuration import HOME_MB, NAMES, Layout
from machines.machine import SLEEP

CHECKOUT = Path(__file__).resolve().parents[2]
# Part of the operating system, or a host's own anyway.
NOT_FOREIGN = ("/usr", "/root", "/home", "/tmp")


def foreign(layout: Layout) -> list[Path]:
    """What of the controller's no host may see, outermost folders only."""
    found = {CHECKOUT, Path(sys.prefix), Path(sys.base_prefix), Path.home(), layout.state}
    found = {path for path in found if not any(path.is_relative_to(own) for own in NOT_FOREIGN)}
    return sorted(path for path in found if not any(path.is_relative_to(o) for o in found - {path}))


def common(layout: Layout) -> list[Path]:
    """What a host sees as the controller does, where they share a file system."""
    if not layout.shared:
        return []
    found = [Path(tempfile.gettempdir()), CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)]
    return [path for path in dict.fromkeys(found) if not path.is_relative_to("/usr")]


def keeper(layout: Layout) -> list[str]:
    """The disks of all hosts. They are nowhere else, so they are gone with the keeper whatever happens."""
    lines = []
    for host in NAMES:
        for name, options in (("homes", f"mode=755,size={HOME_MB}m"), ("var", "mode=1777")):
            path = shlex.quote(str(layout.disk(host) / name))
            lines += [f"mkdir -p {path}", _memory(path, options)]
    return lines


def keeper_sleep(layout: Layout, tied: bool) -> str:
    """How long the keeper lives: for ever, or, if it is tied, until nobody has the other end of its stdin.

    Then it removes the files of the hosts, and takes all their processes with it.
    """
    if not tied:
        return SLEEP
    disks = " ".join(
        shlex.quote(f"{layout.disk(host)}/{name}") for host in NAMES for name in ("homes", "var")
    )
    return f"cat\numount --lazy {disks}\nrm -rf {shlex.quote(str(layout.state))}"


def host(layout: Layout, name: str) -> list[str]:
    """Its own /etc, disks, memory and boot id, and nothing of the controller's but the read-only system."""
    disk, etc = layout.disk(name), layout.etc(name)
    kept = {path: f"/run/common/{number}" for number, path in enumerate(common(layout))}
    lines = [
        "mount -t proc proc /proc",
        _bind(layout.boot_id(name), "/proc/sys/kernel/random/boot_id"),
        *(
            _bind(etc / file, f"/etc/{file}")
            for file in ("passwd", "shadow", "group", "hosts", "ssh", "sudoers.d")
        ),
        _bind(layout.tools(name), "/srv"),
        _memory("/run", "mode=755"),
        "mkdir /run/sshd",
        _memory("/dev/shm", "mode=1777"),
    ]
    for path, place in kept.items():
        lines += [f"mkdir -p {place}", _bind(path, place)]
    lines += [
        _bind(disk / "var", "/var/tmp"),
        _bind(disk / "homes/root", "/root"),
        _bind(disk / "homes/home", "/home"),
    ]
    if not layout.shared:
        lines += [_memory(shlex.quote(str(path)), "mode=000,ro") for path in foreign(layout)]
        lines.append(_memory("/tmp", "mode=1777"))
    for path, place in kept.items():
        lines += [f"mkdir -p {shlex.quote(str(path))}", f"mount --move {place} {shlex.quote(str(path))}"]
    return [*lines, "mount -o remount,bind,ro /"]


def _bind(source: Path, target: str) -> str:
    return f"mount --bind {shlex.quote(str(source))} {shlex.quote(target)}"


def _memory(quoted: str, options: str) -> str:
    return f"mount -t tmpfs -o {options} ripresa {quoted}"

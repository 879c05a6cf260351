"""States of the units that a controller follows, and the wait until one of them has ended."""

from __future__ import annotations

import contextlib
import os
import select
import time

from ripresa.hosts.agent import data, folders, sight
from ripresa.hosts.agent import result as results
from ripresa.hosts.agent.units import Unit
from ripresa.journal import clock, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ripresa.journal.paths import Run

_LOOK_S = 5.0
_DYING_S, _MOMENT_S = 1.0, 0.02
"""A killed process closes its files some moments before it counts as gone."""
_INLINE = 128_000
"""Logs and outputs of up to so many bytes are told at once; more is to be fetched."""
_STDOUT = 1


class Door:
    """Where a waiting call can be rung at: a pipe under the name that the controller gave it."""

    def __init__(self, run: Run, name: str | None) -> None:
        self._path = _door(run, name or "")
        self.fd: int | None = None
        if name is None:
            return
        try:
            folders.make(os.path.dirname(self._path))
            os.mkfifo(self._path, 0o600)
            self.fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return  # a file system without pipes: nobody can ring, and the wait takes as long as it was to

    def close(self) -> None:
        """Be there no more."""
        if self.fd is not None:
            os.close(self.fd)
            with contextlib.suppress(OSError):
                os.unlink(self._path)


def ring(run: Run, door: str) -> dict[str, Any]:
    """Have the call that waits at a door answer at once; ``rung`` tells whether it was there."""
    try:
        fd = os.open(_door(run, door), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return {"rung": False}
    os.write(fd, b".")
    os.close(fd)
    return {"rung": True}


def _door(run: Run, name: str) -> str:
    return f"{run.dir}/doors/{name}"


def follow(run: Run, wanted: dict[str, str], wait_s: float, door_name: str | None = None) -> dict[str, Any]:
    """The state of each followed unit (key -> token), as soon as one of them runs no more.

    Nothing is looked at in between but pipes, which the ends of supervisors close: what is being measured is
    not to be disturbed. Returns after ``wait_s`` s at the latest, when the connection is gone, and when
    another call rings at its door, as it does when there is more to follow.
    """
    end = time.monotonic() + wait_s
    poll = select.poll()
    poll.register(_STDOUT, 0)
    units = {key: Unit(run, key) for key in wanted}
    # Heard before they are looked at, so that no end falls in between.
    bells = {fd for unit in units.values() if wait_s > 0 and (fd := unit.listen()) is not None}
    for fd in bells:
        poll.register(fd, 0)
    door = Door(run, door_name)
    if door.fd is not None:
        poll.register(door.fd, select.POLLIN)
    rung = -_DYING_S
    try:
        while True:
            states = {key: state(units[key], token) for key, token in wanted.items()}
            left = end - time.monotonic()
            if left <= 0 or any(one["state"] != sight.RUNNING for one in states.values()):
                return states
            pause = _MOMENT_S if time.monotonic() < rung + _DYING_S else _LOOK_S
            for fd, _ in poll.poll(1000 * min(left, pause)):
                if fd in (_STDOUT, door.fd):
                    return states
                poll.unregister(fd)
                rung = time.monotonic()
    finally:
        door.close()
        for fd in bells:
            os.close(fd)


def state(unit: Unit, token: str) -> dict[str, Any]:
    """What a controller is told of an attempt."""
    there = sight.look(unit)
    if there.token is None:
        return {"state": sight.UNKNOWN}
    if there.token != token:
        return {"state": sight.UNKNOWN, "token": there.token, "attempt": there.identity["attempt"]}
    if there.state == sight.RUNNING:
        status = records.read_json(unit.status)
        status = status if isinstance(status, dict) else {}
        since = clock.seconds(there.owner.get("started"))
        return {
            "state": sight.RUNNING,
            "progress": status.get("progress", {}),
            "since_s": round(max(0.0, time.time() - since), 1) if since else 0.0,
            "rss_mb": status.get("rss_mb"),
        }
    return {
        "state": sight.ENDED,
        "result": there.result,
        **{
            what: data.read(path, 0, size)
            for what, path in (("log", unit.log), ("outputs", unit.outputs))
            if (size := results.size_of(path)) is not None and size <= _INLINE
        },
    }

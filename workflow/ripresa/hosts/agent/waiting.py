"""States of the units that a controller follows, and the wait until one of them has ended."""

from __future__ import annotations

import os
import select
import time

from ripresa.hosts.agent import data, sight
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


def follow(run: Run, wanted: dict[str, str], wait_s: float) -> dict[str, Any]:
    """The state of each followed unit (key -> token), as soon as one of them runs no more.

    Nothing is looked at in between but pipes, which the ends of supervisors close: what is being measured
    is not to be disturbed. Returns after ``wait_s`` s at the latest, and when the connection is gone.
    """
    end = time.monotonic() + wait_s
    poll = select.poll()
    poll.register(_STDOUT, 0)
    units = {key: Unit(run, key) for key in wanted}
    # Heard before they are looked at, so that no end falls in between.
    bells = {fd for unit in units.values() if wait_s > 0 and (fd := unit.listen()) is not None}
    for fd in bells:
        poll.register(fd, 0)
    rung = -_DYING_S
    try:
        while True:
            states = {key: state(units[key], token) for key, token in wanted.items()}
            left = end - time.monotonic()
            if left <= 0 or any(one["state"] != sight.RUNNING for one in states.values()):
                return states
            pause = _MOMENT_S if time.monotonic() < rung + _DYING_S else _LOOK_S
            for fd, _ in poll.poll(1000 * min(left, pause)):
                if fd == _STDOUT:
                    return states
                poll.unregister(fd)
                rung = time.monotonic()
    finally:
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

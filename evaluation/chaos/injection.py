"""Faults from outside while a campaign runs: processes killed and stopped, files torn, clocks that jumped."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from chaos.campaign import Campaign
from chaos.catalogue import Unit
from chaos.ledger import Entry, Ledger
from ripresa.journal import clock, leases, records

DAY_S = 86400.0
TORN = b'{"type": "unit_end", "attempt": 1, "outcome": "publ'


class Injector(threading.Thread):
    """Does to each unit what its kind says, once, as soon as the unit is ready for it.

    ``struck`` has the moment of each injection by the name of the unit.
    """

    def __init__(self, campaign: Campaign) -> None:
        super().__init__(daemon=True)
        self.campaign = campaign
        self.struck: dict[str, float] = {}
        self._ledger = Ledger(campaign.judge / "ledger")
        self._pending: list[tuple[Unit, Entry]] = []
        self._over = threading.Event()
        self._acts: dict[str, Callable[[Unit, Entry], bool]] = {
            "kill_command": self._kill_command,
            "kill_guard": self._kill_guard,
            "kill_holder": self._kill_holder,
            "stop": self._halt,
            "torn_lease": self._tear_lease,
            "torn_attempts": self._tear_attempts,
            "torn_events": self._tear_events,
            "torn_breakers": self._tear_breakers,
            "clock_ahead": lambda unit, _: self._shift(unit, DAY_S),
            "clock_behind": lambda unit, _: self._shift(unit, -DAY_S),
        }

    def run(self) -> None:
        while not self._over.wait(0.05):
            for entry in self._ledger.read():
                unit = self.campaign.by_name[entry.unit]
                wanted = "ready" if unit.kind.fault == "outside" else "fault"
                if unit.kind.outside and entry.what == wanted and unit.name not in self.struck:
                    self._pending.append((unit, entry))
            self._pending = [(unit, entry) for unit, entry in self._pending if not self._strike(unit, entry)]

    def end(self) -> None:
        self._over.set()
        self.join()

    def _strike(self, unit: Unit, entry: Entry) -> bool:
        """Try once; the unit may not have come so far. True when done, or too late."""
        now = time.time()
        with contextlib.suppress(OSError):
            if self._acts[unit.kind.outside](unit, entry):
                self.struck[unit.name] = entry.at if unit.kind.fault == "text" else now
                return True
        return now - entry.at > unit.kind.long_s

    def _kill_command(self, unit: Unit, entry: Entry) -> bool:
        self.campaign.kill(entry.pid, whole=bool(unit.number % 2))
        return True

    def _halt(self, unit: Unit, entry: Entry) -> bool:
        self.campaign.kill(entry.pid, signal.SIGSTOP, whole=bool(unit.number % 2))
        return True

    def _guard(self, unit: Unit) -> int | None:
        owner = leases.owner(self.campaign.run.lease(unit.target)) or {}
        return int(owner["pid"]) if owner.get("group") else None

    def _kill_guard(self, unit: Unit, _: Entry) -> bool:
        guard = self._guard(unit)
        if guard is None:
            return False
        os.kill(guard, signal.SIGKILL)
        return True

    def _kill_holder(self, unit: Unit, entry: Entry) -> bool:
        """Kill the guard that has the device, and every other time its command too."""
        if not self._kill_guard(unit, entry):
            return False
        if unit.number % 2:
            self.campaign.kill(entry.pid, whole=True)
        return True

    def _tear_lease(self, unit: Unit, _: Entry) -> bool:
        guard = self._guard(unit)
        if guard is None:
            return False
        path = self.campaign.run.lease(unit.target)
        os.truncate(path, os.stat(path).st_size // 2)
        os.kill(guard, signal.SIGKILL)
        return True

    def _waits(self, unit: Unit) -> bool:
        """Whether the unit has failed and waits for its retry, so that nobody writes its records."""
        path = self.campaign.run.attempts(unit.target)
        return bool(records.read(path)) and not os.path.exists(self.campaign.run.lease(unit.target))

    def _tear_attempts(self, unit: Unit, _: Entry) -> bool:
        if not self._waits(unit):
            return False
        path = Path(self.campaign.run.attempts(unit.target))
        data = path.read_bytes()
        path.write_bytes(data + TORN if unit.number % 2 else data[: len(data) // 2])
        return True

    def _tear_events(self, unit: Unit, _: Entry) -> bool:
        with open(self.campaign.run.events, "ab") as file:
            file.write(TORN)
        return True

    def _tear_breakers(self, unit: Unit, _: Entry) -> bool:
        Path(self.campaign.run.breakers).write_bytes(b'{"service:archive": {"state": "op')
        return True

    def _shift(self, unit: Unit, seconds: float) -> bool:
        """Make the last record what a clock that was wrong by so much would have written."""
        if not self._waits(unit):
            return False
        path = Path(self.campaign.run.attempts(unit.target))
        *lines, last = path.read_bytes().splitlines(keepends=True)
        record = json.loads(last)
        for name in ("started", "ended", "not_before"):
            if record.get(name):
                record[name] = clock.iso(clock.seconds(record[name]) + seconds)
        path.write_bytes(b"".join(lines) + json.dumps(record).encode() + b"\n")
        return True

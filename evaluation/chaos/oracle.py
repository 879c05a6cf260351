"""The oracle: an operator who knows the truth and does what is needed to finish, but nothing else.

Every action is counted, by the same rules for every way of running:

- ``call``: snakemake is called again, once for all units that are left; it waits until no outage lasts.
- ``kill``: a command that hangs is ended, where nothing else ended it within a time of patience.
- ``stop``: a controller that does nothing any more is ended.
- ``unlock``: the lock of a killed snakemake is removed.
- ``delete``: a wrong output, or a record that keeps a unit from running, is deleted.
- ``resize``: a unit gets the memory or the batch it needs.
- ``release``: a unit is released from quarantine.
- ``repair``: the cause of a permanent failure is repaired. This has to be done in every case.

Looking, reading logs and deciding cost the oracle nothing: a real operator has more to do.
"""

import contextlib
import os
import signal
import subprocess
import time
from typing import NamedTuple

from chaos.campaign import OURS, Campaign
from chaos.catalogue import LASTING, PERMANENT, Unit
from chaos.ledger import Ledger
from ripresa.journal import attempts, clock

ROUNDS = 8


class Action(NamedTuple):
    """``unit`` is the name of the unit it was done to; None for what concerns the whole campaign."""

    what: str
    unit: str | None
    recoverable: bool
    """Whether it was needed for something that should have recovered."""


class Oracle:
    """The operator of one campaign."""

    def __init__(self, campaign: Campaign, *, patience_s: float) -> None:
        self.campaign = campaign
        self.patience_s = patience_s
        self.idle_s = 45 * 60 * 1.2 * campaign.time_scale + 25
        self.actions: list[Action] = []
        self.helped: set[str] = set()
        self.false_success: set[str] = set()
        self.repaired: dict[str, float] = {}
        self._ledger = Ledger(campaign.judge / "ledger")
        self._killed: set[int] = set()

    def finish(self) -> None:
        """Call snakemake until every unit has its right output, with all that takes."""
        self.attend(self.campaign.start())
        self.go_on()

    def go_on(self) -> None:
        """The same after the first call has ended."""
        for _ in range(ROUNDS):
            left = [unit for unit in self.campaign.units if not self.right(unit)]
            if not left:
                return
            self._repair(left)
            self._wait_for_outages(left)
            recoverable = any(unit.kind.truth not in (PERMANENT, LASTING) for unit in left)
            self.actions.append(Action("call", None, recoverable))
            self.helped |= {unit.name for unit in left}
            self.attend(self.campaign.start())

    def right(self, unit: Unit) -> bool:
        """Whether the target of a unit holds what it must."""
        try:
            return self.campaign.path(unit).read_bytes() == unit.reference
        except OSError:
            return False

    def attend(self, controller: "subprocess.Popen[bytes]") -> None:
        """Stay with a running snakemake until it ends."""
        moved = time.monotonic()
        while controller.poll() is None:
            time.sleep(0.2)
            if self._ledger.read():
                moved = time.monotonic()
            self._end_what_hangs()
            if time.monotonic() - moved > self.idle_s:
                self.actions.append(Action("stop", None, True))
                controller.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    controller.wait(10)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(controller.pid, signal.SIGKILL)
                controller.wait()
        self._ledger.read()

    def _end_what_hangs(self) -> None:
        now = time.time()
        for name, entries in self._ledger.of.items():
            unit = self.campaign.by_name[name]
            hangs = unit.kind.fault in ("hang", "livelock") or unit.kind.outside == "stop"
            newest = entries[-1]
            if not hangs or newest.what not in ("fault", "ready") or newest.pid in self._killed:
                continue
            if now - newest.at > self.patience_s and os.path.exists(f"/proc/{newest.pid}"):
                self._killed.add(newest.pid)
                self.campaign.kill(newest.pid)
                self._act("kill", unit)

    def _act(self, what: str, unit: Unit) -> None:
        permanent = unit.kind.truth in (PERMANENT, LASTING)
        self.actions.append(Action(what, unit.name, not permanent))
        if not permanent:
            self.helped.add(unit.name)

    def _repair(self, left: list[Unit]) -> None:
        release = []
        for unit in left:
            path = self.campaign.path(unit)
            if path.exists():
                # It was taken for a result and is none.
                self.false_success.add(unit.name)
                self._act("delete", unit)
                path.unlink()
            if unit.plan["cure"] == "repair" and unit.name not in self.repaired:
                self.campaign.own(unit, "repaired").touch()
                self.repaired[unit.name] = time.time()
                self._act("repair", unit)
            if self.campaign.mode == OURS:
                last = attempts.last(self.campaign.run, unit.target)
                if last.get("decision") == "quarantine":
                    release.append(unit)
                    self._act("release", unit)
                elif clock.seconds(last.get("not_before")) > time.time() + 3600:
                    os.unlink(self.campaign.run.attempts(unit.target))
                    self._act("delete", unit)
            elif unit.kind.cure in ("amount", "shrink") and unit.name not in self.campaign.given:
                need = int(str(unit.plan["need"]))
                self.campaign.give(unit, need + 32 if unit.kind.cure == "amount" else need)
                self._act("resize", unit)
        if release:
            self.campaign.release(release)

    def _wait_for_outages(self, left: list[Unit]) -> None:
        ends = []
        for unit in left:
            if unit.plan["cure"] == "time":
                shared = unit.plan["outage"]
                judge = self.campaign.judge
                file = judge / f"outage.{shared}" if shared else self.campaign.own(unit, "outage")
                with contextlib.suppress(OSError, ValueError):
                    ends.append((int(file.read_text()) + int(str(unit.plan["span"]))) / 1e6)
        time.sleep(max(0.0, max(ends, default=0.0) - time.time() + 0.1))

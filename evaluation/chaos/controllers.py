"""Campaigns whose controller or disk fails: what was running then is struck."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from chaos import catalogue
from chaos.campaign import OURS, Campaign
from chaos.catalogue import HEALTHY, RECOVERABLE, Kind, Unit
from chaos.ledger import Ledger
from chaos.oracle import Action, Oracle
from ripresa.journal import leases, records

ALONE = Kind("controller_alone", RECOVERABLE, 0, what="SIGKILL of the controller, its children live on")
GROUP = Kind("controller_group", RECOVERABLE, 0, what="SIGKILL of the controller with its guards")
REBOOT = Kind("reboot", RECOVERABLE, 0, what="everything killed, boot id changed")
SECOND = Kind("second_controller", HEALTHY, 0, what="running while a second controller is started")
DISK = Kind("disk_full", RECOVERABLE, 0, what="disk full on a small file system")
UNTOUCHED = Kind("bystander", HEALTHY, 0, what="the same campaigns, not struck")

SLOTS = 14
WORK_S = 2.0
DISK_MB = 16
OUTPUT_KB = 300
LEFT_KB = 96
DISK_FULL_MIN = 4.0
"""How long the disk stays full, at scale 1."""


class Struck:
    """Who was struck, when and by what; the first time counts."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.kinds: dict[str, Kind] = {}

    def add(self, kind: Kind, units: list[Unit]) -> None:
        now = time.time()
        for unit in units:
            if unit.name not in self.kinds:
                self.kinds[unit.name] = kind
                if kind.truth == RECOVERABLE:
                    self.at[unit.name] = now

    def rest(self, units: list[Unit]) -> None:
        """All others were left alone."""
        for unit in units:
            self.kinds.setdefault(unit.name, UNTOUCHED)


class Refused(Exception):
    """Something did not happen that the campaign is about."""


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Refused(f"waited in vain for {what}")
        time.sleep(0.02)


def kill_controllers(
    directory: Path, *, mode: str, seed: int, time_scale: float, rounds: int
) -> tuple[Campaign, Struck, Oracle]:
    """Kill the controller again and again, each time with units running; every kill costs a call."""
    kills = [kind for _ in range(rounds) for kind in (ALONE, GROUP, REBOOT)]
    units = catalogue.steady(seed, SLOTS * (len(kills) * 2 + 3), time_scale, work_s=WORK_S)
    campaign = Campaign(directory, units, mode=mode, time_scale=time_scale, cores=SLOTS)
    oracle = Oracle(campaign, patience_s=60)
    struck = Struck()
    ledger = Ledger(campaign.judge / "ledger")
    for kind in kills:
        controller = campaign.start()
        now_running = fresh(campaign, ledger, struck)
        if kind is ALONE:
            controller.kill()
        else:
            owners = {unit.name: leases.owner(campaign.run.lease(unit.target)) for unit in now_running}
            os.killpg(controller.pid, signal.SIGKILL)
            if kind is REBOOT:
                reboot(campaign, ledger, owners)
        struck.add(kind, unfinished(campaign, ledger))
        controller.wait()
        if mode != OURS:
            campaign.unlock()
            oracle.actions.append(Action("unlock", None, True))
        oracle.actions.append(Action("call", None, True))
    controller = campaign.start()
    if mode == OURS:
        now_running = fresh(campaign, ledger, struck)
        if campaign.start().wait(60) == 0:
            raise Refused("a second controller was not refused")
        struck.add(SECOND, now_running)
    oracle.attend(controller)
    oracle.go_on()
    struck.rest(units)
    return campaign, struck, oracle


def fresh(campaign: Campaign, ledger: Ledger, struck: Struck) -> list[Unit]:
    """Wait until nearly all slots have units that nothing has struck yet; returns these."""
    found: list[Unit] = []

    def enough() -> bool:
        found[:] = [unit for unit in running(campaign, ledger) if unit.name not in struck.kinds]
        return len(found) >= SLOTS - 3

    wait_for(enough, "units that run")
    return found


def running(campaign: Campaign, ledger: Ledger) -> list[Unit]:
    """The units whose command runs, and under a guard is known by its lease."""
    ledger.read()
    found = []
    for name, entries in ledger.of.items():
        unit = campaign.by_name[name]
        if entries[-1].what != "start" or not Path(f"/proc/{entries[-1].pid}").exists():
            continue
        if campaign.mode == OURS and not (leases.owner(campaign.run.lease(unit.target)) or {}).get("group"):
            continue
        found.append(unit)
    return found


def unfinished(campaign: Campaign, ledger: Ledger) -> list[Unit]:
    """The units that have begun and have no target. A guard has begun before its command says so."""
    ledger.read()
    begun = [u for u in campaign.units if u.name in ledger.of or "attempt" in _owner(campaign, u)]
    return [unit for unit in begun if not campaign.path(unit).exists()]


def _owner(campaign: Campaign, unit: Unit) -> dict[str, Any]:
    return leases.owner(campaign.run.lease(unit.target)) or {}


def reboot(campaign: Campaign, ledger: Ledger, owners: Mapping[str, dict[str, Any] | None]) -> None:
    """What a reboot leaves: no process, and leases that name a boot that is over."""
    for unit in unfinished(campaign, ledger):
        pid = ledger.of[unit.name][-1].pid if unit.name in ledger.of else _owner(campaign, unit).get("group")
        if pid:
            campaign.kill(pid, whole=True)
    if campaign.mode != OURS:
        return
    for name, owner in owners.items():
        path = campaign.run.lease(campaign.by_name[name].target)
        wait_for(partial(_free, path), "the end of what was killed", 10)
        if owner and os.path.exists(path):
            records.write_json(path, {**owner, "boot_id": "of an earlier boot"})
    holder = json.loads(Path(campaign.run.controller).read_bytes() or b"{}")
    Path(campaign.run.controller).write_text(json.dumps({**holder, "boot_id": "of an earlier boot"}))


def _free(lease: str) -> bool:
    return not leases.held(lease)


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[bool]:
    """A file system of a few MB mounted on a directory; False where that cannot be done."""
    directory.mkdir(parents=True)
    call = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", str(directory)]
    try:
        mounted = subprocess.run(call, check=False, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(directory)], check=True)


def fill_disk(
    directory: Path, *, seed: int, time_scale: float, number: int
) -> tuple[Campaign, Struck, Oracle]:
    """Fill the disk of a running campaign for some minutes of scale 1: only the journal still fits."""
    units = catalogue.steady(seed, number, time_scale, work_s=0.5, pad=OUTPUT_KB * 1024)
    campaign = Campaign(directory, units, time_scale=time_scale, cores=SLOTS)
    oracle = Oracle(campaign, patience_s=60)
    struck = Struck()
    ledger = Ledger(campaign.judge / "ledger")
    controller = campaign.start()
    wait_for(lambda: running(campaign, ledger), "units")
    ballast = campaign.directory / "runs" / "ballast"
    there = os.statvfs(ballast.parent)
    with contextlib.suppress(OSError), open(ballast, "wb") as file:
        file.write(b"0" * (there.f_bavail * there.f_frsize - LEFT_KB * 1024))
    time.sleep(max(DISK_FULL_MIN * 60 * time_scale, 1.0))
    ballast.unlink()
    oracle.attend(controller)
    oracle.go_on()
    ledger.read()
    for unit in units:
        faults = [entry.at for entry in ledger.of[unit.name] if entry.what == "fault"]
        if faults:
            struck.kinds[unit.name], struck.at[unit.name] = DISK, faults[0]
    struck.rest(units)
    return campaign, struck, oracle

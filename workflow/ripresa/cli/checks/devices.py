"""The devices that units may use, what is wrong with others, and where their leases are."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from ripresa.cli.checks import FAIL, OK, WARN, Check
from ripresa.cli.checks.storage import NETWORK, file_system
from ripresa.journal import devices as leased
from ripresa.journal.text import printable
from ripresa.placement.inventory import Device, busy, look
from ripresa.placement.wishes import GPU

_LEFT_OUT = "units do not get it; see docs/devices.md"


def checks(settings: Mapping[str, Any]) -> Iterator[Check]:
    """Look at the devices of this machine; ``settings`` is the section `devices` of the configuration."""
    found = look(settings, os.environ)
    gpus = [device for device in found.devices if device.kind == GPU]
    slots = len(found.devices) - len(gpus)
    described = f"{len(gpus)} GPUs, {slots} slots for units without one" if found.devices else "none"
    yield Check("devices", OK, described)
    for problem in found.problems:
        yield Check("devices", WARN, printable(problem), _LEFT_OUT)
    for device in gpus:
        yield _gpu(device, settings)
    if found.devices:
        yield _locks()


def _gpu(device: Device, settings: Mapping[str, Any]) -> Check:
    name = f"GPU {printable(device.name)}"
    if foreign := busy(device, settings):
        return Check(name, WARN, foreign, "units do not get it until that ends, or set devices.foreign_mb")
    memory = (
        f"{device.free_mb / 1024:.1f} of {device.memory_mb / 1024:.1f} GiB free" if device.memory_mb else ""
    )
    model = printable(device.model)
    left = leased.shares_free([device.name])[device.name]
    used = "" if left == 100 else f"{100 - left} % leased"
    return Check(name, OK, ", ".join(filter(None, (model, memory, used))) or "as configured")


def _locks() -> Check:
    name, fix = "device leases", "name a local directory of all users in RIPRESA_DEVICES"
    try:
        place = leased.place()
    except leased.DeviceError as error:
        return Check(name, FAIL, str(error), fix)
    if not os.access(place, os.W_OK | os.X_OK):
        return Check(name, FAIL, f"cannot write in {place}", fix)
    if (kind := file_system(place)) in NETWORK:
        return Check(name, WARN, f"{place} is on {kind}, where locks may not keep shares apart", fix)
    return Check(name, OK, place)

"""What the scheduler assigned to units, for the rules that ask: both are parts of one Snakemake process.

Snakemake works out the resources of a job anew for every start, so a rule that has `of` behind its resource
``gpu_device`` gives each start the devices that were chosen for it.
"""

_devices: dict[str, str] = {}


def give(target: str, devices: str) -> None:
    """Assign devices to the next start of a unit, written as the resource ``gpu_device`` has them."""
    _devices[target] = devices


def of(target: str) -> str:
    """The devices of a unit; empty if it was assigned none, as where another executor assigns them."""
    return _devices.get(target, "")

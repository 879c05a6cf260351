"""What rule files import: sweeps and units that say what a campaign computes, and `guard` that runs it."""

from ripresa.dsl.devices import devices
from ripresa.dsl.digests import canonical, digest
from ripresa.dsl.escalation import escalated
from ripresa.dsl.guarding import guard
from ripresa.dsl.run import Campaign, open_run
from ripresa.dsl.sweeps import SweepError, sweep
from ripresa.dsl.units import Parameters, Units

__all__ = [
    "Campaign",
    "Parameters",
    "SweepError",
    "Units",
    "canonical",
    "devices",
    "digest",
    "escalated",
    "guard",
    "open_run",
    "sweep",
]

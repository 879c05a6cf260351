"""The phases of a stack, in their order; each is a rule of this very name."""

PHASES = (
    "SCAN_INPUT",
    "REGISTRATION",
    "CHANNEL_SPLIT",
    "NORMALIZATION",
    "GLOBAL_METRICS",
    "TILE_GRID",
    "LOCAL_METRICS",
    "TILE_RECONSTRUCTION",
    "STATE_CLUSTERING",
    "SYNTHETIC_FRAMES",
    "STACKING",
)


def number(phase: str) -> int:
    """The number (0 to 10) of a phase given by its number or name. Raises ValueError for anything else."""
    name = phase.strip().upper()
    if name in PHASES:
        return PHASES.index(name)
    if name.isdecimal() and int(name) < len(PHASES):
        return int(name)
    raise ValueError(
        f"{phase!r} is no phase; use a number from 0 to {len(PHASES) - 1} or one of {', '.join(PHASES)}"
    )

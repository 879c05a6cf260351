"""The events of a run (contract C5)."""

from __future__ import annotations

from ripresa.journal import clock, records
from ripresa.journal.paths import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def emit(run: Run, type: str, **fields: Any) -> None:
    """Append one event. Events inform, they decide nothing: a full disk loses them quietly."""
    event = {"type": type, "run_id": run.run_id, "ts": clock.iso(), **fields}
    try:
        records.append(run.events, event, fsync=False)
    except OSError:
        return

"""Which hosts may still have something of a run: written down before anything goes there."""

from ripresa.journal import records
from ripresa.journal.paths import Run


def hosts(run: Run) -> list[str]:
    """The hosts that have not been cleaned up since something of the run went there."""
    known = records.read_json(_path(run))
    return sorted(name for name in known if isinstance(name, str)) if isinstance(known, list) else []


def visit(run: Run, host: str) -> None:
    """Something goes to a host."""
    known = hosts(run)
    if host not in known:
        records.write_json(_path(run), sorted([*known, host]))


def leave(run: Run, host: str) -> None:
    """Nothing is left on a host."""
    records.write_json(_path(run), [name for name in hosts(run) if name != host])


def _path(run: Run) -> str:
    return f"{run.journal}/hosts.json"

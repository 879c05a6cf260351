"""Figures against their limits, one line each, and what they come to."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


class Verdict:
    """Prints every figure with its limit and remembers whether one was missed or not shown."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def most(self, what: str, value: float, limit: float, form: str = ".2f") -> None:
        """A figure that may be at most ``limit``; NaN misses it."""
        self._say(what, value <= limit, f"{value:{form}} (at most {limit:g})")

    def least(self, what: str, value: float, limit: float, form: str = ".2f") -> None:
        """A figure that must be at least ``limit``."""
        self._say(what, value >= limit, f"{value:{form}} (at least {limit:g})")

    def absent(self, what: str, why: str) -> None:
        """Something that could not be shown, which counts as missed."""
        print(f"  NOT SHOWN {what}: {why}", flush=True)
        self.missed.append(what)

    def _say(self, what: str, met: bool, figure: str) -> None:
        print(f"  {'met      ' if met else 'MISSED   '} {what}: {figure}", flush=True)
        if not met:
            self.missed.append(what)

    def end(self) -> int:
        """Print the verdict; returns the exit code."""
        print("verdict: " + (f"MISSED: {'; '.join(self.missed)}" if self.missed else "met"))
        return int(bool(self.missed))


@contextmanager
def workplace(keep: str | None) -> Iterator[Path]:
    """A directory for frames and stacks: that to be kept, or one that is deleted in the end."""
    if keep:
        Path(keep).mkdir(parents=True, exist_ok=True)
        yield Path(keep).resolve()
    else:
        with TemporaryDirectory(prefix="stacking-") as name:
            yield Path(name)

"""What the fixtures of the tiers that need machines have in common."""

import os
from typing import NamedTuple, NoReturn

import pytest


class Tier(NamedTuple):
    """Tests that need machines: their marker, the fixture that makes one such a test, what is made."""

    marker: str
    fixture: str
    what: str  # after "a real", e.g. "SLURM cluster"
    said: list[str]  # what pytest shall say at its end

    def mark(self, items: list[pytest.Item]) -> None:
        """Mark every test that uses the machines, so that a forgotten marker brings it into no other tier."""
        for item in items:
            # Not by the name of the marker: a test file may have a fixture of that name for something else.
            if self.fixture in getattr(item, "fixturenames", ()) or item.get_closest_marker(self.marker):
                item.add_marker(getattr(pytest.mark, self.marker))
                item.add_marker(pytest.mark.slow)

    def refuse(self, reason: str) -> NoReturn:
        """Skip the test that wanted the machines; in CI, where nothing may be left out, fail it."""
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(self._absent + reason)

    def summarize(self, reporter: pytest.TerminalReporter) -> None:
        """Say loudly which tests did not run, for nobody reads a count of skipped ones."""
        skipped = [one for one in reporter.getreports("skipped") if self._absent in str(one.longrepr)]
        if skipped:
            reason = str(skipped[0].longrepr).partition(self._absent)[2].rstrip("')")
            reporter.section(f"NOT RUN: tests on a real {self.what}", red=True, bold=True)
            reporter.write_line(
                f"{len(skipped)} tests did NOT run and say nothing: {reason}", red=True, bold=True
            )
        elif self.said:
            reporter.write_line(", ".join(self.said))

    @property
    def _absent(self) -> str:
        return f"no {self.what} here: "

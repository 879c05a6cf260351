"""How far an experiment is, in the file that ``$RIPRESA_PROGRESS`` names, from which a hang is told.

It counts samples and not rounds, since a round of a large model may take longer than a command may be silent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ripresa.families.experiments.datasets import Dataset

Count = Callable[[int], None]
"""Is told a number of samples each time so many more have been computed."""

_EVERY_S = 1.0
_LENGTH = 32  # bytes of a report, always as many, so that a reader never sees parts of two


class Progress:
    """Counts the samples that were trained on or evaluated, of all that there will be at most."""

    def __init__(self, parameters: Mapping[str, Any], dataset: Dataset) -> None:
        trained, validation, test = (len(part.labels) for part in dataset)
        self._of_round = parameters["local_epochs"] * trained + validation
        self._total = parameters["rounds"] * self._of_round + validation + test
        self._done = 0
        self._reported = 0.0
        self._path = os.environ.get("RIPRESA_PROGRESS")

    def rounds(self, done: int) -> None:
        """Say that so many rounds are done."""
        self._done = done * self._of_round
        self._report()

    def count(self, samples: int) -> None:
        """Count so many samples more, and say so every second and at the end."""
        self._done += samples
        if self._done == self._total or time.monotonic() - self._reported >= _EVERY_S:
            self._report()

    def _report(self) -> None:
        self._reported = time.monotonic()
        if not self._path:
            return
        with suppress(OSError):  # it only informs
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.pwrite(fd, f"{self._done} {self._total}".ljust(_LENGTH - 1).encode() + b"\n", 0)
            finally:
                os.close(fd)

"""One thing the kernel tells about the host."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Source(ABC):
    """Files of the kernel, opened once, that fill in some columns of the samples."""

    COLUMNS: tuple[str, ...] = ()

    @abstractmethod
    def __init__(self, root: str) -> None:
        """Open the files below `root` (empty for this host); OSError if this host does not have them."""

    @abstractmethod
    def read(self, seconds: float) -> Sequence[float | None]:
        """One value for each column, None where the kernel does not tell it.

        A rate is over the `seconds` since the last call, or, for the first one, since this was made.
        """

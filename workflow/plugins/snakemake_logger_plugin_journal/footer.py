"""The bottom rows of a terminal, kept apart by a scroll region.

Jobs write to the terminal too, past every Python object, whenever they like. So nothing here may
rely on where the cursor is: the terminal scrolls everything in the rows above, and each frame goes
to fixed rows in one write, with the cursor saved and restored around it. (Redrawing below the last
output, as progress bars usually do, erases what a failing job had to say.)
"""

import os
from typing import TextIO

_SAVE, _RESTORE = "\x1b7", "\x1b8"
_DOWN = "\x1bD"  # scrolls at the bottom row, keeps the column
_ERASE_LINE, _ERASE_BELOW = "\x1b[K", "\x1b[J"
_WHOLE_SCREEN = "\x1b[r"
_MIN_COLUMNS, _MIN_ROWS = 40, 10


class Footer:
    """Raises OSError from every method once the terminal is gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._height = 0
        self._size = (0, 0)

    @staticmethod
    def possible(stream: TextIO) -> bool:
        """Whether a stream is a terminal of a useful size that knows escape sequences."""
        try:
            if os.environ.get("TERM", "dumb") == "dumb" or not stream.isatty():
                return False
            columns, rows = os.get_terminal_size(stream.fileno())
        except (OSError, ValueError):
            return False
        return columns >= _MIN_COLUMNS and rows >= _MIN_ROWS

    def size(self) -> tuple[int, int]:
        """Columns and rows of the terminal."""
        columns, rows = os.get_terminal_size(self._stream.fileno())
        return columns, rows

    def draw(self, lines: list[str]) -> None:
        """Show lines (each narrower than the terminal, without line ends) in the bottom rows."""
        size = self.size()
        rows = size[1]
        lines = lines[: rows - 1]
        frame = ""
        if size != self._size:
            frame += f"{_SAVE}{_WHOLE_SCREEN}{_RESTORE}"
            self._size, self._height = size, 0
        frame += self._resize(len(lines), rows) + _SAVE
        for row, line in enumerate(lines, rows - len(lines) + 1):
            frame += f"{_at(row)}{line}\x1b[0m{_ERASE_LINE}"
        self._write(frame + _RESTORE)

    def clear(self) -> None:
        """Give the rows back."""
        if self._height:
            first = self._size[1] - self._height + 1
            self._write(f"{_SAVE}{_at(first)}{_ERASE_BELOW}{_WHOLE_SCREEN}{_RESTORE}")
            self._height = 0

    def _resize(self, height: int, rows: int) -> str:
        grow = height - self._height
        if not grow:
            return ""
        region = f"\x1b[1;{rows - height}r"
        freed = "".join(_at(row) + _ERASE_LINE for row in range(rows - self._height + 1, rows - height + 1))
        self._height = height
        if grow > 0:
            # Move down and up again: scrolls the text only as far as it is in the way.
            return f"{_DOWN * grow}{_SAVE}{region}{_RESTORE}\x1b[{grow}A"
        return f"{_SAVE}{freed}{region}{_RESTORE}"

    def _write(self, frame: str) -> None:
        self._stream.flush()
        data = frame.encode(self._stream.encoding or "utf-8", "replace")
        while data:
            data = data[os.write(self._stream.fileno(), data) :]


def _at(row: int) -> str:
    return f"\x1b[{row};1H"

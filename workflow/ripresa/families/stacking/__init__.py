"""Stacking of astronomical frames: eleven phases from raw lights to a stacked image."""


class StackingError(Exception):
    """What cannot be stacked as it is; the message says what is wrong, where, and what to do, in one line."""


class Damaged(StackingError):
    """A file between two phases that is not what its phase wrote."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path} is damaged ({what})")
        self.path = path


class Changed(StackingError):
    """A frame that is no longer what it was when it was scanned.

    ``stale`` is the file that tells of the frame as it was, where it is known: without that, the next call
    looks at the frame anew, also if it has its old modification time.
    """

    def __init__(self, what: str, stale: str | None = None) -> None:
        super().__init__(f"{what}; run the command again, and it is scanned anew")
        self.what = what
        self.stale = stale

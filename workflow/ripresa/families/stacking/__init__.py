"""Stacking of astronomical frames: eleven phases from raw lights to a stacked image."""


class StackingError(Exception):
    """What cannot be stacked as it is; the message says what is wrong, where, and what to do, in one line."""


class Damaged(StackingError):
    """A file between two phases that is not what its phase wrote."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path} is damaged ({what})")
        self.path = path

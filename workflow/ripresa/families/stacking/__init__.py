"""Stacking of astronomical frames: eleven phases from raw lights to a stacked image."""


class StackingError(Exception):
    """What cannot be stacked as it is; the message says what is wrong, where, and what to do, in one line."""

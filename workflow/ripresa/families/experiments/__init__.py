"""Experiments of a sweep on GPUs and CPUs: federated learning under label poisoning."""


class ExperimentError(Exception):
    """What cannot be computed as it is asked for; one line that says what is wrong, where, and what to do."""


class Diverged(Exception):
    """Training whose loss or weights left what numbers can hold; the message says when and where."""

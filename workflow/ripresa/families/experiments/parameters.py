"""The parameter set of an experiment: its keys, their defaults, what they may be.

A set is canonical if it has all keys and is valid. Its digest names the experiment, so nothing that is only
about how an experiment is computed (backend, micro-batch, threads) belongs to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from ripresa.families.experiments import ExperimentError

DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10")
MODELS = ("MLP", "CNN")
ATTACKS = ("label_flip", "random_noise")
ORDERINGS = ("shuffle", "fixed")
AGGREGATORS = ("fedavg", "median")

Parameters = dict[str, Any]


class _Key(NamedTuple):
    default: Any
    valid: Callable[[Any], bool]
    allowed: str


def _whole(least: int) -> tuple[Callable[[Any], bool], str]:
    def valid(value: Any) -> bool:
        return type(value) is int and value >= least

    return valid, f"a whole number of at least {least}"


def _choice(*names: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: type(value) is str and value in names, " or ".join(names)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_KEYS = {
    "dataset": _Key("digits", *_choice(*DATASETS)),
    "model_type": _Key("MLP", *_choice(*MODELS)),
    "width_factor": _Key(16, *_whole(1)),
    "depth": _Key(1, *_whole(0)),
    "poison_ratio": _Key(0, lambda value: _number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "poison_type": _Key("label_flip", *_choice(*ATTACKS)),
    "alpha": _Key(
        None,
        lambda value: value is None or (_number(value) and value > 0),
        "a number above 0, or null for iid",
    ),
    "data_ordering": _Key("shuffle", *_choice(*ORDERINGS)),
    "aggregator": _Key("fedavg", *_choice(*AGGREGATORS)),
    "batch_size": _Key(32, *_whole(1)),
    "clients": _Key(10, *_whole(1)),
    "rounds": _Key(30, *_whole(1)),
    "local_epochs": _Key(1, *_whole(1)),
    "learning_rate": _Key(0.05, lambda value: _number(value) and value > 0, "a number above 0"),
    "momentum": _Key(0.9, lambda value: _number(value) and 0 <= value < 1, "a number from 0 to below 1"),
    "patience": _Key(10, *_whole(1)),
    "seed": _Key(0, *_whole(0)),
}
DEFAULTS: Parameters = {name: key.default for name, key in _KEYS.items()}


def _known(name: str) -> str:
    close = get_close_matches(name, _KEYS, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(_KEYS)}"


def canonical(given: Mapping[str, Any]) -> Parameters:
    """The whole parameter set: what is given, and the defaults of the rest.

    - ``width_factor``, ``depth``: see `architecture`.
    - ``poison_ratio``: see `poisoning`. ``alpha``: concentration of the Dirichlet split over clients.
    - ``rounds``: most of them; ``patience``: rounds without a lower validation loss after which it ends.
    - ``local_epochs``: passes of each client over its own samples in a round.

    ExperimentError names every key that is unknown or whose value is not allowed.
    """
    problems = [f"{name}: unknown ({_known(name)})" for name in given if name not in _KEYS]
    full = {**DEFAULTS, **given}
    problems += [
        f"{name}: {full[name]!r} is not allowed, must be {key.allowed}"
        for name, key in _KEYS.items()
        if not key.valid(full[name])
    ]
    if not problems and full["model_type"] == "CNN" and full["depth"] == 0:
        problems = [
            "depth: 0 is not allowed for model_type CNN, must be at least 1 (MLP of depth 0 is linear)"
        ]
    if problems:
        raise ExperimentError("invalid parameters: " + "; ".join(problems))
    return full

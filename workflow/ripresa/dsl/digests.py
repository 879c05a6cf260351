"""Canonical JSON and the content digest of a parameter set.

The digest names files, so it must not depend on the order of keys, on the Python version or on whether YAML
wrote `1` or `1.0`: equal numbers give equal text, and `true` is not `1`.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

DIGEST_LENGTH = 12

# Sweeps of 100,000 points are digested before anything runs: what is the same for all is done once.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_AS_IT_IS = {str, int, bool, type(None)}


def canonical(value: Any) -> str:
    """`value` as JSON in its one canonical form: sorted keys, no spaces, ASCII, whole floats as integers.

    Raises ValueError for what JSON cannot hold (NaN, infinities, dates, sets, keys that are not text).
    """
    return _ENCODER.encode(_plain(value))


def digest(value: Any) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode("ascii")).hexdigest()[:DIGEST_LENGTH]


def _plain(value: Any) -> Any:
    if type(value) in _AS_IT_IS or isinstance(value, int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        if not_text := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"the key {not_text[0]!r} is not text (put it in quotes)")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    raise ValueError(
        f"{value!r} ({type(value).__name__}) is not JSON (write text, a number, a list or a mapping)"
    )

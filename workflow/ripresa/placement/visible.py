"""Which GPUs a variable such as CUDA_VISIBLE_DEVICES lets through, by the rules of CUDA.

Entries are indices, or UUIDs of which the beginning will do. The first entry that names nothing ends the
list, and a device that is named twice empties it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_INDEX = re.compile(r"\s*\+?(\d+)")
"""Digits may be followed by anything, as with strtol."""


def selected(value: str | None, uuids: Sequence[str], parents: Sequence[str] = ()) -> list[int]:
    """The positions of the devices that ``value`` lets through, in its order; all of them without a value.

    ``parents`` has the UUID of the whole GPU for instances of one, and an empty text for all others. An index
    counts whole GPUs, and a GPU stands for all of its instances.
    """
    if value is None:
        return list(range(len(uuids)))
    parents = parents or [""] * len(uuids)
    whole = [parent or uuid for uuid, parent in zip(uuids, parents, strict=True)]
    gpus = list(dict.fromkeys(whole))
    chosen: list[int] = []
    for entry in value.split(","):
        name = named(entry, gpus, uuids)
        if name is None:
            break
        places = [n for n, uuid in enumerate(uuids) if name in (uuid, whole[n])]
        if set(places) & set(chosen):
            return []
        chosen += places
    return chosen


def named(entry: str, gpus: Sequence[str], uuids: Sequence[str]) -> str | None:
    """The UUID that an entry means; None if it means none, or one of several."""
    if index := _INDEX.match(entry):
        number = int(index[1])
        return gpus[number] if number < len(gpus) else None
    start = entry.strip()
    meant = {uuid for uuid in (*gpus, *uuids) if uuid.startswith(start)} if start else set()
    return next(iter(meant)) if len(meant) == 1 else None

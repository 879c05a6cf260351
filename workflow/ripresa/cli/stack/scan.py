"""`ripresa stack scan DIR`: what the files of a directory are."""

import argparse
import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ripresa.cli.answers import Answer, Refusal, Table, count
from ripresa.families.stacking import StackingError
from ripresa.journal.text import printable

_FACTS = (
    "name", "path", "status", "reason", "imagetyp", "kind", "bayer", "width", "height", "exposure_s",
    "filter", "temperature_c", "gain", "date_obs", "object", "bytes", "sha256",
)  # fmt: skip
_GROUP = ("imagetyp", "kind", "bayer", "width", "height", "exposure_s", "filter", "temperature_c", "gain")
_PATTERNS = ("auto", "RGGB", "BGGR", "GBRG", "GRBG")


def answer(arguments: argparse.Namespace) -> Answer:
    """Exit code 1 if files cannot be used."""
    if arguments.bayer not in _PATTERNS:
        raise Refusal(f"--bayer {printable(arguments.bayer)}: use one of {', '.join(_PATTERNS)}")
    if not os.path.exists(arguments.directory):
        raise Refusal(f"{printable(arguments.directory)} does not exist", name="INPUT_NOT_FOUND")
    frames = _frames(arguments)
    groups = _groups(frames)
    bad = [frame for frame in frames if frame["status"] != "ok"]
    document = {
        "directory": os.path.abspath(arguments.directory),
        "count": len(frames),
        "usable": len(frames) - len(bad),
        "lights": sum(f["status"] == "ok" and f["imagetyp"] in ("light", None) for f in frames),
        "groups": groups,
        "bad": [{"frame": frame["name"], "reason": frame["reason"]} for frame in bad],
        "frames": frames,
    }
    return Answer(document, lambda: _text(document), 1 if bad else 0)


def _frames(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from ripresa.families.stacking.discovery import lights
    from ripresa.families.stacking.frames import examine

    def facts(named: tuple[str, str]) -> dict[str, Any]:
        name, path = named
        try:
            found, _ = examine(path, name, arguments.bayer, light=False)
        except StackingError as error:  # the header contradicts --bayer
            found = {"name": name, "path": path, "status": "bad", "reason": str(error)}
        return {key: found.get(key) for key in _FACTS}

    try:
        listed = lights({"lights": [arguments.directory], "recursive": arguments.recursive})
    except StackingError as error:
        raise Refusal(str(error), 1, "FRAMES_UNUSABLE") from None
    with ThreadPoolExecutor(2) as workers:  # reading and hashing release the interpreter
        return list(workers.map(facts, listed))


def _groups(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Usable frames that are alike, the most common first."""
    counted = Counter(tuple(frame[key] for key in _GROUP) for frame in frames if frame["status"] == "ok")
    return [
        {"frames": number, **dict(zip(_GROUP, alike, strict=True))} for alike, number in counted.most_common()
    ]


def _text(document: dict[str, Any]) -> Iterable[str | Table]:
    yield (
        f"{document['directory']}: {count(document['count'], 'FITS file')}, {document['usable']} usable, "
        f"{document['lights']} of them lights"
    )
    if document["groups"]:
        yield ""
        heading = ("FRAMES", "TYPE", "KIND", "SIZE", "EXPOSURE", "FILTER", "TEMPERATURE", "GAIN")
        yield Table(heading, [_row(group) for group in document["groups"]])
    if document["bad"]:
        yield ""
        bad = document["bad"]
        rows = [("bad", *map(printable, (one["frame"], one["reason"]))) for one in bad]
        yield Table(("STATUS", "FRAME", "REASON"), rows)


def _row(group: dict[str, Any]) -> tuple[str, ...]:
    def said(key: str, unit: str = "") -> str:
        return "-" if group[key] is None else f"{printable(group[key])}{unit}"

    kind = f"{group['kind']} {group['bayer']}" if group["bayer"] else group["kind"]
    size = f"{group['width']}x{group['height']}"
    exposure = "-" if group["exposure_s"] is None else f"{group['exposure_s']:g} s"
    return (
        str(group["frames"]), said("imagetyp"), kind, size, exposure, said("filter"),
        said("temperature_c", " C"), said("gain"),
    )  # fmt: skip

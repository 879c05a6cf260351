"""`ripresa stack simulate DIR`: light frames of a simulated night, with their truth."""

import argparse
import os
from typing import Any

from ripresa.cli.answers import Answer, Refusal, count
from ripresa.families.stacking import StackingError


def answer(arguments: argparse.Namespace) -> Answer:
    """Exit code 2 for settings that make no sense."""
    from ripresa.families.stacking.simulation import TRUTH, frame_names, simulate

    names = ("frames", "width", "height", "seed", "stars", "bayer")
    settings: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    try:
        simulate(settings, arguments.directory)
    except StackingError as error:
        raise Refusal(str(error), name="SETTINGS_INVALID") from None
    place = os.path.abspath(arguments.directory)
    document = {
        "directory": place,
        "truth": f"{place}/{TRUTH}",
        "frames": frame_names(settings),
        "settings": settings,
    }
    return Answer(document, lambda: [f"{count(len(document['frames']), 'frame')} and {TRUTH} in {place}"])

"""Phase 2, one chunk: SETTINGS (JSON) FRAMES CELLS STARS REGISTRATION REFERENCE [MASTERS]."""

import json
import sys

from ripresa.families.stacking.channels import split
from ripresa.families.stacking.commands import reported


def main(
    settings: str,
    frames: str,
    cells: str,
    stars: str,
    registration: str,
    reference: str,
    masters: str | None = None,
) -> None:
    with reported():
        split(stars, registration, reference, masters, json.loads(settings), frames, cells)


if __name__ == "__main__":
    main(*sys.argv[1:])

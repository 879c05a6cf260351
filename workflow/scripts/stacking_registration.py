"""Phase 1, one chunk: SETTINGS (JSON) OUTPUT STARS REFERENCE [MASTERS]."""

import json
import sys

from ripresa.families.stacking.commands import reported
from ripresa.families.stacking.registration import register


def main(settings: str, output: str, stars: str, reference: str, masters: str | None = None) -> None:
    with reported():
        register(stars, reference, masters, json.loads(settings), output)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Phase 3: SETTINGS (JSON) OUTPUT REFERENCE --stars FILE... --registrations FILE... --cells FILE..."""

import json
import sys

from ripresa.families.stacking.commands import grouped, reported
from ripresa.families.stacking.normalization import normalize


def main(words: list[str]) -> None:
    (settings, output, reference), lists = grouped(words)
    with reported():
        normalize(
            lists["stars"], lists["registrations"], lists["cells"], reference, json.loads(settings), output
        )


if __name__ == "__main__":
    main(sys.argv[1:])

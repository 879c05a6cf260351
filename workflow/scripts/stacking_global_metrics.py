"""Phase 4: SETTINGS (JSON) OUTPUT NORMALIZATION --stars FILE... --registrations FILE... --cells FILE..."""

import json
import sys

from ripresa.families.stacking.commands import grouped, reported
from ripresa.families.stacking.global_metrics import measure


def main(words: list[str]) -> None:
    (settings, output, normalization), lists = grouped(words)
    with reported():
        measure(
            lists["stars"],
            lists["registrations"],
            lists["cells"],
            normalization,
            json.loads(settings),
            output,
        )


if __name__ == "__main__":
    main(sys.argv[1:])

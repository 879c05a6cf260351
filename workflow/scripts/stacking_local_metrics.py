"""Phase 6: SETTINGS (JSON) OUTPUT NORMALIZATION GLOBAL_METRICS TILE_GRID
--stars FILE... --registrations FILE... --cells FILE..."""

import json
import sys

from ripresa.families.stacking.commands import grouped, reported
from ripresa.families.stacking.local_metrics import measure


def main(words: list[str]) -> None:
    (settings, output, normalization, global_metrics, tile_grid), lists = grouped(words)
    with reported():
        measure(
            lists["stars"],
            lists["registrations"],
            lists["cells"],
            normalization,
            global_metrics,
            tile_grid,
            json.loads(settings),
            output,
        )


if __name__ == "__main__":
    main(sys.argv[1:])

"""Phase 7, one band: SETTINGS (JSON) OUTPUT BAND NORMALIZATION TILE_GRID LOCAL_METRICS
--frames FILE... --cells FILE..."""

import json
import sys

from ripresa.families.stacking.commands import band, grouped, reported
from ripresa.families.stacking.reconstruction import reconstruct


def main(words: list[str]) -> None:
    (settings, output, item, normalization, tile_grid, local_metrics), lists = grouped(words)
    with reported():
        reconstruct(
            lists["frames"],
            lists["cells"],
            normalization,
            tile_grid,
            local_metrics,
            json.loads(settings),
            band(item),
            output,
        )


if __name__ == "__main__":
    main(sys.argv[1:])

"""Phase 6: SETTINGS (JSON) OUTPUT NORMALIZATION GLOBAL_METRICS TILE_GRID CELLS..."""

import json
import sys

from ripresa.families.stacking.commands import reported
from ripresa.families.stacking.local_metrics import measure


def main(
    settings: str, output: str, normalization: str, global_metrics: str, tile_grid: str, *cells: str
) -> None:
    with reported():
        measure(list(cells), normalization, global_metrics, tile_grid, json.loads(settings), output)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Phase 9, one band: OUTPUT BAND NORMALIZATION TILE_GRID LOCAL_METRICS CLUSTERS RECONSTRUCTION
--frames FILE... --cells FILE..."""

import sys

from ripresa.families.stacking.commands import band, grouped, reported
from ripresa.families.stacking.synthesis import synthesize


def main(words: list[str]) -> None:
    (output, item, normalization, tile_grid, local_metrics, clusters, reconstruction), lists = grouped(words)
    with reported():
        synthesize(
            lists["frames"],
            lists["cells"],
            normalization,
            tile_grid,
            local_metrics,
            clusters,
            reconstruction,
            band(item),
            output,
        )


if __name__ == "__main__":
    main(sys.argv[1:])

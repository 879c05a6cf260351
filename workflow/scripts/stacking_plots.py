"""Draw what happened to the frames: FIRST_PLOT REFERENCE NORMALIZATION GLOBAL_METRICS TILE_GRID LOCAL_METRICS
--stars FILE... --registrations FILE... --reconstructions FILE..."""

import gc
import os
import sys

from ripresa.families.stacking.commands import grouped, reported
from ripresa.families.stacking.outputs.evidence import Sources
from ripresa.families.stacking.plots import draw


def main(words: list[str]) -> None:
    (first, *tables), lists = grouped(words)
    gc.disable()  # a tenth of the time goes into looking for garbage among matplotlib's many objects
    with reported():
        draw(Sources(*tables, **lists), os.path.dirname(first))


if __name__ == "__main__":
    main(sys.argv[1:])

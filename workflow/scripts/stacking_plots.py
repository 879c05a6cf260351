"""Draw what happened to the frames: FIRST_PLOT REFERENCE NORMALIZATION GLOBAL_METRICS TILE_GRID LOCAL_METRICS
--stars FILE... --registrations FILE... --reconstructions FILE..."""

import gc
import os
import sys

from ripresa.families.stacking.commands import grouped, reported
from ripresa.families.stacking.outputs.evidence import Sources
from ripresa.families.stacking.plots import draw


def quick_import() -> None:
    """Import matplotlib without the documentation of its classes, which it puts together from all their
    properties: a tenth of a second. Another goes into looking for garbage among its many objects."""
    gc.disable()
    import matplotlib.artist

    matplotlib.artist.kwdoc = lambda artist: ""


def main(words: list[str]) -> None:
    (first, *tables), lists = grouped(words)
    quick_import()
    with reported():
        draw(Sources(*tables, **lists), os.path.dirname(first))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Draw what happened to the frames: FIRST_PLOT REFERENCE NORMALIZATION GLOBAL_METRICS TILE_GRID LOCAL_METRICS
--stars FILE... --registrations FILE... --reconstructions FILE..."""

import os
import sys

import matplotlib.artist

from ripresa.families.stacking.commands import grouped, reported
from ripresa.families.stacking.outputs.evidence import Sources
from ripresa.families.stacking.plots import draw


def main(words: list[str]) -> None:
    (first, *tables), lists = grouped(words)
    # When imported, matplotlib lists the properties of all its classes for their documentation, which takes
    # a tenth of a second.
    matplotlib.artist.kwdoc = lambda artist: ""
    with reported():
        draw(Sources(*tables, **lists), os.path.dirname(first))


if __name__ == "__main__":
    main(sys.argv[1:])

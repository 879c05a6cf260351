"""Phase 10: SETTINGS (JSON) STACK REFERENCE NORMALIZATION GLOBAL_METRICS TILE_GRID LOCAL_METRICS CLUSTERS
--stars FILE... --registrations FILE... --reconstructions FILE... --synthetics FILE..."""

import json
import os
import sys

from ripresa.families.stacking.commands import grouped, reported
from ripresa.families.stacking.final import combine
from ripresa.families.stacking.outputs import write
from ripresa.families.stacking.outputs.evidence import Sources


def main(words: list[str]) -> None:
    (settings_text, stack, *tables), lists = grouped(words)
    settings, synthetics = json.loads(settings_text), lists.pop("synthetics")
    sources = Sources(*tables, **lists)
    with reported():
        final = combine(sources.reconstructions, synthetics, sources.clusters, settings)
        write(
            final, sources, settings, os.path.dirname(stack), f"{os.environ['RIPRESA_RUN']}/stacking/rejected"
        )


if __name__ == "__main__":
    main(sys.argv[1:])

"""Phase 4: SETTINGS (JSON) OUTPUT NORMALIZATION CELLS..."""

import json
import sys

from ripresa.families.stacking.commands import reported
from ripresa.families.stacking.global_metrics import measure


def main(settings: str, output: str, normalization: str, *cells: str) -> None:
    with reported():
        measure(list(cells), normalization, json.loads(settings), output)


if __name__ == "__main__":
    main(*sys.argv[1:])

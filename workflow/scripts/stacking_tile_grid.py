"""Phase 5: OUTPUT GLOBAL_METRICS REFERENCE."""

import sys

from ripresa.families.stacking.commands import reported
from ripresa.families.stacking.tiles import make_grid


def main(output: str, global_metrics: str, reference: str) -> None:
    with reported():
        make_grid(global_metrics, reference, output)


if __name__ == "__main__":
    main(*sys.argv[1:])

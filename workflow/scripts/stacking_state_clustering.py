"""Phase 8: SETTINGS (JSON) OUTPUT GLOBAL_METRICS LOCAL_METRICS."""

import json
import sys

from ripresa.families.stacking.clustering import cluster
from ripresa.families.stacking.commands import reported


def main(settings: str, output: str, global_metrics: str, local_metrics: str) -> None:
    with reported():
        cluster(global_metrics, local_metrics, json.loads(settings), output)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Simulate light frames beside their truth table: SETTINGS (JSON) TRUTH."""

import json
import os
import sys

from ripresa.families.stacking.commands import reported
from ripresa.families.stacking.simulation import simulate


def main(settings: str, truth: str) -> None:
    with reported():
        simulate(json.loads(settings)["simulate"], os.path.dirname(truth))


if __name__ == "__main__":
    main(*sys.argv[1:])

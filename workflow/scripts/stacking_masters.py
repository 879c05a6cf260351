"""Build the calibration masters: SETTINGS (JSON) OUTPUT."""

import json
import sys

from ripresa.families.stacking.commands import reported
from ripresa.families.stacking.masters import build_masters


def main(settings: str, output: str) -> None:
    with reported():
        build_masters(json.loads(settings)["calibration"], output)


if __name__ == "__main__":
    main(*sys.argv[1:])

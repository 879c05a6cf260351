"""Choose the pixel grid of the stack: SETTINGS (JSON) OUTPUT STARS..."""

import json
import sys

from ripresa.families.stacking.commands import reported
from ripresa.families.stacking.reference import choose


def main(settings: str, output: str, *stars: str) -> None:
    with reported():
        choose(list(stars), json.loads(settings), output)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Phase 3: OUTPUT REFERENCE --stars FILE... --registrations FILE... --cells FILE..."""

import sys

from ripresa.families.stacking.commands import grouped, reported
from ripresa.families.stacking.normalization import normalize


def main(words: list[str]) -> None:
    (output, reference), lists = grouped(words)
    with reported():
        normalize(lists["stars"], lists["registrations"], lists["cells"], reference, {}, output)


if __name__ == "__main__":
    main(sys.argv[1:])

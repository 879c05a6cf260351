"""Phase 0, one chunk: SETTINGS (JSON) FRAMES (JSON) MANIFEST STARS [MASTERS]."""

import json
import sys

from ripresa.families.stacking.commands import reported
from ripresa.families.stacking.scan import scan


def main(settings: str, frames: str, manifest: str, stars: str, masters: str | None = None) -> None:
    with reported():
        scan(
            [(name, path) for name, path in json.loads(frames)],
            masters,
            json.loads(settings),
            manifest,
            stars,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])

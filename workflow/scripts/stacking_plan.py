"""Print which frames there are and how they are divided: SETTINGS (JSON) RUN_DIR CORES [CHUNKS]."""

import json
import sys

from ripresa.families.stacking import StackingError
from ripresa.families.stacking.plan import plan


def main(settings: str, run: str, cores: str, chunks: str | None = None) -> None:
    try:
        json.dump(plan(json.loads(settings), run, int(cores), int(chunks) if chunks else None), sys.stdout)
    except StackingError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])

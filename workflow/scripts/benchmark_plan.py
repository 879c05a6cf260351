"""Print the units that a configuration asks for: SECTION (JSON) RUN_DIR."""

import json
import sys

from ripresa.families.benchmarks.measurement import BenchmarkError
from ripresa.families.benchmarks.plan import plan


def main(section: str, run: str) -> None:
    try:
        json.dump(plan(json.loads(section), run), sys.stdout)
    except BenchmarkError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])

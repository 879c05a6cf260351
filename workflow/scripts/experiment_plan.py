"""Print the experiments that a configuration asks for: SECTION (JSON)."""

import json
import sys

from ripresa.families.experiments import ExperimentError
from ripresa.families.experiments.plan import plan


def main(section: str) -> None:
    try:
        # Not json.dump, which takes ten times as long, and plans may be large.
        sys.stdout.write(json.dumps(plan(json.loads(section))))
    except ExperimentError as error:
        sys.exit("\n".join(f"config/experiments.yaml: {line}" for line in str(error).splitlines()))


if __name__ == "__main__":
    main(*sys.argv[1:])

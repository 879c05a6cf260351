"""Print the units that a configuration asks for: SECTION (JSON)."""

import json
import sys

from ripresa.families.jobs.errors import JobError
from ripresa.families.jobs.plan import plan


def main(section: str) -> None:
    try:
        json.dump(plan(json.loads(section)), sys.stdout)
    except JobError as error:
        sys.exit(f"config/jobs.yaml: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])

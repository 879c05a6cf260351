"""Print the units that a configuration asks for: SECTION (JSON) RUN_DIR."""

import json
import sys

from ripresa.families.benchmarks.measurement import BenchmarkError
from ripresa.families.benchmarks.plan import plan
from ripresa.hosts.inventory import InventoryError, UnknownHosts, resolve


def main(section: str, run: str) -> None:
    config = json.loads(section)
    problems = []
    try:
        config["hosts"] = resolve(config["hosts"])
    except UnknownHosts as error:
        problems += [f"benchmarks.hosts[{n}]: {message}" for n, message in error.problems.items()]
        config["hosts"] = ["localhost"]
    except InventoryError as error:
        problems.append(f"benchmarks.hosts: {error}")
        config["hosts"] = ["localhost"]
    try:
        found = plan(config, run)
    except BenchmarkError as error:
        problems.append(str(error))
    if problems:
        sys.exit("\n".join(problems))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])

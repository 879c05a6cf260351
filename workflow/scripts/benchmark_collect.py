"""Collect what explains the numbers of this host: UNIT (JSON) OUTPUT RESULT..."""

import json
import sys
from datetime import datetime, timezone
from pathlib import Path

from ripresa.families.benchmarks import collection


def main(unit: str, output: str, *results: str) -> None:
    needs = json.loads(unit)["needs"].values()
    packages = sorted({name for one in needs for names in one.get("packages", {}).values() for name in names})
    started = [
        datetime.fromisoformat(json.loads(Path(result).read_text())["started"])
        for result in results
        if result.endswith(".json")
    ]
    since = min(started, default=datetime.now(timezone.utc))
    collection.write(output, collection.collect(packages, since))


if __name__ == "__main__":
    main(*sys.argv[1:])

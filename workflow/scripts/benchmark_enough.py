"""Judge whether the repetitions so far are enough: UNIT (JSON) OUTPUT RESULT..."""

import json
import sys
from pathlib import Path

from ripresa.families.benchmarks.adaptive import judge


def main(unit: str, output: str, *results: str) -> None:
    verdict = judge([json.loads(Path(result).read_text()) for result in results], json.loads(unit)["cv"])
    print(f"CV of {verdict['metric']}: {verdict['cv']} after {verdict['n']} repetitions")
    Path(output).write_text(json.dumps(verdict) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

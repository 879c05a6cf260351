"""Write down what this machine is: UNIT (JSON) OUTPUT."""

import json
import os
import sys
from pathlib import Path

from ripresa.families.benchmarks import fingerprint


def main(unit: str, output: str) -> None:
    system = fingerprint.collect(json.loads(unit)["scratch"] or os.path.dirname(os.path.abspath(output)))
    document = {"digest": fingerprint.digest(system), "system": system}
    Path(output).write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Put the result of a job together: RESULT SEGMENT... [--output DIRECTORY]"""

import argparse
import json
import sys
from pathlib import Path

from ripresa.families.jobs.errors import JobError
from ripresa.families.jobs.result import put_together, take_over


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("result", type=Path)
    parser.add_argument("segments", type=Path, nargs="+")
    parser.add_argument("--output")
    asked = parser.parse_args(arguments)
    try:
        document = put_together([json.loads(path.read_text()) for path in asked.segments])
    except JobError as error:
        sys.exit(str(error))
    if asked.output:
        take_over(str(asked.segments[-1].with_suffix(".output")), asked.output)
    asked.result.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

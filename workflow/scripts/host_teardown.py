"""Leave nothing of the benchmarks of a run on a host: UNIT (JSON) OUTPUT."""

import json
import os
import sys
from pathlib import Path

from ripresa.hosts.playbook import PlayFailed, play
from ripresa.hosts.work import name_of
from ripresa.journal.paths import Run


def main(unit_text: str, output: str) -> None:
    unit = json.loads(unit_text)
    request = {
        "run": name_of(Run(os.environ["RIPRESA_RUN"])),
        "do": [{"op": "end", "targets": f"benchmarks/{unit['host']}/"}],
        "follow": {},
        "wait_s": 0,
    }
    variables = {"host_teardown_request": json.dumps(request)}
    try:
        told = play("workflow/ansible/teardown.yml", unit["name"], variables, print)
    except PlayFailed as error:
        sys.exit(f"error: {error}")
    Path(output).write_text(json.dumps({"host": unit["host"], "name": unit["name"], **told}, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

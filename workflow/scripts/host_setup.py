"""Make a host ready for its benchmarks: UNIT (JSON) OUTPUT."""

import inspect
import json
import sys
from pathlib import Path

from ripresa.families.benchmarks import needs
from ripresa.hosts.playbook import PlayFailed, play


def check(wanted: dict[str, object]) -> str:
    """Python that prints which workloads miss what, as they themselves would find."""
    wording = "{name: why for name, one in wanted.items() if (why := missing(one))}"
    return f"{inspect.getsource(needs)}\nimport json\nwanted = {wanted!r}\nprint(json.dumps({wording}))\n"


def main(unit_text: str, output: str) -> None:
    unit = json.loads(unit_text)
    variables = {"host_setup_needs": unit["needs"], "host_setup_check": check(unit["needs"])}
    try:
        told = play("workflow/ansible/setup.yml", unit["name"], variables, print)
    except PlayFailed as error:
        sys.exit(f"error: {error}")
    Path(output).write_text(json.dumps({"host": unit["host"], "name": unit["name"], **told}, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

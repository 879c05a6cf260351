#!/usr/bin/env -S python3 -IS
"""The commands: `bin` has a link to this file for each, and the name by which it is called decides."""

import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from fake_slurm import control, show, submit
from fake_slurm.store import Stop, Store

COMMANDS = {
    "sbatch": submit.sbatch,
    "squeue": show.squeue,
    "sacct": show.sacct,
    "sinfo": show.sinfo,
    "scancel": control.scancel,
    "scontrol": control.scontrol,
}


def main() -> int:
    name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
    if "FAKE_SLURM" not in os.environ:
        print(f"{name}: FAKE_SLURM names no folder", file=sys.stderr)
        return 2
    store = Store(os.environ["FAKE_SLURM"])
    store.append("calls.jsonl", json.dumps({"command": name, "arguments": arguments, "time": time.time()}))
    fault = store.fault(name) or {}
    time.sleep(fault.get("seconds", 0))
    fails = fault.get("exit") is not None
    if fails and not fault.get("after"):
        return refuse(fault["exit"], fault["stderr"])
    try:
        output = COMMANDS[name](store, arguments)
    except Stop as stop:
        sys.stdout.write(stop.output)
        return refuse(stop.code, stop.message)
    if fails:
        return refuse(fault["exit"], fault["stderr"])
    sys.stdout.write(output)
    return 0


def refuse(code: int, message: str) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

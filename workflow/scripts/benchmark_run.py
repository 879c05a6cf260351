"""Measure one repetition: UNIT (JSON) FINGERPRINT OUTPUT [SAMPLES].

On the other host of a workload between two (RIPRESA_ROLE is peer) its server runs instead, until it is ended;
RIPRESA_PEER tells the address of that host.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from ripresa.families.benchmarks.measurement import BenchmarkError
from ripresa.families.benchmarks.repetition import execute, use_all_cpus
from ripresa.families.benchmarks.running import serve


def main(unit_text: str, fingerprint: str, output: str, samples: str | None = None) -> None:
    unit = json.loads(unit_text)
    scratch = unit["scratch"] or os.path.dirname(os.path.abspath(output))
    digest = json.loads(Path(fingerprint).read_text())["digest"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that folders are removed
    use_all_cpus()
    try:
        os.makedirs(scratch, exist_ok=True)
        if os.environ.get("RIPRESA_ROLE") == "peer":
            serve(unit, scratch)
            return
        if unit["peer"]:
            unit["peer"] = os.environ.get("RIPRESA_PEER", unit["peer"])
        result = execute(unit, digest, scratch, samples)
    except (BenchmarkError, OSError) as error:
        sys.exit(f"error: {unit['workload']}: {error}")
    Path(output).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

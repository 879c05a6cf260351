"""Measure one repetition: UNIT (JSON) FINGERPRINT OUTPUT [SAMPLES]."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from ripresa.families.benchmarks.measurement import BenchmarkError
from ripresa.families.benchmarks.repetition import execute, use_all_cpus


def main(unit_text: str, fingerprint: str, output: str, samples: str | None = None) -> None:
    unit = json.loads(unit_text)
    scratch = unit["scratch"] or os.path.dirname(os.path.abspath(output))
    digest = json.loads(Path(fingerprint).read_text())["digest"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that folders are removed
    use_all_cpus()
    try:
        os.makedirs(scratch, exist_ok=True)
        result = execute(unit, digest, scratch, samples)
    except (BenchmarkError, OSError) as error:
        sys.exit(f"error: {unit['workload']}: {error}")
    Path(output).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Say what makes results doubtful: UNIT (JSON) RUN_DIR OUTPUT RESULT..."""

import json
import sys

from ripresa.families.benchmarks import noise, summary
from ripresa.families.benchmarks.measurement import BenchmarkError


def main(unit: str, run: str, output: str, *results: str) -> None:
    limits = {(host, workload): cv for host, workload, cv in json.loads(unit)["cv"]}
    series: dict[tuple[str, str], list[str]] = {}
    loaded = {path: summary.load(path) for path in results}
    for path, result in loaded.items():
        series.setdefault((result["host"], result["workload"]), []).append(path)
    found = []
    for key, paths in series.items():
        retried = [summary.needed_retry(summary.attempts_of(path, run)) for path in paths]
        found += noise.of_series([loaded[path] for path in paths], retried, limits[key])
        try:
            for path in paths:
                found += noise.beside(loaded[path], path.removesuffix(".json") + ".samples.csv")
        except (BenchmarkError, OSError) as error:
            sys.exit(f"error: {error}")
    noise.write(output, found)


if __name__ == "__main__":
    main(*sys.argv[1:])

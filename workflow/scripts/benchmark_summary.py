"""Sum up all repetitions in a table: RUN_DIR OUTPUT RESULT..."""

import sys

from ripresa.families.benchmarks import summary


def main(run: str, output: str, *results: str) -> None:
    retried = [summary.needed_retry(summary.attempts_of(result, run)) for result in results]
    table = summary.summarise(map(summary.load, results), retried)
    table.to_csv(output, index=False, float_format="%.6g")


if __name__ == "__main__":
    main(*sys.argv[1:])

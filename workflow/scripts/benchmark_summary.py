"""Sum up all repetitions in a table: RUN_DIR OUTPUT RESULT..."""

import sys

from ripresa.families.benchmarks import summary


def main(run: str, output: str, *results: str) -> None:
    retried = [summary.needed_retry(summary.attempts_of(result, run)) for result in results]
    summary.write(output, summary.summarise(map(summary.load, results), retried))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Draw the repetitions of one workload on one host: RUN_DIR OUTPUT RESULT..."""

import sys

from ripresa.families.benchmarks import plot, summary


def main(run: str, output: str, *results: str) -> None:
    retried = [summary.needed_retry(summary.attempts_of(result, run)) for result in results]
    plot.draw([summary.load(result) for result in results], retried, output)


if __name__ == "__main__":
    main(*sys.argv[1:])

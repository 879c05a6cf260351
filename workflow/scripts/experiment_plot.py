"""Draw a picture of a phase from its table: PLOT PARQUET OUTPUT."""

import sys

from ripresa.families.experiments import plots, table


def main(plot: str, parquet: str, output: str) -> None:
    plots.draw(plot, table.read_parquet(parquet), output)


if __name__ == "__main__":
    main(*sys.argv[1:])

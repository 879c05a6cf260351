"""Make the tables of a phase from its results: PHASE (JSON) RUN_DIR CSV PARQUET SUMMARY."""

import json
import sys

from ripresa.families.experiments import summary, table
from ripresa.families.experiments.plan import phases


def main(unit: str, run: str, csv: str, parquet: str, summary_csv: str) -> None:
    (phase,) = phases(json.loads(json.loads(unit)["definition"]))
    results = (table.load(table.result_path(run, digest)) for digest in phase.experiments)
    rows = [table.row(phase.name, result) for result in results]
    table.write_csv(csv, rows)
    table.write_parquet(parquet, rows)
    table.write_csv(summary_csv, summary.summarise(rows), summary.COLUMNS)


if __name__ == "__main__":
    main(*sys.argv[1:])

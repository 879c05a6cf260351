"""What a stack ends in: a FITS file with its maps, a preview, the table of frames and the report on its
checks."""

import json
import os
import shutil
import sys
from typing import Any

from ripresa.families.stacking import validation
from ripresa.families.stacking.final import FinalImage
from ripresa.families.stacking.outputs import frame_table, measures, preview, stacked_file
from ripresa.families.stacking.outputs.evidence import Sources, collect

STACK, PREVIEW, TABLE, REPORT = "stacked.fit", "stacked.png", "frames.csv", "validation.json"


def write(
    final: FinalImage,
    sources: Sources,
    settings: dict[str, Any],
    directory: str,
    rejected: str | None = None,
) -> dict[str, Any]:
    """Write the four files of a finished stack into ``directory``; returns the report, as in validation.json.

    ``settings`` has the keys weighting, psf_exponent, rejection, clusters and validation. Checks beyond their
    limit print a line (``warn``), or raise ValidationFailed (``fail``) after everything was written; then the
    files are also kept in the directory ``rejected``, where a person can look at them.
    """
    evidence = collect(sources)
    measured = measures.measure(final, evidence)
    report = validation.report(evidence, measured, settings["validation"])
    os.makedirs(directory, exist_ok=True)
    stacked_file.write(f"{directory}/{STACK}", final, evidence, settings, measured)
    preview.write(f"{directory}/{PREVIEW}", final.image, top_down=stacked_file.top_down(evidence))
    frame_table.write_csv(f"{directory}/{TABLE}", evidence.frames, evidence.channels)
    with open(f"{directory}/{REPORT}", "w", encoding="utf-8") as file:
        json.dump(report, file, indent=2, allow_nan=False)
        file.write("\n")
    for one in report["checks"]:
        if one["verdict"] == "warn":
            print(f"warning: {one['message']}", file=sys.stderr)
    if rejected is not None:
        shutil.rmtree(rejected, ignore_errors=True)
    if report["verdict"] == "fail":
        if rejected is not None:
            _keep(directory, rejected)
        raise validation.ValidationFailed(report["checks"], rejected)
    return report


def _keep(directory: str, rejected: str) -> None:
    os.makedirs(rejected)
    for name in (STACK, PREVIEW, TABLE, REPORT):
        try:
            os.link(f"{directory}/{name}", f"{rejected}/{name}")
        except OSError:
            shutil.copyfile(f"{directory}/{name}", f"{rejected}/{name}")

"""The result of a job, put together from its segments."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from ripresa.families.jobs.errors import JobError

Segment = Mapping[str, Any]

_OF_SEGMENTS = (
    "segment", "ended_by", "step", "resumed_from", "checkpoint", "started", "elapsed_s", "host", "attempt",
    "log",
)  # fmt: skip


def put_together(segments: Sequence[Segment]) -> dict[str, Any]:
    """The result (schema job_result.schema.json) of a job whose segments these are, in order.

    Raises JobError if the last of them did not complete it.
    """
    last = segments[-1]
    if not last["complete"]:
        raise JobError(
            f"invalid configuration: jobs.jobs.{last['job']}.segments.count: {len(segments)} segments did "
            f"not complete point {last['point']}, which came to step {last['step']}; allow more"
        )
    return {
        **{key: last[key] for key in ("job", "point", "parameters", "metrics", "total", "log")},
        "steps": next((one["step"] for one in reversed(segments) if one["step"] is not None), None),
        "elapsed_s": round(sum(one["elapsed_s"] for one in segments), 3),
        "segments": [{key: one[key] for key in _OF_SEGMENTS} for one in segments],
    }


def take_over(source: str, destination: str) -> None:
    """Make what is in a directory appear in another one, too, by hard links where there are any."""

    def link(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)

    # A file of Snakemake's own, which it changes, is of the one directory only.
    own = shutil.ignore_patterns(".snakemake_timestamp")
    shutil.copytree(source, destination, ignore=own, copy_function=link, symlinks=True, dirs_exist_ok=True)

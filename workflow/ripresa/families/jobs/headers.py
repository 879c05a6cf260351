"""The first line of an attempt's log, by which the patterns of a job know its logs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def header(unit: Mapping[str, Any]) -> str:
    """The line, for one unit; what follows it is up to the attempt."""
    return f"ripresa: job {unit['job']}, point {unit['point']}"


def header_pattern(job: str) -> str:
    """A regular expression for the line in the logs of one job."""
    return f"^ripresa: job {re.escape(job)}, point "

"""What a workload needs on the host that runs it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any


def missing(needs: Mapping[str, Any]) -> str | None:
    """Why a workload cannot run here, as one line; None if all is there. Imports nothing.

    `needs` has `programs` on PATH (a list among them: any of these), Python `modules` of this interpreter,
    and `packages` that bring them, a list by distribution; each may be absent.
    """
    packages = list(needs.get("packages", {}).get("debian", []))
    for program in needs.get("programs", []):
        names = program if isinstance(program, list) else [program]
        if not any(map(shutil.which, names)):
            return f"{' or '.join(names)} is not installed (not on PATH){_advice(packages)}"
    for module in needs.get("modules", []):
        if find_spec(module) is None:
            return (
                f"the Python module {module} is not installed (No module named {module!r}){_advice(packages)}"
            )
    return None


def _advice(packages: list[str]) -> str:
    if not packages:
        return ""
    return f": install the package{'s' if len(packages) > 1 else ''} {', '.join(packages)}"

"""What went wrong on a host, as the failure class it belongs to and a line of evidence."""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CLASSES = {
    errno.ENOSPC: "disk",
    errno.EDQUOT: "disk",
    errno.EROFS: "file_system",
    errno.EIO: "file_system",
    errno.ESTALE: "file_system",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
}


class Refused(Exception):
    """An operation that cannot be done, for a reason that no exception of the system names."""

    def __init__(self, failure_class: str, evidence: str) -> None:
        super().__init__(evidence)
        self.failure_class = failure_class


def answer(error: Exception) -> dict[str, Any]:
    """The answer of an operation that failed: ``error``, a failure class, and ``evidence``, one line."""
    if isinstance(error, Refused):
        return {"error": error.failure_class, "evidence": str(error)}
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return {
            "error": _CLASSES.get(error.errno or 0, "unknown"),
            "evidence": f"{error.strerror or error}{where}",
        }
    return {"error": "unknown", "evidence": f"{type(error).__name__}: {error}".replace("\n", " ")}

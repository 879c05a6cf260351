"""What came of an ended attempt: brought back from its host, and handed to the controller's books."""

import errno
import os
from collections.abc import Mapping
from typing import Any

from ripresa.hosts.client import Client, Refused, unpacked
from ripresa.hosts.parcel import CHANGED, Parcel
from ripresa.hosts.transport import Unreachable

_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.EMFILE, errno.ENFILE)
"""Troubles of the file system here that may pass."""


class NotNow(Exception):
    """It cannot be taken in here for the time being; the message says why."""


class Spoilt(Exception):
    """It never can: ``failure_class``, and in one line why."""

    def __init__(self, failure_class: str, evidence: str) -> None:
        super().__init__(evidence)
        self.failure_class = failure_class
        self.evidence = evidence


def harvest(client: Client, parcel: Parcel, state: Mapping[str, Any], most: Mapping[str, float]) -> str:
    """The outcome of an attempt whose ``state`` its host has told; ``most`` is as of `Dispatch.conclude`.

    Raises Unreachable and Refused where nothing can be had of the host, NotNow, Spoilt.
    """
    result, sent, task = state["result"], parcel.sent, parcel.task
    # On the file system of the results, which may be large, and appear by renaming.
    archive = task.log(sent.attempt) + ".tar" if result.get("outputs_size") else None
    try:
        if parcel.unwanted:
            return task.lose(sent, *CHANGED)
        _bring(client, parcel, state, "log", task.log(sent.attempt), result.get("log_size"))
        if archive is not None:
            _bring(client, parcel, state, "outputs", archive, result["outputs_size"])
        return task.conclude(sent, result, archive, most)
    except Unreachable:
        raise
    except Refused as error:
        if error.whole:
            raise
        raise Spoilt(error.failure_class, f"host {sent.host}: {error.evidence}") from None
    except OSError as error:
        if error.errno in _PASSING:
            raise NotNow(str(error)) from None
        raise Spoilt("file_system", f"cannot take in its results here: {error}") from None
    except Exception as error:  # a mistake of ours must be seen, and costs one attempt only
        raise Spoilt("unknown", f"internal error: {type(error).__name__}: {error}") from error
    finally:
        if archive is not None and os.path.lexists(archive):
            os.unlink(archive)


def _bring(
    client: Client, parcel: Parcel, state: Mapping[str, Any], what: str, path: str, size: int | None
) -> None:
    if what in state:
        with open(path, "wb") as file:
            file.write(unpacked(state[what]))
    elif size:
        client.fetch(parcel.key, parcel.sent.token, what, path)

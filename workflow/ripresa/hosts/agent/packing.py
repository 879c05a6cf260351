"""The declared outputs of a unit, packed into one file for the way to the controller."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile


def absent(directory: str, outputs: list[str]) -> list[str]:
    """Those of the outputs that are not there."""
    return [name for name in outputs if not os.path.lexists(os.path.join(directory, name))]


def pack(directory: str, outputs: list[str], path: str) -> int:
    """Pack outputs, whole directories too, into a tar file on disk; returns its size in bytes.

    Modes and times are kept and links stay links; owners are not told. Raises OSError and leaves nothing
    then.
    """
    import tarfile

    try:
        with open(path, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, errorlevel=2) as archive:
                for name in outputs:
                    if os.path.lexists(f"{directory}/{name}"):
                        archive.add(f"{directory}/{name}", name, filter=_plain)
            file.flush()
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size
    except BaseException:
        if os.path.lexists(path):
            os.unlink(path)
        raise


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """The member without its owner; None for what cannot travel (pipes, devices)."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member if member.isfile() or member.isdir() or member.issym() or member.islnk() else None

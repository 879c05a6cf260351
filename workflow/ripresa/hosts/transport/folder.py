"""Where the sockets of a relay lie: a private folder with a short path, as a socket has 108 bytes at most."""

import hashlib
import os
import shutil
import tempfile

from ripresa.hosts.transport import masters

LONGEST = 40
"""Bytes of a temporary directory's path that leave room for a control socket, to whose name ssh adds 17."""


class Folder:
    """The folder of one relay and the names in it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.socket = os.path.join(path, "socket")
        self.masters = os.path.join(path, "masters")

    @classmethod
    def make(cls) -> "Folder":
        """A new one, 0700."""
        where = tempfile.gettempdir()
        return cls(
            tempfile.mkdtemp(prefix="ripresa-", dir=where if len(os.fsencode(where)) <= LONGEST else "/tmp")
        )

    def masters_of(self, host: str) -> str:
        """Where the control sockets of a host lie, apart from those of one with its address elsewhere."""
        return os.path.join(self.masters, hashlib.sha256(host.encode()).hexdigest()[:8])

    def remove(self) -> None:
        """End the control masters in it and remove it, if it is still there."""
        masters.end(self.masters)
        shutil.rmtree(self.path, ignore_errors=True)

    def runner(self, directory: str) -> str:
        """What ansible-runner writes to, in the directory of the transport."""
        return os.path.join(directory, f"runner-{os.path.basename(self.path)}")

"""The control masters of OpenSSH that the relays leave in the background."""

import contextlib
import os
import subprocess

ASK_S = 2.0


def end(folder: str) -> None:
    """End every master whose control socket lies in a folder, or below it. What is gone is gone."""
    for path, _, names in os.walk(folder):
        for name in names:
            # ssh wants a host's name here, but asks only the socket.
            command = [
                "ssh",
                "-F",
                "none",
                "-o",
                f"ControlPath={os.path.join(path, name)}",
                "-O",
                "exit",
                "none",
            ]
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=ASK_S,
                    check=False,
                )

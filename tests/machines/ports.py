"""Free ports of loopback."""

import random
import socket
from collections.abc import Sequence

LOOPBACK = "127.0.0.1"
# Below the ports that Linux hands out by itself.
FIRST_PORT, LAST_PORT = 20000, 32000


_OURS: list[socket.socket] = []


def free(number: int, addresses: Sequence[str] = (LOOPBACK,)) -> int:
    """The first of a block of at most ten ports that nobody uses on these addresses.

    Nobody else is given it while this process lives, so that there is time until something listens there.
    """
    firsts = range(FIRST_PORT, LAST_PORT, 10)
    for first in random.SystemRandom().sample(firsts, 100):
        block = range(first, first + number)
        if _reserve(first) and not any(listening(port, address) for port in block for address in addresses):
            return first
    raise RuntimeError(f"no {number} free ports in a row between {FIRST_PORT} and {LAST_PORT}")


def _reserve(first: int) -> bool:
    """Whether a block is now this process's own, by a name that the kernel gives to one process only."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0ports-from-{first}")
    except OSError:
        name.close()
        return False
    _OURS.append(name)
    return True


def listening(port: int, address: str = LOOPBACK) -> bool:
    """Whether somebody has a port of an address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return True
    return False

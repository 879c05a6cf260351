"""What goes over the socket between the controller and an action of Ansible: frames of a header and bytes.

A frame is the sizes of both (two unsigned 32-bit integers, big-endian), a JSON document, and raw bytes. The
socket lies in a private folder of the user, so that both ends are his.
"""

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

SIZES = struct.Struct(">II")


def encode(header: Mapping[str, Any], payload: bytes = b"") -> bytes:
    """One frame as bytes. ValueError if the payload does not fit into one (4 GiB)."""
    document = json.dumps(header, default=str).encode()
    if len(payload) >= 1 << 32:
        raise ValueError(f"{len(payload)} bytes do not fit into one call")
    return SIZES.pack(len(document), len(payload)) + document + payload


def receive(connection: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    """The next frame; None if the other end is gone."""
    sizes = _exactly(connection, SIZES.size)
    if sizes is None:
        return None
    header_size, payload_size = SIZES.unpack(sizes)
    document, payload = _exactly(connection, header_size), _exactly(connection, payload_size)
    if document is None or payload is None:
        return None
    return json.loads(document), payload


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    """So many bytes; None if the connection ends before."""
    buffer = bytearray(size)
    view, got = memoryview(buffer), 0
    while got < size:
        try:
            count = connection.recv_into(view[got:])
        except OSError:
            return None
        if not count:
            return None
        got += count
    return bytes(buffer)

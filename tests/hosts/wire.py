"""The wire to a host: a relay of TCP connections that can be cut, go silent, or be refused.

    python wire.py ADDRESS PORT SSHD_PORT SOCKET PID_FILE

It relays from PORT to SSHD_PORT of ADDRESS and takes orders on the Unix socket SOCKET, a word a connection,
and answers when the order is carried out:

- ``open``: everything passes.
- ``silent``: nothing passes any more, and nobody is told. Connections stay as they are and go on when the
  wire is open again; the kernel drops what would become new ones.
- ``closed``: new connections are refused, existing ones go on.
- ``cut``: existing connections are reset on both sides.
"""

import asyncio
import contextlib
import os
import socket
import struct
import sys
from pathlib import Path

RESET = struct.pack("ii", 1, 0)  # SO_LINGER that makes the kernel send a reset instead of an end


class Wire:
    """The relay; orders are its methods."""

    def __init__(self, address: str, port: int, target: int) -> None:
        self.here, self.there = (address, port), (address, target)
        self.passing = asyncio.Event()
        self.listener: socket.socket | None = None
        self.accepting: asyncio.Task[None] | None = None
        self.fillers: list[socket.socket] = []
        self.own: set[tuple[str, int]] = set()  # ends of connections that are no one else's
        self.writers: set[asyncio.StreamWriter] = set()
        self.relays: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        listener = self._listen(128)
        for filler in self.fillers:
            filler.close()
        self.fillers = []
        if self.accepting is None:
            self.accepting = asyncio.create_task(self._accept(listener))
        self.passing.set()

    async def silent(self) -> None:
        self.passing.clear()
        await self._stop_accepting()
        # Once the queue of connections that nobody accepts is full the kernel drops every further one.
        self._listen(0)
        while True:
            filler = socket.socket()
            filler.setblocking(False)
            try:
                async with asyncio.timeout(0.02):
                    await asyncio.get_running_loop().sock_connect(filler, self.here)
            except TimeoutError:
                filler.close()
                return
            self.fillers.append(filler)
            self.own.add(filler.getsockname())

    async def closed(self) -> None:
        await self._stop_accepting()
        if self.listener is not None:
            self.listener.close()
            self.listener = None

    async def cut(self) -> None:
        for writer in list(self.writers):
            abort(writer)

    def _listen(self, backlog: int) -> socket.socket:
        if self.listener is None:
            self.listener = socket.socket()
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.setblocking(False)
            self.listener.bind(self.here)
        self.listener.listen(backlog)
        return self.listener

    async def _stop_accepting(self) -> None:
        if self.accepting is not None:
            self.accepting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.accepting
            self.accepting = None

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, peer = await asyncio.get_running_loop().sock_accept(listener)
            if peer in self.own:
                self.own.remove(peer)
                connection.close()
                continue
            relay = asyncio.create_task(self._relay(connection))
            self.relays.add(relay)
            relay.add_done_callback(self.relays.discard)

    async def _relay(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        ends = [writer]
        self.writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.there)
            ends.append(far_writer)
            self.writers.add(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, far_writer))
                group.create_task(self._pass(far_reader, writer))
        except* OSError:
            # What breaks on one side breaks on the other, but not while the wire is silent.
            await self.passing.wait()
            for end in ends:
                abort(end)
        for end in ends:
            end.close()
        self.writers.difference_update(ends)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self.passing.wait()
            writer.write(data)
            await writer.drain()
        await self.passing.wait()
        writer.write_eof()


def abort(writer: asyncio.StreamWriter) -> None:
    """Reset a connection, so that its peer gets an error instead of an end."""
    if not writer.transport.is_closing():
        end = writer.get_extra_info("socket")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()


async def main(address: str, port: str, target: str, orders: str, pid_file: str) -> None:
    wire = Wire(address, int(port), int(target))

    async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        order = (await reader.readline()).decode().strip()
        await {"open": wire.open, "silent": wire.silent, "closed": wire.closed, "cut": wire.cut}[order]()
        writer.write(b"done\n")
        writer.close()

    Path(orders).unlink(missing_ok=True)
    server = await asyncio.start_unix_server(obey, orders)
    # Its number outside, since it belongs to the process namespace of the keeper.
    written = Path(f"{pid_file}.new")
    written.write_text(os.readlink("/proc/self"))
    written.replace(pid_file)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""A TCP connection's way that can be cut, slowed and stopped: a proxy on loopback.

open    passes everything on          cut     resets what is open, refuses what is new
hung    keeps everything, passes on nothing (what it took goes on its way afterwards)
slow    passes on so many bytes a second, each way of each connection
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress

_CHUNK = 65_536
_RESET = struct.pack("ii", 1, 0)


class Wire:
    """`async with Wire(port, to) as wire:` listens on `port` and connects to `to`, both on loopback."""

    def __init__(self, port: int, to: int) -> None:
        self.port = port
        self.to = to
        self.slow = 0.0
        self._cut = False
        self._free = asyncio.Event()
        self._free.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._reset()

    def cut(self) -> None:
        """Until `open`."""
        self._cut = True
        self._reset()

    def hang(self) -> None:
        """Until `open`."""
        self._free.clear()

    def open(self) -> None:
        """As if nothing had been."""
        self._cut = False
        self.slow = 0.0
        self._free.set()

    def _reset(self) -> None:
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if self._cut:
            self._reset()
            return
        try:
            there, to_server = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            self._writers.discard(writer)
            writer.transport.abort()
            return
        self._writers.add(to_server)
        ways = [
            asyncio.create_task(self._pass(reader, to_server)),
            asyncio.create_task(self._pass(there, writer)),
        ]
        both = asyncio.gather(*ways, return_exceptions=True)
        self._tasks |= set(ways)
        try:
            # One way may end before the other, as HTTP without keep-alive does; a failure ends both.
            await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for way in ways:
                way.cancel()
            await both
            self._tasks -= set(ways)
            for one in (writer, to_server):
                one.transport.abort()
                self._writers.discard(one)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """To the end of what comes. Raises OSError."""
        while data := await reader.read(int(self.slow / 10) or _CHUNK):
            await self._free.wait()
            if self.slow:
                await asyncio.sleep(len(data) / self.slow)
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

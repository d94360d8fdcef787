"""A disk with a volatile write cache, as an NBD server on a unix socket: what was not flushed is lost when its power is cut.

Killing a virtual machine alone is kinder than a power cut: what it wrote and never flushed survives in the host's page cache.
Here a write stays in memory until the guest says FLUSH (or wrote it with FUA), and only then reaches the medium, a file. At a
cut every block that was written since is either what it was before, or one of the versions written since: disks do that.
"""

from __future__ import annotations

import asyncio
import os
import random
import struct
from contextlib import suppress
from pathlib import Path

BLOCK = 4096
"""Bytes that are written whole or not at all: the sector of today's disks."""

_READ, _WRITE, _DISCONNECT, _FLUSH = range(4)
_FUA = 1
_OPTION, _REPLY = 0x49484156454F5054, 0x3E889045565A9
_ABORT, _INFO, _GO = 2, 6, 7
_ACK, _REP_INFO, _UNSUPPORTED = 1, 3, (1 << 31) + 1
_EINVAL = 22
_LARGEST = 32 * 1024 * 1024


class VolatileDisk:
    """Reads and writes of whole blocks."""

    def __init__(self, medium: Path) -> None:
        self._file = os.open(medium, os.O_RDWR)
        self.size = medium.stat().st_size // BLOCK * BLOCK
        self._written: dict[int, list[bytes]] = {}  # by block: its versions since the last flush
        self.life = 0
        """Raised by a cut: who was connected before it is answered no more."""
        self.flushes = self.dropped = self.kept = 0

    def close(self) -> None:
        """The medium, too."""
        os.close(self._file)

    def read(self, offset: int, length: int) -> bytes:
        """What was written last, flushed or not."""
        data = bytearray(os.pread(self._file, length, offset))
        for at in range(0, length, BLOCK) if self._written else ():
            versions = self._written.get((offset + at) // BLOCK)
            if versions is not None:
                data[at : at + BLOCK] = versions[-1]
        return bytes(data)

    def write(self, offset: int, data: bytes, *, fua: bool = False) -> None:
        """Into the cache; with `fua` through it."""
        for at in range(0, len(data), BLOCK):
            block, content = (offset + at) // BLOCK, data[at : at + BLOCK]
            if fua:
                self._written.pop(block, None)  # an older version must not come over it later
                os.pwrite(self._file, content, block * BLOCK)
            else:
                self._written.setdefault(block, []).append(content)

    def flush(self) -> None:
        """All that was written is on the medium."""
        for block, versions in self._written.items():
            os.pwrite(self._file, versions[-1], block * BLOCK)
        self._written.clear()
        self.flushes += 1

    def cut(self, dice: random.Random) -> None:
        """The power is gone. Half of the times nothing of the cache came to the medium, else any part of it."""
        all_lost = dice.random() < 0.5
        for block, versions in self._written.items():
            came = 0 if all_lost else dice.randint(0, len(versions))
            if came:
                os.pwrite(self._file, versions[came - 1], block * BLOCK)
                self.kept += 1
            else:
                self.dropped += 1
        self._written.clear()
        self.life += 1


async def serve(disk: VolatileDisk, path: Path) -> asyncio.Server:
    """An NBD server (fixed newstyle, simple replies) of this disk on this socket."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        life = disk.life
        with suppress(OSError, asyncio.IncompleteReadError):
            if await _agree(disk, reader, writer):
                while disk.life == life and await _answer(disk, life, reader, writer):
                    pass
        writer.transport.abort()

    return await asyncio.start_unix_server(connected, path)


async def _agree(disk: VolatileDisk, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """The handshake: false if the client went away in it."""
    writer.write(b"NBDMAGIC" + struct.pack(">QH", _OPTION, 3))  # fixed newstyle, no zeroes
    await reader.readexactly(4)
    while True:
        _, option, length = struct.unpack(">QII", await reader.readexactly(16))
        await reader.readexactly(length)

        def reply(kind: int, data: bytes = b"", option: int = option) -> None:
            writer.write(struct.pack(">QIII", _REPLY, option, kind, len(data)) + data)

        if option in (_INFO, _GO):
            reply(_REP_INFO, struct.pack(">HQH", 0, disk.size, 1 | 4 | 8))  # it knows FLUSH and FUA
            reply(_REP_INFO, struct.pack(">HIII", 3, BLOCK, BLOCK, _LARGEST))
        reply(_ACK if option in (_ABORT, _INFO, _GO) else _UNSUPPORTED)
        if option in (_ABORT, _GO):
            return bool(option == _GO)


async def _answer(
    disk: VolatileDisk, life: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """One request; false at the end."""
    _, flags, kind, handle, offset, length = struct.unpack(">IHHQQI", await reader.readexactly(28))
    data = await reader.readexactly(length) if kind == _WRITE else b""
    if disk.life != life or kind == _DISCONNECT:
        return False
    error, answer = 0, b""
    if offset % BLOCK or length % BLOCK or offset + length > disk.size:
        error = _EINVAL
    elif kind == _READ:
        answer = disk.read(offset, length)
    elif kind == _WRITE:
        disk.write(offset, data, fua=bool(flags & _FUA))
    elif kind == _FLUSH:
        disk.flush()
    else:
        error = _EINVAL
    writer.write(struct.pack(">IIQ", 0x67446698, error, handle) + answer)
    await writer.drain()
    return True

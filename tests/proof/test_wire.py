"""A wire over real sockets: what it lets pass, and what not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from fleetcast.proof.ports import free_ports
from fleetcast.proof.wire import Wire
from tests.servers import until


class Echo:
    """A server that answers with what it gets."""

    def __init__(self) -> None:
        self.got = 0
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(OSError):
            while data := await reader.read(65_536):
                self.got += len(data)
                writer.write(data)
                await writer.drain()
            writer.write(b"bye")
            writer.write_eof()
            await reader.read()
        writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Echo, Wire]]:
    here, there = free_ports(2)
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", there)
    async with Wire(here, there) as wire:
        yield echo, wire
    server.close()


async def connect(wire: Wire) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", wire.port)


async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> bytes:
    writer.write(text)
    async with asyncio.timeout(5):
        return await reader.readexactly(len(text))


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the connection is over, by an end or a reset."""
    with suppress(ConnectionError):
        async with asyncio.timeout(5):
            return await reader.read(1) == b""
    return True


async def test_open_passes_everything_both_ways_and_the_end(echo: tuple[Echo, Wire]) -> None:
    reader, writer = await connect(echo[1])
    text = bytes(300_000)
    assert await says(reader, writer, text) == text
    writer.write_eof()
    async with asyncio.timeout(5):
        assert await reader.read() == b"bye"
    writer.close()


async def test_cut_ends_what_is_open_and_what_is_new_until_opened(echo: tuple[Echo, Wire]) -> None:
    server, wire = echo
    reader, writer = await connect(wire)
    assert await says(reader, writer, b"one") == b"one"
    wire.cut()
    assert await ended(reader)
    again, more = await connect(wire)
    with suppress(ConnectionError):
        more.write(b"two")
    assert await ended(again)
    assert server.got == 3
    wire.open()
    reader, third = await connect(wire)
    assert await says(reader, third, b"three") == b"three"
    for one in (writer, more, third):
        one.close()


async def test_hung_keeps_everything_and_passes_it_on_when_opened(echo: tuple[Echo, Wire]) -> None:
    server, wire = echo
    reader, writer = await connect(wire)
    assert await says(reader, writer, b"one") == b"one"
    wire.hang()
    writer.write(b"two")
    other_reader, other = await connect(wire)  # new connections are taken, and hang as well
    other.write(b"three")
    await until(lambda: server.connections == 2)
    assert server.got == 3
    wire.open()
    async with asyncio.timeout(5):
        assert await reader.readexactly(3) == b"two"
        assert await other_reader.readexactly(5) == b"three"
    for one in (writer, other):
        one.close()


async def test_slow_takes_as_long_as_it_says(echo: tuple[Echo, Wire]) -> None:
    reader, writer = await connect(echo[1])
    assert await says(reader, writer, b"one") == b"one"
    echo[1].slow = 20_000
    began = asyncio.get_running_loop().time()
    text = bytes(range(256)) * 32
    assert await says(reader, writer, text) == text
    assert asyncio.get_running_loop().time() - began > 0.8 * len(text) / 20_000
    writer.close()


async def test_nobody_behind_it_is_an_end() -> None:
    here, there = free_ports(2)
    async with Wire(here, there) as wire:
        reader, writer = await connect(wire)
        assert await ended(reader)
        writer.close()


async def test_leaving_ends_all_connections(echo: tuple[Echo, Wire]) -> None:
    here, there = free_ports(2)
    server = await asyncio.start_server(echo[0].serve, "127.0.0.1", there)
    async with Wire(here, there) as wire:
        reader, writer = await connect(wire)
        assert await says(reader, writer, b"one") == b"one"
    assert await ended(reader)
    writer.close()
    server.close()

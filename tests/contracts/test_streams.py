"""The contract of `many.Streams`, held by its adapter against the real server."""

from __future__ import annotations

import msgspec
import pytest

from fleetcast.jetstream import Connection, provision, stream_info
from fleetcast.many import MOST, Stream, new_name
from fleetcast.nats_streams import NatsStreams
from fleetcast.settings import Settings
from fleetcast.subjects import STREAMS, stream_subject
from tests.conftest import Connect
from tests.servers import Server, until

LARGEST = Stream(
    "a" * 20,
    tuple(f"{n:064d}" for n in range(MOST)),
    "tyres",
    30,
    {f"{n:064d}": "97de55ae.5a1c09f3.tyres_12345678-1234567" for n in range(MOST)},
)


@pytest.fixture
async def streams(connected: Connect, settings: Settings) -> tuple[NatsStreams, Connection]:
    connection = await connected()
    await provision(connection, msgspec.structs.replace(settings, streams_bytes=1_000_000))
    return NatsStreams(connection), connection


async def test_what_was_put_is_there_for_everybody_and_after_a_kill(
    nats: Server, streams: tuple[NatsStreams, Connection], connected: Connect
) -> None:
    here, _ = streams
    there = NatsStreams(await connected())
    name = new_name()
    assert await there.get(name) is None
    await here.put(name, LARGEST, 3600)
    assert await there.get(name) == LARGEST
    assert await there.get(new_name()) is None
    await nats.restart()
    assert await NatsStreams(await connected()).get(name) == LARGEST


async def test_it_is_gone_after_its_time(streams: tuple[NatsStreams, Connection]) -> None:
    here, connection = streams
    short, long = new_name(), new_name()
    await here.put(short, LARGEST, 0.5)
    await here.put(long, LARGEST, 3600)

    async def gone() -> bool:
        return await here.get(short) is None

    await until(gone, "it is over")
    assert await here.get(long) == LARGEST
    info = await stream_info(connection, STREAMS)
    assert info is not None
    assert info["state"]["messages"] == 1  # nothing stays behind


async def test_when_it_is_full_the_oldest_give_way(streams: tuple[NatsStreams, Connection]) -> None:
    here, _ = streams
    names = [new_name() for _ in range(20)]
    for name in names:
        await here.put(name, LARGEST, 3600)
    found = [await here.get(name) is not None for name in names]
    assert found == sorted(found)
    assert not found[0]
    assert found[-1]


async def test_what_something_else_wrote_is_none(streams: tuple[NatsStreams, Connection]) -> None:
    here, connection = streams
    name = new_name()
    await connection.request(stream_subject(name), b"nonsense", timeout=5)
    assert await here.get(name) is None

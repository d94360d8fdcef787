"""The connection to nats-server, and the streams as they must be."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec
import pytest
from nats.aio.msg import Msg

from fleetcast import jetstream
from fleetcast.errors import Unavailable, Unusable
from fleetcast.jetstream import (
    EPOCH,
    ApiError,
    Connection,
    connect,
    consumer_config,
    current_generation,
    heard,
    live_config,
    packets_config,
    provision,
    provisioned,
    rejected_config,
)
from fleetcast.proof.wire import Wire
from fleetcast.settings import Settings
from fleetcast.subjects import LIVE, PACKETS, REJECTED, partition_consumer, put_subject
from tests.conftest import Connect
from tests.servers import Server, free_ports, until


async def test_provision_makes_the_streams_as_they_must_be(connected: Connect, settings: Settings) -> None:
    connection = await connected()
    await provision(connection, settings)
    for name, wanted in (
        (PACKETS, packets_config(settings)),
        (REJECTED, rejected_config(settings)),
    ):
        config = (await connection.api(f"STREAM.INFO.{name}"))["config"]
        assert {key: config.get(key) for key in wanted} == wanted
    config = (await connection.api(f"STREAM.INFO.{LIVE}"))["config"]
    assert re.fullmatch(r"[0-9a-f]{8}", config["metadata"][EPOCH])
    wanted = live_config(settings, config["metadata"][EPOCH])
    assert {key: config.get(key) for key in wanted} == wanted
    now = (await current_generation(connection)).name
    for number in range(settings.partitions):
        name = partition_consumer(number, now)
        consumer = (await connection.api(f"CONSUMER.INFO.{PACKETS}.{name}"))["config"]
        wanted = consumer_config(number, now)
        assert {key: consumer.get(key) for key in wanted} == wanted


async def test_provision_again_changes_nothing(connected: Connect, settings: Settings) -> None:
    connection = await connected()
    await provision(connection, settings)
    before = [await _config(connection, name) for name in (PACKETS, LIVE, REJECTED)]
    await connection.request(put_subject("car-1"), b"kept")
    await provision(connection, settings)
    assert [await _config(connection, name) for name in (PACKETS, LIVE, REJECTED)] == before
    assert (await connection.api(f"STREAM.INFO.{PACKETS}"))["state"]["messages"] == 1


async def test_many_provision_at_the_same_time(connected: Connect, settings: Settings) -> None:
    settings = msgspec.structs.replace(settings, partitions=100)
    connections = [await connected() for _ in range(4)]
    await asyncio.gather(*(provisioned(connection, settings) for connection in connections))
    info = await connections[0].api(f"STREAM.INFO.{PACKETS}")
    assert info["state"]["consumer_count"] == 100
    await provision(connections[0], settings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"retention": "limits"},
        {"discard": "old"},
        {"subject_transform": None},
    ],
)
async def test_a_packet_stream_that_would_lose_data_is_unusable(
    connected: Connect, settings: Settings, wrong: dict[str, object]
) -> None:
    connection = await connected()
    await connection.api(f"STREAM.CREATE.{PACKETS}", packets_config(settings) | wrong)
    with pytest.raises(Unusable, match=next(iter(wrong))):
        await provision(connection, settings)


async def test_another_number_of_partitions_is_unusable(connected: Connect, settings: Settings) -> None:
    connection = await connected()
    await provision(connection, settings)
    with pytest.raises(Unusable, match="partitions"):
        await provision(connection, msgspec.structs.replace(settings, partitions=settings.partitions + 1))


async def test_mqtt_and_http_write_one_stream(connected: Connect, settings: Settings) -> None:
    connection = await connected()
    await provision(connection, settings)
    await connection.request(put_subject("car-1"), b"a packet")
    message = (await connection.api(f"STREAM.MSG.GET.{PACKETS}", {"seq": 1}))["message"]
    assert re.fullmatch(r"ingest\.[0-7]\.car-1\.packets", message["subject"])


async def test_a_refusal_carries_its_codes(connected: Connect) -> None:
    connection = await connected()
    with pytest.raises(ApiError) as refused:
        await connection.api("STREAM.INFO.NONE")
    assert (refused.value.code, refused.value.err_code) == (404, 10059)


async def test_no_answer_is_unavailable(connected: Connect, nats: Server) -> None:
    connection = await connected()
    with pytest.raises(Unavailable):
        await connection.request("nobody.listens", b"")
    await nats.kill()
    with pytest.raises(Unavailable):
        await connection.api("INFO", timeout=0.5)
    await nats.start()
    await until(lambda: connection.client.is_connected)
    assert "memory" in await connection.api("INFO")


async def test_connecting_waits_for_the_server(nats: Server, settings: Settings) -> None:
    await nats.stop()
    connecting = asyncio.create_task(connect(settings, "early"))
    await asyncio.sleep(0)
    assert not connecting.done()
    await nats.start()
    connection = await connecting
    assert connection.client.is_connected
    await connection.close()


async def test_a_server_that_comes_back_is_told_to_listeners(connected: Connect, nats: Server) -> None:
    connection = await connected()
    told = asyncio.Event()
    connection.on_reconnect.append(told.set)
    await nats.restart()
    await until(told.is_set)
    assert "memory" in await connection.api("INFO")


async def test_closing_what_is_lost_is_no_error(connected: Connect, nats: Server) -> None:
    """With something left to send, it failed as the connection had."""
    connection = await connected()
    await nats.kill()
    await until(lambda: not connection.client.is_connected)
    await connection.client.publish("any", b"more")
    await connection.close()


async def test_closing_sends_what_is_buffered(connected: Connect) -> None:
    listening, sending = await connected(), await connected()
    subscription = await listening.client.subscribe("test.subject")
    await listening.client.flush()
    for number in range(1000):
        await sending.client.publish("test.subject", str(number).encode())
    await sending.close()
    for number in range(1000):
        assert (await subscription.next_msg(timeout=10)).data == str(number).encode()


async def _config(connection: Connection, name: str) -> object:
    return (await connection.api(f"STREAM.INFO.{name}"))["config"]


# Several servers


@pytest.fixture
async def two_ways(
    nats: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Wire, Connection]]:
    """A connection that knows two addresses, and is at the first, which is a wire to the server."""
    port = int(settings.nats.rpartition(":")[2])
    monkeypatch.setattr("fleetcast.jetstream.random.shuffle", lambda servers: None)
    async with Wire(free_ports(1)[0], port) as wire:
        both = msgspec.structs.replace(settings, nats=f"nats://127.0.0.1:{wire.port}, {settings.nats}")
        connection = await connect(both, "test")
        assert _port(connection) == wire.port
        yield wire, connection
        await connection.close()


def _port(connection: Connection) -> int | None:
    where = connection.client.connected_url
    return None if where is None else where.port


async def _at(connection: Connection, port: int) -> bool:
    with suppress(Unavailable):
        await connection.api("INFO", timeout=1)
        return _port(connection) == port
    return False


async def test_a_silent_server_is_left_even_if_much_waits_to_be_sent_to_it(
    two_ways: tuple[Wire, Connection],
) -> None:
    """The client alone waits until its buffer is sent, before it goes elsewhere: until TCP gives up, a quarter of an hour."""
    wire, connection = two_ways
    wire.hang()
    for _ in range(40):
        await connection.client.publish("nobody", bytes(1_000_000))
    await until(lambda: _at(connection, wire.to), "the other is found", 20)


async def test_a_server_that_is_lost_is_left_for_another(two_ways: tuple[Wire, Connection]) -> None:
    wire, connection = two_ways
    wire.cut()
    await until(lambda: _at(connection, wire.to), "the other is found", 5)


@pytest.mark.parametrize("answer", [None, b'{"error": {"code": 409}}'])
async def test_a_server_that_takes_nothing_is_left_for_another(
    two_ways: tuple[Wire, Connection], monkeypatch: pytest.MonkeyPatch, answer: bytes | None
) -> None:
    """As one that is cut off from the other servers of its cluster: it answers pings, and refuses, if it answers at all."""
    monkeypatch.setattr(jetstream, "_FORSAKEN", 1.0)
    wire, connection = two_ways

    async def refuse(message: Msg) -> None:
        if answer is not None:
            await message.respond(answer)

    await connection.client.subscribe("take.this", cb=refuse)

    async def elsewhere() -> bool:
        with suppress(Unavailable):
            await connection.ask("take.this", b"", timeout=0.2)
        return _port(connection) == wire.to

    await until(elsewhere, "another is tried", 10)


async def test_what_a_dead_leader_swallowed_is_asked_again(two_ways: tuple[Wire, Connection]) -> None:
    _, connection = two_ways
    heard = []

    async def swallow_the_first(message: Msg) -> None:
        heard.append(message)
        if len(heard) > 1:
            await message.respond(b"here")

    await connection.client.subscribe("ask.me", cb=swallow_the_first)
    assert await connection.request("ask.me", b"", timeout=5, again=0.2) == b"here"
    heard.clear()
    with pytest.raises(Unavailable):  # what must not be done twice is not asked twice
        await connection.request("ask.me", b"", timeout=0.6)
    assert len(heard) == 1


async def test_a_late_answer_to_the_first_question_counts(two_ways: tuple[Wire, Connection]) -> None:
    _, connection = two_ways
    heard: list[Msg] = []

    async def answer_the_first_at_last(message: Msg) -> None:
        heard.append(message)
        if len(heard) == 3:
            await heard[0].respond(b"late")

    await connection.client.subscribe("ask.me", cb=answer_the_first_at_last)
    assert await connection.request("ask.me", b"", timeout=5, again=0.1) == b"late"


@pytest.mark.parametrize(
    ("active", "is_heard"),
    [([], True), ([0.5, 0.6], True), ([0.5, 9.0], True), ([3.0, 9.0], False), ([0, 0], False)],
)
def test_a_leader_that_is_cut_off_from_the_others_is_not_believed(
    active: list[float], is_heard: bool
) -> None:
    """The others may have another leader from the fourth second on. 0: was never heard."""
    copies = [{"name": "b", "active": int(seconds * 1e9)} for seconds in active]
    assert heard({"cluster": {"leader": "a", "replicas": copies}}) is is_heard
    assert heard({"config": {}})

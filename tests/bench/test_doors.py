"""The load of the doors on real ones: what it records is stored, as a vehicle sends it; and the figures made of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.doors import Held, Turn, slope, turn_of
from bench.senders import Door, Options
from bench.stats import Records
from bench.world import Failed, Load
from fleetcast import ingest
from fleetcast.clock import SystemClock
from fleetcast.decode import load as load_decoders
from fleetcast.jetstream import Connection, connect, stream_info
from fleetcast.nats_queue import NatsQueue
from fleetcast.packet import JSON, NDJSON
from fleetcast.settings import Settings
from fleetcast.subjects import PACKETS
from tests.servers import Server, http_server, open_mqtt, until

decode = load_decoders(Settings().decoders).decode

MS = 1_000_000
DOORS: list[Door] = ["http", "mqtt"]


@pytest.fixture
async def doors(nats: Server, folder: Path, settings: Settings) -> AsyncIterator[Connection]:
    await open_mqtt(nats, folder, settings)
    connection = await connect(settings, "test")
    queue = NatsQueue(connection, settings, SystemClock())
    async with http_server(ingest.application(queue, settings), settings.ingest_port):
        yield connection
    await connection.close()


def load(settings: Settings, door: Door, folder: Path, **more: object) -> Load:
    port = settings.ingest_port if door == "http" else settings.mqtt_port
    return Load("bench.senders", Options(door, port, 3, 7, counts=[2], **more), folder / "sent")  # type: ignore[arg-type]


async def stored(connection: Connection) -> int:
    info = await stream_info(connection, PACKETS)
    assert info is not None
    return int(info["state"]["messages"])


@pytest.mark.parametrize("door", DOORS)
async def test_what_is_recorded_is_stored(
    doors: Connection, settings: Settings, folder: Path, door: Door
) -> None:
    async with load(settings, door, folder, size=20_000) as cars:
        await cars.until("open", 3, 30)
        cars.tell("once")
        await cars.until("finished", 1, 30)
        rows = list(Records.load(cars.records))
        assert sorted((vehicle, seq) for vehicle, seq, _, _ in rows) == [(7, 1), (8, 1), (9, 1)]
        assert all(sent < acked for _, _, sent, acked in rows)
        if door == "http":
            cars.tell("hello")
            await cars.until("greetings", 1, 30)
            cars.tell("hello")  # and a packet right behind it
        cars.tell("go 2")
        await cars.until("acked", 10, 30)
        cars.tell("halt")
        await cars.until("finished", 2, 30)
        more = list(Records.load(cars.records))
        assert {vehicle for vehicle, _, _, _ in more} == {7, 8}
        cars.tell("small")
        await cars.until("finished", 3, 30)
        assert (cars.last["error"], cars.last["closed"]) == ("", 0)
        assert await stored(doors) == 3 + len(more) + 3
        await cars.end()
    message = await doors.client.jetstream().get_msg(PACKETS, 1)
    packet = decode(message.data or b"", NDJSON, "zstd", settings.max_packet)
    assert packet.seq == 1
    assert packet.samples()
    last = await doors.client.jetstream().get_msg(PACKETS, await stored(doors))
    assert decode(last.data or b"", JSON, "identity", settings.max_packet).vehicle in {
        f"car-00000{n}" for n in (7, 8, 9)
    }


@pytest.mark.parametrize("door", DOORS)
async def test_plain_packets_are_sent_as_they_are(
    doors: Connection, settings: Settings, folder: Path, door: Door
) -> None:
    async with load(settings, door, folder, size=1_000_000, plain=True, flight=1) as cars:
        await cars.until("open", 3, 30)
        cars.tell("once")
        await cars.until("finished", 1, 30)
        assert (cars.last["error"], await stored(doors)) == ("", 3)
        await cars.end()
    message = await doors.client.jetstream().get_msg(PACKETS, 3)
    assert len(message.data or b"") == pytest.approx(1_000_000, abs=100)
    decode(message.data or b"", NDJSON, "identity", settings.max_packet)


@pytest.mark.parametrize("door", DOORS)
async def test_what_is_refused_is_an_error_and_no_record(
    doors: Connection, settings: Settings, folder: Path, door: Door
) -> None:
    config = await stream_info(doors, PACKETS)
    assert config is not None
    await doors.api(f"STREAM.UPDATE.{PACKETS}", config["config"] | {"max_bytes": 1_000})
    async with load(settings, door, folder, size=20_000) as cars:
        await cars.until("open", 3, 30)
        cars.tell("once")
        await cars.until("finished", 1, 60)
        assert cars.last["errors"] == 3
        assert not len(Records.load(cars.records))
        assert await stored(doors) == 0


async def test_a_connection_that_is_lost_is_said(
    doors: Connection, nats: Server, settings: Settings, folder: Path
) -> None:
    async with load(settings, "mqtt", folder) as cars:
        await cars.until("open", 3, 30)
        await nats.kill()
        await cars.until("closed", 3, 30)
        await until(lambda: cars.last["open"] == 0)


def test_a_turn_is_counted_from_the_first_sent_to_the_last_acknowledged() -> None:
    records = Records()
    for number in range(100):
        records.add(number, 1, 1_000 * MS + number * 10 * MS, 1_000 * MS + number * 10 * MS + 10 * MS)
    turn = turn_of(records, {"nats-server": 0.05, "ingest": 0.02, "generator": 0.01})
    assert turn.rate == pytest.approx(100)
    assert (turn.p50, turn.p99) == (10, 10)
    assert turn.platform == pytest.approx(0.7)
    assert turn.cpu["generator"] == pytest.approx(0.1)


def test_a_turn_in_which_nothing_was_acknowledged_is_none() -> None:
    with pytest.raises(Failed, match="no packet"):
        turn_of(Records(), {"nats-server": 1.0})


@given(
    st.floats(0, 1e3),
    st.floats(0, 5e3),
    st.lists(st.integers(0, 20_000), min_size=2, max_size=6, unique=True),
)
def test_memory_of_a_connection_is_the_slope(base: float, each: float, counts: list[int]) -> None:
    steps = [Held(count, base + count * each / 1e3) for count in counts]
    assert slope(steps) == pytest.approx(each, rel=1e-4, abs=1e-4)


def test_the_platforms_cost_is_without_the_generators() -> None:
    turn = Turn(1, 1.0, 1.0, 1.0, {"nats-server": 0.2, "ingest": 0.3, "generator": 9.0})
    assert turn.platform == 0.5

"""Cars by MQTT against a real nats-server: acknowledged means in the stream, whatever becomes of server and connections."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from backports import zstd

from fleetcast import natsserver
from fleetcast.jetstream import Connection, connect, provisioned
from fleetcast.packet import JSON, NDJSON
from fleetcast.settings import Settings
from fleetcast.simulator import mqtt_door
from fleetcast.simulator.cars import run_cars
from fleetcast.simulator.door import Failed, Receipt
from fleetcast.simulator.mqtt_door import MqttDoor, host_and_port
from fleetcast.simulator.options import Acked, Options, Totals
from fleetcast.simulator.samples import MAX_BYTES, Parcel
from fleetcast.subjects import PACKETS, split_ingest
from tests.servers import Proxy, Server, free_ports, nats_server, until

pytestmark = pytest.mark.anyio

CAR = "car-00000"


class Stored(msgspec.Struct):
    """A message of the packet stream."""

    vehicle: str
    form: str
    boot: int
    seq: int
    body: bytes


class Site:
    """A nats-server that takes packets by MQTT, and its stream."""

    def __init__(self, settings: Settings, server: Server, connection: Connection) -> None:
        self.settings, self.server, self.connection = settings, server, connection
        self.address = f"127.0.0.1:{settings.mqtt_port}"

    async def stored(self) -> list[Stored]:
        """All packets, in the stream's order. Nothing consumes them here."""
        info = (await self.connection.api(f"STREAM.INFO.{PACKETS}"))["state"]
        found = []
        for seq in range(info["first_seq"], info["last_seq"] + 1) if info["messages"] else ():
            message = (await self.connection.api(f"STREAM.MSG.GET.{PACKETS}", {"seq": seq}))["message"]
            _, vehicle, form = split_ingest(message["subject"])
            body = base64.b64decode(message["data"])
            text = zstd.decompress(body) if body.startswith(b"\x28\xb5\x2f\xfd") else body
            packet = msgspec.json.decode(text.split(b"\n")[0] if form == "ndjson" else text)
            found.append(Stored(vehicle, form, packet["boot"], packet["seq"], body))
        return found

    async def limit(self, size: int) -> None:
        """How many bytes the stream takes."""
        config = (await self.connection.api(f"STREAM.INFO.{PACKETS}"))["config"]
        await self.connection.api(f"STREAM.UPDATE.{PACKETS}", config | {"max_bytes": size})


@asynccontextmanager
async def mqtt_site(folder: Path, settings: Settings, more: str = "") -> AsyncIterator[Site]:
    """As the platform starts it: the stream first, then the listener. `more` is of its configuration."""
    port = natsserver.address(settings)[1]
    async with nats_server(folder, port, settings) as server:
        connection = await connect(settings, "test")
        try:
            await provisioned(connection, settings)
            await server.stop()
            text = natsserver.configuration(settings, folder / "nats", mqtt=True)
            (folder / "nats.conf").write_text(text + more)
            await server.start()
            await until(lambda: connection.client.is_connected, "the test is connected again")
            yield Site(settings, server, connection)
        finally:
            await connection.close()


@pytest.fixture
async def site(folder: Path, settings: Settings) -> AsyncIterator[Site]:
    async with mqtt_site(folder, settings) as made:
        yield made


@asynccontextmanager
async def fleet(options: Options) -> AsyncIterator[tuple[list[Acked], Totals, asyncio.Event]]:
    """A running fleet; on leaving it is stopped and has ended."""
    acked: list[Acked] = []
    totals, stop = Totals(), asyncio.Event()
    task = asyncio.create_task(run_cars(options, report=acked.append, stop=stop, totals=totals))
    try:
        yield acked, totals, stop
    finally:
        stop.set()
        assert await asyncio.wait_for(task, 40) is totals


def options(site: Site, **changes: object) -> Options:
    small = {"cars": 4, "per_minute": 120, "min_bytes": 2_000, "max_bytes": 20_000}
    return msgspec.convert({"door": "mqtt", "mqtt": site.address, **small, **changes}, Options)


def parcel(seq: int = 1, body: bytes | None = None, form: str = JSON) -> Parcel:
    head = b'{"vehicle":"%s","boot":1,"seq":%d,"sent_at":"2026-11-26T00:00:00Z","signals":{}}'
    body = head % (CAR.encode(), seq) if body is None else body
    return Parcel(CAR, 1, seq, form, "identity", body, len(body))


@asynccontextmanager
async def door(
    address: str, token_of: Callable[[str], str | None] = lambda _: None
) -> AsyncIterator[MqttDoor]:
    made = MqttDoor(address, CAR, token_of)
    try:
        yield made
    finally:
        await made.leave()


async def test_every_acknowledged_packet_is_in_the_stream_in_order(site: Site) -> None:
    async with fleet(options(site, form="mix", min_bytes=0, max_bytes=MAX_BYTES)) as (acked, totals, _):
        await until(lambda: len(acked) >= 16)
    stored = await site.stored()
    by_car = defaultdict(list)
    for one in stored:
        by_car[one.vehicle].append(one.seq)
    assert {one.form for one in stored} == {"json", "ndjson"}
    assert len(by_car) == 4
    for seqs in by_car.values():
        assert seqs == list(range(1, len(seqs) + 1))
    assert Counter((one.vehicle, one.boot, one.seq) for one in stored) == Counter(
        (one.vehicle, one.boot, one.seq) for one in acked
    )
    assert totals.acked == totals.mqtt == len(acked)
    assert (totals.errors, totals.retries, totals.unacknowledged, totals.duplicates) == (0, 0, 0, 0)
    assert {(one.door, one.stored, one.duplicate) for one in acked} == {("mqtt", None, None)}


async def test_kills_of_nats_server_lose_nothing_that_was_acknowledged(site: Site) -> None:
    trouble = {"tunnels": 0.1, "bursts": 0.1, "duplicates": 0.2, "late": 0.2, "reboots": 0.05, "skewed": 0.5}
    async with fleet(options(site, cars=12, trouble=trouble)) as (acked, totals, _):
        for kill in range(1, 4):
            await until(lambda enough=60 * kill: len(acked) >= enough, "packets flow")  # type: ignore[misc]
            await site.server.restart()
    await until(lambda: site.connection.client.is_connected, "the test is connected again")
    stored: dict[tuple[str, int, int], set[bytes]] = defaultdict(set)
    for one in await site.stored():
        stored[(one.vehicle, one.boot, one.seq)].add(one.body)
    names = [(one.vehicle, one.boot, one.seq) for one in acked]
    assert len(set(names)) == len(names) == totals.acked >= 180
    assert set(names) == set(stored), "at the end every packet that was made is acknowledged"
    assert all(len(bodies) == 1 for bodies in stored.values()), "again means the same bytes"
    assert totals.retries > 0
    assert totals.repeats > 0
    assert totals.unacknowledged == totals.errors == 0


async def test_a_packet_whose_puback_was_lost_is_sent_again_and_stored_twice(site: Site) -> None:
    cut = 0

    def once(data: bytes) -> bytes | None:
        nonlocal cut
        if data[0] == 0x40 and not cut:  # PUBACK
            cut += 1
            return None
        return data

    async with Proxy(free_ports(1)[0], site.settings.mqtt_port) as proxy:
        proxy.down = once
        async with fleet(options(site, cars=1, mqtt=f"127.0.0.1:{proxy.port}")) as (acked, totals, _):
            await until(lambda: len(acked) >= 2)
    stored = await site.stored()
    assert [one.seq for one in stored[:3]] == [1, 1, 2]
    assert stored[0].body == stored[1].body
    assert [one.seq for one in acked[:2]] == [1, 2]
    assert cut == totals.retries == 1


async def test_what_is_not_stored_is_not_acknowledged(site: Site) -> None:
    await site.limit(1)
    async with door(site.address) as car:
        for _ in range(2):
            with pytest.raises(Failed, match="MQTT"):
                await car.send(parcel())
        assert await site.stored() == []
        await site.limit(site.settings.queue_bytes)
        assert await car.send(parcel()) == Receipt(None, None)
    assert [one.seq for one in await site.stored()] == [1]


async def test_a_connection_that_ends_is_known_at_once(site: Site) -> None:
    async with (
        Proxy(free_ports(1)[0], site.settings.mqtt_port) as proxy,
        door(f"127.0.0.1:{proxy.port}") as car,
    ):
        await car.send(parcel())
        proxy.up = lambda data: b"" if data[0] == 0x30 | 2 else data  # PUBLISH goes astray
        before = proxy.sent
        sending = asyncio.create_task(car.send(parcel(2)))
        await until(lambda: proxy.sent > before, "it was sent")
        proxy.cut()
        with pytest.raises(Failed, match="ended"):
            await asyncio.wait_for(sending, 5)  # not the 25 s that a PUBACK may take
        proxy.up = lambda data: data
        await car.send(parcel(2))
    assert [one.seq for one in await site.stored()] == [1, 2]


async def test_a_car_that_was_out_of_reach_connects_again(site: Site) -> None:
    async with (
        Proxy(free_ports(1)[0], site.settings.mqtt_port) as proxy,
        door(f"127.0.0.1:{proxy.port}") as car,
    ):
        connections = 0

        def count() -> None:
            nonlocal connections
            connections += 1

        proxy.opened = count  # type: ignore[method-assign]
        for seq in (1, 2):
            await car.send(parcel(seq))
        assert connections == 1
        await car.leave()
        await car.send(parcel(3))
        assert connections == 2
    assert [one.seq for one in await site.stored()] == [1, 2, 3]


async def test_nobody_listens(site: Site) -> None:
    async with door(f"127.0.0.1:{free_ports(1)[0]}") as car:
        with pytest.raises(Failed, match="Connect call failed"):
            await car.send(parcel())


async def test_a_server_that_does_not_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_door, "_CONNECT", 0.2)
    left = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        await reader.read()  # to the end
        left += 1
        writer.close()

    port = free_ports(1)[0]
    async with await asyncio.start_server(silent, "127.0.0.1", port), door(f"127.0.0.1:{port}") as car:
        for tries in (1, 2):
            with pytest.raises(Failed, match="timed out"):
                await car.send(parcel())
            await until(lambda tries=tries: left == tries, "the connection is closed")  # type: ignore[misc]


async def test_a_car_shows_its_token(folder: Path, settings: Settings) -> None:
    settings = msgspec.structs.replace(settings, nats_password="ours")
    users = (
        f'authorization {{ users: [{{ user: "{settings.nats_user}", password: "ours" }},'
        f' {{ user: "{CAR}", password: "right" }}] }}\n'
    )
    tokens = iter(["wrong", "right"])
    async with mqtt_site(folder, settings, users) as site, door(site.address, lambda _: next(tokens)) as car:
        with pytest.raises(Failed, match=r"[Aa]uthori[sz]ed"):
            await car.send(parcel())
        await car.send(parcel(form=NDJSON))
    assert next(tokens, None) is None


async def test_half_of_a_mixed_fleet_goes_by_mqtt() -> None:
    mixed = Options(door="mix")
    assert [mixed.by_mqtt(number) for number in range(4)] == [False, True, False, True]
    assert all(Options(door="mqtt").by_mqtt(number) for number in range(2))
    assert not any(Options().by_mqtt(number) for number in range(2))


@pytest.mark.parametrize(
    "address", ["localhost", "localhost:", ":1883", "localhost:x", "localhost:70000", ""]
)
def test_an_address_has_a_port(address: str) -> None:
    assert host_and_port("car.example:8883") == ("car.example", 8883)
    with pytest.raises(ValueError, match="HOST:PORT"):
        host_and_port(address)


@pytest.mark.parametrize("address", ["localhost:1883", "mqtt://localhost:1883", "mqtts://localhost:1883"])
def test_an_address_may_say_how_it_is_spoken_to(address: str) -> None:
    assert host_and_port(address) == ("localhost", 1883)


@pytest.mark.parametrize("address", ["http://localhost:1883/", "mqtts://localhost", "mqtts://:1"])
def test_what_is_no_address_is_said(address: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        host_and_port(address)

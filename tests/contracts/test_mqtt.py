"""The vehicles' MQTT door: nats-server's own, tried with clients that we did not write.

What PUBACK says must hold as 202 does: the packet is in the packet stream, on disk, in the order of its vehicle.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import msgspec
import paho.mqtt.client as paho
import pytest
from aiomqtt import Client, MqttError, ProtocolVersion
from backports import zstd
from paho.mqtt.enums import CallbackAPIVersion

from fleetcast import natsserver
from fleetcast.clock import SystemClock
from fleetcast.decode import load
from fleetcast.errors import Recover, Unavailable
from fleetcast.jetstream import Connection, connect, packets_config, provision, stream_info, takes_packets
from fleetcast.nats_queue import NatsQueue
from fleetcast.packet import JSON
from fleetcast.queue import Delivery
from fleetcast.settings import Settings
from fleetcast.subjects import PACKETS, RESTORING, RESTORING_SUBJECTS, RETAINED
from tests.servers import Server, until

NDJSON_SUFFIX = "ndjson"

decode = load(Settings().decoders).decode


def packet(vehicle: str, seq: int, size: int = 0) -> bytes:
    head = {"vehicle": vehicle, "boot": 1, "seq": seq, "sent_at": "2026-11-23T10:00:00.000Z"}
    head |= {"signals": {"Vehicle.Speed": {"value": seq}}, "samples": ""}
    return msgspec.json.encode(head | {"samples": "x" * max(0, size - len(msgspec.json.encode(head)))})


def client(settings: Settings, vehicle: str, **more: Any) -> Client:
    return Client(
        settings.host,
        settings.mqtt_port,
        identifier=vehicle,
        protocol=ProtocolVersion.V311,
        clean_session=True,
        **more,
    )


@pytest.fixture
async def connection(nats: Server, settings: Settings) -> AsyncIterator[Connection]:
    connection = await connect(settings, "test")
    await provision(connection, settings)
    yield connection
    await connection.close()


@pytest.fixture
async def door(nats: Server, connection: Connection, folder: Path, settings: Settings) -> Server:
    """As a platform opens it: once the streams are there."""
    await opened(nats, folder, settings)
    await until(lambda: connection.client.is_connected)
    return nats


async def opened(nats: Server, folder: Path, settings: Settings) -> None:
    (folder / "nats.conf").write_text(natsserver.configuration(settings, folder / "nats", mqtt=True))
    await nats.kill()
    await nats.start()
    await until(lambda: listens(settings), "MQTT is listened for")


def listens(settings: Settings) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex((settings.host, settings.mqtt_port)) == 0


@asynccontextmanager
async def member(connection: Connection, settings: Settings) -> AsyncIterator[NatsQueue]:
    queue = NatsQueue(connection, settings, SystemClock())
    await queue.join()
    try:
        yield queue
    finally:
        await queue.leave()


async def pulled(connection: Connection, settings: Settings, count: int) -> Sequence[Delivery]:
    """So many deliveries, acked."""

    found: list[Delivery] = []
    async with member(connection, settings) as queue:
        while len(found) < count:
            try:
                batch = await queue.pull(count)
            except Recover as why:
                await queue.reset(why.partitions)
                continue
            found += batch
            await queue.ack(batch)
    return found


async def waiting(connection: Connection) -> int:
    info = await connection.api(f"STREAM.INFO.{PACKETS}")
    return int(info["state"]["messages"])


async def by_aiomqtt(settings: Settings, topic: str, body: bytes, file: Path) -> None:
    async with client(settings, topic.split("/")[1]) as car:
        await car.publish(topic, body, qos=1, timeout=20)


async def by_paho(settings: Settings, topic: str, body: bytes, file: Path) -> None:
    assert await publish(settings, topic, body) == "acknowledged"


async def publish(
    settings: Settings, topic: str, body: bytes, qos: int = 1, seconds: float = 20.0
) -> Literal["acknowledged", "closed", "silence"]:
    """What a client hears of one publish that it does not send again.

    One that lost its connection before it could publish, to a server that has just started, comes again.
    """

    def wait() -> Literal["acknowledged", "closed", "silence", "not sent"]:
        car = paho.Client(
            CallbackAPIVersion.VERSION2,
            f"client-{secrets.token_hex(8)}",  # nats-server closes who comes again while it still knows the last of that name
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
        )
        connected, heard = threading.Event(), threading.Event()
        car.on_connect = lambda *_: connected.set()
        car.on_publish = lambda *_: heard.set()
        car.on_disconnect = lambda *_: heard.set()
        car.connect(settings.host, settings.mqtt_port)
        car.loop_start()
        try:
            assert connected.wait(20)
            message = car.publish(topic, body, qos=qos)
            if message.rc == paho.MQTT_ERR_NO_CONN:
                return "not sent"
            if not heard.wait(seconds):
                return "silence"
            return "acknowledged" if message.is_published() else "closed"
        finally:
            car.disconnect()
            car.loop_stop()

    while (heard := await asyncio.to_thread(wait)) == "not sent":
        pass
    return heard


async def by_mosquitto(settings: Settings, topic: str, body: bytes, file: Path) -> None:
    await asyncio.to_thread(file.write_bytes, body)
    command = ["mosquitto_pub", "-h", settings.host, "-p", str(settings.mqtt_port), "-q", "1"]
    command += ["-i", topic.split("/")[1], "-t", topic, "-f", str(file)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()


@pytest.mark.parametrize("by", [by_aiomqtt, by_paho, by_mosquitto])
async def test_a_packet_of_full_size_is_queued_as_it_was_sent(
    door: Server, connection: Connection, folder: Path, settings: Settings, by: Any
) -> None:
    body = packet("car-1", 1, settings.max_packet)
    assert len(body) == settings.max_packet
    await by(settings, "vehicles/car-1/packets", body, folder / "body")
    (delivery,) = await pulled(connection, settings, 1)
    assert (delivery.vehicle, delivery.form, delivery.encoding) == ("car-1", "", "identity")
    assert delivery.body == body
    assert decode(delivery.body, delivery.form, delivery.encoding, settings.max_packet).seq == 1


async def test_form_and_encoding_are_what_topic_and_magic_number_say(
    door: Server, connection: Connection, settings: Settings
) -> None:
    body = zstd.compress(packet("car-1", 1))
    async with client(settings, "car-1") as car:
        await car.publish("vehicles/car-1/packets/ndjson", body, qos=1)
    (delivery,) = await pulled(connection, settings, 1)
    assert (delivery.form, delivery.encoding, delivery.body) == (NDJSON_SUFFIX, "zstd", body)


async def test_both_doors_are_one_order(door: Server, connection: Connection, settings: Settings) -> None:
    queue = NatsQueue(connection, settings, SystemClock())
    async with client(settings, "car-1") as car:
        for seq in range(1, 41):
            if seq % 2:
                await car.publish("vehicles/car-1/packets", packet("car-1", seq), qos=1)
            else:
                await queue.put("car-1", f"car-1/1/{seq}", packet("car-1", seq), JSON, "identity")
    found = await pulled(connection, settings, 40)
    assert [decode(one.body, one.form, one.encoding, 10_000).seq for one in found] == list(range(1, 41))
    assert [one.position for one in found] == list(range(1, 41))


@pytest.mark.parametrize(
    "topic", ["cars/car-1/packets", "vehicles/car-1", "vehicles/car-1/packets/json/more", "anything/else"]
)
async def test_another_topic_is_not_acknowledged_and_not_kept(
    door: Server, connection: Connection, settings: Settings, topic: str
) -> None:
    assert await publish(settings, topic, b"x", seconds=1) == "silence"
    assert await waiting(connection) == 0


async def test_qos_2_is_refused(door: Server, connection: Connection, settings: Settings) -> None:
    heard = await publish(settings, "vehicles/car-1/packets", packet("car-1", 1), qos=2, seconds=5)
    assert heard == "closed"
    assert await waiting(connection) == 0


async def test_nothing_is_retained_and_the_packet_is_queued_all_the_same(
    door: Server, connection: Connection, settings: Settings
) -> None:
    async with client(settings, "car-1") as car:
        for seq in range(1, 4):
            await car.publish("vehicles/car-1/packets", packet("car-1", seq), qos=1, retain=True)
        await car.publish("anything", b"x", qos=0, retain=True)
        await car.publish("vehicles/car-1/packets", packet("car-1", 4), qos=1)
    assert len(await pulled(connection, settings, 4)) == 4
    info = await connection.api(f"STREAM.INFO.{RETAINED}")
    assert (info["state"]["last_seq"], info["config"]["max_msg_size"]) == (0, 1)
    assert "unable to store retained message" in door.log.read_text()


async def test_what_nats_server_retained_before_us_is_bounded_from_then_on(
    nats: Server, folder: Path, settings: Settings
) -> None:
    await opened(nats, folder, settings)
    connection = await connect(settings, "test")
    try:
        await connection.api(f"STREAM.CREATE.{PACKETS}", packets_config(settings))
        async with client(settings, "car-1") as car:
            for number in range(4):
                body = packet(f"car-{number}", 1, 400_000)
                await car.publish(f"vehicles/car-{number}/packets", body, qos=1, retain=True)
        assert (await connection.api(f"STREAM.INFO.{RETAINED}"))["state"]["bytes"] > 1_000_000
        await provision(connection, settings)
        assert (await connection.api(f"STREAM.INFO.{RETAINED}"))["state"]["bytes"] <= 1_000_000
        async with client(settings, "car-1") as car:
            await car.publish("vehicles/car-9/packets", packet("car-9", 1), qos=1, retain=True)
        assert (await connection.api(f"STREAM.INFO.{RETAINED}"))["state"]["last_seq"] == 4
    finally:
        await connection.close()


async def test_while_a_restore_is_under_way_no_mqtt_client_makes_a_stream(
    nats: Server, folder: Path, settings: Settings
) -> None:
    """The first client since nats-server's start, that comes when the packet stream is away."""
    connection = await connect(settings, "test")
    try:
        await connection.api(
            f"STREAM.CREATE.{RESTORING}", {"name": RESTORING, "subjects": RESTORING_SUBJECTS}
        )
        await opened(nats, folder, settings)
        await until(lambda: connection.client.is_connected)
        with pytest.raises(MqttError):
            async with client(settings, "car-1"):
                pass
        assert await stream_info(connection, PACKETS) is None
        await connection.api(f"STREAM.CREATE.{PACKETS}", packets_config(settings))  # as the restore does
        await connection.api(f"STREAM.DELETE.{RESTORING}")
        await takes_packets(connection, settings)
        await by_aiomqtt(settings, "vehicles/car-1/packets", packet("car-1", 1), folder)
        assert await waiting(connection) == 1
    finally:
        await connection.close()


async def test_a_full_queue_is_not_acknowledged_and_takes_packets_again_once_it_has_room(
    nats: Server, connection: Connection, folder: Path, settings: Settings
) -> None:
    small = msgspec.structs.replace(settings, queue_bytes=300_000)
    await provision(connection, small)
    await opened(nats, folder, small)
    heard = [
        await publish(settings, "vehicles/car-1/packets", packet("car-1", seq, 100_000)) for seq in (1, 2, 3)
    ]
    assert heard == ["acknowledged", "acknowledged", "closed"]
    await until(lambda: connection.client.is_connected)
    assert await waiting(connection) == 2
    await pulled(connection, settings, 2)
    body = packet("car-1", 3, 100_000)
    assert await publish(settings, "vehicles/car-1/packets", body) == "acknowledged"
    (delivery,) = await pulled(connection, settings, 1)
    assert delivery.body == body


async def test_what_was_acknowledged_outlives_kills(
    door: Server, connection: Connection, settings: Settings
) -> None:
    acked: set[int] = set()
    stop = threading.Event()

    def drive() -> None:
        car = paho.Client(CallbackAPIVersion.VERSION2, "car-1", protocol=paho.MQTTv311)
        pubacks = SimpleQueue[int]()
        car.on_publish = lambda client, userdata, mid, *_: pubacks.put(mid)
        car.reconnect_delay_set(min_delay=1, max_delay=2)  # by default it doubles up to two minutes
        car.connect(settings.host, settings.mqtt_port)
        car.loop_start()  # reconnects by itself, and sends again what was not acknowledged
        seq = 1
        while not stop.is_set():
            message = car.publish("vehicles/car-1/packets", packet("car-1", seq, 20_000), qos=1)
            assert (
                pubacks.get(timeout=60) == message.mid
            )  # also of one that was published between two connections
            acked.add(seq)
            seq += 1
        car.disconnect()
        car.loop_stop()

    driving = asyncio.create_task(asyncio.to_thread(drive))
    for _ in range(3):
        await until(partial(lambda due: len(acked) >= due, len(acked) + 30), "packets are acknowledged", 60)
        await door.kill()
        await door.start()
    await until(partial(lambda due: len(acked) >= due, len(acked) + 1))
    stop.set()
    await driving
    await until(lambda: connection.client.is_connected)
    queued = await pulled(connection, settings, await waiting(connection))
    numbers = [decode(one.body, "", "identity", 30_000).seq for one in queued]
    assert acked <= set(numbers)
    assert numbers == sorted(numbers)  # a resent one may be there twice, never behind a newer one


async def test_a_stream_that_an_mqtt_client_made_first_is_never_ready(
    nats: Server, folder: Path, settings: Settings
) -> None:
    await opened(nats, folder, settings)
    connection = await connect(settings, "test")
    try:
        with pytest.raises(Unavailable, match=r"\$MQTT_msgs"):
            await takes_packets(connection, settings)  # there is none yet
        async with client(settings, "car-1"):
            pass
        with pytest.raises(Unavailable, match="retention"):
            await takes_packets(connection, settings)
        await connection.api(f"STREAM.DELETE.{PACKETS}")
        await connection.api(f"STREAM.CREATE.{PACKETS}", packets_config(settings))
        await takes_packets(connection, settings)
    finally:
        await connection.close()

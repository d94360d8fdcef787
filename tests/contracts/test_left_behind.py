"""After a power cut or a full disk, nats-server's record of what was acked can be newer than that of what was removed."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from fleetcast.clock import SystemClock
from fleetcast.jetstream import Connection, provision, stream_info
from fleetcast.nats_queue import NatsQueue
from fleetcast.packet import JSON
from fleetcast.settings import Settings
from fleetcast.subjects import PACKETS
from tests.conftest import Connect
from tests.contracts.test_backup import pulled
from tests.servers import Server, until


async def put(queue: NatsQueue, first: int, count: int) -> None:
    for number in range(first, first + count):
        await queue.put("car-1", f"car-1/1/{number}", str(number).encode(), JSON, "identity")


async def messages(connection: Connection) -> int:
    info = await stream_info(connection, PACKETS)
    assert info is not None
    return int(info["state"]["messages"])


async def test_what_was_acked_and_came_back_is_delivered_again_and_removed(
    nats: Server, connected: Connect, settings: Settings, folder: Path
) -> None:
    """It stayed for good, delivered to nobody, and took room of the queue: 14 packets after twenty power cuts."""
    settings = msgspec.structs.replace(settings, partitions=1, member="a")
    connection = await connected()
    await provision(connection, settings)
    queue = NatsQueue(connection, settings, SystemClock())
    await put(queue, 1, 5)
    (stored,) = (folder / "nats").rglob(f"streams/{PACKETS}/msgs")
    await nats.stop()
    shutil.copytree(stored, folder / "before")
    await nats.start()
    await until(lambda: connection.client.is_connected)
    await queue.join()
    await queue.ack(await pulled(queue, 5))
    await until(lambda: _holds(connection, 0))
    await queue.leave()
    await nats.stop()
    shutil.rmtree(stored)
    shutil.copytree(folder / "before", stored)
    await nats.start()
    await until(lambda: connection.client.is_connected)
    assert await messages(connection) == 5

    queue = NatsQueue(connection, settings, SystemClock())
    await queue.join()
    await put(queue, 6, 2)
    try:
        found = await pulled(queue, 7)
        assert [int(delivery.body) for delivery in found] == list(range(1, 8)), "the oldest first"
        assert [delivery.position for delivery in found] == list(range(1, 8))
        assert {delivery.form for delivery in found} == {JSON}
        await queue.ack(found)
        await until(lambda: _holds(connection, 0), "they are gone")
    finally:
        await queue.leave()


async def _holds(connection: Connection, count: int) -> bool:
    return await messages(connection) == count

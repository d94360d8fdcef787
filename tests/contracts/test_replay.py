"""A packet that is put again out of REJECTED says when it first came."""

from __future__ import annotations

import msgspec

from fleetcast.clock import SystemClock
from fleetcast.jetstream import provision
from fleetcast.nats_queue import NatsQueue
from fleetcast.nats_rejected import NatsRejected
from fleetcast.packet import JSON
from fleetcast.settings import Settings
from tests.conftest import Connect
from tests.contracts.test_backup import pulled


async def test_a_replayed_packet_says_when_it_first_came_however_often(
    connected: Connect, settings: Settings
) -> None:
    settings = msgspec.structs.replace(settings, partitions=1, member="a")
    connection = await connected()
    await provision(connection, settings)
    queue, rejected = NatsQueue(connection, settings, SystemClock()), NatsRejected(connection)
    await queue.join()
    try:
        await queue.put("car-1", "car-1/1/1", b"{}", JSON, "identity")
        (first,) = await pulled(queue, 1)
        assert first.received is None
        again = first
        for _ in range(2):
            await queue.reject(again, "spoiled")
            await queue.ack([again])
            (one,) = [one async for one in rejected.all("car-1")]
            await rejected.replay(one)
            (again,) = await pulled(queue, 1)
            assert again.stored > first.stored
            assert again.received is not None
            assert abs(again.received - first.stored) < 0.002  # as text, to the millisecond
    finally:
        await queue.leave()

"""Erasing a vehicle on the real nats-server: nothing of it is left, nothing of others is touched, and nothing comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest

from fleetcast import nats_forget
from fleetcast.clock import SystemClock
from fleetcast.consume import Consumer
from fleetcast.decode import load
from fleetcast.edge import Item
from fleetcast.errors import Unusable
from fleetcast.jetstream import Connection, provision
from fleetcast.nats_live import NatsLive
from fleetcast.nats_queue import NatsQueue
from fleetcast.nats_registry import NatsRegistry
from fleetcast.packet import JSON
from fleetcast.registry import Vehicle
from fleetcast.settings import Settings
from fleetcast.state import State
from fleetcast.subjects import RETAINED
from tests.conftest import Connect
from tests.e2e.outside import packet
from tests.servers import until

NEIGHBOURS = ("car", "car-1", "car-10", "car-2", "1")
"""Ids that begin or end as the one that is forgotten, car-1."""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no doors here, and nothing to be waited for."""
    monkeypatch.setattr(nats_forget, "HOLDS", 0.0)
    monkeypatch.setattr(nats_forget, "_DRAINED", 1.0)
    monkeypatch.setattr(nats_forget, "_IN_HAND", 0.2)


@pytest.fixture
async def connection(connected: Connect, settings: Settings) -> Connection:
    connection = await connected()
    await provision(connection, settings)
    return connection


class Edge:
    """Nobody listens; what is published is kept."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    async def ready(self) -> None: ...

    def listeners(self, channel: str) -> int:
        return 1

    def replicas(self, channel: str) -> Sequence[str]:
        return ["here"]

    def channels(self) -> Sequence[str]:
        return []

    async def publish(self, items: Sequence[Item]) -> None:
        self.items += items

    async def close(self) -> None: ...


@asynccontextmanager
async def consuming(connection: Connection, settings: Settings) -> AsyncIterator[Consumer]:
    """One consume process, that hears of no forgetting."""
    settings = msgspec.structs.replace(settings, member="a")
    queue = NatsQueue(connection, settings, SystemClock())
    consumer = Consumer(
        queue, NatsLive(connection, settings), Edge(), [], load(settings.decoders), settings, SystemClock()
    )
    await queue.join()
    running = asyncio.create_task(consumer.run())
    try:
        yield consumer
    finally:
        consumer.stop()
        await running
        await queue.leave()


async def send(connection: Connection, settings: Settings, vehicle: str, seq: int, body: bytes = b"") -> None:
    queue = NatsQueue(connection, settings, SystemClock())
    await queue.put(vehicle, f"{vehicle}/1/{seq}", body or packet(vehicle, seq), JSON, "identity")


async def reaches(connection: Connection, settings: Settings, vehicle: str, version: int) -> State:
    live = NatsLive(connection, settings)

    async def there() -> State | None:
        state = (await live.latest(vehicle)).state
        return state if state.version == version else None

    found: State = await until(there, f"{vehicle} reaches {version}")
    return found


async def retained(connection: Connection, vehicle: str) -> None:
    await connection.client.publish(f"$MQTT.rmsgs.vehicles.{vehicle}.packets", b"the last")


async def fill(connection: Connection, settings: Settings) -> None:
    """Of each vehicle three updates, a rejected packet, a retained one, an entry, and two packets that wait."""
    # As nats-server itself would have made it, before we did.
    stream = {"name": RETAINED, "subjects": ["$MQTT.rmsgs.>"], "max_msgs_per_subject": 1}
    await connection.api(f"STREAM.DELETE.{RETAINED}")
    await connection.api(f"STREAM.CREATE.{RETAINED}", stream)
    async with consuming(connection, settings):
        for vehicle in NEIGHBOURS:
            for seq in range(1, 4):
                await send(connection, settings, vehicle, seq)
            await send(connection, settings, vehicle, 4, b"bad")
            await retained(connection, vehicle)
            await NatsRegistry(connection).put(Vehicle(vehicle, ("north",)))
        for vehicle in NEIGHBOURS:
            await reaches(connection, settings, vehicle, 3)
            await until(lambda vehicle=vehicle: _holds(connection, vehicle, 0))  # type: ignore[misc]
    for vehicle in NEIGHBOURS:
        for seq in (5, 6):
            await send(connection, settings, vehicle, seq)


async def _holds(connection: Connection, vehicle: str, waiting: int) -> bool:
    return (await nats_forget.held(connection, vehicle))["queue"] == waiting


async def test_everything_of_one_and_nothing_of_its_neighbours_is_erased(
    connection: Connection, settings: Settings
) -> None:
    await fill(connection, settings)
    full = {"queue": 2, "retained": 1, "state": 1, "window": 3, "rejected": 1}
    for vehicle in NEIGHBOURS:
        assert await nats_forget.held(connection, vehicle) == full
    said: list[str] = []
    done = await nats_forget.forget(connection, NatsRegistry(connection), "car-1", said.append)
    assert done.done
    assert done.erased == full
    assert done.left == dict.fromkeys(full, 0)
    assert "2 packets still wait" in said[1]
    for vehicle in NEIGHBOURS:
        if vehicle != "car-1":
            assert await nats_forget.held(connection, vehicle) == full
            assert await NatsRegistry(connection).get(vehicle) == Vehicle(vehicle, ("north",))
    async with consuming(connection, settings):
        for vehicle in NEIGHBOURS:
            if vehicle != "car-1":
                await reaches(connection, settings, vehicle, 5)
        assert not any((await nats_forget.held(connection, "car-1")).values()), "nothing came back"


async def test_one_that_was_never_there_can_be_forgotten(connection: Connection) -> None:
    done = await nats_forget.forget(connection, NatsRegistry(connection), "nobody", lambda text: None)
    assert done.done
    assert not any(done.erased.values())


async def test_a_process_that_holds_the_state_is_refused_by_the_fence_and_begins_anew(
    connection: Connection, connected: Connect, settings: Settings
) -> None:
    """It is not even told: the revision that it holds is of a message that is gone."""
    async with consuming(await connected(), settings) as consumer:
        for seq in range(1, 4):
            await send(connection, settings, "car-1", seq)
        before = await reaches(connection, settings, "car-1", 3)
        await until(lambda: _holds(connection, "car-1", 0))
        assert consumer._held["car-1"].state == before
        done = await nats_forget.forget(connection, NatsRegistry(connection), "car-1", lambda text: None)
        assert done.done
        assert consumer._held["car-1"].state == before, "it holds it still"
        await send(connection, settings, "car-1", 4)
        after = await reaches(connection, settings, "car-1", 1)
        assert list(after.signals) == ["Test.Number"]
        assert after.life != before.life
        state, window = await NatsLive(connection, settings).since("car-1", 0)
        assert (state, [(one.prev, one.version) for one in window]) == (after, [(0, 1)])


async def test_a_process_that_is_told_keeps_nothing(
    connection: Connection, connected: Connect, settings: Settings
) -> None:
    own = await connected()
    async with consuming(own, settings) as consumer:
        await nats_forget.listen(own, consumer.forget)
        for vehicle in ("car-1", "car-2"):
            await send(connection, settings, vehicle, 1)
            await reaches(connection, settings, vehicle, 1)
            await until(lambda vehicle=vehicle: _holds(connection, vehicle, 0))  # type: ignore[misc]
        await nats_forget.forget(connection, NatsRegistry(connection), "car-1", lambda text: None)
        await until(lambda: "car-1" not in consumer._held)
        assert consumer.traces.get("car-1") is None
        assert "car-2" in consumer._held
        assert consumer.traces.get("car-2") is not None


async def test_what_still_sends_is_said_not_to_be_empty(
    connection: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the doors, as nothing here asks the registry: it is never called forgotten while something is left."""
    monkeypatch.setattr(nats_forget, "_ASK", 0.05)

    async def storm() -> None:
        for seq in range(1, 1_000_000):
            await send(connection, settings, "car-1", seq)

    storming = asyncio.create_task(storm())
    try:
        done = await nats_forget.forget(connection, NatsRegistry(connection), "car-1", lambda text: None)
    finally:
        storming.cancel()
        await asyncio.gather(storming, return_exceptions=True)
    assert not done.done
    assert done.left["queue"] > 0


async def test_a_registry_that_is_kept_elsewhere_is_left_and_said_to_be(
    connection: Connection, settings: Settings
) -> None:
    class Elsewhere(NatsRegistry):
        async def put(self, vehicle: Vehicle) -> None:
            raise Unusable("registry: vehicles are kept elsewhere")

        async def remove(self, vehicle: str) -> None:
            raise Unusable("registry: vehicles are kept elsewhere")

    await NatsRegistry(connection).put(Vehicle("car-1"))
    await send(connection, settings, "car-1", 1)
    with pytest.raises(Unusable, match="elsewhere"):
        await nats_forget.forget(connection, Elsewhere(connection), "car-1", lambda text: None)
    assert (await nats_forget.held(connection, "car-1"))["queue"] == 1, "not before it is disabled there"
    await NatsRegistry(connection).put(Vehicle("car-1", enabled=False))
    done = await nats_forget.forget(connection, Elsewhere(connection), "car-1", lambda text: None)
    assert not any(done.left.values())
    assert done.entry == Vehicle("car-1", enabled=False)
    assert not done.done

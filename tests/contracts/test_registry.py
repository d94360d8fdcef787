"""The contract of `fleetcast.registry`, held by every adapter against its real server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import msgspec
import pytest

from fleetcast.errors import Unavailable
from fleetcast.jetstream import Connection, connect, provision, stream_info
from fleetcast.nats_registry import NatsRegistry
from fleetcast.registry import Registry, Vehicle
from fleetcast.settings import Settings
from fleetcast.subjects import REGISTRY, registry_subject
from tests.conftest import Connect
from tests.servers import Server, nats_server, platform_settings, short_folder, until


class World(Protocol):
    """One server with its registry, and what can happen to it."""

    async def registry(self) -> Registry:
        """By a connection of its own."""

    async def kill(self) -> None:
        """The server's process, with -9."""

    async def start(self) -> None:
        """The server again, on what is on its disk."""


class NatsWorld:
    """On nats-server."""

    def __init__(self, server: Server, connections: list[Connection], connect_one: Connect) -> None:
        self._connect = connect_one
        self._connections = connections
        self.kill = server.kill
        self.start = server.start

    async def registry(self) -> NatsRegistry:
        self._connections.append(await self._connect())
        return NatsRegistry(self._connections[-1])


@asynccontextmanager
async def nats_world(folder: Path) -> AsyncIterator[NatsWorld]:
    settings = platform_settings(folder, partitions=1)
    connections: list[Connection] = []
    async with nats_server(folder, int(settings.nats.rpartition(":")[2]), settings) as server:
        world = NatsWorld(server, connections, lambda: connect(settings, "test"))
        try:
            await world.registry()
            await provision(connections[0], settings)
            yield world
        finally:
            for connection in connections:
                await connection.close()


ADAPTERS: Mapping[str, Callable[[Path], AbstractAsyncContextManager[World]]] = {"nats": nats_world}


@pytest.fixture(params=ADAPTERS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    with short_folder() as folder:
        async with ADAPTERS[request.param](folder) as made:
            yield made


async def everyone(registry: Registry, fleet: str | None = None) -> dict[str, Vehicle]:
    found = [vehicle async for vehicle in registry.all(fleet)]
    assert len({one.vehicle for one in found}) == len(found), "each once"
    return {one.vehicle: one for one in found}


async def test_a_vehicle_that_was_put_is_there_for_everybody(world: World) -> None:
    here, there = await world.registry(), await world.registry()
    car = Vehicle("car-1", ("north", "trial_2"), 12.5, False)
    assert await there.get("car-1") is None
    await here.put(car)
    assert await there.get("car-1") == car
    await there.put(msgspec.structs.replace(car, enabled=True, fleets=()))
    assert await here.get("car-1") == Vehicle("car-1", (), 12.5, True)
    assert await here.get("car") is None
    assert await here.get("car-10") is None


async def test_a_vehicle_that_was_removed_is_gone_and_can_come_back(world: World) -> None:
    registry = await world.registry()
    await registry.put(Vehicle("car-1"))
    await registry.put(Vehicle("car-2"))
    await registry.remove("car-1")
    await registry.remove("never-there")
    assert await registry.get("car-1") is None
    assert await everyone(registry) == {"car-2": Vehicle("car-2")}
    await registry.put(Vehicle("car-1", every=5))
    assert await registry.get("car-1") == Vehicle("car-1", every=5)


async def test_a_fleet_is_those_that_say_so(world: World) -> None:
    registry = await world.registry()
    for number in range(6):
        await registry.put(Vehicle(f"car-{number}", ("even",) if number % 2 == 0 else ("odd", "few")))
    assert sorted(await everyone(registry)) == [f"car-{number}" for number in range(6)]
    assert sorted(await everyone(registry, "even")) == ["car-0", "car-2", "car-4"]
    assert sorted(await everyone(registry, "few")) == ["car-1", "car-3", "car-5"]
    assert await everyone(registry, "fe") == {}


async def test_the_stamp_is_another_one_after_each_change_and_the_same_without(world: World) -> None:
    """Whatever the changes: a vehicle that comes and goes leaves as many as there were."""
    here, there = await world.registry(), await world.registry()
    seen, chance = [await here.stamp()], random.Random(6)
    held: set[str] = set()
    for _ in range(60):
        vehicle = f"car-{chance.randrange(4)}"
        if vehicle in held and chance.random() < 0.5:
            await here.remove(vehicle)
            held.discard(vehicle)
        else:
            await here.put(Vehicle(vehicle))
            held.add(vehicle)
        stamp = await there.stamp()
        assert stamp not in seen
        assert await there.stamp() == stamp
        seen.append(stamp)


async def test_what_was_put_survives_kill_9_and_is_unavailable_meanwhile(world: World) -> None:
    registry = await world.registry()
    await asyncio.gather(*(registry.put(Vehicle(f"car-{number}")) for number in range(300)))
    await registry.put(Vehicle("car-0", enabled=False))
    await registry.remove("car-1")
    stamp = await registry.stamp()
    await world.kill()
    with pytest.raises(Unavailable):
        await registry.get("car-2")
    with pytest.raises(Unavailable):
        await registry.stamp()
    with pytest.raises(Unavailable):
        await registry.put(Vehicle("car-3"))
    with pytest.raises(Unavailable):
        await everyone(registry)
    await world.start()

    async def back() -> bool:
        try:
            return await registry.stamp() == stamp
        except Unavailable:
            return False

    await until(back, "it is as it was")
    found = await everyone(registry)
    assert len(found) == 299
    assert not found["car-0"].enabled


async def test_none_is_missed_while_they_change(world: World) -> None:
    registry, writer = await world.registry(), await world.registry()
    cars = [f"car-{number:04}" for number in range(2000)]
    for first in range(0, len(cars), 200):
        await asyncio.gather(*(registry.put(Vehicle(car)) for car in cars[first : first + 200]))
    changes = 0

    async def storm() -> None:
        nonlocal changes
        chance = random.Random(1)
        while True:
            await asyncio.gather(*(writer.put(Vehicle(car, every=9)) for car in chance.sample(cars, 40)))
            changes += 40

    storming = asyncio.create_task(storm())
    try:
        for _ in range(3):
            await until(lambda done=changes: changes > done, "it storms")  # type: ignore[misc]
            assert sorted(await everyone(registry)) == cars
    finally:
        storming.cancel()
        await asyncio.gather(storming, return_exceptions=True)


# On NATS alone


async def test_the_bucket_is_one_that_other_tools_know(connected: Connect, settings: Settings) -> None:
    """Written and deleted with NATS's own client; a marker is no vehicle, and what is no JSON passes for none."""
    connection = await connected()
    await provision(connection, settings)
    registry = NatsRegistry(connection)
    bucket = await connection.client.jetstream().key_value("VEHICLES")
    await bucket.put("car-1", b'{"vehicle": "car-1", "fleets": ["a"], "color": "red"}')
    assert await registry.get("car-1") == Vehicle("car-1", ("a",))
    await registry.put(Vehicle("car-2"))
    entry = await bucket.get("car-2")
    assert entry.value is not None
    assert msgspec.json.decode(entry.value) == {
        "vehicle": "car-2",
        "fleets": [],
        "every": 60.0,
        "enabled": True,
    }
    await bucket.delete("car-1")
    assert await registry.get("car-1") is None
    assert list(await everyone(registry)) == ["car-2"]
    await bucket.put("car-3", b"no")
    with pytest.raises(Unavailable, match="car-3 is no vehicle"):
        await registry.get("car-3")


async def test_nothing_is_left_of_what_was_removed(connected: Connect, settings: Settings) -> None:
    connection = await connected()
    await provision(connection, settings)
    registry = NatsRegistry(connection)
    await registry.put(Vehicle("car-1"))
    await registry.remove("car-1")
    info = await stream_info(connection, REGISTRY)
    assert info is not None
    assert info["state"]["messages"] == 0
    wanted = {"subjects_filter": registry_subject("car-1")}
    assert not (await connection.api(f"STREAM.INFO.{REGISTRY}", wanted))["state"].get("subjects")

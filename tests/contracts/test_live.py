"""The contract of `fleetcast.live`, held by every adapter against its real server."""

from __future__ import annotations

import asyncio
import base64
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
from backports import zstd

from fleetcast.errors import FleetcastError, Unavailable
from fleetcast.jetstream import Connection, connect, provision
from fleetcast.live import Change, Fenced, Held, Live, Refused
from fleetcast.nats_live import NatsLive
from fleetcast.packet import Signal
from fleetcast.settings import Settings
from fleetcast.state import State, Touched
from fleetcast.update import Update
from fleetcast.views import Views
from tests.servers import Proxy, free_ports, nats_server, platform_settings, short_folder, until

AT = "2026-01-01T00:00:00.000Z"
Deed = Callable[[], Coroutine[Any, Any, None]]


class World(Protocol):
    """One server with its live state, and what can happen to them."""

    async def live(self) -> Live:
        """By a connection of its own."""

    async def through(self, proxy: int) -> Live:
        """By a connection through the proxy on this port."""

    def port(self) -> int:
        """The server's."""

    async def kill(self) -> None:
        """The server's process, with -9."""

    async def start(self) -> None:
        """The server again, on what is on its disk."""


class NatsWorld:
    """On nats-server."""

    def __init__(self, settings: Settings, kill: Deed, start: Deed) -> None:
        self.settings = settings
        self.kill = kill
        self.start = start
        self._connections: list[Connection] = []

    async def live(self) -> NatsLive:
        return NatsLive(await self.connection(self.settings), self.settings)

    async def through(self, proxy: int) -> NatsLive:
        settings = msgspec.structs.replace(self.settings, nats=f"nats://127.0.0.1:{proxy}")
        return NatsLive(await self.connection(settings), settings)

    def port(self) -> int:
        return int(self.settings.nats.rpartition(":")[2])

    async def connection(self, settings: Settings) -> Connection:
        """One more."""
        self._connections.append(await connect(settings, "test"))
        return self._connections[-1]

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()


@asynccontextmanager
async def nats_world(folder: Path, changes: Mapping[str, Any]) -> AsyncIterator[NatsWorld]:
    settings = platform_settings(folder, **{"partitions": 1, **changes})
    async with nats_server(folder, int(settings.nats.rpartition(":")[2]), settings) as server:
        world = NatsWorld(settings, server.kill, server.start)
        try:
            await provision(await world.connection(settings), settings)
            yield world
        finally:
            await world.close()


ADAPTERS: Mapping[str, Callable[[Path, Mapping[str, Any]], AbstractAsyncContextManager[World]]] = {
    "nats": nats_world
}


@pytest.fixture(params=ADAPTERS)
async def worlds(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Awaitable[World]]]:
    """Makes worlds with other settings than the usual ones."""
    async with AsyncExitStack() as stack:

        async def make(**changes: Any) -> World:
            folder = stack.enter_context(short_folder())
            return await stack.enter_async_context(ADAPTERS[request.param](folder, changes))

        yield make


@pytest.fixture
async def world(worlds: Callable[..., Awaitable[World]]) -> World:
    return await worlds()


def change(before: Held, count: int = 1, text: str = "") -> Change:
    """That many packets applied to what is held; `text` stands in the state and in each update."""
    state = before.state
    updates = []
    for version in range(state.version + 1, state.version + count + 1):
        signals: dict[str, Signal | None] = {
            "Vehicle.Speed": Signal(version, AT),
            "Test.Text": Signal(text, AT),
        }
        updates.append(Update(state.vehicle, version, version - 1, AT, signals))
    after = msgspec.structs.replace(
        state,
        version=state.version + count,
        updated_at=AT,
        signals={"Vehicle.Speed": Signal(state.version + count, AT), "Test.Text": Signal(text, AT)},
        boot=1,
        seq=state.version + count,
        incarnation="now",
        position=state.version + count,
        memory={"test": {"any": ["thing", 1, None]}},
    )
    return Change(after, before.revision, updates)


async def commit(live: Live, vehicle: str, count: int = 1, text: str = "") -> Held:
    """That many more packets of this vehicle."""
    one = change(await live.latest(vehicle, leader=True), count, text)
    (revision,) = await live.commit([one])
    return Held(one.state, revision)


def incompressible(size: int) -> str:
    """Text that zstd can shrink by a quarter at most."""
    return base64.b64encode(random.Random(size).randbytes(size)).decode()[:size]


# Reading and committing


@pytest.mark.parametrize("leader", [False, True])
async def test_a_vehicle_that_never_sent_is_empty(world: World, leader: bool) -> None:
    live = await world.live()
    assert await live.latest("car-1", leader=leader) == Held(State("car-1"), 0)
    assert await live.since("car-1", -1, leader=leader) == (State("car-1"), [])


@pytest.mark.parametrize("leader", [False, True])
async def test_what_was_committed_is_read(world: World, leader: bool) -> None:
    live, other = await world.live(), await world.live()
    one = change(Held(State("car-1"), 0), 3)
    (revision,) = await live.commit([one])
    assert revision > 0
    assert await other.latest("car-1", leader=leader) == Held(one.state, revision)
    assert await other.since("car-1", 0, leader=leader) == (one.state, one.updates)
    two = change(Held(one.state, revision), 2)
    (later,) = await other.commit([two])
    assert later > revision
    assert await live.latest("car-1", leader=leader) == Held(two.state, later)
    assert await live.since("car-1", 2, leader=leader) == (two.state, [*one.updates, *two.updates][2:])
    assert await live.since("car-1", 5, leader=leader) == (two.state, [])
    assert await live.since("car-1", 9, leader=leader) == (two.state, [])


@pytest.mark.parametrize("leader", [False, True])
async def test_of_a_view_it_is_read_up_to_its_last_update(world: World, leader: bool) -> None:
    """What did not touch it since is not read; that the view has nothing new is one read, however much came."""
    live = await world.live()
    (view,) = [one for one in Views(["text: Test.Text"]).named.values() if one.key]
    one = change(Held(State("car-1"), 0), 6)
    updates = [
        msgspec.structs.replace(
            update, prevs={view.key: update.version - 2} if update.version in (2, 4) else {}
        )
        for update in one.updates
    ]
    state = msgspec.structs.replace(one.state, views={view.key: Touched(4, AT)})
    await live.commit([Change(state, 0, updates)])
    assert await live.latest("car-1", leader=leader) == await live.latest("car-1")
    assert (await live.latest("car-1")).state == state
    for last, expected in ((0, updates[:4]), (2, updates[2:4]), (4, []), (5, []), (-1, [])):
        assert await live.since("car-1", last, leader=leader, view=view) == (state, expected)
    assert await live.since("car-1", 0, leader=leader) == (state, updates)


async def test_revisions_come_in_the_order_of_the_changes(world: World) -> None:
    live = await world.live()
    changes = [change(Held(State(f"car-{number}"), 0), 1 + number % 3) for number in range(30)]
    revisions = await live.commit(changes)
    for one, revision in zip(changes, revisions, strict=True):
        assert await live.latest(one.state.vehicle, leader=True) == Held(one.state, revision)
    assert await live.commit([]) == []


async def test_vehicles_whose_ids_begin_alike_are_not_mixed(world: World) -> None:
    live = await world.live()
    for number, vehicle in enumerate(("1", "10", "1-", "100"), 1):
        await commit(live, vehicle, number)
    for number, vehicle in enumerate(("1", "10", "1-", "100"), 1):
        state, updates = await live.since(vehicle, 0)
        assert (state.vehicle, state.version) == (vehicle, number)
        assert {update.vehicle for update in updates} == {vehicle}
        assert len(updates) == number


async def test_many_latest_states_are_read_at_once_but_for_those_that_never_sent(world: World) -> None:
    live = await world.live()
    await live.commit([change(Held(State(f"car-{number}"), 0)) for number in range(70)])
    await commit(live, "car-1", 2)
    asked = ["nobody", *(f"car-{number}" for number in range(64))]
    found = {state.vehicle: state for state in await live.latest_of(asked)}
    assert found == {v: (await live.latest(v, leader=True)).state for v in asked[1:]}
    assert found["car-1"].version == 3
    assert await live.latest_of(["nobody"]) == []


async def test_state_and_updates_are_read_in_one_go(world: World) -> None:
    writer, reader = await world.live(), await world.live()
    held = await commit(writer, "car-1")
    reads = 0

    async def read() -> None:
        nonlocal reads
        while held.state.version < 600:
            state, updates = await reader.since("car-1", 0)
            assert [update.version for update in updates] == list(range(1, state.version + 1))
            reads += 1

    reading = [asyncio.create_task(read()) for _ in range(4)]
    while held.state.version < 600:
        one = change(held, 3)
        (revision,) = await writer.commit([one])
        held = Held(one.state, revision)
    await asyncio.gather(*reading)
    assert reads > 20


# The fence


async def test_a_stale_revision_is_refused_whole(world: World) -> None:
    live = await world.live()
    old = await commit(live, "car-1", 2)
    now = await commit(live, "car-1", 1)
    fresh = [change(Held(State(f"car-{number}"), 0), 2) for number in range(2, 6)]
    for batch in ([*fresh, change(old)], [change(old), *fresh], [*fresh[:2], change(old), *fresh[2:]]):
        with pytest.raises(Fenced):
            await live.commit(batch)
    for number in range(2, 6):
        assert await live.latest(f"car-{number}", leader=True) == Held(State(f"car-{number}"), 0)
        assert (await live.since(f"car-{number}", 0))[1] == []
    assert await live.latest("car-1", leader=True) == now
    assert [update.version for update in (await live.since("car-1", 0))[1]] == [1, 2, 3]


async def test_another_epoch_is_refused_whole_even_if_the_revision_fits(world: World) -> None:
    live = await world.live()
    held, epoch = await commit(live, "car-1", 2), await live.epoch()
    with pytest.raises(Fenced):
        await live.commit([change(held), change(Held(State("car-2"), 0))], "5eed5eed")
    assert await live.latest("car-1", leader=True) == held
    assert await live.vehicles() == ["car-1"]
    await live.commit([change(held)], epoch)


async def test_the_first_commit_of_a_vehicle_is_fenced_too(world: World) -> None:
    live = await world.live()
    empty = Held(State("car-1"), 0)
    await live.commit([change(empty)])
    with pytest.raises(Fenced):
        await live.commit([change(empty, 2)])
    assert (await live.latest("car-1")).state.version == 1


async def test_of_two_writers_exactly_one_gets_through(world: World) -> None:
    writers = [await world.live(), await world.live()]
    vehicles = [f"car-{number}" for number in range(3)]
    held = {vehicle: Held(State(vehicle), 0) for vehicle in vehicles}
    for turn in range(100):
        offers = [[change(held[v], 2, f"{turn} by {who}") for v in vehicles] for who in range(2)]
        ends = await asyncio.gather(
            *(live.commit(offer) for live, offer in zip(writers, offers, strict=True)), return_exceptions=True
        )
        won = [who for who, end in enumerate(ends) if not isinstance(end, BaseException)]
        assert len(won) == 1, ends
        assert isinstance(ends[1 - won[0]], Fenced)
        revisions = ends[won[0]]
        assert not isinstance(revisions, BaseException)
        for offer, revision in zip(offers[won[0]], revisions, strict=True):
            held[offer.state.vehicle] = Held(offer.state, revision)
    for vehicle in vehicles:
        assert await writers[0].latest(vehicle, leader=True) == held[vehicle]
        state, updates = await writers[0].since(vehicle, 0)
        assert [update.version for update in updates] == list(range(1, 201))
        assert updates[-1].signals["Test.Text"] == state.signals["Test.Text"]


# What can go wrong


@pytest.mark.parametrize("lost", ["the answer", "the end of the batch", "the whole batch"])
async def test_a_lost_answer_is_fenced_and_a_reload_shows_all_or_nothing(world: World, lost: str) -> None:
    direct = await world.live()
    before = [await commit(direct, f"car-{number}") for number in range(20)]
    epoch = await direct.epoch()
    (port,) = free_ports(1)
    async with Proxy(port, world.port()) as proxy:
        live = await world.through(port)
        # Each message alone is far below a chunk of the proxy's, the batch far above.
        batch = [change(held, 2, incompressible(10_000)) for held in before]
        passed = 0

        def lose(data: bytes) -> bytes | None:
            """Cuts the connection, once."""
            nonlocal passed
            passed += len(data)
            if lost == "the end of the batch" and passed < 200_000:
                return data
            proxy.up = proxy.down = lambda data: data
            return None

        if lost == "the answer":
            proxy.down = lose
        else:
            proxy.up = lose
        with pytest.raises(Fenced):
            await live.commit(batch, epoch)
        versions = {(await direct.latest(held.state.vehicle, leader=True)).state.version for held in before}
        assert versions == ({3} if lost == "the answer" else {1})
        for held in before:
            state, updates = await direct.since(held.state.vehicle, 0)
            assert updates[-1].version == state.version
        # And from what a reload shows it goes on, by the same connection.
        reloaded = [await until(partial(_loaded, live, held.state.vehicle)) for held in before]
        await live.commit([change(held) for held in reloaded])


async def _loaded(live: Live, vehicle: str) -> Held | None:
    try:
        return await live.latest(vehicle, leader=True)
    except Unavailable:
        return None


async def test_a_server_that_is_away(world: World) -> None:
    live = await world.live()
    held, epoch = await commit(live, "car-1", 2), await live.epoch()
    await world.kill()
    ends = await asyncio.gather(
        live.latest("car-1"),
        live.latest("car-1", leader=True),
        live.since("car-1", 0),
        live.since("car-1", 0, leader=True),
        live.epoch(),
        live.commit([change(held)], epoch),
        return_exceptions=True,
    )
    assert [type(end) for end in ends] == [Unavailable] * 5 + [Fenced]
    await world.start()
    # What was sent meanwhile may still arrive, whole; what was acknowledged is there.
    again = await until(lambda: _loaded(live, "car-1"))
    assert again.state.version in (2, 3)


async def test_what_was_committed_survives_kill_9(world: World) -> None:
    live = await world.live()
    held = [await commit(live, f"car-{number}", 3) for number in range(50)]
    await world.kill()
    await world.start()
    after = await world.live()
    for one in held:
        assert await after.latest(one.state.vehicle) == one
        assert len((await after.since(one.state.vehicle, 0))[1]) == 3


async def test_what_is_too_large_is_refused_before_anything_is_sent(
    worlds: Callable[..., Awaitable[World]],
) -> None:
    world = await worlds(max_state=3_000_000)
    (port,) = free_ports(1)
    async with Proxy(port, world.port()) as proxy:
        live = await world.through(port)
        good = change(Held(State("car-1"), 0))
        # By its JSON, and by what is left of it compressed: 2,000,000 bytes is what the server takes.
        for text in ("a" * 3_000_000, incompressible(2_900_000)):
            large = change(Held(State("car-2"), 0), 1, text)
            sent = proxy.sent
            with pytest.raises(Refused):
                await live.commit([good, large])
            assert proxy.sent == sent
        assert await live.latest("car-1", leader=True) == Held(State("car-1"), 0)
        # What compresses well may be as large as the setting says.
        await commit(live, "car-2", 1, "a" * 2_999_000)
        assert len(str((await live.latest("car-2")).state.signals["Test.Text"].value)) == 2_999_000


async def test_values_near_the_limit_pass(world: World) -> None:
    live = await world.live()
    text = incompressible(2_600_000)
    assert 1_950_000 < len(zstd.compress(text.encode(), 1)) < 1_998_000
    held = await commit(live, "car-1", 2, text)
    assert await live.latest("car-1") == held
    assert await live.latest("car-1", leader=True) == held
    state, updates = await live.since("car-1", 0)
    assert state == held.state
    assert [update.version for update in updates] == [1, 2]
    assert updates[0].signals["Test.Text"] == Signal(text, AT)


async def test_a_commit_larger_than_a_batch_is_split_between_vehicles(world: World) -> None:
    live = await world.live()
    changes = [change(Held(State(f"car-{number}"), 0), 4) for number in range(500)]
    revisions = await live.commit(changes)
    assert len(revisions) == 500
    found = await asyncio.gather(*(live.latest(one.state.vehicle, leader=True) for one in changes))
    assert found == [Held(one.state, revision) for one, revision in zip(changes, revisions, strict=True)]
    # By bytes as well.
    changes = [
        change(Held(State(f"large-{number}"), 0), 1, incompressible(2_500_000)) for number in range(20)
    ]
    await live.commit(changes)
    assert [(await live.latest(one.state.vehicle)).state.version for one in changes] == [1] * 20


async def test_one_vehicle_with_more_than_a_batch_holds_is_refused_whole(world: World) -> None:
    live = await world.live()
    with pytest.raises(Refused):
        await live.commit([change(Held(State("car-1"), 0), 1001)])
    assert await live.latest("car-1", leader=True) == Held(State("car-1"), 0)
    assert await live.since("car-1", 0) == (State("car-1"), [])
    (revision,) = await live.commit([change(Held(State("car-1"), 0), 999)])
    assert (await live.latest("car-1", leader=True)).revision == revision


async def test_a_full_store_is_unavailable_and_takes_nothing_in_part(
    worlds: Callable[..., Awaitable[World]],
) -> None:
    world = await worlds(live_bytes=1_000_000, window=2.0)
    live = await world.live()
    held: Held | FleetcastError = await commit(live, "car-1", 1)
    last = held
    while isinstance(held, Held):
        last = held
        try:
            held = await commit(live, "car-1", 3, incompressible(100_000))
        except FleetcastError as error:
            held = error
        assert last.state.version < 100
    assert isinstance(held, Unavailable), held
    assert await live.latest("car-1", leader=True) == last
    state, updates = await live.since("car-1", 0)
    assert updates[-1].version == state.version == last.state.version
    # As the window goes by there is room again.
    again = await until(lambda: _committed(live, "car-1"))
    assert again.state.version == last.state.version + 3


async def _committed(live: Live, vehicle: str) -> Held | None:
    try:
        return await commit(live, vehicle, 3, incompressible(100_000))
    except Unavailable:
        return None


# The window


async def test_updates_go_by_with_the_window_and_the_state_stays(
    worlds: Callable[..., Awaitable[World]],
) -> None:
    world = await worlds(window=1.0)
    live = await world.live()
    held = await commit(live, "car-1", 400)
    assert len((await live.since("car-1", 0))[1]) == 400
    seen: list[Sequence[Update]] = []

    async def gone() -> bool:
        state, updates = await live.since("car-1", 0)
        assert state == held.state, "whatever goes by in this moment"
        seen.append(updates)
        return not updates

    await until(gone)
    left = list(range(1, 401))  # of one age, they go by in no order, but what is left of them stands in order
    for updates in seen:
        versions = [update.version for update in updates]
        assert versions == [version for version in left if version in set(versions)]
        left = versions
    assert await live.since("car-1", 0, leader=True) == (held.state, [])
    assert await live.latest("car-1") == held
    again = await commit(live, "car-1")
    assert again.state.version == 401
    assert [update.version for update in (await live.since("car-1", 0))[1]] == [401]


@pytest.mark.parametrize("count", [1022, 1023, 1024, 1025, 2500])
async def test_a_window_larger_than_one_answer(world: World, count: int) -> None:
    live = await world.live()
    await commit(live, "car-10", 5)
    state = State("car-1")
    while state.version < count:
        state = (await commit(live, "car-1", min(500, count - state.version))).state
    for version in (0, 3, max(0, count - 1500), count - 1, count):
        found, updates = await live.since("car-1", version)
        assert found == state
        assert [update.version for update in updates] == list(range(max(0, version) + 1, count + 1))
        assert all(update.prev == update.version - 1 for update in updates)
    found, updates = await live.since("car-1", count - 300, leader=True)
    assert found == state
    assert [update.version for update in updates] == list(range(count - 299, count + 1))


# The epoch


async def test_the_epoch_is_steady(worlds: Callable[..., Awaitable[World]]) -> None:
    world = await worlds()
    epoch = await (await world.live()).epoch()
    assert re.fullmatch(r"[0-9a-f]{1,32}", epoch)
    assert await (await world.live()).epoch() == epoch
    await world.kill()
    await world.start()
    assert await (await world.live()).epoch() == epoch
    another = await worlds()
    assert await (await another.live()).epoch() != epoch, "another platform's is another"

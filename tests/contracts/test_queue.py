"""The contract of `fleetcast.queue`, held by every adapter against its real server.

`Reader` does with a queue what consume does: it applies what it pulls to a record that is fenced as the live state is, acks,
and answers `Recover` with `reset`. What the record holds in the end is what phones would have seen.
"""

from __future__ import annotations

import asyncio
import random
import string
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest

from fleetcast.clock import SystemClock
from fleetcast.errors import Recover, Unavailable
from fleetcast.jetstream import Connection, connect, provision
from fleetcast.nats_queue import NatsQueue
from fleetcast.packet import JSON, NDJSON
from fleetcast.queue import Delivery, Queue, Stored
from fleetcast.settings import Settings
from fleetcast.subjects import PACKETS, REJECTED, partition
from tests.servers import nats_server, platform_settings, short_folder, until

PARTITIONS = 8
Deed = Callable[[], Coroutine[Any, Any, None]]


class World(Protocol):
    """One server with its queue, and what can happen to them."""

    async def queue(self) -> Queue:
        """For putting only."""

    async def member(self, name: str) -> Queue:
        """One that takes part in owning partitions."""

    async def leave(self, queue: Queue) -> None:
        """It hands over what it owns."""

    async def die(self, queue: Queue, how: str) -> None:
        """Its process is gone without a word ("cut"), or hangs and keeps its connection ("hung")."""

    async def kill(self) -> None:
        """The server's process, with -9."""

    async def start(self) -> None:
        """The server again, on what is on its disk."""

    async def recreate(self) -> None:
        """The stream is lost, and made anew."""

    async def waiting(self) -> int:
        """How many packets it holds."""

    async def rejected(self) -> Sequence[tuple[Mapping[str, str], bytes]]:
        """(headers, body) of each packet that was rejected, in order."""


class NatsWorld:
    """On nats-server."""

    def __init__(self, settings: Settings, kill: Deed, start: Deed):
        self.settings = settings
        self.kill = kill
        self.start = start
        self._connections: list[Connection] = []
        self._members: list[tuple[NatsQueue, Connection]] = []

    async def queue(self) -> NatsQueue:
        return NatsQueue(await self.connection(), self.settings, SystemClock())

    async def member(self, name: str) -> NatsQueue:
        connection = await self.connection()
        queue = NatsQueue(connection, msgspec.structs.replace(self.settings, member=name), SystemClock())
        self._members.append((queue, connection))
        await queue.join()
        return queue

    async def leave(self, queue: Queue) -> None:
        assert isinstance(queue, NatsQueue)
        await queue.leave()

    async def die(self, queue: Queue, how: str) -> None:
        for member, connection in self._members:
            if member is queue:
                await _cancelled(member._tasks)
                if how == "cut":
                    connection.closing = True
                    await connection.client.close()

    async def recreate(self) -> None:
        connection = await self.connection()
        await connection.api(f"STREAM.DELETE.{PACKETS}")
        await provision(connection, self.settings)

    async def waiting(self) -> int:
        info = await (await self.connection()).api(f"STREAM.INFO.{PACKETS}")
        return int(info["state"]["messages"])

    async def rejected(self) -> Sequence[tuple[Mapping[str, str], bytes]]:
        connection = await self.connection()
        info = await connection.api(f"STREAM.INFO.{REJECTED}")
        found = []
        for sequence in range(1, info["state"]["messages"] + 1):
            message = await connection.client.jetstream().get_msg(REJECTED, sequence)
            found.append((message.headers or {}, message.data or b""))
        return found

    async def connection(self) -> Connection:
        """One more."""
        self._connections.append(await connect(self.settings, "test"))
        return self._connections[-1]

    async def close(self) -> None:
        for member, _ in self._members:
            await _cancelled(member._tasks)
        for connection in self._connections:
            await connection.close()


@asynccontextmanager
async def nats_world(folder: Path, changes: Mapping[str, Any]) -> AsyncIterator[NatsWorld]:
    settings = platform_settings(folder, **{"partitions": PARTITIONS, "member_timeout": 1.0, **changes})
    async with nats_server(folder, int(settings.nats.rpartition(":")[2]), settings) as server:
        world = NatsWorld(settings, server.kill, server.start)
        try:
            await provision(await world.connection(), settings)
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


class Record:
    """What was applied: once by position, and fenced, so that of two writers with the same basis only one gets through."""

    def __init__(self) -> None:
        self.applied: dict[str, list[bytes]] = {}
        self.at: dict[str, tuple[str, int]] = {}
        self.by: dict[str, str] = {}

    def commit(
        self, name: str, before: Mapping[str, tuple[str, int] | None], deliveries: Sequence[Delivery]
    ) -> None:
        """All of it, or Recover."""
        if any(self.at.get(vehicle) != basis for vehicle, basis in before.items()):
            raise Recover("fenced", {delivery.partition for delivery in deliveries})
        for delivery in deliveries:
            self.applied.setdefault(delivery.vehicle, []).append(delivery.body)
            self.at[delivery.vehicle] = (delivery.incarnation, delivery.position)
            self.by[delivery.vehicle] = name


class Reader:
    """One consume process."""

    def __init__(self, name: str, queue: Queue, record: Record) -> None:
        self.name = name
        self.queue = queue
        self.recovered: list[Recover] = []
        self.partitions: set[int] = set()
        self._record = record
        self._known: dict[str, tuple[str, int] | None] = {}
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Raises whatever ended it before."""
        self._task.cancel()
        (end,) = await asyncio.gather(self._task, return_exceptions=True)
        if not isinstance(end, asyncio.CancelledError):
            raise end if isinstance(end, BaseException) else AssertionError("it ended")

    async def _run(self) -> None:
        while True:
            try:
                batch = await self.queue.pull(16)
                assert 1 <= len(batch) <= 16
                await self._handle(batch)
            except Recover as why:
                await self._recover(why)

    async def _handle(self, batch: Sequence[Delivery]) -> None:
        for delivery in batch:
            self._known.setdefault(delivery.vehicle, self._record.at.get(delivery.vehicle))
        before = {delivery.vehicle: self._known[delivery.vehicle] for delivery in batch}
        await asyncio.sleep(0.001)  # as a commit takes its time
        after = dict(before)
        fresh = []
        for delivery in batch:
            basis = after[delivery.vehicle]
            if basis is None or basis[0] != delivery.incarnation or basis[1] < delivery.position:
                after[delivery.vehicle] = (delivery.incarnation, delivery.position)
                fresh.append(delivery)
        self._record.commit(self.name, {d.vehicle: before[d.vehicle] for d in fresh}, fresh)
        self._known |= after
        self.partitions |= {delivery.partition for delivery in batch}
        await self.queue.ack(batch)

    async def _recover(self, why: Recover) -> None:
        self.recovered.append(why)
        self._known = {
            v: at for v, at in self._known.items() if partition(v, PARTITIONS) not in why.partitions
        }
        await reset(self.queue, why.partitions)


async def reset(queue: Queue, partitions: Iterable[int]) -> None:
    """As consume does it: until it succeeds."""

    async def done() -> bool:
        try:
            await queue.reset(partitions)
        except Unavailable:
            return False
        return True

    await until(done, "the queue is reset")


async def pulled(queue: Queue, count: int, most: int = 64) -> list[Delivery]:
    """So many deliveries, recovering where that is asked for, none of them acked."""
    found: list[Delivery] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            try:
                found += await queue.pull(min(most, count - len(found)))
            except Recover as why:
                found = [delivery for delivery in found if delivery.partition not in why.partitions]
                await reset(queue, why.partitions)
    return found


async def put(queue: Queue, vehicle: str, number: int, size: int = 100) -> Stored:
    """A packet that says its number."""
    body = f"{vehicle} {number} ".encode().ljust(size, b".")
    return await queue.put(vehicle, f"{vehicle}/1/{number}", body, JSON, "identity")


async def put_all(queue: Queue, vehicles: Iterable[str], numbers: range) -> None:
    """As vehicles do it: the next packet only when the one before was acknowledged, and the same again until it is."""

    async def one(vehicle: str) -> None:
        for number in numbers:
            while True:
                try:
                    await put(queue, vehicle, number)
                except Unavailable:
                    await asyncio.sleep(0.05)
                else:
                    break

    await asyncio.gather(*(one(vehicle) for vehicle in vehicles))


def numbers(bodies: Iterable[bytes]) -> list[int]:
    """The numbers that `put` wrote."""
    return [int(body.split()[1]) for body in bodies]


def of(deliveries: Iterable[Delivery]) -> dict[str, list[int]]:
    """The numbers by vehicle, in the order of their coming."""
    found: dict[str, list[int]] = {}
    for delivery in deliveries:
        found.setdefault(delivery.vehicle, []).extend(numbers([delivery.body]))
    return found


def each(vehicles: Iterable[str], expected: Sequence[int]) -> dict[str, list[int]]:
    """The same numbers of every vehicle."""
    return {vehicle: list(expected) for vehicle in vehicles}


def everything(record: Record, vehicles: Sequence[str], last: int) -> Callable[[], bool]:
    """Whether each vehicle's packets were applied up to the last; fails at once if one is missing before it, or twice."""

    def complete() -> bool:
        for vehicle, bodies in record.applied.items():
            assert numbers(bodies) == list(range(1, len(bodies) + 1)), vehicle
        return all(len(record.applied.get(vehicle, ())) == last for vehicle in vehicles)

    return complete


VEHICLES = [f"car-{number}" for number in range(24)]
assert {partition(vehicle, PARTITIONS) for vehicle in VEHICLES} == set(range(PARTITIONS))


# Putting


async def test_a_packet_comes_as_it_was_put(world: World) -> None:
    began = time.time()
    queue = await world.queue()
    stored = await queue.put("car-1", "car-1/1/1", b"\x00\xff\r\n", NDJSON, "zstd")
    member = await world.member("a")
    (delivery,) = await pulled(member, 1)
    assert (delivery.vehicle, delivery.body) == ("car-1", b"\x00\xff\r\n")
    assert (delivery.form, delivery.encoding) == (NDJSON, "zstd")
    assert delivery.position == stored.position
    assert delivery.partition == partition("car-1", PARTITIONS)
    assert delivery.incarnation
    assert began - 1 < delivery.stored < time.time() + 1


async def test_a_repeated_packet_is_answered_with_the_first_ones_position(world: World) -> None:
    queue, other = await world.queue(), await world.queue()
    first = await put(queue, "car-1", 1)
    await put(queue, "car-1", 2)
    again = await put(other, "car-1", 1)
    assert not first.duplicate
    assert again == Stored(first.position, True)
    member = await world.member("a")
    assert of(await pulled(member, 2)) == {"car-1": [1, 2]}


async def put_at_last(queue: Queue, vehicle: str, number: int, size: int) -> None:
    """As a vehicle does: until it is acknowledged."""
    while True:
        try:
            await put(queue, vehicle, number, size)
        except Unavailable:
            await asyncio.sleep(0.01)
        else:
            return


async def test_acknowledged_packets_survive_kill_9(world: World) -> None:
    queue = await world.queue()
    acked: dict[str, int] = dict.fromkeys(VEHICLES, 0)

    async def send(vehicle: str) -> None:
        try:
            while True:
                await put(queue, vehicle, acked[vehicle] + 1, 20_000)
                acked[vehicle] += 1
        except Unavailable:
            pass

    sending = [asyncio.create_task(send(vehicle)) for vehicle in VEHICLES]
    await until(lambda: sum(acked.values()) > 500)
    await world.kill()
    await world.start()
    await asyncio.gather(*sending)
    # What was under way may be stored or not; what was answered must be.
    for vehicle, number in acked.items():
        await put_at_last(queue, vehicle, number + 1, 20_000)
    expected = sum(acked.values()) + len(VEHICLES)
    found = of(await pulled(await world.member("a"), expected))
    assert found == {vehicle: list(range(1, number + 2)) for vehicle, number in acked.items()}
    assert await world.waiting() == expected


async def test_one_mebibyte_passes(world: World) -> None:
    body = random.Random(1).randbytes(1_048_576)
    queue = await world.queue()
    for number in range(8):
        await queue.put("car-1", f"car-1/1/{number}", body, JSON, "identity")
    found = await pulled(await world.member("a"), 8)
    assert all(delivery.body == body for delivery in found)


async def test_partitions_are_the_ones_that_subjects_computes(world: World) -> None:
    chance = random.Random(7)
    letters = string.ascii_letters + string.digits + "-_"
    ids = {"".join(chance.choices(letters, k=chance.randint(1, 64))) for _ in range(1000)} | set(letters)
    queue = await world.queue()
    await asyncio.gather(*(put(queue, vehicle, 1) for vehicle in ids))
    found = {
        delivery.vehicle: delivery.partition for delivery in await pulled(await world.member("a"), len(ids))
    }
    assert found == {vehicle: partition(vehicle, PARTITIONS) for vehicle in ids}


async def test_a_full_queue_refuses_and_recovers_when_it_is_consumed(
    worlds: Callable[..., Awaitable[World]],
) -> None:
    world = await worlds(queue_bytes=300_000)
    queue = await world.queue()
    stored = 0
    with pytest.raises(Unavailable):  # noqa: PT012 - which one does not matter
        for number in range(1, 100):
            await put(queue, "car-1", number, 20_000)
            stored = number
    assert 10 < stored < 16
    member = await world.member("a")
    found = await pulled(member, stored)
    assert of(found) == {"car-1": list(range(1, stored + 1))}, "nothing old was dropped"
    await member.ack(found)
    await until(lambda: _is_put(queue, stored + 1))
    assert of(await pulled(member, 1)) == {"car-1": [stored + 1]}


async def _is_put(queue: Queue, number: int) -> bool:
    try:
        await put(queue, "car-1", number, 20_000)
    except Unavailable:
        return False
    return True


# Pulling


async def test_order_holds_within_a_partition_and_a_pull_is_bounded(world: World) -> None:
    queue = await world.queue()
    await put_all(queue, VEHICLES, range(1, 21))
    member = await world.member("a")
    found = await pulled(member, 20 * len(VEHICLES), most=7)
    assert of(found) == {vehicle: list(range(1, 21)) for vehicle in VEHICLES}
    for number in range(PARTITIONS):
        positions = [delivery.position for delivery in found if delivery.partition == number]
        assert positions == sorted(positions)


async def test_it_says_up_to_when_everything_was_given_out(world: World) -> None:
    """Up to now, by its own clock, once nothing is left; not beyond what was given last while something is."""
    queue, member = await world.queue(), await world.member("a")
    await until(lambda: len(member.handed()) == PARTITIONS)
    assert set(member.handed().values()) == {0.0}, "before the first reset nothing is known"
    for number in range(1, 5):
        await put(queue, "car-1", number)
    first, second = await pulled(member, 2)
    mine = first.partition
    others = [number for number in range(PARTITIONS) if number != mine]
    await until(lambda: all(member.handed()[number] > second.stored for number in others))
    assert member.handed()[mine] == second.stored
    *_, last = await pulled(member, 2)
    await until(lambda: member.handed()[mine] > last.stored + 0.2)
    # Not up to this very moment: what is stored now is on its way for a while.
    assert all(0.05 < time.time() - at < 5 for at in member.handed().values()), (
        "the server's clock is ours here"
    )
    await reset(member, [mine])
    assert member.handed()[mine] < last.stored, "what was not acked comes again"


async def test_it_says_what_is_newest_of_a_vehicle_until_that_was_acked(world: World) -> None:
    """Given out or not."""
    queue, member = await world.queue(), await world.member("a")
    assert await member.newest("car-1") is None
    for number in range(1, 4):
        await put(queue, "car-1", number)
    await put(queue, "car-10", 1)
    taken = [*await pulled(member, 2), *await pulled(member, 2)]
    *_, third = [one for one in taken if one.vehicle == "car-1"]
    assert await member.newest("car-1") == (third.incarnation, third.position)
    await member.ack(taken)

    async def nothing() -> bool:
        return await member.newest("car-1") is None

    await until(nothing)


async def test_a_pull_that_is_cancelled_while_it_waits_has_taken_nothing(world: World) -> None:
    queue, member = await world.queue(), await world.member("a")
    await put(queue, "car-1", 1)
    assert of(await pulled(member, 1)) == {"car-1": [1]}
    for number in range(2, 12):
        waiting = asyncio.create_task(member.pull(64))
        await asyncio.sleep(0)
        putting = asyncio.create_task(put(queue, "car-1", number))
        await asyncio.sleep(random.random() / 200)
        waiting.cancel()
        await asyncio.wait({waiting})
        await putting
        found = [] if waiting.cancelled() else list(waiting.result())
        assert of(found or await pulled(member, 1)) == {"car-1": [number]}


async def test_what_is_newly_ours_begins_with_recover(world: World) -> None:
    member = await world.member("a")
    async with asyncio.timeout(10):
        with pytest.raises(Recover) as first:
            await member.pull(64)
    assert first.value.partitions == set(range(PARTITIONS))


async def test_pull_waits(world: World) -> None:
    queue, member = await world.queue(), await world.member("a")
    reading = asyncio.create_task(pulled(member, 1))
    await put(queue, "car-1", 1)
    assert of(await reading) == {"car-1": [1]}
    again = asyncio.create_task(pulled(member, 1))
    await put(queue, "car-2", 1)
    assert of(await again) == {"car-2": [1]}, "and nothing of what was delivered before"


async def test_after_a_reset_everything_unacked_comes_again_from_the_oldest(world: World) -> None:
    queue, member = await world.queue(), await world.member("a")
    await put_all(queue, VEHICLES, range(1, 11))
    found = await pulled(member, 10 * len(VEHICLES))
    done = [delivery for delivery in found if numbers([delivery.body])[0] in (1, 2, 3, 5)]  # 4 was not
    await member.ack(done)
    await until(lambda: _waits(world, 6 * len(VEHICLES)))
    await reset(member, range(PARTITIONS))
    assert of(await pulled(member, 6 * len(VEHICLES))) == each(VEHICLES, [4, 6, 7, 8, 9, 10])


async def test_a_reset_leaves_the_other_partitions_alone(world: World) -> None:
    queue, member = await world.queue(), await world.member("a")
    await put_all(queue, VEHICLES, range(1, 4))
    await pulled(member, 3 * len(VEHICLES))
    number = partition("car-1", PARTITIONS)
    await reset(member, [number])
    again = [vehicle for vehicle in VEHICLES if partition(vehicle, PARTITIONS) == number]
    found = await pulled(member, 3 * len(again))
    assert of(found) == each(again, [1, 2, 3])


async def test_a_reset_in_the_middle_of_the_stream_takes_back_what_was_not_pulled_yet(world: World) -> None:
    queue, member = await world.queue(), await world.member("a")
    await put_all(queue, ["car-1"], range(1, 301))
    for count in (1, 5, 40):
        assert of(await pulled(member, count, most=count)) == {"car-1": list(range(1, count + 1))}
        await reset(member, range(PARTITIONS))
    assert of(await pulled(member, 300)) == {"car-1": list(range(1, 301))}


async def test_acked_is_gone_and_stays_gone(world: World) -> None:
    queue, member = await world.queue(), await world.member("a")
    await put_all(queue, VEHICLES, range(1, 6))
    found = await pulled(member, 5 * len(VEHICLES))
    await member.ack([delivery for delivery in found if numbers([delivery.body])[0] <= 2])
    await until(lambda: _waits(world, 3 * len(VEHICLES)))
    await world.kill()
    await world.start()
    assert await world.waiting() == 3 * len(VEHICLES)
    assert of(await pulled(member, 3 * len(VEHICLES))) == each(VEHICLES, [3, 4, 5])


async def test_a_server_that_was_away_means_recover(world: World) -> None:
    queue, member = await world.queue(), await world.member("a")
    await put_all(queue, VEHICLES, range(1, 3))
    await pulled(member, 2 * len(VEHICLES))
    await world.kill()
    await world.start()
    async with asyncio.timeout(30):
        with pytest.raises(Recover) as why:
            await member.pull(64)
    assert why.value.partitions == set(range(PARTITIONS))
    await reset(member, why.value.partitions)
    assert of(await pulled(member, 2 * len(VEHICLES))) == each(VEHICLES, [1, 2])


async def test_a_recreated_stream_has_another_incarnation(world: World) -> None:
    queue, member = await world.queue(), await world.member("a")
    await put(queue, "car-1", 1)
    (before,) = await pulled(member, 1)
    await member.ack([before])
    await until(lambda: _waits(world, 0))
    await world.recreate()
    await put(queue, "car-1", 2)
    (after,) = await pulled(member, 1)
    assert after.position == before.position
    assert after.incarnation != before.incarnation


async def _waits(world: World, count: int) -> bool:
    return await world.waiting() == count


async def test_a_rejected_packet_is_kept_once_with_its_reason(world: World) -> None:
    queue, member = await world.queue(), await world.member("a")
    await queue.put("car-1", "car-1/1/1", b"no packet", NDJSON, "gzip")
    (delivery,) = await pulled(member, 1)
    await member.reject(delivery, "not a packet:\r\nNats-Injected: it  is\nno JSON " + "x" * 1000)
    await member.reject(delivery, "once more")
    ((headers, body),) = await world.rejected()
    assert body == b"no packet"
    assert headers["Fleetcast-Reason"].startswith("not a packet: Nats-Injected: it is no JSON xxx")
    assert "Nats-Injected" not in headers
    assert headers["Content-Type"] == NDJSON
    assert headers["Content-Encoding"] == "gzip"
    assert headers["Fleetcast-Position"] == str(delivery.position)
    await member.ack([delivery])
    await until(lambda: _waits(world, 0))
    assert len(await world.rejected()) == 1


async def test_rejecting_is_unavailable_when_there_is_no_room_for_it(
    worlds: Callable[..., Awaitable[World]],
) -> None:
    world = await worlds(rejected_bytes=10_000)
    queue, member = await world.queue(), await world.member("a")
    await put(queue, "car-1", 1, size=20_000)
    (delivery,) = await pulled(member, 1)
    with pytest.raises(Unavailable):
        await member.reject(delivery, "too large")
    assert await world.waiting() == 1


# Owning


async def test_two_members_share_the_partitions_each_with_one_owner(world: World) -> None:
    queue, record = await world.queue(), Record()
    readers = [Reader(name, await world.member(name), record) for name in ("a", "b")]
    await put_all(queue, VEHICLES, range(1, 11))
    await until(everything(record, VEHICLES, 10))
    recovered = [len(reader.recovered) for reader in readers]
    for reader in readers:
        reader.partitions.clear()
    await put_all(queue, VEHICLES, range(11, 51))
    await until(everything(record, VEHICLES, 50))
    a, b = (reader.partitions for reader in readers)
    assert a, "both are used"
    assert b, "both are used"
    assert not a & b
    assert a | b == set(range(PARTITIONS))
    assert [len(reader.recovered) for reader in readers] == recovered, (
        "while nothing happens, nothing is thrown away"
    )
    for reader in readers:
        await reader.stop()


async def test_a_member_that_joins_takes_its_share(world: World) -> None:
    queue, record = await world.queue(), Record()
    a = Reader("a", await world.member("a"), record)
    sending = asyncio.create_task(put_all(queue, VEHICLES, range(1, 301)))
    await until(lambda: a.partitions == set(range(PARTITIONS)))
    b = Reader("b", await world.member("b"), record)
    await until(lambda: b.partitions)
    await sending
    await until(everything(record, VEHICLES, 300))
    assert len(set(record.by.values())) == 2
    assert b.recovered
    for reader in (a, b):
        await reader.stop()


async def test_a_member_that_leaves_hands_over_at_once(worlds: Callable[..., Awaitable[World]]) -> None:
    # Nobody could be taken for dead within this test: what is handed over is handed over by the word alone.
    world = await worlds(member_timeout=300.0)
    queue, record = await world.queue(), Record()
    member = await world.member("a")
    a = Reader("a", member, record)
    b = Reader("b", await world.member("b"), record)
    sending = asyncio.create_task(put_all(queue, VEHICLES, range(1, 301)))
    await until(lambda: a.partitions and b.partitions)
    await a.stop()
    recovered = len(b.recovered)
    await world.leave(member)
    await until(lambda: b.partitions == set(range(PARTITIONS)))
    assert len(b.recovered) > recovered, "what it takes over begins with Recover"
    await sending
    await until(everything(record, VEHICLES, 300))
    assert set(record.by.values()) == {"b"}
    await b.stop()


async def test_a_member_that_is_started_again_at_once_takes_nothing_from_the_others(
    worlds: Callable[..., Awaitable[World]],
) -> None:
    """Nobody answered it, as nobody had missed it: it took all partitions, and some stood still for ten seconds."""
    world = await worlds(member_timeout=300.0)
    queue, record = await world.queue(), Record()
    a = Reader("a", await world.member("a"), record)
    before = await world.member("b")
    b = Reader("b", before, record)
    await put_all(queue, VEHICLES, range(1, 11))
    await until(everything(record, VEHICLES, 10))
    for reader in (a, b):
        reader.partitions.clear()
    await put_all(queue, VEHICLES, range(11, 51))
    await until(everything(record, VEHICLES, 50))
    share, recovered = set(b.partitions), len(a.recovered)
    assert share
    assert share != set(range(PARTITIONS))
    await b.stop()
    await world.die(before, "cut")
    b = Reader("b", await world.member("b"), record)
    await put_all(queue, VEHICLES, range(51, 101))
    await until(everything(record, VEHICLES, 100))
    assert b.partitions == share
    assert len(a.recovered) == recovered, "a was disturbed"
    for reader in (a, b):
        await reader.stop()


async def test_a_member_that_left_is_not_taken_for_alive(worlds: Callable[..., Awaitable[World]]) -> None:
    """It answered newcomers until its connection was closed, and they left it its share."""
    world = await worlds(member_timeout=300.0)
    queue, record = await world.queue(), Record()
    left = await world.member("a")
    await world.leave(left)
    b = Reader("b", await world.member("b"), record)
    await put_all(queue, VEHICLES, range(1, 3))
    await until(everything(record, VEHICLES, 2))
    await b.stop()


@pytest.mark.parametrize("how", ["cut", "hung"])
async def test_a_member_that_dies_is_taken_over(world: World, how: str) -> None:
    queue, record = await world.queue(), Record()
    member = await world.member("a")
    a = Reader("a", member, record)
    b = Reader("b", await world.member("b"), record)
    sending = asyncio.create_task(put_all(queue, VEHICLES, range(1, 301)))
    await until(lambda: a.partitions and b.partitions)
    await a.stop()
    await world.die(member, how)
    await until(lambda: b.partitions == set(range(PARTITIONS)))
    await sending
    await until(everything(record, VEHICLES, 300))
    assert set(record.by.values()) == {"b"}
    await b.stop()


async def test_what_a_dead_member_had_pulled_and_not_acked_comes_to_the_next(world: World) -> None:
    queue, member = await world.queue(), await world.member("a")
    await put_all(queue, VEHICLES, range(1, 21))
    found = await pulled(member, 20 * len(VEHICLES))
    await member.ack(delivery for delivery in found if numbers([delivery.body])[0] <= 5)
    await until(lambda: _waits(world, 15 * len(VEHICLES)))
    await world.die(member, "cut")
    assert of(await pulled(await world.member("b"), 15 * len(VEHICLES))) == each(VEHICLES, [*range(6, 21)])


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_is_lost_or_reordered_in_a_storm(world: World, seed: int) -> None:
    """Members come, leave, hang, are cut off; the server is killed. Each vehicle's packets are applied in order, once."""
    chance = random.Random(seed)
    last = 150
    queue, record = await world.queue(), Record()
    running: dict[str, tuple[Queue, Reader]] = {}

    async def join(name: str) -> None:
        member = await world.member(name)
        running[name] = (member, Reader(name, member, record))

    def progressed(goal: int) -> bool:
        return sum(map(len, record.applied.values())) >= goal

    await join("m0")
    sending = asyncio.create_task(put_all(queue, VEHICLES, range(1, last + 1)))
    deeds = ["join", "join", "leave", "cut", "hung", "join", "leave", "cut", "join"]
    chance.shuffle(deeds)
    deeds.insert(4, "kill")
    for turn, deed in enumerate(deeds, 1):
        done = sum(map(len, record.applied.values()))
        goal = min(done + 150, last * len(VEHICLES))
        await until(partial(progressed, goal), f"progress before {deed}")
        if deed == "kill":
            await world.kill()
            await world.start()
        elif deed == "join" or len(running) == 1:
            await join(f"m{turn}")
        else:
            name = chance.choice(sorted(running))
            member, reader = running.pop(name)
            if deed == "leave":
                await world.leave(member)
                await reader.stop()
            else:
                await world.die(member, deed)
                await reader.stop()
    await sending
    await until(everything(record, VEHICLES, last))
    for _, reader in running.values():
        await reader.stop()


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

"""What consume decides, over small seams in memory. (That the seams do what these do: contracts/, on the real servers.)"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from fleetcast import consume
from fleetcast.clock import SystemClock, rfc3339
from fleetcast.consume import Consumer
from fleetcast.decode import load
from fleetcast.edge import Item
from fleetcast.errors import Recover, Unavailable
from fleetcast.live import Change, Fenced, Held, Refused
from fleetcast.packet import JSON, Packet, Signal
from fleetcast.queue import Delivery, Stored
from fleetcast.resume import event_id
from fleetcast.settings import Settings
from fleetcast.sse import Parser
from fleetcast.state import Named, State
from fleetcast.subjects import channel, partition
from fleetcast.tally import Tally
from fleetcast.update import Update, patched, snapshot
from fleetcast.views import EVERYTHING, View
from tests.servers import until

EPOCH = "ab12"
PARTITIONS = 4
DECODERS = load(Settings().decoders)
SETTINGS = Settings(partitions=PARTITIONS, batch_packets=8, state_cache=2, enrichers=())
CARS = ("a", "b", "c", "d")
T = TypeVar("T")


class Crash(BaseException):
    """The process is killed here."""


class World:
    """The three seams, and what was asked of them. `before` and `after` are told each word, and may raise."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.before: Callable[[str, Any], None] = lambda word, what: None
        self.after: Callable[[str, Any], None] = lambda word, what: None
        self.enrichers: tuple[Named, ...] = ()
        self.settings = SETTINGS
        self.queue = Queue(self)
        self.live = Live(self)
        self.edge = Edge(self)
        self.consumer = self.another()

    def another(self) -> Consumer:
        self.queue.ours = False
        self.consumer = Consumer(
            self.queue, self.live, self.edge, self.enrichers, DECODERS, self.settings, SystemClock()
        )
        return self.consumer

    async def work(self) -> None:
        """Until nothing is left to do, however often the process is killed."""
        while True:
            try:
                await self.another().run()
            except Crash:
                continue
            return

    async def asked(self, word: str, what: Any, effect: Callable[[], T]) -> T:
        self.calls.append((word, what))
        await asyncio.sleep(0)
        self.before(word, what)  # raises: it did not happen
        result = effect()
        self.after(word, what)  # raises: it happened, and nobody was told
        return result

    def words(self, *which: str) -> list[str]:
        return [word for word, _ in self.calls if word in which]

    def of(self, word: str) -> list[Any]:
        return [what for called, what in self.calls if called == word]


class Queue:
    """Deliveries in order, each until it is acked; after a reset all of them that are not."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.log: list[Delivery] = []
        self.given: set[int] = set()
        self.acked: set[int] = set()
        self.rejected: dict[int, str] = {}
        self.ours = False
        self.upto = 0.0
        self.stays = False

    def handed(self) -> Mapping[int, float]:
        return dict.fromkeys(range(PARTITIONS), self.upto)

    async def newest(self, vehicle: str) -> tuple[str, int] | None:
        left = [one for one in self.log if one.vehicle == vehicle and one.position not in self.acked]
        await self.world.asked("newest", vehicle, lambda: None)
        return (left[-1].incarnation, left[-1].position) if left else None

    def add(self, vehicle: str, body: bytes, form: str = JSON, encoding: str = "identity") -> Delivery:
        position = len(self.log) + 1
        number = partition(vehicle, PARTITIONS)
        self.log.append(
            Delivery(
                vehicle, number, "stream", position, 1_795_428_000.0 + position, form, encoding, body, None
            )
        )
        return self.log[-1]

    async def put(self, vehicle: str, packet_id: str, body: bytes, form: str, encoding: str) -> Stored:
        raise AssertionError("consume puts nothing")

    async def pull(self, most: int) -> Sequence[Delivery]:
        if not self.ours:
            self.ours = True
            raise Recover("newly ours", range(PARTITIONS))
        while not (left := [one for one in self.log if one.position not in self.given | self.acked]):
            if self.stays:
                await asyncio.sleep(0.005)
                continue
            self.world.consumer.stop()
            await asyncio.Event().wait()
        self.given |= {one.position for one in left[:most]}
        return left[:most]

    async def ack(self, deliveries: Iterable[Delivery]) -> None:
        positions = [one.position for one in deliveries]
        await self.world.asked("ack", positions, lambda: self.acked.update(positions))

    async def reject(self, delivery: Delivery, reason: str) -> None:
        await self.world.asked(
            "reject", delivery.position, lambda: self.rejected.setdefault(delivery.position, reason)
        )

    async def reset(self, partitions: Iterable[int]) -> None:
        which = frozenset(partitions)
        again = {one.position for one in self.log if one.partition in which}
        await self.world.asked("reset", which, lambda: self.given.difference_update(again))


class Live:
    """States as they are stored, as JSON, with a fence. `refuses` says which change can never be committed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.stored: dict[str, tuple[bytes, int]] = {}
        self.updates: dict[str, list[Update]] = {}
        self.revision = 0
        self.now = EPOCH
        self.refuses: Callable[[Change], bool] = lambda change: False

    async def epoch(self) -> str:
        return await self.world.asked("epoch", None, lambda: self.now)

    async def vehicles(self) -> Sequence[str]:
        return sorted(self.stored)

    async def latest_of(self, vehicles: Sequence[str]) -> Sequence[State]:
        return [self.held(vehicle).state for vehicle in vehicles if vehicle in self.stored]

    async def latest(self, vehicle: str, *, leader: bool = False) -> Held:
        assert leader, "a stale state would be fenced for ever"
        return await self.world.asked("latest", vehicle, lambda: self.held(vehicle))

    async def since(
        self, vehicle: str, version: int, *, leader: bool = False, view: View = EVERYTHING
    ) -> tuple[State, Sequence[Update]]:
        return await self.world.asked(
            "since",
            vehicle,
            lambda: (
                self.held(vehicle).state,
                [update for update in self.updates.get(vehicle, []) if update.version > version],
            ),
        )

    async def commit(self, changes: Sequence[Change], epoch: str = "") -> Sequence[int]:
        return await self.world.asked("commit", changes, lambda: self.committed(changes, epoch))

    def held(self, vehicle: str) -> Held:
        if vehicle not in self.stored:
            return Held(State(vehicle), 0)
        data, revision = self.stored[vehicle]
        return Held(msgspec.json.decode(data, type=State), revision)

    def committed(self, changes: Sequence[Change], epoch: str) -> Sequence[int]:
        if epoch != self.now:
            raise Fenced("another epoch")
        if any(self.refuses(change) for change in changes):
            raise Refused("more than fits")
        if any(self.held(change.state.vehicle).revision != change.revision for change in changes):
            raise Fenced("another process committed first")
        revisions = []
        for change in changes:
            self.revision += 1
            self.stored[change.state.vehicle] = (msgspec.json.encode(change.state), self.revision)
            self.updates.setdefault(change.state.vehicle, []).extend(change.updates)
            revisions.append(self.revision)
        return revisions


class Edge:
    """Listeners of some vehicles, and what was published."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.watched: set[str] = set()
        self.items: list[Item] = []

    async def ready(self) -> None:
        return

    def listeners(self, channel: str) -> int:
        return int(channel in self.channels())

    def replicas(self, channel: str) -> Sequence[str]:
        return ["edge"] * self.listeners(channel)

    def channels(self) -> Sequence[str]:
        return [*(channel(vehicle) for vehicle in sorted(self.watched)), "ctl/03/"]

    async def publish(self, items: Sequence[Item]) -> None:
        ids = [item.id for item in items]
        await self.world.asked("publish", ids, lambda: self.items.extend(items))

    async def close(self) -> None:
        return


@pytest.fixture(autouse=True)
def without_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consume, "_BACK_OFF", (0.0,))
        yield


@pytest.fixture
def world() -> World:
    return World()


def body(vehicle: str, seq: int, **changes: Any) -> bytes:
    document = {
        "vehicle": vehicle,
        "boot": 1,
        "seq": seq,
        "sent_at": f"2026-11-23T10:00:{seq:02d}Z",
        "signals": {"n": {"value": seq}, f"own{seq % 3}": {"value": f"{vehicle}{seq}"}},
    }
    return json.dumps(document | changes).encode()


def add(world: World, *packets: tuple[str, int]) -> None:
    for vehicle, seq in packets:
        world.queue.add(vehicle, body(vehicle, seq))


def versions(world: World) -> dict[str, int]:
    return {vehicle: world.live.held(vehicle).state.version for vehicle in world.live.stored}


def named(world: World, vehicle: str, version: int) -> str:
    """The id of the event that led to this version."""
    return event_id(EPOCH, version, world.live.held(vehicle).state.life)


def published(world: World, vehicle: str) -> list[int]:
    return [int(item.id.rpartition("-")[2]) for item in world.edge.items if item.channel == channel(vehicle)]


# The order


async def test_reject_then_commit_then_publish_then_ack(world: World) -> None:
    """A crash at any point repeats work and loses none only if it is this order."""
    add(world, ("a", 1))
    world.queue.add("b", b"no packet")
    add(world, ("c", 1))
    world.edge.watched = {"a", "c"}
    await world.work()
    assert world.words("reject", "commit", "publish", "ack") == ["reject", "commit", "publish", "ack"]
    assert world.of("ack") == [[1, 2, 3]]
    assert world.of("publish") == [[named(world, "a", 1), named(world, "c", 1)]]


async def test_a_batch_is_one_commit_with_each_state_once(world: World) -> None:
    add(world, ("a", 1), ("b", 1), ("a", 2), ("a", 3))
    await world.work()
    ((first, second),) = world.of("commit")
    assert (first.state.vehicle, first.state.version, first.revision) == ("a", 3, 0)
    assert [(update.prev, update.version) for update in first.updates] == [(0, 1), (1, 2), (2, 3)]
    assert (second.state.vehicle, second.state.version) == ("b", 1)


async def test_what_nobody_watches_is_not_published(world: World) -> None:
    add(world, ("a", 1), ("b", 1))
    await world.work()
    assert not world.words("publish")
    assert versions(world) == {"a": 1, "b": 1}


async def test_an_item_is_the_update_as_an_event(world: World) -> None:
    add(world, ("a", 1), ("a", 2))
    world.edge.watched = {"a"}
    await world.work()
    item = world.edge.items[1]
    assert (item.channel, item.id, item.prev) == ("v/a/all/", named(world, "a", 2), named(world, "a", 1))
    (event,) = Parser().feed(item.content)
    assert (event.event, event.id) == ("update", item.id)
    assert msgspec.json.decode(event.data, type=Update) == world.live.updates["a"][1]


async def test_states_are_read_once_and_forgotten_beyond_the_cache(world: World) -> None:
    for seq in (1, 2):
        add(world, *((car, seq) for car in CARS))
    add(world, *((car, 3) for car in CARS))
    await world.work()
    first, then = world.of("latest")[: len(CARS)], world.of("latest")[len(CARS) :]
    assert sorted(first) == ["a", "b", "c", "d"]
    assert sorted(then) == ["a", "b"]  # the two used last are still held
    assert versions(world) == dict.fromkeys(CARS, 3)


async def test_stop_ends_a_wait_for_packets(world: World) -> None:
    consumer = world.another()
    running = asyncio.create_task(consumer.run())
    await until(lambda: world.words("reset"))
    consumer.stop()
    await running


# What can never be applied


def failing(state: State, packet: Packet) -> State:
    if packet.seq == 13:
        raise ZeroDivisionError("thirteen")
    return state


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "not a packet"),
        (body("b", 1), "says it is of vehicle b"),
        (body("a", 0), "seq"),
        (body("a", 13), "enricher rules raised ZeroDivisionError: thirteen"),
    ],
)
async def test_a_bad_packet_blocks_nothing(world: World, bad: bytes, reason: str) -> None:
    world.enrichers = (Named("rules", failing),)
    add(world, ("a", 1))
    world.queue.add("a", bad)
    add(world, ("a", 2))
    await world.work()
    assert versions(world) == {"a": 2}
    assert list(world.queue.rejected) == [2]
    assert reason in world.queue.rejected[2]
    assert world.queue.acked == {1, 2, 3}


async def test_packets_of_each_form_are_applied_however_it_is_named(world: World) -> None:
    """By content type, by the topic's suffix, or by nothing at all; one that nobody takes blocks nothing."""
    packed = msgspec.msgpack.encode(json.loads(body("a", 2)))
    world.queue.add("a", body("a", 1), "application/json")
    world.queue.add("a", zstd.compress(packed), "msgpack", "zstd")
    world.queue.add("a", body("a", 3) + b'\n{"t":1}\n', "application/x-ndjson")
    world.queue.add("a", body("a", 4), "protobuf")
    world.queue.add("a", gzip.compress(body("a", 5) + b'\n{"t":1}\n'), "", "gzip")
    world.queue.add("a", body("a", 6, samples=[1]), "")
    await world.work()
    assert world.queue.rejected.keys() == {4}
    assert "form 'protobuf' is not one of application/json" in world.queue.rejected[4]
    ((change,),) = world.of("commit")
    assert [update.signals["n"].value for update in change.updates if update.signals["n"]] == [1, 2, 3, 5, 6]


async def test_a_packet_that_cannot_be_kept_is_found_alone(world: World) -> None:
    """The commit is refused whole; the others of the batch, of the same vehicle too, go through and in order."""
    add(world, ("a", 1), ("b", 1), ("b", 2), ("c", 1))
    add(world, ("b", 3))
    world.live.refuses = lambda change: (
        change.state.vehicle == "b" and any("own2" in update.signals for update in change.updates)
    )
    world.edge.watched = {"b"}
    await world.work()
    assert world.queue.rejected == {3: "more than fits"}
    assert versions(world) == {"a": 1, "b": 2, "c": 1}
    assert world.live.held("b").state.value("n") == 3
    assert published(world, "b") == [1, 2]
    assert world.queue.acked == {1, 2, 3, 4, 5}


# Again


async def test_a_repeat_under_another_position_is_acked_and_not_applied(world: World) -> None:
    add(world, ("a", 1), ("a", 2), ("a", 1), ("a", 2), ("a", 3))
    world.edge.watched = {"a"}
    await world.work()
    assert versions(world) == {"a": 3}
    assert published(world, "a") == [1, 2, 3]
    assert world.queue.acked == {1, 2, 3, 4, 5}


async def test_a_redelivery_is_not_applied_and_its_latest_is_published_again(world: World) -> None:
    """Whoever owned it before may have died between the commit and the publish. Only the latest: nothing older."""
    add(world, ("a", 1), ("a", 2), ("b", 1))
    world.edge.watched = {"a"}

    def die(word: str, what: Any) -> None:
        if word == "commit":
            world.after = lambda word, what: None
            raise Crash

    world.after = die
    await world.work()
    assert versions(world) == {"a": 2, "b": 1}
    assert [update.version for update in world.live.updates["a"]] == [1, 2]
    assert set(published(world, "a")) == {2}
    assert published(world, "b") == []  # nobody watches it
    assert world.queue.acked == {1, 2, 3}


async def test_what_comes_again_to_the_same_owner_is_published_again(world: World) -> None:
    """An ack can get lost: nothing has to be recovered then, and an edge may have lost the item with it."""
    add(world, ("a", 1), ("a", 2), ("a", 3))
    await world.work()
    world.edge.watched = {"a"}
    world.calls.clear()
    await world.consumer.handle(world.queue.log[:2])
    assert world.of("commit") in ([], [[]])
    assert world.of("publish") == [[named(world, "a", 3)]]
    assert world.of("ack") == [[1, 2]]
    assert versions(world) == {"a": 3}


async def test_a_takeover_publishes_the_latest_of_what_is_watched(world: World) -> None:
    add(world, ("a", 1), ("a", 2), ("b", 1))
    await world.work()
    world.calls.clear()
    world.edge.watched = {"a", "never-sent"}
    await world.work()
    assert world.of("publish") == [[named(world, "a", 2)]]


async def test_another_owner_who_was_first_is_believed(world: World) -> None:
    add(world, ("a", 1), ("a", 2))

    def overtaken(word: str, what: Any) -> None:
        if word == "commit":
            world.before = lambda word, what: None
            world.live.committed(what, EPOCH)  # the same packets, by another process

    world.before = overtaken
    await world.work()
    assert versions(world) == {"a": 2}
    assert [update.version for update in world.live.updates["a"]] == [1, 2]
    assert world.of("reset")[1:] == [frozenset({partition("a", PARTITIONS)})]
    assert world.queue.acked == {1, 2}


async def test_what_was_held_is_forgotten_when_it_may_be_wrong(world: World) -> None:
    """Held from an earlier commit of ours, it would be fenced for ever."""
    add(world, ("a", 1))
    commits = 0

    def overtaken(word: str, what: Any) -> None:
        nonlocal commits
        if word == "ack" and len(world.queue.log) == 1:
            add(world, ("a", 2), ("a", 3))
        commits += word == "commit"
        if word == "commit" and commits == 2:
            first, *_ = what
            world.live.committed([Change(first.state, first.revision, first.updates)], EPOCH)
        assert commits < 5

    world.before = overtaken
    await world.work()
    assert versions(world) == {"a": 3}
    assert [update.version for update in world.live.updates["a"]] == [1, 2, 3]
    assert world.queue.acked == {1, 2, 3}


@pytest.mark.parametrize("error", [Fenced("no answer"), Unavailable("stream is full")])
async def test_a_commit_that_fails_is_recovered_from(world: World, error: Exception) -> None:
    """Forget, reset, pull again: and nothing is acked or published before it is kept."""
    add(world, ("a", 1), ("b", 1))
    world.edge.watched = {"a"}

    def fail(word: str, what: Any) -> None:
        if word == "commit":
            world.before = lambda word, what: None
            raise error

    world.before = fail
    await world.work()
    words = world.words("commit", "epoch", "reset", "publish", "ack")
    assert words[:2] == ["epoch", "reset"]  # at the start
    assert words[2:5] == ["commit", "epoch", "reset"]
    assert "ack" not in words[: words.index("publish")]
    assert versions(world) == {"a": 1, "b": 1}
    assert world.queue.acked == {1, 2}
    assert world.of("reset")[1] == {partition("a", PARTITIONS), partition("b", PARTITIONS)}


async def test_recovering_is_tried_until_it_succeeds(world: World) -> None:
    add(world, ("a", 1))
    left = {"epoch": 2, "reset": 2, "latest": 1}

    def fail(word: str, what: Any) -> None:
        if left.get(word, 0) > 0:
            left[word] -= 1
            raise Unavailable("not yet")

    world.before = fail
    await world.work()
    assert versions(world) == {"a": 1}
    assert world.queue.acked == {1}


async def test_a_vehicle_that_cannot_be_committed_holds_up_no_other(world: World) -> None:
    """After failures in a row each vehicle is committed for itself; the one is tried on, and never acked."""
    add(world, ("a", 1), ("bad", 1), ("b", 1), ("c", 1), ("d", 1))
    tries = 0

    def fail(word: str, what: Any) -> None:
        nonlocal tries
        if word == "commit" and any(change.state.vehicle == "bad" for change in what):
            tries += 1
            if tries > 20:
                world.consumer.stop()
            raise Fenced("for ever")

    world.before = fail
    await world.work()
    assert versions(world) == dict.fromkeys("abcd", 1)
    assert world.queue.acked == {1, 3, 4, 5}
    assert not world.queue.rejected  # nothing is wrong with its packet


# Time


NOW = 1_795_428_000.0  # when the queue stores the packet of position 0, which is 2026-11-23T10:00:00Z


async def test_a_clock_that_cannot_be_true_is_replaced_by_the_time_of_the_storing(world: World) -> None:
    signals = {"own": {"value": 1}, "gps": {"value": 2, "at": "2026-11-23T09:59:58Z"}}
    world.queue.add("a", body("a", 1, sent_at="1970-01-01T00:00:07Z", signals=signals))
    await world.work()
    assert world.live.held("a").state.signals == {
        "own": Signal(1, rfc3339(NOW + 1), skewed=True),
        "gps": Signal(2, "2026-11-23T09:59:58.000Z"),
    }
    assert world.consumer.tallies.get("a") == Tally(skewed=1)
    trace = world.consumer.traces.get("a")
    assert trace is not None
    assert (trace.sent_at, trace.skewed) == ("1970-01-01T00:00:07.000Z", True)  # what it said


async def test_a_redelivery_of_a_wrong_clock_comes_to_the_same(world: World) -> None:
    world.queue.add("a", body("a", 1, sent_at="2030-01-01T00:00:00Z"))
    crashed: list[str] = []

    def crash(word: str, what: Any) -> None:
        if word == "commit" and not crashed:
            crashed.append(word)
            raise Crash

    world.before = crash
    await world.work()
    assert crashed
    assert world.live.held("a").state.signals["n"] == Signal(1, rfc3339(NOW + 1), skewed=True)


async def test_a_packet_put_again_is_judged_by_when_it_first_came(world: World) -> None:
    """However long it lay in REJECTED: its clock was right then."""
    delivery = world.queue.add("a", body("a", 1))
    month = 30 * 86400
    world.queue.log[0] = msgspec.structs.replace(
        delivery, stored=delivery.stored + month, received=delivery.stored
    )
    await world.work()
    state = world.live.held("a").state
    assert state.signals["n"] == Signal(1, "2026-11-23T10:00:01.000Z")
    assert state.updated_at == rfc3339(NOW + 1 + month)


async def test_tolerances_are_settings(world: World) -> None:
    world.settings = msgspec.structs.replace(SETTINGS, clock_ahead=1.5, clock_behind=60.0)
    for seq, sent_at in enumerate(("09:58:00", "09:59:30", "10:00:04", "10:00:07"), 1):
        world.queue.add("abcd"[seq - 1], body("abcd"[seq - 1], 1, sent_at=f"2026-11-23T{sent_at}Z"))
    await world.work()
    skewed = [world.live.held(car).state.signals["n"].skewed for car in CARS]
    assert skewed == [True, False, False, True]


async def test_each_vehicles_packets_are_counted_once_they_are_done(world: World) -> None:
    add(world, ("a", 1), ("a", 3), ("a", 2), ("a", 2), ("a", 3), ("b", 1))
    world.queue.add("b", b"no packet")
    failed: list[str] = []

    def fail_once(word: str, what: Any) -> None:
        if word == "commit" and not failed:
            failed.append(word)
            raise Unavailable("the live state is away")

    world.before = fail_once
    await world.work()
    assert failed
    assert world.consumer.tallies.get("a") == Tally(duplicate=2, late=1)
    assert world.consumer.tallies.get("b") == Tally(rejected=1)
    await world.consumer.handle(world.queue.log[:3])  # delivered again: that is not the vehicle's doing
    assert world.consumer.tallies.get("a") == Tally(duplicate=2, late=1)


async def test_the_trace_of_a_late_packet_is_its_own(world: World) -> None:
    add(world, ("a", 2), ("a", 1))
    await world.work()
    trace = world.consumer.traces.get("a")
    assert trace is not None
    assert (trace.packet, trace.version, trace.sent_at) == ("1/1", 2, "2026-11-23T10:00:01.000Z")


# Poison


def spoiled(state: State, packet: Packet) -> State:
    raise ValueError("spoiled")


POISON = msgspec.structs.replace(SETTINGS, poison_packets=20, poison_vehicles=3)


async def test_consumption_stops_before_nearly_everything_is_rejected(world: World) -> None:
    """What is rejected by then is less than what is looked at; nothing else has left the queue."""
    world.settings, world.enrichers = POISON, (Named("rules", spoiled),)
    for seq in range(1, 26):
        add(world, *((car, seq) for car in CARS))
    await world.work()
    assert "from 4 vehicles" in world.consumer.poisoned
    with pytest.raises(Unavailable, match="rejected list"):
        await world.consumer.well()
    assert sorted(world.queue.rejected) == list(range(1, 17))  # two batches of eight
    assert world.queue.acked == world.queue.rejected.keys()
    assert not world.live.stored

    world.enrichers = ()  # rolled back
    world.consumer = world.another()
    await world.consumer.well()
    await world.work()
    assert len(world.queue.acked) == 100
    assert sorted(world.queue.rejected) == list(range(1, 17))
    assert versions(world) == dict.fromkeys(CARS, 21)


async def test_what_cannot_be_committed_counts_too(world: World) -> None:
    world.settings = POISON
    world.live.refuses = lambda change: True
    for seq in range(1, 26):
        add(world, *((car, seq) for car in CARS))
    await world.work()
    assert world.consumer.poisoned
    assert len(world.queue.rejected) == 17
    assert world.queue.acked == world.queue.rejected.keys()


async def test_one_car_that_sends_nothing_usable_stops_nobody(world: World) -> None:
    world.settings = POISON
    for seq in range(1, 40):
        add(world, ("a", seq)) if seq % 13 == 0 else world.queue.add("b", b"no packet")
    await world.work()
    assert not world.consumer.poisoned
    assert len(world.queue.rejected) == 36
    assert versions(world) == {"a": 3}


async def test_it_can_be_told_to_reject_all_the_same(world: World) -> None:
    world.settings = msgspec.structs.replace(POISON, poison_packets=0)
    world.enrichers = (Named("rules", spoiled),)
    for seq in range(1, 26):
        add(world, *((car, seq) for car in CARS))
    await world.work()
    assert not world.consumer.poisoned
    assert len(world.queue.rejected) == 100


# All of it


FAULTS = {
    "commit": (Fenced("no answer"), Unavailable("full"), Crash()),
    "latest": (Unavailable("no answer"), Crash()),
    "since": (Unavailable("no answer"), Crash()),
    "epoch": (Unavailable("no answer"), Crash()),
    "reset": (Unavailable("no answer"), Crash()),
    "reject": (Unavailable("no answer"), Crash()),
    "publish": (Crash(),),
    "ack": (Crash(),),
}


@examples(deadline=None, max_examples=150)
@given(
    packets=st.lists(
        st.tuples(st.sampled_from(CARS), st.integers(1, 12), st.sampled_from(["good"] * 4 + ["bad"])),
        max_size=20,
    ),
    faults=st.lists(st.none() | st.tuples(st.booleans(), st.integers(0, 2)), max_size=60),
    watched=st.sets(st.sampled_from(CARS)),
)
async def test_every_packet_once_in_effect_whatever_fails(
    packets: list[tuple[str, int, str]], faults: list[tuple[bool, int] | None], watched: set[str]
) -> None:
    """Each word asked of a seam may fail, before it did anything or after; the process may be killed at each."""
    world = World()
    world.edge.watched = watched
    for vehicle, seq, kind in packets:
        world.queue.add(vehicle, body(vehicle, seq) if kind == "good" else b"bad")
    plan = iter(faults)
    pending: list[tuple[bool, int] | None] = []

    def before(word: str, what: Any) -> None:
        fault = next(plan, None)
        pending.append(fault)
        if fault is not None and fault[0]:
            raise FAULTS[word][fault[1] % len(FAULTS[word])]

    def after(word: str, what: Any) -> None:
        fault = pending[-1]
        if fault is not None and not fault[0]:
            raise FAULTS[word][fault[1] % len(FAULTS[word])]

    world.before, world.after = before, after
    await world.work()

    assert world.queue.acked == set(range(1, len(packets) + 1))
    bad = {position for position, (_, _, kind) in enumerate(packets, 1) if kind == "bad"}
    assert world.queue.rejected.keys() == bad
    for car in CARS:
        seqs = [seq for vehicle, seq, kind in packets if vehicle == car and kind == "good"]
        state = world.live.held(car).state
        assert state.version == len(set(seqs))
        assert state.value("n") == max(seqs, default=None)
        view = snapshot(State(car))
        for update in world.live.updates.get(car, []):
            view = patched(view, update)  # raises if one is missing, or there twice
        assert view.signals == state.signals
        assert max(published(world, car), default=0) == (state.version if car in watched else 0)
    for item in world.edge.items:
        vehicle, version = item.channel.split("/")[1], int(item.id.rpartition("-")[2])
        assert (item.id, item.prev) == (named(world, vehicle, version), named(world, vehicle, version - 1))


async def test_what_is_behind_a_failure_while_isolating_comes_again(world: World) -> None:
    """It had left the queue's hands: were only the failed one's partition reset, a later packet would be applied first,
    and the redelivery of this one be taken for applied."""
    assert len({partition(vehicle, PARTITIONS) for vehicle in ("b", "c")}) == 2
    for seq in (1, 2, 3):
        add(world, *((car, seq) for car in CARS))
    world.live.refuses = lambda change: change.state.vehicle == "a" and change.updates[0].version == 1
    failed: list[str] = []

    def fail_once(word: str, what: Any) -> None:
        if (
            word == "commit"
            and [c.state.vehicle for c in what] == ["b"]
            and len(what[0].updates) == 1
            and not failed
        ):
            failed.append("b")
            raise Unavailable("the live state is away")

    world.before = fail_once
    await world.work()
    assert failed
    assert versions(world) == {"b": 3, "c": 3, "d": 3}
    assert sorted(world.queue.acked) == list(range(1, 13))


async def test_a_restored_live_state_makes_all_be_forgotten_and_everything_begin_anew(world: World) -> None:
    """Of every partition, though only one is told to recover: a cached revision may fit the restored state by chance."""
    add(world, ("a", 1), ("b", 1))
    await world.work()
    consumer, world.live.now = world.consumer, "cd34"
    consumer._stopping.clear()
    world.calls.clear()
    add(world, ("a", 2), ("b", 2))
    await consumer.run()
    assert world.of("reset") == [frozenset(range(PARTITIONS))]
    assert world.words("commit") == ["commit"] * 2, "the first one was of the old epoch, and refused"
    assert set(world.of("latest")) == {"a", "b"}
    assert versions(world) == {"a": 2, "b": 2}


async def test_a_restore_between_read_and_publish_publishes_nothing_under_the_old_epoch(world: World) -> None:
    add(world, ("a", 1))
    world.edge.watched = {"a"}
    await world.work()
    world.calls.clear()

    def restored(word: str, what: Any) -> None:
        if word == "since":
            world.live.now = "cd34"

    world.before = restored
    with pytest.raises(Unavailable):
        await world.consumer._publisher.publish_latest([("a", EVERYTHING)])
    assert world.of("publish") == []

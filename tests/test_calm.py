"""Calm streams: what is made one, when it comes, and that a phone ends where one does that gets everything."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.calm import CLASSES, GRACE, Calm, conflated, every_of
from fleetcast.clock import rfc3339, seconds
from fleetcast.edge import Item
from fleetcast.errors import Refuse
from fleetcast.following import Following
from fleetcast.live import Change, Held
from fleetcast.packet import Signal
from fleetcast.publisher import Publisher
from fleetcast.sse import Parser
from fleetcast.state import State
from fleetcast.subjects import channel, split_channel
from fleetcast.update import Update, diff, merged
from fleetcast.views import EVERYTHING, View, Views
from tests.test_update import merge_patch

BEGAN = 1_795_428_000.0
"""The begin of a bucket of every class."""
VIEWS = Views(["numbers: n1 n2", "own: own"], ["u"])
NUMBERS = VIEWS.named["numbers"]
EPOCH, LIFE = "ab12", "0" * 8


class Clock:
    """By hand."""

    def __init__(self) -> None:
        self.time = BEGAN

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


class Live:
    """One vehicle's states, as consume leaves them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.states = [State("car", life=LIFE)]
        self.updates: list[Update] = []

    def packet(self, late: float = 0.0, **values: Any) -> Change:
        before = self.states[-1]
        version, at = before.version + 1, rfc3339(self.clock.now() - late)
        signals = dict(before.signals)
        for path, value in values.items():
            if value is None:
                signals.pop(path, None)
            else:
                signals[path] = Signal(value, at)
        after = msgspec.structs.replace(before, version=version, updated_at=at, signals=signals)
        return self._committed(*VIEWS.chained(before, after, diff(before, after)))

    def status(self, status: str) -> Change:
        """As views have it: it touches all of them."""
        before = self.states[-1]
        after = msgspec.structs.replace(before, version=before.version + 1)
        update = msgspec.structs.replace(diff(before, after), status=status, since="t")
        prevs = {
            view.key: view.touched(before).version for view in VIEWS.named.values() if view is not EVERYTHING
        }
        everywhere = dict.fromkeys(prevs, EVERYTHING.touched(after))
        update = msgspec.structs.replace(update, prevs=prevs)
        return self._committed(msgspec.structs.replace(after, views=everywhere), update)

    def _committed(self, after: State, update: Update) -> Change:
        self.states.append(after)
        self.updates.append(update)
        return Change(after, 0, [update])

    async def epoch(self) -> str:
        return EPOCH

    async def vehicles(self) -> Sequence[str]:
        raise AssertionError("nobody asks for all")

    async def latest_of(self, vehicles: Sequence[str]) -> Sequence[State]:
        raise AssertionError("for consume's background only")

    async def latest(self, vehicle: str, *, leader: bool = False) -> Held:
        return Held(self.states[-1], len(self.states))

    async def since(
        self, vehicle: str, version: int, *, leader: bool = False, view: View = EVERYTHING
    ) -> tuple[State, Sequence[Update]]:
        return self.states[-1], [update for update in self.updates if update.version > version]

    async def commit(self, changes: Sequence[Change], epoch: str = "") -> Sequence[int]:
        raise AssertionError("done by hand")

    async def states_of(self, vehicles: Sequence[str]) -> Sequence[State]:
        raise AssertionError("nobody asks for many")


class Phone:
    """Applies what comes, if it follows."""

    def __init__(self, clock: Clock, view: View, every: int) -> None:
        self.clock, self.view, self.every = clock, view, every
        self.at = ""
        self.version = 0
        self.signals: dict[str, Any] = {}
        self.came: list[tuple[float, int, int]] = []
        """(when, prev, version) of each update."""

    @property
    def channel(self) -> str:
        return channel("car", self.view.name, self.every)

    def take(self, stream: bytes) -> None:
        for event in Parser().feed(stream):
            data = json.loads(event.data)
            assert event.event != "reset", "the window serves"
            if event.event == "snapshot":
                self.signals = data["signals"]
            else:
                assert data["prev"] == self.version
                assert "urgent" not in data
                self.came.append((self.clock.now(), data["prev"], data["version"]))
                self.signals = merge_patch(self.signals, data["signals"])
            self.version, self.at = data["version"], event.id


class World:
    """The publisher and what follows, as they are, around an edge that holds phones as Pushpin does: an item goes to whoever is
    at its `prev`, for all others the origin is asked; an id that it had it passes over. The edge loses what it is told to.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.live = Live(self.clock)
        self.following = Following(self.live, self.clock)
        self.phones: list[Phone] = []
        self.items: list[Item] = []
        self.had: set[tuple[str, str]] = set()
        self.loses = False
        self.publisher = self.another()

    def another(self) -> Publisher:
        self.publisher = Publisher(self.live, self, VIEWS, self.clock)
        self.publisher.epoch = EPOCH
        return self.publisher

    async def joins(self, view: View, every: int) -> Phone:
        phone = Phone(self.clock, view, every)
        body, phone.at = await self.following.begun("car", view)
        phone.take(body)
        self.phones.append(phone)
        return phone

    async def asks(self, phone: Phone) -> None:
        body, at = await self.following.since("car", phone.view, phone.at, "edge", phone.every)
        phone.take(body)
        assert phone.at == at

    async def packet(self, late: float = 0.0, **values: Any) -> None:
        await self.publisher.publish([self.live.packet(late, **values)])

    async def status(self, status: str) -> None:
        await self.publisher.publish([self.live.status(status)])

    async def takeover(self) -> None:
        await self.another().publish_latest(self.publisher.watched())

    async def passes(self, time: float) -> None:
        """Time, in the steps in which consume looks."""
        until = self.clock.time + time
        while self.clock.time + (step := self.publisher._calm.pause(self.clock.time)) <= until:
            self.clock.time += step + 0.001
            await self.publisher.end_buckets()
        self.clock.time = max(self.clock.time, until)

    # What it is to the publisher: the edge

    async def ready(self) -> None:
        return

    def listeners(self, channel: str) -> int:
        return int(any(phone.channel == channel for phone in self.phones))

    def replicas(self, channel: str) -> Sequence[str]:
        return ["edge"] * self.listeners(channel)

    def channels(self) -> Sequence[str]:
        return sorted({phone.channel for phone in self.phones} | {"ctl/03/"})

    async def publish(self, items: Sequence[Item]) -> None:
        for item in items:
            assert self.listeners(item.channel), "nobody listens to what is published"
            self.items.append(item)
            if (item.channel, item.id) in self.had:
                continue
            self.had.add((item.channel, item.id))
            for phone in self.phones:
                if phone.channel == item.channel and not self.loses:
                    if phone.at == item.prev:
                        phone.take(item.content)
                    else:
                        await self.asks(phone)

    async def close(self) -> None:
        return


def level(phone: Phone, live: Live) -> bool:
    shown = json.loads(msgspec.json.encode(phone.view.snapshot(live.states[-1])))
    return bool((phone.version, phone.signals) == (shown["version"], shown["signals"]))


def unhurried(phone: Phone, live: Live) -> list[int]:
    """The buckets in which updates came, each as often as one came, but for those that need not wait."""
    chain = [one for update in live.updates if (one := phone.view.of(update)) is not None]
    hurries = {one.version for one in chain if one.urgent or one.status}
    hurries |= {one.prev for one in chain if one.status}  # it goes before a status
    return [
        int(when // phone.every)
        for when, prev, version in phone.came
        if version not in hurries and not any(prev < one.version <= version and one.urgent for one in chain)
    ]


SIGNALS = st.dictionaries(
    st.sampled_from(["n1", "n2", "own", "u"]), st.integers(0, 2) | st.none(), max_size=3
)
STEPS = st.lists(
    st.tuples(st.just("packet"), SIGNALS)
    | st.tuples(st.just("packet"), SIGNALS)
    | st.tuples(st.just("passes"), st.sampled_from([0.01, 0.3, 1.0, 3.0, 7.0]))
    | st.tuples(st.just("passes"), st.floats(0.0, 5.0))
    | st.tuples(st.just("joins"), st.tuples(st.sampled_from(["all", "numbers"]), st.sampled_from([0, 5, 30])))
    | st.tuples(st.just("turns"), st.sampled_from([0, 5, 30]))
    | st.tuples(
        st.sampled_from(["status", "takeover", "asks", "loses", "crash", "elsewhere"]), st.just(None)
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=300)
@given(STEPS)
async def test_a_calm_phone_ends_where_everybody_does_and_gets_one_update_a_bucket(
    steps: list[tuple[str, Any]],
) -> None:
    """Whoever dies, whatever is lost, whenever it came; `turns`: it comes back with another class.

    Only what another process committed, and nobody published, may come beside, when the edge asks.
    """
    world, beside = World(), False
    for view, every in (("all", 0), ("all", 5), ("numbers", 5), ("all", 30)):
        await world.joins(VIEWS.named[view], every)
    turned: set[Phone] = set()
    for step, what in steps:
        world.loses = step == "loses"
        match step:
            case "packet":
                await world.packet(**what)
            case "passes":
                await world.passes(what)
            case "joins":
                await world.joins(VIEWS.named[what[0]], what[1])
            case "turns":
                phone = world.phones[1]
                phone.every = what
                turned.add(phone)
                await world.asks(phone)
            case "status":
                await world.status("quiet")
            case "takeover":
                await world.takeover()
            case "asks":
                for phone in world.phones:
                    await world.asks(phone)
            case "loses":
                await world.packet(n1=7)
                await world.passes(1)
            case "crash":  # between the commit and the publish
                world.live.packet(n2=9)
                await world.takeover()
            case "elsewhere":  # another process has it for a while, and dies as it commits
                world.live.packet(n2=10)
                beside = True
    world.loses = False
    await world.passes(31)
    for phone in world.phones:
        await world.asks(phone)
        assert level(phone, world.live)
        if phone.every and phone not in turned and not beside:
            came = unhurried(phone, world.live)
            assert len(set(came)) == len(came)
    assert len(world.publisher._calm) == 0


# One by one


@pytest.fixture
def world() -> World:
    return World()


def links(phone: Phone) -> list[tuple[int, int]]:
    return [(prev, version) for _, prev, version in phone.came]


async def test_a_bucket_is_one_update_when_it_is_over(world: World) -> None:
    await world.packet(n1=0)
    phone = await world.joins(EVERYTHING, 5)
    for number in range(1, 4):
        await world.passes(1)
        await world.packet(n1=number, n2=number)
    assert links(phone) == []
    await world.passes(2 + GRACE)
    assert links(phone) == [(1, 4)]
    assert phone.came[0][0] == pytest.approx(BEGAN + 5 + GRACE, abs=0.01)
    assert level(phone, world.live)
    await world.passes(60)
    assert len(world.items) == 1  # and nothing of nothing


async def test_what_is_committed_in_the_grace_goes_with_its_own_bucket(world: World) -> None:
    phone = await world.joins(EVERYTHING, 5)
    await world.packet(n1=1)
    await world.passes(5 + GRACE / 2)
    await world.packet(late=GRACE, n1=2)  # of the bucket that is over
    await world.packet(n1=3)  # of the next one
    await world.passes(GRACE)
    assert links(phone) == [(0, 2)]
    await world.passes(1)
    await world.packet(late=2, n1=4)  # of the one that was published: with the next
    await world.passes(5)
    assert links(phone) == [(0, 2), (2, 4)]


async def test_what_is_urgent_passes_at_once_with_what_waited(world: World) -> None:
    phone, other = await world.joins(EVERYTHING, 60), await world.joins(NUMBERS, 60)
    await world.packet(n1=1)
    await world.packet(n1=2, u=1)
    assert links(phone) == [(0, 2)]
    await world.packet(n1=3, u=1)  # the same again, observed later
    await world.packet(n1=4)
    assert links(phone) == [(0, 2)]
    await world.packet(u=None)
    assert links(phone) == [(0, 2), (2, 5)]
    # The urgent signal is none of its view: there it is an update as any.
    assert links(other) == []
    await world.passes(61)
    assert links(other) == [(0, 4)]
    assert links(phone) == [(0, 2), (2, 5)]


async def test_a_status_passes_at_once_as_an_event_of_its_own_behind_what_waited(world: World) -> None:
    phone = await world.joins(EVERYTHING, 30)
    await world.packet(n1=1)
    await world.packet(n1=2)
    await world.status("quiet")
    await world.packet(n1=3)
    assert links(phone) == [(0, 2), (2, 3)]
    back = await world.joins(EVERYTHING, 30)
    back.at, back.version, back.signals, back.came = f"{EPOCH}-0", 0, {}, []
    await world.asks(back)
    assert links(back) == [(0, 2), (2, 3)]
    await world.passes(31)
    assert links(back) == links(phone) == [(0, 2), (2, 3), (3, 4)]


async def test_only_classes_that_somebody_listens_to_wait_or_are_published(world: World) -> None:
    await world.packet(n1=1)
    assert len(world.publisher._calm) == 0
    await world.joins(NUMBERS, 30)
    await world.packet(own=1)
    assert len(world.publisher._calm) == 0
    await world.packet(n1=2)
    assert len(world.publisher._calm) == 1
    world.phones.clear()
    await world.passes(31)
    assert len(world.publisher._calm) == 0
    assert world.items == []


async def test_after_a_takeover_the_edge_asks_for_what_was_not_published(world: World) -> None:
    phone = await world.joins(EVERYTHING, 30)
    await world.packet(n1=1)
    await world.passes(30)  # over, but within the grace: the process dies
    await world.packet(n1=2)
    await world.takeover()
    assert links(phone) == [(0, 1)]  # at once, for the edge asked
    await world.passes(31)
    assert links(phone) == [(0, 1), (1, 2)]


async def test_the_item_by_which_the_edge_asks_changes_nothing(world: World) -> None:
    """Where there is no edge that asks, a client sees that it does not follow, or has it."""
    await world.packet(n1=1)
    await world.joins(EVERYTHING, 30)
    await world.packet(n1=2)
    await world.takeover()
    (event,) = Parser().feed(world.items[-1].content)
    data = json.loads(event.data)
    assert (world.items[-1].prev, data["prev"], data["version"], data["signals"]) == ("none", 2, 2, {})
    assert event.id == f"{EPOCH}.{LIFE}-2"
    await world.passes(1)
    await world.takeover()
    await world.passes(31)
    # The edge passes over an item with an id that it had.
    assert len({item.id for item in world.items}) == len(world.items) == 3


async def test_another_epoch_or_life_has_nothing_of_the_one_before(world: World) -> None:
    await world.joins(EVERYTHING, 5)
    await world.packet(n1=1)
    world.publisher.forget("other")
    assert len(world.publisher._calm) == 1
    world.publisher.epoch = EPOCH
    assert len(world.publisher._calm) == 1
    world.publisher.epoch = "cd34"
    assert len(world.publisher._calm) == 0
    await world.packet(n1=2)
    world.publisher.forget("car")
    assert len(world.publisher._calm) == 0


def test_another_life_begins_anew() -> None:
    calm = Calm()
    first = Update("car", 1, 0, rfc3339(BEGAN), {"n": Signal(1, "t")})
    assert calm.put(EVERYTHING, 5, "one", first) == []
    again = Update("car", 1, 0, rfc3339(BEGAN), {"m": Signal(1, "t")})
    assert calm.put(EVERYTHING, 5, "two", again) == []
    (ripe,) = calm.ripe(BEGAN + 6)
    assert (ripe.life, ripe.update) == ("two", again)


def test_memory_is_bounded() -> None:
    calm = Calm(most=10)
    for number in range(30):
        calm.put(EVERYTHING, 5, "", Update(f"car-{number}", 1, 0, rfc3339(BEGAN), {}))
        calm.put(EVERYTHING, 30, "", Update("car", number + 1, number, rfc3339(BEGAN), {}))
    assert len(calm) == 11
    assert [one.update.vehicle for one in calm.ripe(BEGAN + 6)] == [f"car-{n}" for n in range(20, 30)]


def test_a_clock_that_is_put_back_is_no_end_of_calm() -> None:
    calm = Calm()
    calm.ripe(BEGAN + 3600)
    calm.put(EVERYTHING, 5, "", Update("car", 1, 0, rfc3339(BEGAN), {}))
    assert calm.ripe(BEGAN + 1) == []
    assert len(calm.ripe(BEGAN + 6)) == 1


@settings(deadline=None)
@given(st.floats(0, 1e10))
def test_the_pause_ends_with_the_next_bucket(now: float) -> None:
    calm = Calm()
    pause = calm.pause(now)
    assert 0 <= pause <= min(CLASSES) + 0.001
    end = now + pause - GRACE
    assert abs(end - round(end / 5) * 5) < 0.001


CHAINS = st.lists(st.tuples(st.floats(-8, 2), st.sampled_from(["", "", "", "urgent", "status"])), max_size=12)


def chain(kinds: Iterable[tuple[float, str]]) -> list[Update]:
    return [
        Update(
            "car",
            number,
            number - 1,
            rfc3339(BEGAN + at),
            {} if kind == "status" else {f"n{number % 3}": Signal(number, "t")},
            status="quiet" if kind == "status" else "",
            urgent=("u",) if kind == "urgent" else (),
        )
        for number, (at, kind) in enumerate(kinds, 1)
    ]


@settings(deadline=None)
@given(CHAINS, st.sampled_from(CLASSES))
def test_what_is_replayed_is_all_that_does_not_wait(kinds: list[tuple[float, str]], every: int) -> None:
    updates = chain(kinds)
    found = conflated(updates, BEGAN + 2, every)
    upto = found[-1].version if found else 0
    assert all(one.prev == before.version for before, one in pairwise(found))
    assert [one.version for one in found if one.status] == [
        one.version for one in updates[:upto] if one.status
    ]
    assert not any(bool(one.status) == bool(other.status) == False for one, other in pairwise(found))  # noqa: E712
    for one in found:
        run = updates[one.prev : one.version]
        assert one.signals == merged(run).signals
    ready = [one for one in updates if one.urgent or one.status or seconds(one.updated_at) < BEGAN]
    assert upto == (ready[-1].version if ready else 0)


@settings(deadline=None)
@given(CHAINS, st.sampled_from(CLASSES))
def test_what_is_published_is_what_is_replayed(kinds: list[tuple[float, str]], every: int) -> None:
    """Once the bucket is over; but not always in as many pieces. The times of packets are of several servers, not in order."""
    calm, updates = Calm(), chain(kinds)
    published = [one.update for update in updates for one in calm.put(EVERYTHING, every, "", update)]
    published += [one.update for one in calm.ripe(BEGAN + 2, grace=0)]
    replayed = conflated(updates, BEGAN + 2, every)
    assert all(one.prev == before.version for before, one in pairwise(published))
    assert (published[-1].version if published else 0) == (replayed[-1].version if replayed else 0)


def test_an_origin_whose_clock_is_behind_knows_by_the_packets_that_a_bucket_is_over() -> None:
    (one,) = conflated(chain([(-1, ""), (0.5, "")]), BEGAN - 3, 5)
    assert one.version == 1


@pytest.mark.parametrize(("text", "every"), [("", 0), ("5s", 5), ("30s", 30), ("60s", 60)])
def test_the_classes(text: str, every: int) -> None:
    assert every_of(text) == every
    assert split_channel(channel("car", "all", every)) == ("car", "all", every)


@pytest.mark.parametrize("text", ["5", "0s", "05s", "10s", "5S", " 5s", "5s ", "٥s"])
def test_what_is_no_class_is_refused(text: str) -> None:
    with pytest.raises(Refuse, match="5s, 30s, 60s"):
        every_of(text)

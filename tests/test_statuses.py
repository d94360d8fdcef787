"""What consume tells of vehicles that send nothing, over the seams in memory of test_consume."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from fleetcast import consume, statuses
from fleetcast.clock import SystemClock, rfc3339, seconds
from fleetcast.consume import Consumer
from fleetcast.errors import Unavailable
from fleetcast.live import Change, Fenced
from fleetcast.resume import Replay, resume
from fleetcast.silence import LIVE, OFFLINE, QUIET
from fleetcast.sse import Parser
from fleetcast.state import State
from fleetcast.update import Update, patched, snapshot
from fleetcast.views import Views
from tests.servers import until
from tests.test_consume import DECODERS, EPOCH, NOW, SETTINGS, World, add, body, versions

VIEWS = Views(("two: own1 own2", "one: n"))


@pytest.fixture(autouse=True)
def without_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consume, "_BACK_OFF", (0.0,))
        patch.setattr(statuses, "_LOOK", 0.005)
        patch.setattr(statuses, "_AGAIN", 0.005)
        patch.setattr(statuses, "_PAUSE", 0.005)
        patch.setattr(statuses, "_CALM", 0.0)
        yield


class Quiet(World):
    """One whose queue goes on for ever, and a registry."""

    def __init__(self) -> None:
        self.registry: dict[str, float | None] = {}
        self.asked_about: list[str] = []
        self.away: Exception | None = None
        super().__init__()
        self.queue.stays = True
        self.settings = msgspec.structs.replace(SETTINGS, views=("two: own1 own2", "one: n"))

    async def every(self, vehicle: str) -> float | None:
        self.asked_about.append(vehicle)
        if self.away is not None:
            raise self.away
        return self.registry.get(vehicle)

    def another(self) -> Consumer:
        self.queue.ours = False
        self.consumer = Consumer(
            self.queue, self.live, self.edge, (), DECODERS, self.settings, SystemClock(), every=self.every
        )
        return self.consumer

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A process that has handled what is there."""
        task = asyncio.create_task(self.another().run())
        try:
            await until(lambda: len(self.queue.acked) == len(self.queue.log))
            yield
        finally:
            self.consumer.stop()
            await task

    def at(self, seconds_: float) -> None:
        """The queue has given out all that was stored by then."""
        self.queue.upto = NOW + seconds_

    def state(self, vehicle: str) -> State:
        return self.live.held(vehicle).state

    def is_(self, vehicle: str, status: str) -> bool:
        return self.state(vehicle).status == status

    def updates(self, vehicle: str) -> list[tuple[int, str]]:
        return [(one.version, one.status) for one in self.live.updates[vehicle]]


@pytest.fixture
def world() -> Quiet:
    return Quiet()


async def test_the_first_packet_makes_it_live_and_says_nothing_of_it(world: Quiet) -> None:
    add(world, ("a", 1))
    async with world.running():
        pass
    assert world.updates("a") == [(1, "")]
    assert (world.state("a").status, world.state("a").since) == (LIVE, rfc3339(NOW + 1))


async def test_nobody_is_silent_of_whom_a_packet_is_on_its_way(world: Quiet) -> None:
    """The machine was so busy that it came later than it may, and had been stored before the vehicle was due."""
    add(world, ("a", 1), ("b", 2))
    async with world.running():
        coming = world.queue.add("a", body("a", 2))
        world.queue.given.add(coming.position)  # by the server, and not to us yet
        world.at(93)
        await until(lambda: world.is_("b", QUIET))
        asked = len(world.of("newest"))
        await until(lambda: len(world.of("newest")) > asked)
        assert world.is_("a", LIVE)
        world.queue.given.clear()
        await until(lambda: len(world.queue.acked) == 3)
        await until(lambda: world.is_("a", QUIET))
    assert world.updates("a") == [(1, ""), (2, ""), (3, QUIET)]
    assert world.state("a").since == rfc3339(NOW + 93)


async def test_the_queue_need_not_be_rid_yet_of_what_is_in_the_state(world: Quiet) -> None:
    """An acknowledgement may be on its way, or was lost."""
    add(world, ("a", 1))
    async with world.running():
        world.queue.acked.clear()
        world.queue.given.add(1)
        world.at(91)
        await until(lambda: world.is_("a", QUIET))
        world.queue.acked.add(1)


async def test_a_queue_that_does_not_say_what_is_in_it_is_asked_again(world: Quiet) -> None:
    add(world, ("a", 1))
    refuses = [Unavailable("no answer")] * 3

    def before(word: str, what: Any) -> None:
        if word == "newest" and refuses:
            raise refuses.pop()

    async with world.running():
        world.before = before
        world.at(91)
        await until(lambda: world.is_("a", QUIET))
    assert not refuses


async def test_one_that_is_silent_becomes_quiet_then_offline_and_comes_back(world: Quiet) -> None:
    add(world, ("a", 1))
    world.edge.watched = {"a"}
    async with world.running():
        world.at(90.9)
        await asyncio.sleep(0.05)
        assert world.is_("a", LIVE)
        world.at(91)
        await until(lambda: world.is_("a", QUIET))
        assert (world.state("a").version, world.state("a").since) == (2, rfc3339(NOW + 91))
        assert world.state("a").updated_at == rfc3339(NOW + 1), "that of its packet"
        world.at(601)
        await until(lambda: world.is_("a", OFFLINE))
        assert world.state("a").since == rfc3339(NOW + 601)
        await until(lambda: len(world.edge.items) == 3)
        add(world, ("a", 2))
        world.queue.log[1] = msgspec.structs.replace(world.queue.log[1], stored=NOW + 700)
        await until(lambda: world.state("a").version == 5)
    assert world.updates("a") == [(1, ""), (2, QUIET), (3, OFFLINE), (4, LIVE), (5, "")]
    assert world.state("a").statuses == 3
    assert world.state("a").since == rfc3339(NOW + 700) == world.state("a").updated_at
    (*_, last) = world.of("commit")
    assert [update.version for update in last[0].updates] == [4, 5], "one commit"
    events = [event for item in world.edge.items for event in Parser().feed(item.content)]
    assert [event.event for event in events] == ["update", "status", "status", "status", "update"]
    data = msgspec.json.decode(events[1].data)
    assert data == {
        "vehicle": "a",
        "version": 2,
        "prev": 1,
        "updated_at": rfc3339(NOW + 1),
        "signals": {},
        "status": QUIET,
        "since": rfc3339(NOW + 91),
    }
    assert [(item.prev, item.id) for item in world.edge.items[1:]] == [
        (before.id, after.id) for before, after in zip(world.edge.items, world.edge.items[1:], strict=False)
    ]


async def test_every_views_chain_has_it_and_leads_to_the_state(world: Quiet) -> None:
    add(world, ("a", 1), ("a", 2))
    async with world.running():
        world.at(92)
        await until(lambda: world.is_("a", QUIET))
    state, window = world.state("a"), world.live.updates["a"]
    for view in VIEWS.named.values():
        chain = [one for update in window if (one := view.of(update)) is not None]
        shown = view.snapshot(State("a"))
        for update in chain:
            shown = patched(shown, update)
        assert shown == view.snapshot(state)
        assert chain[-1].status == QUIET
        first = "ab12" if not view.key else f"ab12.{view.key}"
        replay = resume(EPOCH, f"{first}-0", state, window, leader=True, view=view)
        assert replay == Replay(chain, 3) or not isinstance(replay, Replay)


async def test_the_registrys_interval_counts_and_is_asked_again_when_it_strikes(world: Quiet) -> None:
    add(world, ("a", 1), ("b", 1))
    world.registry = {"a": 10.0, "b": 20.0}
    async with world.running():
        await until(lambda: {"a", "b"} <= set(world.asked_about))
        world.registry["b"] = 1000.0
        world.at(40)
        await until(lambda: world.is_("a", QUIET))
        assert world.state("a").since == rfc3339(NOW + 16)
        await until(lambda: world.asked_about.count("b") == 2)
        await asyncio.sleep(0.05)
        assert world.is_("b", LIVE)
        world.at(1502)
        await until(lambda: world.is_("b", QUIET))


async def test_without_the_registry_it_goes_on_with_what_is_known(world: Quiet) -> None:
    add(world, ("a", 1))
    world.away = RuntimeError("a maker's own trouble")
    async with world.running():
        world.at(91)
        await until(lambda: world.is_("a", QUIET))


async def test_where_nothing_is_expected_there_is_no_status(world: Quiet) -> None:
    world.settings = msgspec.structs.replace(world.settings, expected_every=0.0)
    world.registry = {"b": 10.0}
    add(world, ("a", 1), ("b", 1))
    async with world.running():
        await until(lambda: {"a", "b"} <= set(world.asked_about))
        world.at(17)
        await until(lambda: world.is_("b", QUIET))
        world.at(500)
        await until(lambda: world.is_("b", OFFLINE))
    assert (world.state("a").status, world.state("a").since) == ("", "")
    assert world.updates("a") == [(1, "")]


async def test_one_who_fell_silent_while_nobody_looked_is_told_late(world: Quiet) -> None:
    add(world, ("a", 1), ("b", 1), ("c", 1), ("d", 1))
    async with world.running():
        world.at(93)
        await until(lambda: world.is_("b", QUIET))
    world.at(10_000)
    async with world.running():
        await until(lambda: all(world.is_(car, OFFLINE) for car in "abcd"))
    assert world.updates("a")[-1] == (3, OFFLINE)
    assert world.state("a").since == rfc3339(NOW + 601)


async def test_one_without_a_status_of_before_is_told_too(world: Quiet) -> None:
    """A state as it was written before there were statuses."""
    state = State("a", version=7, updated_at=rfc3339(NOW))
    world.live.stored["a"] = (msgspec.json.encode(state), 5)
    world.live.revision = 5
    world.at(100)
    async with world.running():
        await until(lambda: world.is_("a", QUIET))
    assert world.updates("a") == [(8, QUIET)]


async def test_behind_the_queue_nobody_is_silent(world: Quiet) -> None:
    """However late it is: what is not handled yet may be a packet of it."""
    add(world, ("a", 1))
    world.at(80)
    async with world.running():
        await asyncio.sleep(0.05)
        assert world.is_("a", LIVE)


@pytest.mark.parametrize("error", [Fenced("no answer"), Unavailable("full")])
async def test_a_status_that_is_not_committed_is_recovered_from_and_told(
    world: Quiet, error: Exception
) -> None:
    add(world, ("a", 1))
    failed: list[str] = []

    def fail(word: str, what: Any) -> None:
        if word == "commit" and what[0].updates[0].status and len(failed) < 2:
            failed.append(word)
            raise error

    world.before = fail
    async with world.running():
        world.at(91)
        await until(lambda: world.is_("a", QUIET))
    assert len(failed) == 2
    assert world.updates("a") == [(1, ""), (2, QUIET)]


async def test_another_process_that_heard_it_meanwhile_wins(world: Quiet) -> None:
    """Of which this one knows nothing: the fence refuses the status, and what is read then is no silence."""
    add(world, ("a", 1))
    done: list[str] = []

    def overtaken(word: str, what: Any) -> None:
        if word == "commit" and what[0].updates[0].status and not done:
            done.append(word)
            before = world.state("a")
            after = msgspec.structs.replace(before, version=2, updated_at=rfc3339(NOW + 90))
            update = Update("a", 2, 1, after.updated_at, {})
            world.live.committed([Change(after, world.live.held("a").revision, [update])], EPOCH)

    world.before = overtaken
    async with world.running():
        world.at(91)
        await until(lambda: bool(done))
        await until(lambda: len(world.of("reset")) == 2)
        await asyncio.sleep(0.05)
        assert versions(world) == {"a": 2}
        world.at(180)
        await until(lambda: world.is_("a", QUIET))
    assert seconds(world.state("a").since) == NOW + 180


async def test_what_has_no_room_for_a_status_is_not_tried_for_ever(world: Quiet) -> None:
    add(world, ("a", 1), ("b", 1))
    world.live.refuses = lambda change: change.state.vehicle == "a" and change.state.status == QUIET
    async with world.running():
        world.at(92)
        await until(lambda: world.is_("b", QUIET))
        world.at(93)
        await asyncio.sleep(0.05)
        refused = [what for what in world.of("commit") if [one.state.vehicle for one in what] == ["a"]]
        assert len(refused) <= 2, "its packet, and its status once"
    assert world.is_("a", LIVE)
    assert not world.queue.rejected


async def test_a_vehicle_that_was_erased_has_no_status(world: Quiet) -> None:
    add(world, ("a", 1), ("b", 1))
    async with world.running():
        del world.live.stored["a"]
        world.consumer.forget("a")
        world.at(92)
        await until(lambda: world.is_("b", QUIET))
    assert "a" not in world.live.stored


async def test_a_repeat_or_a_rejected_packet_wakes_nobody(world: Quiet) -> None:
    add(world, ("a", 1))
    async with world.running():
        world.at(91)
        await until(lambda: world.is_("a", QUIET))
    add(world, ("a", 1))
    world.queue.add("a", b"no packet")
    async with world.running():
        pass
    assert world.updates("a") == [(1, ""), (2, QUIET)]


async def test_a_repeat_in_the_same_batch_puts_nothing_off(world: Quiet) -> None:
    """It is quiet since the packet that its state shows, and not since the copy that was stored later."""
    add(world, ("a", 1), ("a", 1))  # stored a second apart
    async with world.running():
        world.at(91)
        await until(lambda: world.is_("a", QUIET))
    assert world.state("a").since == rfc3339(NOW + 91)


async def test_a_snapshot_has_it_from_the_first(world: Quiet) -> None:
    add(world, ("a", 1))
    async with world.running():
        pass
    shown = snapshot(world.state("a"))
    assert (shown.status, shown.since) == (LIVE, rfc3339(NOW + 1))
    assert msgspec.json.decode(msgspec.json.encode(snapshot(State("b")))) == {
        "vehicle": "b",
        "version": 0,
        "updated_at": "",
        "signals": {},
    }

"""Calm streams in consume and in origin: what waits and for whom, and what their phones and the edge are answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2
import msgspec
import pytest

from fleetcast.clock import SystemClock
from fleetcast.consume import Consumer
from fleetcast.settings import Settings
from fleetcast.sse import Parser
from fleetcast.subjects import channel, poll_channel
from tests import test_consume, test_view_streams
from tests.servers import until
from tests.test_calm import BEGAN, EPOCH, LIFE, Clock, Live
from tests.test_consume import DECODERS, World
from tests.test_origin import KEY, SIGNATURE, asking, events, following, grip, is_problem
from tests.test_view_streams import Listeners, add, making

without_pauses = test_consume.without_pauses
URGENT = msgspec.structs.replace(test_view_streams.SETTINGS, urgent=("u",))


# Consume


def links(world: World, name: str) -> list[tuple[int, int]]:
    return [
        (int(item.prev.rpartition("-")[2]), int(item.id.rpartition("-")[2]))
        for item in world.edge.items
        if item.channel == name
    ]


async def test_whoever_stops_leaves_nothing_behind_of_a_bucket_that_is_over() -> None:
    calm, every = channel("a", "all", 5), channel("a")
    world = making(calm, every, channel("b", "own", 60))
    for seq in range(1, 4):
        add(world, ("a", seq), n=seq)
    add(world, ("b", 1), n=1)
    add(world, ("b", 2), own1=1)
    await world.work()
    assert links(world, every) == [(0, 1), (1, 2), (2, 3)]
    assert links(world, calm) == [(0, 3)]
    assert links(world, channel("b", "own", 60)) == [(0, 2)]
    (item,) = [item for item in world.edge.items if item.channel == calm]
    (event,) = Parser().feed(item.content)
    assert (event.event, event.id) == ("update", item.id)
    last = [item for item in world.edge.items if item.channel == every][-1]
    assert item.id == last.id  # the view's own


async def test_a_bucket_ends_though_no_packet_comes() -> None:
    calm = channel("a", "all", 1)
    world = making(calm)
    consumer = Consumer(
        world.queue, world.live, world.edge, (), DECODERS, world.settings, SystemClock(), classes=(1,)
    )
    add(world, ("a", 1), n=1)
    add(world, ("a", 2), n=2)
    running = asyncio.create_task(consumer.run())
    await until(lambda: links(world, calm) == [(0, 2)])
    assert world.words("publish") == ["publish"]
    consumer.stop()
    await running
    assert world.words("publish") == ["publish"]


async def test_what_is_urgent_is_by_the_settings_and_is_kept_in_the_window_for_no_phone() -> None:
    calm = channel("a", "all", 60)
    world = making(calm, channel("a"))
    world.settings = URGENT
    for seq, value in enumerate([1, 1, 2], 1):
        add(world, ("a", seq), n=seq, u=value)
    world.another()
    Listeners(world, [calm, channel("a")])
    await world.work()
    assert links(world, calm) == [(0, 1), (1, 3)]
    assert [update.urgent for update in world.live.updates["a"]] == [("u",), (), ("u",)]
    assert not any(b"urgent" in item.content for item in world.edge.items)


async def test_who_listens_calmly_is_among_those_that_explain_names() -> None:
    world = making(channel("a", "own", 30))
    add(world, ("a", 1), own1=1)
    await world.work()
    trace = world.consumer.traces.get("a")
    assert trace is not None
    assert trace.replicas == ["edge"]


# Origin


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def live(clock: Clock) -> Live:
    """Versions 1 to 3 in one bucket of 5 s, 4 and 5 in the next, which is under way."""
    made = Live(clock)
    for number in range(1, 6):
        clock.time = BEGAN + (number if number < 4 else number + 1)
        made.packet(n1=number)
    return made


@pytest.fixture
async def edge(live: Live, clock: Clock) -> AsyncIterator[httpx2.AsyncClient]:
    served = msgspec.structs.replace(Settings(), sig_key=KEY, views=("numbers: n1 n2", "own: own"))
    headers = {"Grip-Sig": SIGNATURE, "Accept": "text/event-stream"}
    async with asking(live, clock, served, **headers) as client:  # type: ignore[arg-type]
        yield client


def name(version: int) -> str:
    return f"{EPOCH}.{LIFE}-{version}" if version else f"{EPOCH}-0"


def found(answer: httpx2.Response) -> list[tuple[int, int]]:
    patches = [msgspec.json.decode(one.data) for one in events(answer)]
    assert all(one.event == "update" for one in events(answer))
    return [(one["prev"], one["version"]) for one in patches]


async def test_a_calm_stream_begins_with_the_state_as_it_is_and_is_held_on_its_own_channel(
    edge: httpx2.AsyncClient,
) -> None:
    answer = await edge.get("/v1/vehicles/car/events?every=5s")
    (event,) = events(answer)
    assert (event.event, event.id) == ("snapshot", name(5))
    assert ("Grip-Channel", f"v/car/all.5/; prev-id={name(5)}") in grip(answer)


@pytest.mark.parametrize("every", ["1s", "5", "0s", "", "5s,30s"])
async def test_there_are_three_classes(edge: httpx2.AsyncClient, every: str) -> None:
    for more in ("", "&wait=5"):
        answer = await edge.get(f"/v1/vehicles/car/events?every={every}{more}")
        if every:
            is_problem(answer, 400)
            assert "5s, 30s, 60s" in answer.json()["detail"]
        else:
            assert answer.status_code == 200


async def test_who_comes_back_gets_what_does_not_wait_as_one_and_may_change_its_class(
    edge: httpx2.AsyncClient, clock: Clock
) -> None:
    url, back = "/v1/vehicles/car/events", {"Last-Event-ID": name(1)}
    assert found(await edge.get(f"{url}?every=5s", headers=back)) == [(1, 3)]
    assert found(await edge.get(url, headers=back)) == [(1, 2), (2, 3), (3, 4), (4, 5)]
    answer = await edge.get(f"{url}?every=30s", headers=back)
    assert answer.content == b":\n\n"  # all of it waits
    assert ("Grip-Channel", f"v/car/all.30/; prev-id={name(1)}") in grip(answer)
    clock.time += 30
    assert found(await edge.get(f"{url}?every=30s", headers=back)) == [(1, 5)]
    foreign = await edge.get(f"{url}?every=30s", headers={"Last-Event-ID": "cd34-1"})
    assert [one.event for one in events(foreign)] == ["reset", "snapshot"]


async def test_what_the_edge_missed_of_a_calm_channel(edge: httpx2.AsyncClient) -> None:
    lasts = [following(channel("car", "all", 5), name(0)), following(channel("car"), name(4))]
    answer = await edge.get("/next/5", headers=lasts)
    assert found(answer) == [(0, 3), (4, 5)]
    channels = [value for word, value in grip(answer) if word == "Grip-Channel" and value.startswith("v/")]
    assert channels == [f"v/car/all.5/; prev-id={name(3)}", f"v/car/all/; prev-id={name(5)}"]
    ahead = await edge.get("/next/5", headers=[following(channel("car", "all", 5), name(4))])
    assert ahead.content == b""  # it began in the middle of the bucket
    assert ("Grip-Channel", f"v/car/all.5/; prev-id={name(4)}") in grip(ahead)


async def test_a_class_that_a_deploy_took_away_ends_its_streams(edge: httpx2.AsyncClient) -> None:
    answer = await edge.get("/next/5", headers=[following(channel("car", "all", 7), name(1))])
    assert [(one.event, one.data) for one in events(answer)] == [("unavailable", '{"reason":"view"}')]
    assert not [value for word, value in grip(answer) if word == "Grip-Hold"]


async def test_a_long_poll_is_held_on_the_calm_channels_sibling(
    edge: httpx2.AsyncClient, clock: Clock
) -> None:
    url = f"/v1/vehicles/car/events?every=5s&wait=20&last_event_id={name(3)}"
    answer = await edge.get(url)
    held = f"{poll_channel(channel('car', 'all', 5))}; prev-id={name(3)}"
    assert ("Grip-Channel", held) in grip(answer)
    clock.time += 5
    at_once = await edge.get(url)
    assert (at_once.json()["last_event_id"], len(at_once.json()["events"])) == (name(5), 1)

"""Views in consume and in origin: what is published where, and what their phones and the edge are answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx2
import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from fleetcast.edge import Item
from fleetcast.live import Change
from fleetcast.packet import Signal
from fleetcast.resume import event_id
from fleetcast.settings import Settings
from fleetcast.sse import Parser
from fleetcast.state import State
from fleetcast.subjects import channel
from fleetcast.update import Snapshot, Update, diff, patched
from fleetcast.views import EVERYTHING, Views
from tests import test_consume, test_origin
from tests.test_consume import CARS, FAULTS, World
from tests.test_origin import EPOCH as ORIGIN_EPOCH
from tests.test_origin import KEY, SIGNATURE, HandClock, asking, events, following, grip, is_problem

DEFINED = ("numbers: n", "own: own1 own2", "never: Never.**")
VIEWS = Views(DEFINED)
NUMBERS, OWN = VIEWS.named["numbers"], VIEWS.named["own"]
SETTINGS = msgspec.structs.replace(test_consume.SETTINGS, views=DEFINED)

without_pauses = test_consume.without_pauses


class Listeners:
    """Of any channels."""

    def __init__(self, world: World, channels: Iterable[str]) -> None:
        self.channels = list(channels)
        world.edge.channels = lambda: [*self.channels, "ctl/03/", "v/a/gone/"]  # type: ignore[method-assign]


def making(*channels: str) -> World:
    world = World()
    world.settings = SETTINGS
    world.another()
    Listeners(world, channels)
    return world


def add(world: World, *packets: tuple[str, int], **values: Any) -> None:
    for vehicle, seq in packets:
        signals = {path: {"value": value} for path, value in values.items()}
        changes = {"signals": signals} if values else {}
        world.queue.add(vehicle, test_consume.body(vehicle, seq, **changes))


def data(item: Item) -> dict[str, Any]:
    (event,) = Parser().feed(item.content)
    assert (event.event, event.id) == ("update", item.id)
    return msgspec.json.decode(event.data, type=dict[str, Any])


def seen(world: World) -> list[tuple[str, str, str]]:
    """(channel, id, prev) without what comes before the view's key."""
    return [(item.channel, item.id.split(".")[-1], item.prev.split(".")[-1]) for item in world.edge.items]


# Consume


async def test_an_update_goes_to_the_views_that_it_touches_and_no_other() -> None:
    world = making(channel("a", "own"), channel("a", "numbers"))
    add(world, ("a", 1), n=1)
    add(world, ("a", 2), other=1)
    add(world, ("a", 3), own1=1, n=1, other=2)
    add(world, ("a", 4), n=2, own2=2)
    await world.work()
    assert sorted(seen(world)) == [
        (channel("a", "numbers"), f"{NUMBERS.key}-1", f"{NUMBERS.key}-0"),
        # The third has the same number, but observed later.
        (channel("a", "numbers"), f"{NUMBERS.key}-3", f"{NUMBERS.key}-1"),
        (channel("a", "numbers"), f"{NUMBERS.key}-4", f"{NUMBERS.key}-3"),
        (channel("a", "own"), f"{OWN.key}-3", f"{OWN.key}-0"),
        (channel("a", "own"), f"{OWN.key}-4", f"{OWN.key}-3"),
    ]
    own = [data(item) for item in world.edge.items if item.channel == channel("a", "own")]
    assert [(one["prev"], one["version"], set(one["signals"])) for one in own] == [
        (0, 3, {"own1"}),
        (3, 4, {"own2"}),
    ]
    assert all(set(one) == {"vehicle", "version", "prev", "updated_at", "signals"} for one in own)


async def test_nothing_is_encoded_for_a_view_that_nobody_watches() -> None:
    world = making(channel("a", "own"), channel("b"))
    add(world, ("a", 1), n=1)
    add(world, ("b", 1), n=1)
    await world.work()
    assert [item.channel for item in world.edge.items] == [channel("b")]
    assert data(world.edge.items[0])["signals"].keys() == {"n"}
    assert "prevs" not in data(world.edge.items[0])


async def test_a_takeover_publishes_the_latest_of_each_watched_view_and_nothing_older() -> None:
    world = making()
    add(world, ("a", 1), n=1, own1=1)
    add(world, ("a", 2), own1=2)
    add(world, ("a", 3), other=3)
    add(world, ("b", 1), other=1)
    await world.work()
    every = [channel(car, view) for car in "ab" for view in ("all", "numbers", "own", "never")]
    Listeners(world, every)
    await world.work()
    assert sorted((name, name_.split("-")[-1], prev.split("-")[-1]) for name, name_, prev in seen(world)) == [
        (channel("a"), "3", "2"),
        (channel("a", "numbers"), "1", "0"),
        (channel("a", "own"), "2", "1"),
        (channel("b"), "1", "0"),
    ]


async def test_a_view_that_a_redelivered_packet_touched_is_published_though_a_newer_one_did_not() -> None:
    """The process before died after the commit; in one batch with that packet comes one that does not touch the view."""
    world = making(channel("a"), channel("a", "own"))
    add(world, ("a", 1), own1=1)
    consumer = world.consumer
    consumer._publisher.epoch = test_consume.EPOCH
    held = world.live.held("a")
    folded = consumer._fold(world.queue.log, {"a": held})
    world.live.committed([Change(folded.states["a"], 0, folded.updates["a"])], test_consume.EPOCH)
    add(world, ("a", 2), n=1)
    await consumer.handle(world.queue.log)
    assert sorted((name, name_.split("-")[-1]) for name, name_, _ in seen(world)) == [
        (channel("a"), "2"),
        (channel("a", "own"), "1"),
    ]


async def test_views_cost_no_more_words_with_the_seams() -> None:
    world = making(channel("a"), channel("a", "own"), channel("a", "numbers"))
    add(world, ("a", 1), n=1, own1=1)
    await world.work()
    assert world.words("latest", "since", "commit", "publish", "ack") == [
        # The takeover of what is watched: nothing is there yet, and then the batch.
        *["latest", "latest", "latest", "since", "since", "since"],
        *["latest", "commit", "publish", "ack"],
    ]


@examples(deadline=None, max_examples=150)
@given(
    packets=st.lists(
        st.tuples(
            st.sampled_from(CARS[:2]),
            st.dictionaries(st.sampled_from(["n", "own1", "own2", "other"]), st.integers(0, 2), min_size=1),
        ),
        max_size=14,
    ),
    faults=st.lists(st.none() | st.tuples(st.booleans(), st.integers(0, 2)), max_size=60),
    watched=st.sets(
        st.builds(channel, st.sampled_from(CARS[:2]), st.sampled_from(["all", "numbers", "own", "never"]))
    ),
)
async def test_each_views_items_are_its_chain_whatever_fails(
    packets: list[tuple[str, dict[str, int]]],
    faults: list[tuple[bool, int] | None],
    watched: set[str],
) -> None:
    """As in test_consume: each word asked of a seam may fail, before it did anything or after, or the process be killed."""
    world = making(*watched)
    for seq, (vehicle, values) in enumerate(packets, 1):
        add(world, (vehicle, seq), **values)
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

    for car in CARS[:2]:
        state = world.live.held(car).state
        assert state.version == sum(vehicle == car for vehicle, _ in packets)
        for view in VIEWS.named.values():
            shown, chain = Snapshot(car, 0, "", {}), {}
            for update in world.live.updates.get(car, []):
                if (one := view.of(update)) is not None:
                    shown = patched(shown, one)  # raises if one is missing, or there twice
                    chain[one.version] = one
            # That the first packet makes it live nobody is told.
            assert shown == msgspec.structs.replace(view.snapshot(state), status="", since="")
            items = [item for item in world.edge.items if item.channel == channel(car, view.name)]
            assert bool(items) == bool(chain and channel(car, view.name) in watched)
            for item in items:
                version = int(item.id.rpartition("-")[2])
                one = chain[version]
                assert item.id == event_id(test_consume.EPOCH, version, state.life, view.key)
                assert item.prev == event_id(test_consume.EPOCH, one.prev, state.life, view.key)
                assert data(item) == msgspec.to_builtins(one)
            if items:  # the last thing said is the latest
                assert int(items[-1].id.rpartition("-")[2]) == max(chain)


# Origin


class Live(test_origin.Live):
    """Of vehicles as a consume process with these views leaves them. A packet sets the signals it is given to its version."""

    def set(self, vehicle: str, *paths: str, views: Views = VIEWS) -> None:
        states = self.states.setdefault(vehicle, [State(vehicle)])
        before, n = states[-1], len(states)
        signals = {**before.signals, **{path: Signal(n, f"t{n}") for path in paths}}
        after = msgspec.structs.replace(before, version=n, updated_at=f"t{n}", signals=signals, life="0" * 8)
        after, update = views.chained(before, after, diff(before, after))
        states.append(after)
        self.updates.setdefault(vehicle, []).append(update)


def name(version: int, key: str = OWN.key, life: str = "0" * 8) -> str:
    return event_id(ORIGIN_EPOCH, version, life, key)


@pytest.fixture
def live() -> Live:
    made = Live()
    for paths in (("n", "own1"), ("n",), ("own2",), ("n",), ("other",)):
        made.set("car", *paths)
    return made


@pytest.fixture
async def edge(live: Live) -> AsyncIterator[httpx2.AsyncClient]:
    served = msgspec.structs.replace(Settings(), sig_key=KEY, views=DEFINED)
    headers = {"Grip-Sig": SIGNATURE, "Accept": "text/event-stream"}
    async with asking(live, HandClock(), served, **headers) as client:
        yield client


OWN_SIGNALS = {"own1": {"value": 1, "at": "t1"}, "own2": {"value": 3, "at": "t3"}}
LATEST = {"vehicle": "car", "version": 3, "updated_at": "t3", "signals": OWN_SIGNALS}


async def test_the_latest_of_a_view_and_its_etag(edge: httpx2.AsyncClient, live: Live) -> None:
    answer = await edge.get("/v1/vehicles/car?view=own")
    assert (answer.json(), answer.headers["etag"]) == (LATEST, f'"{name(3)}"')
    live.set("car", "n")  # another signal's change is none of the view's
    again = await edge.get("/v1/vehicles/car?view=own", headers={"If-None-Match": f'"{name(3)}"'})
    assert again.status_code == 304
    other = await edge.get("/v1/vehicles/car?view=numbers", headers={"If-None-Match": f'"{name(3)}"'})
    assert other.status_code == 200
    assert set(other.json()["signals"]) == {"n"}
    empty = await edge.get("/v1/vehicles/car?view=never")
    assert empty.json() == {"vehicle": "car", "version": 0, "updated_at": "", "signals": {}}
    both = [(await edge.get(f"/v1/vehicles/car{query}")).text for query in ("", "?view=all")]
    assert both[0] == both[1]


async def test_a_views_stream_begins_with_its_snapshot_and_is_held_on_its_channel(
    edge: httpx2.AsyncClient,
) -> None:
    answer = await edge.get("/v1/vehicles/car/events?view=own")
    (event,) = events(answer)
    assert (event.event, event.id, msgspec.json.decode(event.data)) == ("snapshot", name(3), LATEST)
    assert ("Grip-Channel", f"v/car/own/; prev-id={name(3)}") in grip(answer)


@pytest.mark.parametrize("by", ["header", "query"])
async def test_who_comes_back_to_a_view_gets_its_updates_only(edge: httpx2.AsyncClient, by: str) -> None:
    url, headers = "/v1/vehicles/car/events?view=own", {"Last-Event-ID": name(1)}
    if by == "query":
        url, headers = f"{url}&last_event_id={name(1)}", {}
    answer = await edge.get(url, headers=headers)
    (event,) = events(answer)
    assert (event.event, event.id) == ("update", name(3))
    assert msgspec.json.decode(event.data) == {
        **LATEST,
        "prev": 1,
        "signals": {"own2": OWN_SIGNALS["own2"]},
    }
    assert ("Grip-Channel", f"v/car/own/; prev-id={name(3)}") in grip(answer)
    nothing = await edge.get("/v1/vehicles/car/events?view=own", headers={"Last-Event-ID": name(3)})
    assert nothing.content == b":\n\n"


async def test_a_view_whose_last_update_is_old_is_not_expired_for_all_that_came_since(
    edge: httpx2.AsyncClient, live: Live
) -> None:
    """What is not retained any more did not touch it; of what did, nothing was missed."""
    for _ in range(10):
        live.set("car", "n")
    live.kept = 3
    answer = await edge.get("/v1/vehicles/car/events?view=own", headers={"Last-Event-ID": name(3)})
    assert answer.content == b":\n\n"
    live.set("car", "own1")
    answer = await edge.get("/v1/vehicles/car/events?view=own", headers={"Last-Event-ID": name(3)})
    assert [(one.event, one.id) for one in events(answer)] == [("update", name(16))]


@pytest.mark.parametrize(
    "last",
    [
        name(3, ""),
        name(3, NUMBERS.key),
        name(3, list(Views(["own: own1"]).named.values())[1].key),
        name(0, ""),
        name(3, life="0" * 7 + "1"),
        name(9),
    ],
    ids=["of all", "of another view", "of the view when it was other", "0 of all", "another life", "ahead"],
)
async def test_an_id_that_is_not_of_this_view_is_told_so(edge: httpx2.AsyncClient, last: str) -> None:
    answer = await edge.get("/v1/vehicles/car/events?view=own", headers={"Last-Event-ID": last})
    reset, shown = events(answer)
    word = {"vehicle": "car", "reason": "foreign", "from": last, "to": name(3)}
    assert (reset.event, msgspec.json.decode(reset.data)) == ("reset", word)
    assert (shown.event, shown.id, msgspec.json.decode(shown.data)) == ("snapshot", name(3), LATEST)
    back = await edge.get("/v1/vehicles/car/events", headers={"Last-Event-ID": name(3)})
    assert [one.event for one in events(back)] == ["reset", "snapshot"]


async def test_what_the_edge_missed_of_each_views_channel(edge: httpx2.AsyncClient) -> None:
    lasts = [following(channel("car", "own"), name(1)), following(channel("car"), name(4, ""))]
    answer = await edge.get("/next/5", headers=lasts)
    assert [(one.event, one.id) for one in events(answer)] == [("update", name(3)), ("update", name(5, ""))]
    channels = [value for name, value in grip(answer) if name == "Grip-Channel" and value.startswith("v/")]
    assert channels == [f"v/car/own/; prev-id={name(3)}", f"v/car/all/; prev-id={name(5, '')}"]
    nothing = await edge.get("/next/5", headers=[following(channel("car", "own"), name(3))])
    assert nothing.content == b""


async def test_a_view_that_a_deploy_took_away_ends_its_streams(edge: httpx2.AsyncClient) -> None:
    answer = await edge.get("/next/5", headers=[following(channel("car", "gone"), "ab12.gone_00000000-1")])
    assert [(one.event, one.data) for one in events(answer)] == [("unavailable", '{"reason":"view"}')]
    assert not grip(answer)
    is_problem(await edge.get("/v1/vehicles/car/events?view=gone"), 400)


@pytest.mark.parametrize("path", ["/v1/vehicles/car", "/v1/vehicles/car/events", "/v1/vehicles"])
@pytest.mark.parametrize("view", ["gone", "", "OWN", "own/", "a\nb", "0"])
async def test_a_view_that_is_none_is_refused_with_those_there_are(
    edge: httpx2.AsyncClient, path: str, view: str
) -> None:
    answer = await edge.get(path, params={"view": view})
    is_problem(answer, 400)
    assert answer.json()["detail"] == "view is one of all, numbers, own, never"


async def test_the_fleet_by_view(edge: httpx2.AsyncClient) -> None:
    async def fleet(query: str) -> Any:
        (one,) = (await edge.get(f"/v1/vehicles?{query}")).json()["vehicles"]
        return one

    assert await fleet("view=own") == LATEST
    assert await fleet("view=own&signals=own1,n") == {**LATEST, "signals": {"own1": OWN_SIGNALS["own1"]}}
    assert set((await fleet("view=all"))["signals"]) == {"n", "own1", "own2", "other"}
    assert (await fleet(""))["signals"] == {}
    assert (await fleet("signals=n"))["version"] == 5


async def test_states_of_before_the_view_are_served_and_go_on_with_a_reset(
    edge: httpx2.AsyncClient, live: Live
) -> None:
    """Until consume knows the view too nobody can say what touched it: whoever looks twice is told so."""
    before = Views([])
    live.set("old", "own1", views=before)
    (event,) = events(await edge.get("/v1/vehicles/old/events?view=own"))
    assert (event.id, msgspec.json.decode(event.data)["signals"].keys()) == (name(1), {"own1"})
    live.set("old", "own2", views=before)
    live.set("old", "n")
    answer = await edge.get("/v1/vehicles/old/events?view=own", headers={"Last-Event-ID": name(1)})
    reset, shown = events(answer)
    assert msgspec.json.decode(reset.data)["reason"] == "expired"
    assert (shown.id, msgspec.json.decode(shown.data)["signals"].keys()) == (name(2), {"own1", "own2"})
    live.set("old", "own2")
    answer = await edge.get("/v1/vehicles/old/events?view=own", headers={"Last-Event-ID": name(2)})
    assert [(one.event, one.id) for one in events(answer)] == [("update", name(4))]


def test_what_is_published_is_what_is_replayed() -> None:
    update = Update("car", 4, 3, "t4", {"own1": Signal(4, "t4"), "own2": None, "n": None}, {OWN.key: 1})
    assert OWN.of(update) == Update("car", 4, 1, "t4", {"own1": Signal(4, "t4"), "own2": None})
    assert NUMBERS.of(update) is None
    assert EVERYTHING.of(update) == Update("car", 4, 3, "t4", update.signals)

"""The app-facing API: what is sent, what the edge is told to hold, and what is told when it cannot be served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import jwt
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast import origin, pushpin
from fleetcast.errors import Unavailable
from fleetcast.live import Change, Held
from fleetcast.origin import application
from fleetcast.packet import Signal
from fleetcast.settings import Settings
from fleetcast.sse import Event, Parser
from fleetcast.state import State
from fleetcast.subjects import NEXT_LINKS, channel, control_channel, control_number
from fleetcast.update import Snapshot, Update, diff, patched, snapshot
from fleetcast.views import EVERYTHING, View
from tests.servers import until

KEY = "k" * 43
SETTINGS = msgspec.structs.replace(Settings(), sig_key=KEY)
EPOCH = "ab12"
SIGNATURE = jwt.encode({"iss": "fleetcast-edge", "exp": int(time.time()) + 3600}, KEY, "HS256")


class Live:
    """The live state in memory. `lag`: how many versions a replica is behind the leader; `kept`: updates retained."""

    def __init__(self) -> None:
        self.now = EPOCH
        self.states: dict[str, list[State]] = {}
        self.updates: dict[str, list[Update]] = {}
        self.kept = 100
        self.lag = 0
        self.down = False
        self.asked = self.asked_leader = 0

    def drive(self, vehicle: str, packets: int) -> None:
        states = self.states.setdefault(vehicle, [State(vehicle)])
        for _ in range(packets):
            before = states[-1]
            version = before.version + 1
            signals = {**before.signals, f"s{version % 3}": Signal(version, f"t{version}")}
            after = State(vehicle, version, f"t{version}", signals)
            states.append(after)
            self.updates.setdefault(vehicle, []).append(diff(before, after))

    async def epoch(self) -> str:
        self._check()
        return self.now

    async def vehicles(self) -> Sequence[str]:
        self._check()
        return sorted(self.states)

    async def latest_of(self, vehicles: Sequence[str]) -> Sequence[State]:
        raise AssertionError("for consume only")

    async def latest(self, vehicle: str, *, leader: bool = False) -> Held:
        self._check()
        state = self._state(vehicle, leader=leader)
        return Held(state, state.version)

    async def since(
        self, vehicle: str, version: int, *, leader: bool = False, view: View = EVERYTHING
    ) -> tuple[State, Sequence[Update]]:
        self._check()
        self.asked_leader += leader
        state = self._state(vehicle, leader=leader)
        retained = self.updates.get(vehicle, [])[: state.version][max(0, state.version - self.kept) :]
        return state, [update for update in retained if update.version > version]

    async def commit(self, changes: Sequence[Change], epoch: str = "") -> Sequence[int]:
        raise AssertionError("an origin never writes")

    def _state(self, vehicle: str, *, leader: bool) -> State:
        states = self.states.get(vehicle, [State(vehicle)])
        return states[-1] if leader else states[max(0, len(states) - 1 - self.lag)]

    def _check(self) -> None:
        self.asked += 1
        if self.down:
            raise Unavailable("no answer from 10.0.0.1")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetcast.following._DEPOSED", 0.001)


class HandClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


@asynccontextmanager
async def asking(
    live: Live, clock: HandClock, settings: Settings = SETTINGS, /, **headers: str
) -> AsyncIterator[httpx2.AsyncClient]:
    app = application(
        live,
        settings,
        signed=lambda signature: pushpin.signed_by_edge(signature, KEY),
        hold=lambda name, at, control, link, begins: pushpin.hold(
            name, at, control, link, SETTINGS, begins=begins
        ),
        hold_poll=pushpin.hold_poll,
        last_ids=pushpin.last_ids,
        clock=clock,
    )
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://origin", headers=headers) as client:
        yield client


@pytest.fixture
def live() -> Live:
    return Live()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def edge(live: Live, clock: HandClock) -> AsyncIterator[httpx2.AsyncClient]:
    """A client whose requests come through the edge."""
    async with asking(live, clock, **{"Grip-Sig": SIGNATURE, "Accept": "text/event-stream"}) as client:
        yield client


def events(answer: httpx2.Response) -> list[Event]:
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    return Parser().feed(answer.content)


def grip(answer: httpx2.Response) -> list[tuple[str, str]]:
    """The headers that are for the edge, in their order."""
    return [(name.title(), value) for name, value in answer.headers.multi_items() if name.startswith("grip-")]


def held(vehicle: str, version: int, link: int, *, begins: bool = False) -> list[tuple[str, str]]:
    timeout = 3 if begins else SETTINGS.next_poll + link
    return [
        ("Grip-Hold", "stream"),
        ("Grip-Channel", f"v/{vehicle}/all/; prev-id={EPOCH}-{version}"),
        ("Grip-Channel", control_channel(control_number(vehicle))),
        ("Grip-Link", f"</next/{link}>; rel=next; timeout={timeout}"),
        ("Grip-Keep-Alive", ":\\n\\n; format=cstring; timeout=25; mode=interval"),
    ]


def following(name: str, last: str) -> tuple[str, str]:
    return ("Grip-Last", f"{name}; last-id={last}")


def encoded(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def is_problem(answer: httpx2.Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert not grip(answer)


async def test_the_noun_of_the_addresses_is_a_setting(live: Live, clock: HandClock) -> None:
    live.drive("room", 1)
    devices = msgspec.structs.replace(SETTINGS, noun="devices")
    async with asking(live, clock, devices, **{"Grip-Sig": SIGNATURE}) as edge:
        (listed,) = (await edge.get("/v1/devices")).json()["vehicles"]  # the field's name is the protocol's
        assert listed["vehicle"] == (await edge.get("/v1/devices/room")).json()["vehicle"] == "room"
        answer = await edge.get("/v1/devices/room/events", headers={"Accept": "text/event-stream"})
        assert [one.event for one in events(answer)] == ["snapshot"]
        assert ("Grip-Channel", f"v/room/all/; prev-id={EPOCH}-1") in grip(answer)
        for path in ("/v1/vehicles", "/v1/vehicles/room", "/v1/vehicles/room/events"):
            is_problem(await edge.get(path), 404)
        assert 'data-many="devices"' in (await edge.get("/")).text


# Only through the edge


FORGED = {
    "missing": None,
    "empty": "",
    "nonsense": "nonsense",
    "of another key": jwt.encode({"exp": int(time.time()) + 3600}, "x" * 43, "HS256"),
    "expired": jwt.encode({"exp": int(time.time()) - 60}, KEY, "HS256"),
    "without an end": jwt.encode({"iss": "fleetcast-edge"}, KEY, "HS256"),
}
PATHS = ["/v1/vehicles", "/v1/vehicles/car", "/v1/vehicles/car/events", "/next/0"]


@pytest.mark.parametrize("path", [*PATHS, "/", "/static/", "/nothing"])
@pytest.mark.parametrize("signature", FORGED.values(), ids=FORGED)
async def test_whoever_goes_round_the_edge_is_refused(
    live: Live, clock: HandClock, path: str, signature: str | None
) -> None:
    live.drive("car", 1)
    headers = {"Accept": "text/event-stream"} | ({} if signature is None else {"Grip-Sig": signature})
    async with asking(live, clock, **headers) as client:
        answer = await client.get(path, headers=[following(channel("car"), f"{EPOCH}-0")])
    is_problem(answer, 403)
    assert "front door" in answer.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/v1/vehicles/car%201", "/v1/vehicles/car.1/events", "/v1/vehicles/car%0A/events"]
)
async def test_an_id_that_is_none(edge: httpx2.AsyncClient, path: str) -> None:
    is_problem(await edge.get(path), 400)


async def test_what_is_not_there(edge: httpx2.AsyncClient) -> None:
    for path in ("/v1", "/v1/vehicles/car/other", "/next/x", "/next/-1", "/nothing"):
        is_problem(await edge.get(path), 404)
    is_problem(await edge.post("/v1/vehicles/car"), 405)


# Latest


async def test_latest(edge: httpx2.AsyncClient, live: Live) -> None:
    live.drive("car", 7)
    answer = await edge.get("/v1/vehicles/car")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["etag"] == f'"{EPOCH}-7"'
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.text == encoded(snapshot(live.states["car"][-1]))
    assert not grip(answer)  # it is answered, not held


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        (['"ab12-7"'], 304),
        (['W/"ab12-7"'], 304),
        (['"ab12-6", "ab12-7"'], 304),
        (['"ab12-6"', '"ab12-7"'], 304),
        (['"ab12-6"'], 200),
        (['"cd34-7"'], 200),
        (["ab12-7"], 200),
        ([""], 200),
    ],
)
async def test_what_an_app_has_is_not_sent_again(
    edge: httpx2.AsyncClient, live: Live, tags: list[str], status: int
) -> None:
    live.drive("car", 7)
    answer = await edge.get("/v1/vehicles/car", headers=[("If-None-Match", tag) for tag in tags])
    assert answer.status_code == status
    assert answer.headers["etag"] == f'"{EPOCH}-7"'
    assert bool(answer.content) == (status == 200)


async def test_latest_of_a_vehicle_that_never_sent(edge: httpx2.AsyncClient) -> None:
    answer = await edge.get("/v1/vehicles/car")
    is_problem(answer, 404)
    assert "never sent" in answer.json()["detail"]


# The fleet


async def fleet(edge: httpx2.AsyncClient, **query: str) -> tuple[list[str], str | None]:
    answer = await edge.get("/v1/vehicles", params=query)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    return [view["vehicle"] for view in body["vehicles"]], body["next"]


async def test_the_fleet_page_by_page(edge: httpx2.AsyncClient, live: Live) -> None:
    cars = [f"car-{number:02d}" for number in range(25)]
    for car in cars:
        live.drive(car, 1)
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page, after = await fleet(edge, limit="10", after=after)
        assert page
        assert after in (page[-1], None)
        found += page
    assert found == cars
    assert await fleet(edge, limit="25") == (cars, None)
    assert await fleet(edge, search="1", limit="3") == (["car-01", "car-10", "car-11"], "car-11")
    assert await fleet(edge, search="nobody") == ([], None)
    assert await fleet(edge, after="zzz") == ([], None)


async def test_the_fleet_with_the_signals_asked_for(edge: httpx2.AsyncClient, live: Live) -> None:
    live.drive("car", 2)
    answer = await edge.get("/v1/vehicles", params={"signals": "s1,unknown"})
    (view,) = answer.json()["vehicles"]
    assert view == {
        "vehicle": "car",
        "version": 2,
        "updated_at": "t2",
        "signals": {"s1": {"value": 1, "at": "t1"}},
    }
    assert (await edge.get("/v1/vehicles")).json()["vehicles"][0]["signals"] == {}


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "", "1.5", "²", "٣"])
async def test_a_limit_that_is_none(edge: httpx2.AsyncClient, limit: str) -> None:
    is_problem(await edge.get("/v1/vehicles", params={"limit": limit}), 400)


async def test_who_joins_the_fleet_is_seen_within_seconds(
    edge: httpx2.AsyncClient, live: Live, clock: HandClock
) -> None:
    live.drive("car-1", 1)
    assert await fleet(edge) == (["car-1"], None)
    live.drive("car-2", 1)
    clock.time += 3
    assert await fleet(edge) == (["car-1", "car-2"], None)


# A stream's beginning


async def test_a_stream_begins_with_the_snapshot_and_is_held(
    edge: httpx2.AsyncClient, live: Live, clock: HandClock
) -> None:
    live.drive("car", 7)
    clock.time = 1003.9
    answer = await edge.get("/v1/vehicles/car/events")
    assert events(answer) == [Event("snapshot", encoded(snapshot(live.states["car"][-1])), f"{EPOCH}-7")]
    assert grip(answer) == held("car", 7, 1003 % NEXT_LINKS, begins=True)


async def test_a_vehicle_that_never_sent_begins_empty(edge: httpx2.AsyncClient) -> None:
    answer = await edge.get("/v1/vehicles/car/events")
    empty = {"vehicle": "car", "version": 0, "updated_at": "", "signals": {}}
    (found,) = events(answer)
    assert (found.event, found.id, msgspec.json.decode(found.data)) == ("snapshot", f"{EPOCH}-0", empty)
    assert grip(answer)[1] == ("Grip-Channel", f"v/car/all/; prev-id={EPOCH}-0")


@pytest.mark.parametrize("in_query", [False, True])
async def test_who_comes_back_gets_what_was_missed(
    edge: httpx2.AsyncClient, live: Live, in_query: bool
) -> None:
    live.drive("car", 7)
    last = f"{EPOCH}-4"
    if in_query:
        answer = await edge.get("/v1/vehicles/car/events", params={"last_event_id": last})
    else:
        answer = await edge.get("/v1/vehicles/car/events", headers={"Last-Event-ID": last})
    expected = [
        Event("update", encoded(update), f"{EPOCH}-{update.version}") for update in live.updates["car"][4:]
    ]
    assert events(answer) == expected
    assert ("Grip-Channel", f"v/car/all/; prev-id={EPOCH}-7") in grip(answer)


async def test_the_header_is_newer_than_the_query(edge: httpx2.AsyncClient, live: Live) -> None:
    """A browser's own reconnection repeats the URL, with the id of where it began."""
    live.drive("car", 7)
    answer = await edge.get(
        "/v1/vehicles/car/events",
        params={"last_event_id": f"{EPOCH}-1"},
        headers={"Last-Event-ID": f"{EPOCH}-6"},
    )
    assert [found.id for found in events(answer)] == [f"{EPOCH}-7"]


async def test_who_missed_nothing_is_told_at_once_that_the_stream_is_open(
    edge: httpx2.AsyncClient, live: Live
) -> None:
    live.drive("car", 7)
    answer = await edge.get("/v1/vehicles/car/events", headers={"Last-Event-ID": f"{EPOCH}-7"})
    assert answer.content == b":\n\n"
    assert grip(answer)[1] == ("Grip-Channel", f"v/car/all/; prev-id={EPOCH}-7")


async def test_an_empty_id_is_none(edge: httpx2.AsyncClient, live: Live) -> None:
    live.drive("car", 2)
    answer = await edge.get("/v1/vehicles/car/events?last_event_id=", headers={"Last-Event-ID": ""})
    assert [found.event for found in events(answer)] == ["snapshot"]


@pytest.mark.parametrize(
    ("last", "kept", "reason"),
    [
        (f"{EPOCH}-3", 3, "expired"),
        (f"{EPOCH}-0", 0, "expired"),
        ("cd34-7", 100, "foreign"),
        (f"{EPOCH}-8", 100, "foreign"),
        ("nonsense", 100, "foreign"),
        ('"}\r\n\r\ndata: forged', 100, "foreign"),
    ],
)
async def test_a_loss_is_told_and_a_snapshot_follows(
    edge: httpx2.AsyncClient, live: Live, last: str, kept: int, reason: str
) -> None:
    live.drive("car", 7)
    live.kept = kept
    answer = await edge.get("/v1/vehicles/car/events", params={"last_event_id": last})
    reset, following = events(answer)
    assert reset.event == "reset"
    assert reset.id == ""  # a phone that breaks off here comes back with the id that it had
    assert msgspec.json.decode(reset.data) == {
        "vehicle": "car",
        "reason": reason,
        "from": last,
        "to": f"{EPOCH}-7",
    }
    assert following == Event("snapshot", encoded(snapshot(live.states["car"][-1])), f"{EPOCH}-7")
    assert grip(answer)[1] == ("Grip-Channel", f"v/car/all/; prev-id={EPOCH}-7")


async def test_a_long_id_is_not_sent_back_whole(edge: httpx2.AsyncClient) -> None:
    answer = await edge.get("/v1/vehicles/car/events", headers={"Last-Event-ID": "x" * 4000})
    assert len(msgspec.json.decode(events(answer)[0].data)["from"]) <= 100


class Deposed(Live):
    """Who is asked as the leader was one, and does not know yet that it is none: `old` versions behind, the first time."""

    old = 0

    def _state(self, vehicle: str, *, leader: bool) -> State:
        if leader and self.asked_leader == 1:
            return self.states[vehicle][-1 - self.old]
        return super()._state(vehicle, leader=leader)


async def test_a_leader_that_is_none_any_more_makes_no_false_reset(clock: HandClock) -> None:
    live = Deposed()
    live.drive("car-1", 10)
    live.lag, live.old = 4, 3
    async with asking(live, clock, **{"Grip-Sig": SIGNATURE, "Accept": "text/event-stream"}) as edge:
        answer = await edge.get("/v1/vehicles/car-1/events", headers={"Last-Event-ID": f"{EPOCH}-9"})
    assert [(found.event, found.id) for found in events(answer)] == [("update", f"{EPOCH}-10")]
    assert live.asked_leader == 2


async def test_a_stale_replica_is_not_believed(edge: httpx2.AsyncClient, live: Live) -> None:
    live.drive("car", 7)
    live.lag = 3
    answer = await edge.get("/v1/vehicles/car/events", headers={"Last-Event-ID": f"{EPOCH}-6"})
    assert [(found.event, found.id) for found in events(answer)] == [("update", f"{EPOCH}-7")]
    assert live.asked_leader == 1
    assert grip(answer)[1] == ("Grip-Channel", f"v/car/all/; prev-id={EPOCH}-7")


async def test_a_restore_is_seen_within_a_second(
    edge: httpx2.AsyncClient, live: Live, clock: HandClock
) -> None:
    live.drive("car", 7)
    await edge.get("/v1/vehicles/car/events")
    live.now = "cd34"
    clock.time += 1
    answer = await edge.get("/v1/vehicles/car/events", headers={"Last-Event-ID": f"{EPOCH}-7"})
    assert [(found.event, found.id) for found in events(answer)] == [("reset", ""), ("snapshot", "cd34-7")]


# The next link


@pytest.mark.parametrize("link", [0, 7, NEXT_LINKS - 1])
async def test_next_sends_what_the_edge_missed(edge: httpx2.AsyncClient, live: Live, link: int) -> None:
    live.drive("car", 7)
    answer = await edge.get(f"/next/{link}", headers=[following(channel("car"), f"{EPOCH}-5")])
    assert [found.id for found in events(answer)] == [f"{EPOCH}-6", f"{EPOCH}-7"]
    assert grip(answer) == held("car", 7, link)  # all of it again, or the edge forgets it


async def test_next_has_nothing_to_say_and_holds_on(edge: httpx2.AsyncClient, live: Live) -> None:
    live.drive("car", 7)
    answer = await edge.get("/next/3", headers=[following(channel("car"), f"{EPOCH}-7")])
    assert answer.content == b""
    assert grip(answer) == held("car", 7, 3)


async def test_next_of_several_channels(edge: httpx2.AsyncClient, live: Live) -> None:
    live.drive("car-1", 3)
    live.drive("car-2", 9)
    lasts = [
        following(channel("car-1"), f"{EPOCH}-2"),
        following("ctl/03/", "anything"),
        following(channel("car-2"), f"{EPOCH}-9"),
        following(channel("car-3"), f"{EPOCH}-0"),
    ]
    answer = await edge.get("/next/2", headers=lasts)
    assert [(found.event, found.id) for found in events(answer)] == [("update", f"{EPOCH}-3")]
    headers = grip(answer)
    channels = [value for name, value in headers if name == "Grip-Channel"]
    assert [value for value in channels if value.startswith("v/")] == [
        f"v/car-1/all/; prev-id={EPOCH}-3",
        f"v/car-2/all/; prev-id={EPOCH}-9",
        f"v/car-3/all/; prev-id={EPOCH}-0",
    ]
    assert channels[1] == control_channel(control_number("car-1"))  # one is enough to close it by
    assert len(channels) == 4
    for name in ("Grip-Hold", "Grip-Link", "Grip-Keep-Alive"):
        assert len([value for found, value in headers if found == name]) == 1


@pytest.mark.parametrize(
    "lasts",
    [
        [],
        [following("ctl/03/", f"{EPOCH}-1")],
        [following("v/a/b/c/", f"{EPOCH}-1")],
        [("Grip-Last", "nonsense")],
    ],
)
async def test_next_of_nothing_is_404(edge: httpx2.AsyncClient, lasts: list[tuple[str, str]]) -> None:
    is_problem(await edge.get("/next/0", headers=lasts), 404)


@settings(deadline=None, max_examples=60)
@given(
    packets=st.integers(0, 12),
    at=st.integers(0, 12),
    kept=st.integers(0, 12),
    lag=st.integers(0, 12),
)
async def test_next_never_turns_a_phone_back(packets: int, at: int, kept: int, lag: int) -> None:
    """Whatever is retained and however stale the replica: a `prev-id` below `Grip-Last` would send an update twice."""
    live, at = Live(), min(at, packets)
    live.drive("car", packets)
    live.kept, live.lag = kept, lag
    async with asking(live, HandClock(), **{"Grip-Sig": SIGNATURE}) as client:
        answer = await client.get("/next/0", headers=[following(channel("car"), f"{EPOCH}-{at}")])
    (at_now,) = [value for name, value in grip(answer) if name == "Grip-Channel" and value.startswith("v/")]
    version = int(at_now.rpartition("-")[2])
    assert version >= at
    view = followed(snapshot(live.states["car"][at]), events(answer))
    assert view.version == version
    assert view == snapshot(live.states["car"][version])


def followed(view: Snapshot, stream: Iterable[Event]) -> Snapshot:
    """What a phone shows after these events; raises if one does not follow."""
    for found in stream:
        if found.event == "snapshot":
            view = msgspec.json.decode(found.data, type=Snapshot)
        elif found.event == "update":
            view = patched(view, msgspec.json.decode(found.data, type=Update))
    return view


# When the live state does not answer


@pytest.mark.parametrize("headers", [{}, {"Last-Event-ID": f"{EPOCH}-1"}])
async def test_a_stream_is_told_in_band(
    edge: httpx2.AsyncClient, live: Live, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser's EventSource gives up for good on any other status."""
    monkeypatch.setattr(origin, "_PATIENCE", {})
    live.down = True
    answer = await edge.get("/v1/vehicles/car/events", headers=headers)
    (found,) = events(answer)
    assert (found.event, found.id) == ("unavailable", "")
    assert msgspec.json.decode(found.data) == {"reason": "live state"}
    assert found.retry is None  # the time stands apart, before it
    parser = Parser()
    parser.feed(answer.content)
    assert parser.retry is not None
    assert 1000 <= parser.retry <= 4000
    assert not grip(answer)  # it ends


@pytest.mark.parametrize("path", PATHS)
async def test_everything_else_gets_503(
    live: Live, clock: HandClock, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin, "_PATIENCE", {})
    live.down = True
    async with asking(live, clock, **{"Grip-Sig": SIGNATURE, "Accept": "application/json"}) as client:
        answer = await client.get(path, headers=[following(channel("car"), f"{EPOCH}-0")])
    is_problem(answer, 503)
    assert answer.headers["retry-after"] == "1"
    assert "10.0.0.1" not in answer.text


async def test_it_goes_on_when_the_live_state_is_back(
    edge: httpx2.AsyncClient, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin, "_PATIENCE", {})
    live.drive("car", 1)
    live.down = True
    await edge.get("/v1/vehicles/car/events")
    live.down = False
    assert [found.event for found in events(await edge.get("/v1/vehicles/car/events"))] == ["snapshot"]


async def test_a_next_link_asked_while_the_live_state_is_away_is_answered_when_it_is_back(
    edge: httpx2.AsyncClient, live: Live
) -> None:
    live.down = True
    asking_next = asyncio.create_task(edge.get("/next/3", headers=[following(channel("car"), f"{EPOCH}-0")]))
    await until(lambda: live.asked > 1, "it was asked again")
    assert not asking_next.done()
    live.down = False
    assert (await asking_next).status_code == 200


# Long-polls


async def test_a_poll_is_answered_at_once_if_there_is_something_to_say_and_held_if_not(
    live: Live, edge: httpx2.AsyncClient
) -> None:
    live.drive("car", 3)
    url = "/v1/vehicles/car/events?wait=20"
    first = await edge.get(url)
    assert first.headers["content-type"] == "application/json"  # whatever it accepts
    assert first.headers["cache-control"] == "no-store"
    told = first.json()
    assert [(one["event"], one["id"]) for one in told["events"]] == [("snapshot", f"{EPOCH}-3")]
    assert told["last_event_id"] == f"{EPOCH}-3"
    assert not grip(first)

    missed = await edge.get(url, headers={"Last-Event-ID": f"{EPOCH}-1"})
    assert [one["data"]["version"] for one in missed.json()["events"]] == [2, 3]
    assert not grip(missed)

    idle = await edge.get(f"{url}&last_event_id={EPOCH}-3")
    assert idle.json() == {"events": [], "last_event_id": f"{EPOCH}-3"}
    assert grip(idle) == [
        ("Grip-Hold", "response"),
        ("Grip-Channel", f"poll/v/car/all/; prev-id={EPOCH}-3"),
        ("Grip-Timeout", "20"),
    ]


async def test_a_poll_that_is_asked_again_waits_only_for_what_is_left(
    live: Live, edge: httpx2.AsyncClient
) -> None:
    live.drive("car", 3)
    url = f"/v1/vehicles/car/events?wait=20&last_event_id={EPOCH}-3"
    later = await edge.get(url, headers={"Poll-Waited": "13000"})
    assert ("Grip-Timeout", "7") in grip(later)
    for waited in ("20000", "90000"):
        over = await edge.get(url, headers={"Poll-Waited": waited})
        assert over.json() == {"events": [], "last_event_id": f"{EPOCH}-3"}
        assert not grip(over)


async def test_a_poll_is_told_of_a_loss_as_a_stream_is(live: Live, edge: httpx2.AsyncClient) -> None:
    live.drive("car", 9)
    live.kept = 2
    for last, reason in ((f"{EPOCH}-3", "expired"), ("ffff-3", "foreign")):
        answer = await edge.get("/v1/vehicles/car/events?wait=1", headers={"Last-Event-ID": last})
        reset, now = answer.json()["events"]
        told = {"vehicle": "car", "reason": reason, "from": last, "to": f"{EPOCH}-9"}
        assert reset == {"event": "reset", "data": told}
        assert (now["event"], now["data"]["version"]) == ("snapshot", 9)
        assert not grip(answer)


async def test_a_poll_of_a_live_state_that_does_not_answer_is_a_503(
    live: Live, edge: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(origin._PATIENCE, "events", 0.0)
    live.down = True
    answer = await edge.get("/v1/vehicles/car/events?wait=5")  # though it accepts event streams
    is_problem(answer, 503)
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("wait", ["", "0", "61", "05s", "1,2", "-5"])
async def test_a_bad_wait_is_refused_before_anything_is_read(
    live: Live, edge: httpx2.AsyncClient, wait: str
) -> None:
    is_problem(await edge.get("/v1/vehicles/car/events", params={"wait": wait}), 400)
    assert live.asked == 0

"""Streams of many vehicles: what may be asked for, whose they are, what comes of each vehicle, and which of them stay."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast.errors import Refuse
from fleetcast.many import MOST, asked, each, is_name, new_name
from fleetcast.registry import Vehicle
from fleetcast.resume import event_id
from fleetcast.subjects import channel
from tests.test_access import Ground, channels
from tests.test_origin import EPOCH, events, grip, is_problem


async def post(ground: Ground, body: object, token: str = "", **headers: str) -> httpx2.Response:
    shown = {"Authorization": f"Bearer {token}"} if token else {}
    return await ground.client.post(
        "/v1/streams", content=msgspec.json.encode(body), headers={**shown, **headers}
    )


async def opened(ground: Ground, token: str, body: object, **headers: str) -> httpx2.Response:
    made = await post(ground, body, token)
    assert made.status_code == 201, made.text
    return await ground.get(made.json()["url"], token, **headers)


async def followed(ground: Ground, answer: httpx2.Response, *without: str) -> httpx2.Response:
    """What the edge, which holds this, is answered when it asks what follows."""
    held = [one.partition("; prev-id=") for one in channels(answer)]
    last = [("Grip-Last", f"{name}; last-id={at}") for name, _, at in held if at and name not in without]
    return await ground.client.get("/next/3", headers=last)


def told(answer: httpx2.Response) -> list[tuple[str, str, int]]:
    """(event, vehicle, version) of each."""
    found = [(one.event, msgspec.json.decode(one.data)) for one in events(answer)]
    return [(kind, data["vehicle"], data.get("version", 0)) for kind, data in found]


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


@pytest.fixture
def everything(ground: Ground) -> str:
    return ground.token(vehicles=["*"])


# Pure


@given(st.lists(st.sampled_from(["a", "b", "c-1", "d_2"]), min_size=1))
def test_each_vehicle_is_asked_for_once_in_its_order(vehicles: list[str]) -> None:
    found = asked(msgspec.json.encode({"vehicles": vehicles})).vehicles
    assert found == sorted(set(vehicles), key=vehicles.index)


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(msgspec.json.encode)
)
def test_any_other_body_is_refused(body: bytes) -> None:
    with pytest.raises(Refuse) as why:
        asked(body)
    assert why.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"vehicles": []},
        {"vehicles": ["a"], "fleet": "b"},
        {"vehicles": ["a/b"]},
        {"vehicles": ["a"], "more": 1},
        {"vehicles": [f"v{n}" for n in range(MOST + 1)]},
        {"fleet": ""},
    ],
)
def test_what_cannot_be_a_stream_is_refused(body: object) -> None:
    with pytest.raises(Refuse) as why:
        asked(msgspec.json.encode(body))
    assert why.value.status == 400


def test_names_are_told_from_other_text() -> None:
    names = {new_name() for _ in range(1000)}
    assert len(names) == 1000
    assert all(map(is_name, names))
    assert not any(map(is_name, ("", "x", "a" * 23, "a" * 21 + "\n", "a" * 21 + ".", "*", ">")))


async def test_some_are_under_way_at_once_and_the_order_is_that_of_the_things() -> None:
    now, most = 0, 0

    async def call(number: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(number % 5):
            await asyncio.sleep(0)
        now -= 1
        return number

    assert await each(call, range(100)) == list(range(100))
    assert 1 < most <= 32


async def test_one_that_raises_ends_them_all() -> None:
    begun = list[int]()

    async def call(number: int) -> None:
        begun.append(number)
        await asyncio.sleep(0)
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        await each(call, range(100))
    await asyncio.sleep(0)
    assert len(begun) <= 64


# What is asked for


async def test_a_stream_is_asked_for_and_opened(ground: Ground, everything: str) -> None:
    made = await post(ground, {"vehicles": ["car-2", "car-1", "car-2", "never"]}, everything)
    assert made.status_code == 201
    body = made.json()
    assert body["vehicles"] == 3
    assert made.headers["location"] == body["url"]
    assert made.headers["cache-control"] == "no-store"
    ((_, seconds),) = ground.streams.kept.values()
    assert seconds == ground.settings.streams_seconds
    answer = await ground.get(body["url"], everything)
    assert told(answer) == [("snapshot", "car-2", 2), ("snapshot", "car-1", 2), ("snapshot", "never", 0)]
    assert [name for name in channels(answer) if name.startswith("v/")] == [
        f"{channel('car-2')}; prev-id={EPOCH}-2",
        f"{channel('car-1')}; prev-id={EPOCH}-2",
        f"{channel('never')}; prev-id={EPOCH}-0",
    ]
    kinds = [name.partition("/")[0] for name in channels(answer)]
    assert sorted(kinds) == ["as", "ctl", "exp", "tok", "v", "v", "v", "who"]
    assert sum(name == "Grip-Link" for name, _ in grip(answer)) == 1


async def test_a_view_is_of_all_of_them(ground: Ground, everything: str) -> None:
    is_problem(await post(ground, {"vehicles": ["car-1"], "view": "none"}, everything), 400)
    answer = await opened(ground, everything, {"vehicles": ["car-1", "car-2"], "view": "tyres"})
    assert [one.partition(";")[0] for one in channels(answer)[:1]] == [channel("car-1", "tyres")]


async def test_calm_is_of_all_of_them(ground: Ground, everything: str) -> None:
    is_problem(await post(ground, {"vehicles": ["car-1"], "every": "7s"}, everything), 400)
    answer = await opened(ground, everything, {"vehicles": ["car-1", "car-2"], "every": "30s"})
    held = [one for one in channels(answer) if one.startswith("v/")]
    assert held == [f"{channel(car, every=30)}; prev-id={EPOCH}-2" for car in ("car-1", "car-2")]
    again = await followed(ground, answer)
    assert [one for one in channels(again) if one.startswith("v/")] == held


async def test_a_fleet_is_its_members_that_may_be_seen_at_that_time(ground: Ground, everything: str) -> None:
    for number in range(5, 8):
        ground.registry.vehicles[f"car-{number}"] = Vehicle(f"car-{number}", ("north",))
    for token, seen in (
        (everything, ["car-3", "car-5", "car-6", "car-7"]),
        (ground.token(fleets=["north"]), ["car-3", "car-5", "car-6", "car-7"]),
        (ground.token(vehicles=["car-1", "car-5"]), ["car-5"]),
        ((await ground.ticket(everything, ["car-6"])).json()["ticket"], ["car-6"]),
    ):
        scheme = "Ticket" if token.count(".") == 2 and len(seen) == 1 and seen[0] == "car-6" else "Bearer"
        made = await post(ground, {"fleet": "north"}, Authorization=f"{scheme} {token}")
        assert made.json()["vehicles"] == len(seen), made.text
        stream, _ = list(ground.streams.kept.values())[-1]
        assert list(stream.vehicles) == seen
    for body, token in (
        ({"fleet": "none"}, everything),
        ({"fleet": "north"}, ground.token(vehicles=["car-1"])),
    ):
        is_problem(await post(ground, body, token), 404)


async def test_a_fleet_that_is_too_large_is_refused(ground: Ground, everything: str) -> None:
    for number in range(MOST + 1):
        ground.registry.vehicles[f"bus-{number}"] = Vehicle(f"bus-{number}", ("buses",))
    refused = await post(ground, {"fleet": "buses"}, everything)
    is_problem(refused, 400)
    assert str(MOST + 1) in refused.json()["detail"]


async def test_a_body_that_is_too_large_is_refused(ground: Ground, everything: str) -> None:
    body = {"vehicles": ["car-1"], "versions": {f"{n:060d}": "x" * 60 for n in range(1100)}}
    is_problem(await post(ground, body, everything), 413)


# Who may


async def test_every_vehicle_is_checked_before_any_is_read(ground: Ground) -> None:
    token = ground.token(vehicles=["car-1", "car-2"])
    before = ground.live.asked
    refused = await post(ground, {"vehicles": ["car-1", "car-3", "car-4", "nobody"]}, token)
    is_problem(refused, 403)
    assert "3 of 4: car-3, car-4, nobody" in refused.json()["detail"]
    is_problem(await post(ground, {"vehicles": ["car-1"]}), 401)
    assert not ground.streams.kept
    narrowed = (await ground.ticket(token, ["car-2"])).json()["ticket"]
    is_problem(await post(ground, {"vehicles": ["car-1"]}, Authorization=f"Ticket {narrowed}"), 403)
    assert ground.live.asked == before


async def test_anothers_stream_is_as_none(ground: Ground, everything: str) -> None:
    url = (await post(ground, {"vehicles": ["car-1"]}, everything)).json()["url"]
    others = await ground.get(url, ground.token("bob", vehicles=["*"]))
    is_problem(others, 404)
    unknown = await ground.get(f"/v1/streams/{'x' * 22}", everything)
    is_problem(unknown, 404)
    assert others.json() == unknown.json()
    is_problem(await ground.get("/v1/streams/car-1", everything), 404)
    is_problem(await ground.get(url), 401)
    ticket = (await ground.ticket(everything)).json()["ticket"]
    assert told(await ground.get(url, ticket, "Ticket")) == [("snapshot", "car-1", 2)]


async def test_what_may_be_seen_is_asked_again_when_it_is_opened(ground: Ground) -> None:
    url = (await post(ground, {"vehicles": ["car-1", "car-2"]}, ground.token(vehicles=["*"]))).json()["url"]
    is_problem(await ground.get(url, ground.token(vehicles=["car-1"])), 403)


async def test_one_stream_is_seen_by_name_or_by_fleets(ground: Ground) -> None:
    fleets = ground.token(fleets=["south", "north"], vehicles=["car-1"])
    answer = await opened(ground, fleets, {"vehicles": ["car-3", "car-4"]})
    assert any(".f-north.south/" in name for name in channels(answer))
    answer = await opened(ground, fleets, {"vehicles": ["car-1"]})
    assert any(".v/" in name for name in channels(answer))
    mixed = await post(ground, {"vehicles": ["car-3", "car-1", "car-4"]}, fleets)
    is_problem(mixed, 400)
    assert "by name: car-1" in mixed.json()["detail"]
    both = ground.token(fleets=["north"], vehicles=["car-3", "car-4"])
    answer = await opened(ground, both, {"vehicles": ["car-3", "car-4"]})
    assert any(".v/" in name for name in channels(answer))


async def test_a_resolver_is_asked_of_each(tmp_path: Path) -> None:
    calls = count()

    async def resolve(claims: Mapping[str, Any], vehicle: str) -> bool:
        next(calls)
        return vehicle != "car-4"

    ground = Ground(tmp_path, resolve)
    ground.registry.vehicles["car-5"] = Vehicle("car-5", ("south",))
    token = ground.token()
    answer = await opened(ground, token, {"vehicles": ["car-1", "car-2"]})
    assert next(calls) == 4  # twice, when it was asked for and when it was opened
    assert any(".r/" in name for name in channels(answer))
    is_problem(await post(ground, {"vehicles": ["car-1", "car-4"]}, token), 403)
    assert (await post(ground, {"fleet": "south"}, token)).json()["vehicles"] == 1


# What comes


async def test_each_goes_on_from_the_id_that_the_app_has_of_it(ground: Ground, everything: str) -> None:
    ground.live.kept = 3
    ground.live.drive("car-2", 3)
    ground.live.drive("car-4", 9)
    versions = {
        "car-1": event_id(EPOCH, 2),
        "car-2": event_id(EPOCH, 3),
        "car-4": event_id(EPOCH, 3),
        "else": "nothing",
    }
    body = {"vehicles": ["car-1", "car-2", "car-3", "car-4"], "versions": versions}
    answer = await opened(ground, everything, body)
    assert told(answer) == [
        ("update", "car-2", 4),
        ("update", "car-2", 5),
        ("snapshot", "car-3", 2),
        ("reset", "car-4", 0),
        ("snapshot", "car-4", 11),
    ]
    assert [one.rpartition("-")[2] for one in channels(answer) if one.startswith("v/")] == [
        "2",
        "5",
        "2",
        "11",
    ]


@pytest.mark.parametrize("last", [event_id(EPOCH, 2), "nonsense"])
@pytest.mark.parametrize("where", ["header", "query"])
async def test_one_id_cannot_say_where_all_are(
    ground: Ground, everything: str, last: str, where: str
) -> None:
    body = {"vehicles": ["car-1", "car-2"], "versions": {"car-1": event_id(EPOCH, 2)}}
    url = (await post(ground, body, everything)).json()["url"]
    if where == "header":
        answer = await ground.get(url, everything, **{"Last-Event-ID": last})
    else:
        answer = await ground.get(f"{url}?last_event_id={last}", everything)
    assert told(answer) == [("reset", "", 0), ("snapshot", "car-1", 2), ("snapshot", "car-2", 2)]
    assert msgspec.json.decode(events(answer)[0].data) == {
        "vehicle": "",
        "reason": "many",
        "from": last,
        "to": "",
    }


async def test_nothing_missed_is_a_comment(ground: Ground, everything: str) -> None:
    answer = await opened(
        ground, everything, {"vehicles": ["car-1"], "versions": {"car-1": event_id(EPOCH, 2)}}
    )
    assert answer.content == b":\n\n"


async def test_the_edge_is_told_what_follows_of_each_in_its_order(ground: Ground, everything: str) -> None:
    answer = await opened(ground, everything, {"vehicles": ["car-2", "car-1", "car-3"]})
    ground.live.drive("car-3", 1)
    ground.live.drive("car-2", 2)
    again = await followed(ground, answer)
    assert told(again) == [("update", "car-2", 3), ("update", "car-2", 4), ("update", "car-3", 3)]
    before = [name.partition(";")[0] for name in channels(answer)]
    assert [name.partition(";")[0] for name in channels(again)] == before
    assert not (await followed(ground, again)).content


async def test_a_long_poll_of_many_is_refused(ground: Ground, everything: str) -> None:
    url = (await post(ground, {"vehicles": ["car-1"]}, everything)).json()["url"]
    is_problem(await ground.get(f"{url}?wait=5", everything), 400)


async def test_a_live_state_that_is_away_is_told_in_band(
    ground: Ground, everything: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("fleetcast.origin._PATIENCE", {})
    url = (await post(ground, {"vehicles": ["car-1"]}, everything)).json()["url"]
    ground.live.down = True
    assert [one.event for one in events(await ground.get(url, everything))] == ["unavailable"]


# What goes on without which


async def test_a_stream_goes_on_without_one_that_left_the_fleet_and_says_so(ground: Ground) -> None:
    ground.registry.vehicles["car-1"] = Vehicle("car-1", ("north",))
    token = ground.token(fleets=["north", "south"])
    answer = await opened(ground, token, {"vehicles": ["car-1", "car-3", "car-4"]})
    ground.live.drive("car-4", 1)
    ground.live.drive("car-3", 1)
    ground.registry.vehicles["car-3"] = Vehicle("car-3", ("elsewhere",))
    ground.registry.changes += 1
    ground.clock.time += 10
    again = await followed(ground, answer)
    assert told(again) == [("gone", "car-3", 0), ("update", "car-4", 3)]
    assert [one for one in channels(again) if "car-3" in one] == []
    assert sum(one.startswith("v/") for one in channels(again)) == 2
    assert told(await followed(ground, again)) == []
    for vehicle in ("car-1", "car-4"):
        ground.registry.vehicles[vehicle] = Vehicle(vehicle)
    ground.registry.changes += 1
    ground.clock.time += 10
    last = await followed(ground, again)
    assert told(last) == [("gone", "car-1", 0), ("gone", "car-4", 0)]
    assert "grip-hold" not in last.headers


async def test_a_vehicle_that_changes_between_ones_fleets_stays(ground: Ground) -> None:
    token = ground.token(fleets=["north", "south"])
    answer = await opened(ground, token, {"vehicles": ["car-3", "car-4"]})
    ground.registry.vehicles["car-3"] = Vehicle("car-3", ("south",))
    ground.registry.changes += 1
    ground.clock.time += 10
    assert (await followed(ground, answer)).headers["grip-hold"] == "stream"


@pytest.mark.parametrize("others", [(), ("as/" + "0" * 20 + ".-.0.99999999999.v/",)])
async def test_a_stream_of_many_has_one_credential(
    ground: Ground, everything: str, others: Sequence[str]
) -> None:
    answer = await opened(ground, everything, {"vehicles": ["car-1", "car-2"]})
    held = [one.partition("; prev-id=") for one in channels(answer)]
    last = [("Grip-Last", f"{name}; last-id={at}") for name, _, at in held if at]
    if not others:
        last = [one for one in last if not one[1].startswith("as/")]
    last += [("Grip-Last", f"{name}; last-id=0") for name in others]
    ended = await ground.client.get("/next/3", headers=last)
    assert (ended.status_code, ended.content) == (200, b"")
    assert "grip-hold" not in ended.headers


async def test_a_view_that_was_taken_away_ends_them_all(ground: Ground, everything: str) -> None:
    last = [
        ("Grip-Last", f"{name}; last-id={at}")
        for name, _, at in (
            one.partition("; prev-id=")
            for one in channels(await opened(ground, everything, {"vehicles": ["car-1", "car-2"]}))
        )
        if at
    ]
    ended = await ground.client.get(
        "/next/3", headers=[(name, value.replace("/all/", "/gone/")) for name, value in last]
    )
    assert [one.event for one in events(ended)] == ["unavailable"]
    assert not grip(ended)

"""The Python client of many vehicles: whatever comes on the one stream, each vehicle's chain is its own.

The JavaScript one is tried beside it through the real edge, in tests/e2e/test_streams.py.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast.client import Client, FollowingMany, Gap, Gone, Other, Reset, Snapshot, Unavailable, Update
from fleetcast.sse import Event

AT = "2026-11-23T10:00:00.000Z"


def following(*vehicles: str, **more: Any) -> FollowingMany:
    return Client("http://nowhere").follow_many(vehicles, **more)


def event(kind: str, vehicle: str, version: int = 0, prev: int = -1, **more: Any) -> Event:
    data = {
        "vehicle": vehicle,
        "version": version,
        "updated_at": AT,
        "signals": {"s": {"value": version, "at": AT}},
    }
    data |= {"prev": prev} if prev >= 0 else {}
    return Event(kind, json.dumps(data | more), f"ab.{vehicle}-{version}")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["next", "again", "lost"])), max_size=30))
def test_each_vehicle_has_a_chain_of_its_own(steps: list[tuple[str, str]]) -> None:
    cars = following("a", "b", "c")
    at = dict.fromkeys("abc", 1)
    for vehicle in "abc":
        assert isinstance(cars._take(event("snapshot", vehicle, 1)), Snapshot)
    assert cars._has()
    for vehicle, step in steps:
        before = dict(cars.states)
        if step == "next":
            assert isinstance(cars._take(event("update", vehicle, at[vehicle] + 1, at[vehicle])), Update)
            at[vehicle] += 1
        elif step == "again":
            assert cars._take(event("update", vehicle, at[vehicle], at[vehicle] - 1)) is None
        else:
            gap = cars._take(event("update", vehicle, at[vehicle] + 2, at[vehicle] + 1))
            assert isinstance(gap, Gap)
            if gap.fresh:  # given up, and so it is asked for anew
                assert vehicle not in cars.last_ids
                assert isinstance(cars._take(event("snapshot", vehicle, at[vehicle])), Snapshot)
        assert {one: state.version for one, state in cars.states.items()} == at
        assert cars.last_ids == {one: f"ab.{one}-{version}" for one, version in at.items()}
        for other in set("abc") - {vehicle}:
            assert cars.states[other] is before[other]


def test_a_reset_is_of_one_or_of_all() -> None:
    cars = following("a", "b")
    for vehicle in "ab":
        cars._take(event("snapshot", vehicle, 3))
    reset = cars._take(
        Event("reset", json.dumps({"vehicle": "a", "reason": "expired", "from": "x", "to": "y"}))
    )
    assert isinstance(reset, Reset)
    assert (reset.vehicle, reset.reason) == ("a", "expired")
    assert set(cars.last_ids) == {"b"}
    assert set(cars.states) == {"a", "b"}  # still there to be looked at
    every = cars._take(Event("reset", json.dumps({"vehicle": "", "reason": "many", "from": "x", "to": ""})))
    assert isinstance(every, Reset)
    assert (every.vehicle, every.reason) == ("", "many")
    assert cars.last_ids == {}


def test_one_that_is_gone_is_asked_for_no_more() -> None:
    cars = following("a", "b")
    for vehicle in "ab":
        cars._take(event("snapshot", vehicle, 3))
    gone = cars._take(Event("gone", json.dumps({"vehicle": "a", "reason": "access"})))
    assert isinstance(gone, Gone)
    assert (gone.vehicle, gone.reason) == ("a", "access")
    assert set(cars.states) == {"b"}
    assert cars._asked == {"vehicles": ["b"]}
    of_fleet = Client("http://nowhere").follow_many(fleet="north", view="summary", every="5s")
    of_fleet._take(Event("gone", json.dumps({"vehicle": "a", "reason": "access"})))
    assert of_fleet._asked == {"fleet": "north", "view": "summary", "every": "5s"}


def test_it_goes_on_from_where_an_earlier_one_was() -> None:
    cars = following("a", "b")
    cars._take(event("snapshot", "a", 3))
    again = following("a", "b", last_ids=cars.last_ids, states=cars.states)
    assert again.states == cars.states
    assert isinstance(again._take(event("update", "a", 4, 3)), Update)


def test_a_status_is_of_the_chain() -> None:
    cars = following("a")
    cars._take(event("snapshot", "a", 3))
    cars._take(event("status", "a", 4, 3, status="quiet", since=AT, signals={}))
    assert cars.last_ids == {"a": "ab.a-4"}
    assert isinstance(cars._take(event("update", "a", 5, 4)), Update)


@pytest.mark.parametrize(
    ("came", "kind"),
    [
        (Event("unavailable", '{"reason":"edge"}'), Unavailable),
        (Event("news", '{"vehicle":"a"}', "x"), Other),
        (Event("update", "{", "x"), Gap),
        (Event("update", '{"vehicle":"a"}', "x"), Gap),
        (Event("snapshot", "[" * 5000, "x"), Gap),
    ],
)
def test_whatever_else_comes(came: Event, kind: type) -> None:
    cars = following("a")
    cars._take(event("snapshot", "a", 3))
    before = dict(cars.last_ids)
    assert isinstance(cars._take(came), kind)
    assert cars.last_ids == before

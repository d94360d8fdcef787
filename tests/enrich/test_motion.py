"""Moving, running or parked, and the trip: since when, and how far."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.enrich import motion
from fleetcast.packet import Packet, Signal, Value
from fleetcast.signals import MOVING, ODOMETER, RUNNING, SPEED, STATUS, TRIP_DISTANCE, TRIP_START
from fleetcast.state import Named, State, apply

ENRICHERS = (Named("fleetcast.enrich.motion", motion.enrich),)


def at(seq: int) -> str:
    return f"2026-11-23T10:{seq // 60:02d}:{seq % 60:02d}.000Z"


def drive(state: State, **signals: Value) -> State:
    """The state after the car's next packet; its sent_at tells its number."""
    paths = {"speed": SPEED, "status": STATUS, "odometer": ODOMETER}
    seq = state.seq + 1
    readings = {paths.get(name, name): Signal(value, at(seq)) for name, value in signals.items()}
    return apply(state, Packet("car", 1, seq, at(seq), readings), "s", seq, at(seq), ENRICHERS)


@pytest.mark.parametrize(
    ("speed", "status", "moving", "running"),
    [
        (50.0, "ON", True, "moving"),
        (1, "ON", True, "moving"),
        (0.9, "ON", False, "running"),
        (0, "ACC", False, "running"),
        (0, "START", False, "running"),
        (0, "OFF", False, "parked"),
        (0, "LOCK", False, "parked"),
        (50.0, "OFF", True, "moving"),  # it rolls: whatever the key says
    ],
)
def test_what_it_is(speed: float, status: str, moving: bool, running: str) -> None:
    state = drive(State("car"), speed=speed, status=status)
    assert (state.value(MOVING), state.value(RUNNING)) == (moving, running)


def test_a_car_that_says_nothing_of_it_is_left_alone() -> None:
    state = drive(State("car"), other=1)
    assert state.signals.keys() == {"other"}
    assert state.memory == {}


STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.5, 30.0]), st.sampled_from(["OFF", "LOCK", "ACC", "ON"]), st.integers(0, 5000)
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None)
@given(STEPS)
def test_a_trip_lasts_from_parked_to_parked(steps: list[tuple[float, str, int]]) -> None:
    state, odometer, since, start = State("car"), 100_000, None, 0
    for seq, (speed, status, metres) in enumerate(steps, 1):
        odometer += metres
        before = state
        state = drive(state, speed=speed, status=status, odometer=odometer)
        if speed < 1 and status in ("OFF", "LOCK"):
            since = None
            assert state.value(RUNNING) == "parked"
            # The last trip stands there until the next begins.
            assert state.signals.get(TRIP_START) == before.signals.get(TRIP_START)
            assert state.signals.get(TRIP_DISTANCE) == before.signals.get(TRIP_DISTANCE)
        else:
            if since is None:
                since, start = at(seq), odometer
            assert state.value(TRIP_START) == since
            assert state.value(TRIP_DISTANCE) == odometer - start


def test_a_trip_that_began_without_an_odometer_counts_from_its_first() -> None:
    state = drive(State("car"), speed=30.0, status="ON")
    assert state.value(TRIP_START) == at(1)
    assert state.value(TRIP_DISTANCE) is None
    state = drive(drive(state, odometer=500), odometer=700)
    assert (state.value(TRIP_START), state.value(TRIP_DISTANCE)) == (at(1), 200)


def test_an_odometer_that_goes_back_is_no_negative_trip() -> None:
    state = drive(drive(State("car"), speed=30.0, odometer=500), odometer=100)
    assert state.value(TRIP_DISTANCE) == 0


@pytest.mark.parametrize(
    "memory",
    [
        {},
        {"since": at(0)},
        {"from": 7},
        {"since": at(0), "from": None},
        {"since": at(0), "from": "x"},
        {"was": [1]},
    ],
)
def test_what_an_older_version_remembered_is_tolerated(memory: dict[str, Any]) -> None:
    kept = msgspec.json.decode(
        json.dumps({"vehicle": "car", "memory": {motion.__name__: memory}}), type=State
    )
    state = drive(drive(kept, speed=30.0, odometer=1000), speed=30.0, odometer=1500)
    assert state.value(TRIP_START) == memory.get("since", at(1))
    assert isinstance(state.value(TRIP_DISTANCE), int)


ODD = (
    st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3)
    | st.lists(st.booleans(), max_size=1)
)


@settings(deadline=None)
@given(
    st.lists(st.fixed_dictionaries({}, optional={"speed": ODD, "status": ODD, "odometer": ODD}), max_size=6)
)
def test_whatever_a_car_says_it_is_applied_and_can_be_kept(said: list[dict[str, Any]]) -> None:
    state = State("car")
    for one in said:
        state = drive(state, **one)
    assert state.version == len(said)
    assert msgspec.json.decode(msgspec.json.encode(state), type=State) == state

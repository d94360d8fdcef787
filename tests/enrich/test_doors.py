"""Open is what is open while the car moves, and nothing while it stands."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.enrich import doors
from fleetcast.packet import Packet, Signal, Value
from fleetcast.signals import DOORS, DOORS_OPEN, SPEED, door_open
from fleetcast.state import Named, State, apply

ENRICHERS = (Named("fleetcast.enrich.doors", doors.enrich),)
AT = "2026-11-23T10:00:00.000Z"


def after(state: State, values: dict[str, Value]) -> State:
    seq = state.seq + 1
    readings = {path: Signal(value, AT) for path, value in values.items()}
    return apply(state, Packet("car", 1, seq, AT, readings), "s", seq, AT, ENRICHERS)


@settings(deadline=None)
@given(
    st.fixed_dictionaries(dict.fromkeys(DOORS, st.sampled_from([True, False, None]))),
    st.none() | st.floats(0, 250) | st.sampled_from([4.9, 5, 5.1]),
)
def test_open_is_what_is_open_in_a_moving_car(opened: dict[str, bool | None], speed: float | None) -> None:
    values: dict[str, Value | None] = {door_open(door): is_open for door, is_open in opened.items()}
    values[SPEED] = speed
    state = after(State("car"), {path: value for path, value in values.items() if value is not None})
    if all(is_open is None for is_open in opened.values()):
        assert DOORS_OPEN not in state.signals
    else:
        moving = speed is not None and speed >= 5
        assert state.value(DOORS_OPEN) == [door for door in DOORS if moving and opened[door]]


def test_a_ride() -> None:
    driver, child = DOORS[0], DOORS[3]
    state = after(State("car"), {**{door_open(door): False for door in DOORS}, door_open(driver): True})
    assert state.value(DOORS_OPEN) == []  # it stands
    state = after(state, {door_open(driver): False, SPEED: 50.0})
    state = after(state, {door_open(child): True})
    assert state.value(DOORS_OPEN) == [child]
    state = after(state, {SPEED: 0})
    assert state.value(DOORS_OPEN) == []


@pytest.mark.parametrize("speed", ["fast", True, [50]])
def test_a_speed_that_is_no_number_is_not_moving(speed: Value) -> None:
    assert after(State("car"), {door_open(DOORS[0]): True, SPEED: speed}).value(DOORS_OPEN) == []

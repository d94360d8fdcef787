"""Unbelted is who sits there unbelted while the car moves, and nobody while it stands."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.enrich import belts
from fleetcast.packet import Packet, Signal, Value
from fleetcast.signals import SEATS, SPEED, UNBELTED, belted, occupancy
from fleetcast.state import Named, State, apply

ENRICHERS = (Named("fleetcast.enrich.belts", belts.enrich),)
AT = "2026-11-23T10:00:00.000Z"

SEAT_STATES = st.tuples(
    st.sampled_from([True, False, None]), st.sampled_from(["OCCUPIED", "EMPTY", "UNKNOWN", None])
)
CABINS = st.fixed_dictionaries(dict.fromkeys(SEATS, SEAT_STATES))
SPEEDS = st.none() | st.floats(0, 250) | st.sampled_from([4.9, 5, 5.1])


def after(state: State, values: dict[str, Value]) -> State:
    seq = state.seq + 1
    readings = {path: Signal(value, AT) for path, value in values.items()}
    return apply(state, Packet("car", 1, seq, AT, readings), "s", seq, AT, ENRICHERS)


@settings(deadline=None)
@given(CABINS, SPEEDS)
def test_unbelted_is_who_sits_unbelted_in_a_moving_car(cabin: dict[str, Any], speed: float | None) -> None:
    values: dict[str, Any] = {SPEED: speed}
    for seat, (is_belted, occupied) in cabin.items():
        values |= {belted(seat): is_belted, occupancy(seat): occupied}
    state = after(State("car"), {path: value for path, value in values.items() if value is not None})
    moving = speed is not None and speed >= 5
    unbelted = [seat for seat in SEATS if cabin[seat] == (False, "OCCUPIED")]
    if all(is_belted is None for is_belted, _ in cabin.values()):
        assert UNBELTED not in state.signals
    else:
        assert state.value(UNBELTED) == (unbelted if moving else [])


def test_a_ride() -> None:
    driver, child = SEATS[0], SEATS[3]
    unbelted: dict[str, Value] = {belted(seat): False for seat in SEATS}
    state = after(State("car"), {**unbelted, SPEED: 0})
    state = after(state, {occupancy(driver): "OCCUPIED", occupancy(child): "OCCUPIED"})
    assert state.value(UNBELTED) == []  # it stands
    state = after(state, {belted(driver): True, SPEED: 50.0})
    assert state.value(UNBELTED) == [child]
    state = after(state, {belted(child): True})
    assert state.value(UNBELTED) == []
    state = after(state, {SPEED: 0, belted(driver): False, belted(child): False})
    assert state.value(UNBELTED) == []  # they get out


@pytest.mark.parametrize("speed", ["fast", True, [50]])
def test_a_speed_that_is_no_number_is_not_moving(speed: Value) -> None:
    state = after(State("car"), {belted(SEATS[0]): False, occupancy(SEATS[0]): "OCCUPIED", SPEED: speed})
    assert state.value(UNBELTED) == []

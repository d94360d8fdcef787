"""A tyre is low below one pressure and well again only above a higher one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.enrich import tyres
from fleetcast.enrich.tyres import LOW_KPA, WELL_KPA
from fleetcast.packet import Packet, Signal, Value
from fleetcast.signals import TYRES_LOW, WHEELS, pressure, pressure_low
from fleetcast.state import Named, State, apply

ENRICHERS = (Named("fleetcast.enrich.tyres", tyres.enrich),)
WHEEL = WHEELS[0]


def at(seq: int) -> str:
    return f"2026-11-23T10:{seq // 60:02d}:{seq % 60:02d}.000Z"


def measured(state: State, pressures: dict[str, Value]) -> State:
    seq = state.seq + 1
    readings = {pressure(wheel): Signal(value, at(seq)) for wheel, value in pressures.items()}
    return apply(state, Packet("car", 1, seq, at(seq), readings), "s", seq, at(seq), ENRICHERS)


@settings(deadline=None)
@given(st.lists(st.integers(LOW_KPA - 20, WELL_KPA + 20) | st.floats(LOW_KPA - 1, WELL_KPA + 1), max_size=40))
def test_hysteresis(pressures: list[float]) -> None:
    state, low = State("car"), False
    for value in pressures:
        state = measured(state, {WHEEL: value})
        if value < LOW_KPA:
            low = True
        elif value > WELL_KPA:
            low = False
        assert state.value(pressure_low(WHEEL)) is low  # between the two it stays what it was
        assert state.value(TYRES_LOW) == ([WHEEL] if low else [])


def test_a_pressure_on_the_line_does_not_blink() -> None:
    state = measured(State("car"), {WHEEL: LOW_KPA - 1})
    told = state.signals[TYRES_LOW]
    for value in (LOW_KPA, LOW_KPA - 1, LOW_KPA, WELL_KPA, LOW_KPA):
        state = measured(state, {WHEEL: value})
        assert state.signals[TYRES_LOW] == told  # its time as well: nothing changed, so nothing is sent


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(WHEELS), st.integers(150, 250)), max_size=10))
def test_each_wheel_for_itself_and_the_list_says_which(readings: list[dict[str, Value]]) -> None:
    state = State("car")
    for one in readings:
        state = measured(state, one)
        low = [wheel for wheel in WHEELS if state.value(pressure_low(wheel)) is True]
        known = any(pressure(wheel) in state.signals for wheel in WHEELS)
        assert state.value(TYRES_LOW) == (low if known else None)


@pytest.mark.parametrize("value", ["180", True, [180]])
def test_a_pressure_that_is_no_number_says_nothing(value: Value) -> None:
    state = measured(State("car"), {WHEEL: value})
    assert state.signals.keys() == {pressure(WHEEL)}


def test_nothing_is_remembered_but_what_everybody_sees() -> None:
    """So a state of any older version will do."""
    state = measured(State("car"), {WHEEL: LOW_KPA - 1})
    assert state.memory == {}
    again = msgspec.json.decode(msgspec.json.encode(state), type=State)
    assert measured(again, {WHEEL: LOW_KPA + 1}).value(pressure_low(WHEEL)) is True

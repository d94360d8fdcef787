"""Is the room too warm, is the window open while it is heated, and what is to be done?

In: temperature, window, radiator. Out: `Comfort.IsTooWarm`, `Comfort.IsHeatingWithWindowOpen`, `Comfort.Advice`. With
hysteresis: too warm above 25 °C, well again below 24.
"""

from __future__ import annotations

import catalogue

from fleetcast.packet import Packet, Value
from fleetcast.state import State

WARM, WELL = 25.0, 24.0
HEATING = 5.0  # percent: a radiator open less than this is as good as shut


def enrich(state: State, packet: Packet) -> State:
    """See the module's text."""
    derived: dict[str, Value] = {}
    temperature = state.number(catalogue.TEMPERATURE)
    if temperature is not None:
        was = state.value(catalogue.TOO_WARM) is True
        derived[catalogue.TOO_WARM] = temperature > WARM or (was and temperature >= WELL)
    valve = state.number(catalogue.VALVE)
    heating = valve is not None and valve >= HEATING
    window_open = state.value(catalogue.WINDOW_OPEN)
    if valve is not None and window_open is not None:
        derived[catalogue.WASTING] = heating and window_open is True
    if not derived:
        return state
    if derived.get(catalogue.WASTING):
        advice = "close the window, or turn the heating off"
    elif derived.get(catalogue.TOO_WARM):
        advice = "turn the heating down" if heating else "open the window"
    else:
        advice = "all is well"
    return state.with_signals({**derived, catalogue.ADVICE: advice}, packet.sent_at)

"""Which tyres are low?

In: the pressures. Out: `…Tire.IsPressureLow` of each wheel, and `Fleetcast.Tyres.Low`, the wheels that are. With hysteresis:
low below 190 kPa, well again above 205, so that a pressure on the line does not make a phone blink.
"""

from __future__ import annotations

from fleetcast import signals
from fleetcast.packet import Packet, Value
from fleetcast.state import State

LOW_KPA = 190
WELL_KPA = 205


def enrich(state: State, packet: Packet) -> State:
    """See the module's text."""
    derived: dict[str, Value] = {}
    low: list[bool | int | float | str] = []
    for wheel in signals.WHEELS:
        pressure = state.number(signals.pressure(wheel))
        if pressure is None:
            continue
        was = state.value(signals.pressure_low(wheel)) is True
        is_low = pressure < LOW_KPA or (was and pressure <= WELL_KPA)
        derived[signals.pressure_low(wheel)] = is_low
        if is_low:
            low.append(wheel)
    if not derived:
        return state
    return state.with_signals({**derived, signals.TYRES_LOW: low}, packet.sent_at)

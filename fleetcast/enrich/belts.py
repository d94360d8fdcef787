"""Who sits unbelted in a moving car?

In: occupancy and belt of each seat, speed. Out: `Fleetcast.Belts.Unbelted`, the seats; empty while the car stands, since
people unbelt there. Needs no other enricher to have run.
"""

from __future__ import annotations

from fleetcast import signals
from fleetcast.packet import Packet
from fleetcast.state import State

_MOVING_KMH = 5.0  # rolling in a car park is not yet driving


def enrich(state: State, packet: Packet) -> State:
    """See the module's text."""
    seats = [seat for seat in signals.SEATS if state.value(signals.belted(seat)) is not None]
    if not seats:
        return state
    moving = (state.number(signals.SPEED) or 0.0) >= _MOVING_KMH
    unbelted: list[bool | int | float | str] = [
        seat
        for seat in seats
        if moving
        and state.value(signals.occupancy(seat)) == "OCCUPIED"
        and state.value(signals.belted(seat)) is False
    ]
    return state.with_signals({signals.UNBELTED: unbelted}, packet.sent_at)

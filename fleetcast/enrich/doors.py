"""Which doors are open in a moving car?

In: the doors, speed. Out: `Fleetcast.Doors.OpenWhileMoving`, the doors; empty while the car stands, since people get in there.
Needs no other enricher to have run.
"""

from __future__ import annotations

from fleetcast import signals
from fleetcast.packet import Packet
from fleetcast.state import State

_MOVING_KMH = 5.0  # rolling in a car park is not yet driving


def enrich(state: State, packet: Packet) -> State:
    """See the module's text."""
    doors = [door for door in signals.DOORS if state.value(signals.door_open(door)) is not None]
    if not doors:
        return state
    moving = (state.number(signals.SPEED) or 0.0) >= _MOVING_KMH
    opened: list[bool | int | float | str] = [
        door for door in doors if moving and state.value(signals.door_open(door)) is True
    ]
    return state.with_signals({signals.DOORS_OPEN: opened}, packet.sent_at)

"""Is the car running, moving or parked, and since when is it on this trip?

In: status, speed, odometer. Out: `Vehicle.IsMoving`, `Fleetcast.Motion.Status` (moving, running, parked), the trip's
`Vehicle.StartTime` and `Vehicle.TraveledDistanceSinceStart` (m). A trip begins when the car leaves "parked". A short
stop is not parked: only a status of OFF or LOCK is.
"""

from __future__ import annotations

from fleetcast import signals
from fleetcast.packet import Packet, Value
from fleetcast.state import State

_MOVING_KMH = 1.0  # GPS speeds of a standing car wander below this


def enrich(state: State, packet: Packet) -> State:
    """See the module's text."""
    speed = state.number(signals.SPEED)
    status = state.value(signals.STATUS)
    if speed is None and status is None:
        return state
    moving = speed is not None and speed >= _MOVING_KMH
    parked = not moving and status in ("OFF", "LOCK")
    derived: dict[str, Value] = {
        signals.MOVING: moving,
        signals.RUNNING: "moving" if moving else "parked" if parked else "running",
    }
    odometer = state.number(signals.ODOMETER)
    trip = state.recall(__name__)
    if parked:
        return state.with_signals(derived, packet.sent_at).remember(__name__, {})
    if "since" not in trip:
        trip = {"since": packet.sent_at, "from": odometer}
    derived[signals.TRIP_START] = str(trip["since"])
    start = trip.get("from")
    if odometer is not None and isinstance(start, int | float):
        derived[signals.TRIP_DISTANCE] = max(0, round(odometer - start))
    elif odometer is not None:  # the trip began without an odometer: it counts from here
        trip = {**trip, "from": odometer}
    return state.with_signals(derived, packet.sent_at).remember(__name__, trip)

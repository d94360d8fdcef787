"""Why a vehicle's data is as old as it is: the last packet's way, hop by hop, and one sentence. Pure.

Each consume process remembers the way of the last packet that it handled of each of many vehicles (`Traces`); what it does
not remember, because it was restarted since, is simply not told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from fleetcast.clock import rfc3339
from fleetcast.state import State
from fleetcast.tally import Tally


class Trace(msgspec.Struct, frozen=True, gc=False):
    """One packet's way; times are seconds since 1970, by the platform's clock but for `sent_at` (the vehicle's, RFC 3339)."""

    vehicle: str
    packet: str
    version: int
    position: int
    sent_at: str
    stored: float
    handled: float
    committed: float
    published: float
    member: str
    replicas: Sequence[str]
    """The edge replicas that it was published to; none if nobody listened."""
    skewed: bool = False
    """`sent_at` was not believed."""


class Traces:
    """The newest trace of each of the vehicles handled last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._traces: OrderedDict[str, Trace] = OrderedDict()

    def note(self, trace: Trace) -> None:
        """Remembers it, and forgets the oldest one beyond the bound."""
        self._traces[trace.vehicle] = trace
        self._traces.move_to_end(trace.vehicle)
        if len(self._traces) > self._most:
            self._traces.popitem(last=False)

    def forget(self, vehicle: str) -> None:
        """Nothing is remembered of it any more."""
        self._traces.pop(vehicle, None)

    def get(self, vehicle: str) -> Trace | None:
        """What is remembered of this vehicle."""
        return self._traces.get(vehicle)


class Known(msgspec.Struct, frozen=True):
    """What can be found out from outside about a vehicle, at one moment."""

    now: float
    state: State
    waiting: int
    """Its packets in the queue that are not in the state yet."""
    rejected: str
    """The reason of its newest packet in REJECTED, if that is newer than the state; else empty."""
    trace: Trace | None
    tally: Tally = Tally()
    """What the running processes counted of it."""
    since: str = ""
    """When the first of them began to count."""
    kept: int = 0
    """Its packets in REJECTED now."""


def hops(known: Known) -> list[tuple[str, str, str]]:
    """(hop, time, remark) of the last packet in the state, or of one newer still that was handled meanwhile."""
    state, trace = known.state, known.trace
    if state.version == 0:
        return []
    if trace is None or (trace.version < state.version and trace.position != state.position):
        return [
            ("stored", state.updated_at, f"at position {state.position}; its further way is not remembered")
        ]
    replicas = ", ".join(trace.replicas)
    published = f"to {replicas}" if replicas else "to nobody: no phone listens"
    return [
        (
            "sent",
            trace.sent_at,
            "by the vehicle's own clock" + (", which is not believed" if trace.skewed else ""),
        ),
        ("stored", rfc3339(trace.stored), f"in the queue, at position {trace.position}; acknowledged"),
        (
            "handled",
            rfc3339(trace.handled),
            f"{_after(trace.stored, trace.handled)} later, by {trace.member}",
        ),
        (
            "committed",
            rfc3339(trace.committed),
            f"{_after(trace.handled, trace.committed)} later, as version {trace.version}",
        ),
        (
            "published",
            rfc3339(trace.published),
            f"{_after(trace.committed, trace.published)} later, {published}",
        ),
    ]


def counted(known: Known) -> str:
    """How often its packets were something else than new and in order; `rejected` also as REJECTED has them now."""
    tally = known.tally
    text = f"duplicate {tally.duplicate}, late {tally.late}, skewed {tally.skewed}, rejected {tally.rejected}"
    since = f" since {known.since}" if known.since else ""
    return f"{text}{since}; {known.kept} in REJECTED"


def sentence(known: Known, updated: float | None) -> str:
    """Why the data is as old as it is. `updated`: the state's `updated_at` in seconds since 1970, None if it never sent."""
    vehicle = known.state.vehicle
    if known.waiting:
        packets = "1 packet waits" if known.waiting == 1 else f"{known.waiting} packets wait"
        return f"{packets} in the queue: consume is behind, or not running."
    if known.rejected:
        return f"Its newest packet was rejected ({known.rejected}); `fleetcast rejected list --vehicle {vehicle}` shows it."
    if updated is None:
        return f"{vehicle} has never sent a packet."
    age = _age(known.now - updated)
    return f"Its data is {age} old because it sent its last packet {age} ago; everything acknowledged is in the state."


def _after(earlier: float, later: float) -> str:
    return f"{max(0.0, later - earlier) * 1000:.1f} ms"


def _age(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.1f} s"

"""The events of a stream as its bytes: `snapshot`, `update`, `status`, `reset`, `gone`, `unavailable`. Pure.

Whoever writes events writes them by this, so that a phone gets the same whichever way they come: published, replayed, polled.
"""

from __future__ import annotations

import random

import msgspec

from fleetcast import sse
from fleetcast.update import Snapshot, Update

_RETRY = (1000, 4000)


def snapshot_event(snapshot: Snapshot, at: str) -> bytes:
    """The whole view; `at` is the id that it leads to."""
    return sse.event("snapshot", msgspec.json.encode(snapshot), at)


def update_event(update: Update, at: str) -> bytes:
    """What a phone of the view gets of an update; `at` is the id that it leads to."""
    if update.urgent:
        update = msgspec.structs.replace(update, urgent=())
    return sse.event("status" if update.status else "update", msgspec.json.encode(update), at)


def reset_event(reason: str, last: str, to: str, vehicle: str = "") -> bytes:
    """Something after `last` was lost of this vehicle, or if none is named of all. Without an id: the snapshot that follows has
    it.
    """
    data = {"vehicle": vehicle, "reason": reason, "from": last[:80], "to": to}
    return sse.event("reset", msgspec.json.encode(data))


def gone_event(vehicle: str, reason: str) -> bytes:
    """A stream of many goes on without this one. Without an id."""
    return sse.event("gone", msgspec.json.encode({"vehicle": vehicle, "reason": reason}))


def unavailable(reason: str) -> bytes:
    """A temporary failure in band: when to come back, jittered, and why."""
    return sse.retry(random.randint(*_RETRY)) + sse.event(
        "unavailable", msgspec.json.encode({"reason": reason})
    )

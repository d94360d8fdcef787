"""What a phone of a proof shows of a vehicle: events are applied as the protocol says, and reported as they came. Pure.

It checks nothing: the oracle judges.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import msgspec

from fleetcast.proof.fold import shown
from fleetcast.proof.oracle import Event


class _View(msgspec.Struct):
    """A snapshot's or an update's data."""

    version: int
    signals: dict[str, Any]
    prev: int = -1
    status: str = ""
    since: str = ""


_VIEW = msgspec.json.Decoder(_View)


class Chain:
    """A view of a vehicle as a phone has it. `number` is what the oracle knows it by; `last` is what to come back with.

    What an update of a calm one must say follows from where the phone is: of it the oracle gets what it leads to, of any
    other what it says, byte for byte.
    """

    def __init__(self, number: int, vehicle: str, view: str = "", every: int = 0) -> None:
        self.number = number
        self.vehicle = vehicle
        self.view = view
        self.every = every
        self.forget()

    def forget(self) -> None:
        """As if it had never been opened."""
        self.last = ""
        self.version = -1
        self.signals: dict[str, Any] = {}
        self.status = self.since = ""

    @property
    def digest(self) -> int:
        """Of all that is shown."""
        return shown(self.signals, self.status, self.since)

    def take(self, name: str, at: str, data: bytes, now: float) -> Event | None:
        """Applies an event; `at` is its id, if it has one. What the oracle must know of it, if anything."""
        self.last = at or self.last
        epoch = at.rpartition("-")[0].partition(".")[0]  # of no vehicle a second life begins here
        if name == "snapshot":
            view = _VIEW.decode(data)
            self.version, self.signals = view.version, view.signals
            self.status, self.since = view.status, view.since
            return Event(self.number, name, epoch, view.version, 0, -self.digest, now)
        if name in ("update", "status"):
            update = _VIEW.decode(data)
            self.version, self.signals = update.version, patched(self.signals, update.signals)
            if update.status:
                self.status, self.since = update.status, update.since
            said = (name == "status") == bool(update.status)
            checksum = (-self.digest if self.every else crc32(data)) if said else 0
            return Event(self.number, name, epoch, update.version, update.prev, checksum, now)
        if name == "reset":
            word = msgspec.json.decode(data, type=dict[str, str])
            return Event(self.number, name, epoch, 0, 0, 0, now, word["reason"], word["from"])
        return None


def patched(target: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """After a JSON Merge Patch (RFC 7396)."""
    after = dict(target)
    for name, value in patch.items():
        if value is None:
            after.pop(name, None)
        elif isinstance(value, dict):
            known = after.get(name)
            after[name] = patched(known if isinstance(known, dict) else {}, value)
        else:
            after[name] = value
    return after

"""What a phone of a proof shows of a vehicle: events are applied as the protocol says, and reported as they came. Pure.

It checks nothing: the oracle judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import msgspec

from fleetcast.proof.oracle import Event, digest


class _View(msgspec.Struct):
    """A snapshot's or an update's data."""

    version: int
    signals: dict[str, dict[str, object] | None]
    prev: int = -1


_VIEW = msgspec.json.Decoder(_View)


class Chain:
    """A view of a vehicle as a phone has it. `number` is what the oracle knows it by; `last` is what to come back with."""

    def __init__(self, number: int, vehicle: str, view: str) -> None:
        self.number = number
        self.vehicle = vehicle
        self.view = view
        self.forget()

    def forget(self) -> None:
        """As if it had never been opened."""
        self.last = ""
        self.version = -1
        self.signals: Mapping[str, dict[str, object] | None] = {}

    def take(self, name: str, at: str, data: bytes, now: float) -> Event | None:
        """Applies an event; `at` is its id, if it has one. What the oracle must know of it, if anything."""
        self.last = at or self.last
        epoch = at.rpartition("-")[0].partition(".")[0]  # of no vehicle a second life begins here
        if name == "snapshot":
            view = _VIEW.decode(data)
            self.version, self.signals = view.version, view.signals
            return Event(self.number, name, epoch, view.version, 0, digest(view.signals), now)
        if name in ("update", "status"):
            update = _VIEW.decode(data)
            self.version, self.signals = update.version, patched(self.signals, update.signals)
            return Event(self.number, name, epoch, update.version, update.prev, crc32(data), now)
        if name == "reset":
            word = msgspec.json.decode(data, type=dict[str, str])
            return Event(self.number, name, epoch, 0, 0, 0, now, word["reason"], word["from"])
        return None


def patched(
    signals: Mapping[str, dict[str, object] | None], patch: Mapping[str, dict[str, object] | None]
) -> dict[str, dict[str, object] | None]:
    """After a merge patch: a signal stands whole, what is null in it is not there, and one that is null is gone."""
    after = {path: signal for path, signal in signals.items() if path not in patch}
    for path, signal in patch.items():
        if signal is not None:
            after[path] = {name: one for name, one in signal.items() if one is not None}
    return after

"""What phones get: the whole view (`Snapshot`), or what one packet, or a change of status, changed (`Update`). Pure.

An update's `signals` are a JSON Merge Patch (RFC 7396) on the snapshot's: a changed signal stands there whole (with a null
for `skewed` if it was marked and is no longer), a removed one as null. `prev` is the version before it on the channel: a
phone at that version applies it, any other missed some. A change of status is an update that changes no signal.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fleetcast.packet import Signal, same
from fleetcast.state import State


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The whole view of a vehicle at a version; the empty one, of a vehicle that never sent, is version 0."""

    vehicle: str
    version: int
    updated_at: str
    signals: dict[str, Signal]
    status: str = ""
    since: str = ""


class Update(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What changed between version `prev` and `version` of a view."""

    vehicle: str
    version: int
    prev: int
    updated_at: str
    signals: dict[str, Signal | None]
    prevs: dict[str, int] = {}
    """As it is stored: by key the views but `all` that it touches, each with the version before it there. Not for phones."""
    status: str = ""
    """Of a change of status: what it is now."""
    since: str = ""
    urgent: tuple[str, ...] = ()
    """As it is stored: the signals marked urgent of which it brings another value. Not for phones."""


def snapshot(state: State) -> Snapshot:
    """The view of this state."""
    return Snapshot(state.vehicle, state.version, state.updated_at, state.signals, state.status, state.since)


def diff(before: State, after: State) -> Update:
    """What leads from one state's view to the next one's."""
    signals: dict[str, Signal | None] = {}
    for path, signal in after.signals.items():
        if (known := before.signals.get(path)) is not signal and not same(known, signal):
            # A merge patch leaves alone what it does not name: a mark that is gone must be taken away.
            gone = known is not None and known.skewed and not signal.skewed
            signals[path] = Signal(signal.value, signal.at, None) if gone else signal
    signals |= {path: None for path in before.signals if path not in after.signals}
    return Update(after.vehicle, after.version, before.version, after.updated_at, signals)


def turned(state: State, status: str, since: str, heard: str = "") -> tuple[State, Update]:
    """The state once its status is another one, and the update that says so; `heard`: of a packet stored then."""
    after = msgspec.structs.replace(
        state,
        version=state.version + 1,
        updated_at=heard or state.updated_at,
        status=status,
        since=since,
        statuses=state.statuses + 1,
    )
    update = Update(
        after.vehicle, after.version, state.version, after.updated_at, {}, status=status, since=since
    )
    return after, update


def patched(view: Snapshot, update: Update) -> Snapshot:
    """The view after this update. Raises ValueError if the update does not follow it."""
    if update.vehicle != view.vehicle or update.prev != view.version:
        raise ValueError(f"update {update.prev}->{update.version} does not follow version {view.version}")
    signals = {path: signal for path, signal in view.signals.items() if path not in update.signals}
    signals |= {path: _whole(signal) for path, signal in update.signals.items() if signal is not None}
    status, since = (update.status, update.since) if update.status else (view.status, view.since)
    return Snapshot(view.vehicle, update.version, update.updated_at, signals, status, since)


def merged(updates: Sequence[Update]) -> Update:
    """One in place of several, each of which follows the one before: what each signal is in the end, for whoever is at the
    `prev` of the first. Merge patches compose, but for what they leave alone: a mark that one takes away stays taken away.
    """
    first, last = updates[0], updates[-1]
    if len(updates) == 1:
        return first
    signals: dict[str, Signal | None] = {}
    for update in updates:
        for path, signal in update.signals.items():
            if signal is not None and signal.skewed is False and path in signals:
                was = signals[path]
                if was is None or was.skewed is None:
                    signals[path] = Signal(signal.value, signal.at, None)
                    continue
            signals[path] = signal
    return Update(first.vehicle, last.version, first.prev, last.updated_at, signals)


def _whole(signal: Signal) -> Signal:
    return Signal(signal.value, signal.at) if signal.skewed is None else signal

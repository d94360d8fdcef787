"""The live state of a vehicle: what it is, and how a packet changes it. Pure.

`apply(state, packet, …)` is the whole of it: a packet that the state already includes changes nothing; any other raises
the version by one. The state records the last packet it includes twice over: by its place in the queue (for redelivery)
and by the sender's own (boot, seq) (for a packet that was sent again), so a packet is applied once in effect.

Of each signal the last observed wins, whatever the order in which packets come: `Origin` decides between equal times.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from fleetcast.errors import Reject
from fleetcast.packet import Packet, Signal, Value, same

_SIGNALS = msgspec.json.Decoder(dict[str, Signal])
_MEMORY = msgspec.json.Decoder(dict[str, dict[str, Any]])
_REMEMBERED = 63  # bits of `seen`: fits the 64-bit integers of every JSON reader we use


class Origin(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """Which packet a signal came with, by the sender's count."""

    boot: int
    seq: int


class Touched(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The last update that touched a view."""

    version: int
    updated_at: str


class State(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One vehicle's state. Enrichers use `value`, `number`, `with_signals`, `recall` and `remember`."""

    vehicle: str
    version: int = 0
    """Counts the updates, 1, 2, 3, …: applied packets, and changes of status; 0 is a vehicle that never sent."""
    updated_at: str = ""
    """When the last applied packet was stored, by the platform's clock."""
    signals: dict[str, Signal] = {}
    boot: int = 0
    seq: int = 0
    """The newest packet included, by the sender's count."""
    seen: int = 0
    """Bit n: (boot, seq - 1 - n) is included too; a sliding window as in RFC 6479, so a late packet is told from a repeat."""
    incarnation: str = ""
    position: int = 0
    """The newest packet included, by its place in the queue; positions of another incarnation say nothing."""
    origins: dict[str, Origin] = {}
    """Where signals came from, those of the newest packet left out: of a packet that carries everything none is kept."""
    memory: dict[str, dict[str, Any]] = {}
    """What enrichers keep for themselves, by their names; never sent to phones."""
    life: str = ""
    """Drawn from the first packet's place in the queue: another one after the vehicle was forgotten. Part of event ids."""
    views: dict[str, Touched] = {}
    """By key the views but `all`, of the process that wrote this: the last update that touched each (`views`)."""
    status: str = ""
    """`live`, `quiet` or `offline` (`silence`); empty as long as nobody has said."""
    since: str = ""
    """Since when, RFC 3339."""
    statuses: int = 0
    """How many of the versions are changes of status: the others are packets."""

    def value(self, path: str) -> Value | None:
        """The signal's value, or None if it was never seen."""
        signal = self.signals.get(path)
        return None if signal is None else signal.value

    def number(self, path: str) -> float | None:
        """The signal's value if it is a number, else None."""
        value = self.value(path)
        return None if isinstance(value, bool) or not isinstance(value, int | float) else value

    def with_signals(self, values: Mapping[str, Value], at: str) -> State:
        """A copy with these derived signals; `at` is when what they derive from was observed.

        A value that stays the same keeps its time: a derived signal is as old as its last change.
        """
        changed = {path: Signal(value, at) for path, value in values.items() if not self._has(path, value)}
        return msgspec.structs.replace(self, signals={**self.signals, **changed}) if changed else self

    def _has(self, path: str, value: Value) -> bool:
        known = self.signals.get(path)
        return known is not None and same(known, Signal(value, known.at, known.skewed))

    def recall(self, name: str) -> Mapping[str, Any]:
        """What the enricher of this name remembered; empty at first. Older versions' keys may be there: tolerate them."""
        return MappingProxyType(self.memory.get(name, {}))

    def remember(self, name: str, memory: Mapping[str, Any]) -> State:
        """A copy in which the enricher of this name remembers this (JSON values)."""
        if self.memory.get(name) == memory:
            return self
        return msgspec.structs.replace(self, memory={**self.memory, name: dict(memory)})

    def includes(self, packet: Packet) -> bool:
        """Whether the packet was applied already, as far as the window of remembered packets tells."""
        if packet.boot != self.boot:
            return False
        behind = self.seq - packet.seq
        return behind == 0 or (0 < behind <= _REMEMBERED and bool(self.seen >> (behind - 1) & 1))


Enricher = Callable[[State, Packet], State]
"""Business logic: the state with this packet's signals already in it, and the packet -> the state. Pure."""


class Named(msgspec.Struct, frozen=True):
    """An enricher and the name it is called by in settings and in reasons."""

    name: str
    enrich: Enricher


def stored_already(state: State, incarnation: str, position: int) -> bool:
    """Whether the packet at this place in the queue is in the state: a redelivery."""
    return state.incarnation == incarnation and position <= state.position


def apply(
    state: State, packet: Packet, incarnation: str, position: int, stored_at: str, enrichers: Iterable[Named]
) -> State:
    """The state after this packet; the same object if it is a repeat. Raises Reject if an enricher raises.

    Of each signal the greatest (at, boot, seq) is kept, so packets come to the same signals in any order, and none turns
    the live state back. Only a packet newer than the state, by (boot, seq), runs the enrichers.
    """
    if state.includes(packet):
        return state
    newer = (packet.boot, packet.seq) > (state.boot, state.seq)
    taken = _newer(state, packet) if newer else _late(state, packet)
    signals = {**state.signals, **taken}
    boot, seq, seen = _after(state, packet)
    after = msgspec.structs.replace(
        state,
        version=state.version + 1,
        updated_at=stored_at,
        signals=signals,
        boot=boot,
        seq=seq,
        seen=seen,
        incarnation=incarnation,
        position=position,
        life=state.life if state.version else _life(incarnation, position),
    )
    origin = Origin(packet.boot, packet.seq)
    if not newer:
        return msgspec.structs.replace(after, origins={**state.origins, **dict.fromkeys(taken, origin)})
    for named in enrichers:
        after = _enriched(named, after, packet)
    # What enrichers set is this packet's, too; the rest is from where it was.
    was = Origin(state.boot, state.seq)
    kept = {
        path: state.origins.get(path, was)
        for path, signal in state.signals.items()
        if path not in taken and after.signals.get(path) is signal
    }
    return msgspec.structs.replace(after, origins=kept)


def _newer(state: State, packet: Packet) -> dict[str, Signal]:
    """What a packet newer than all before it sets: its count is the highest, so between equal times it wins."""
    known = state.signals
    return {
        path: signal
        for path, signal in packet.signals.items()
        if (one := known.get(path)) is None or signal.at >= one.at or signal.skewed or one.skewed
    }


def _late(state: State, packet: Packet) -> dict[str, Signal]:
    """What a late packet sets: what was observed later than the state knows, and what it does not know.

    A time that was not the vehicle's says nothing about when: then the sender's count alone decides.
    """
    mine, newest = Origin(packet.boot, packet.seq), Origin(state.boot, state.seq)
    taken = {}
    for path, signal in packet.signals.items():
        known, origin = state.signals.get(path), state.origins.get(path, newest)
        if known is None or (
            mine > origin if signal.skewed or known.skewed else (signal.at, mine) > (known.at, origin)
        ):
            taken[path] = signal
    return taken


def _life(incarnation: str, position: int) -> str:
    """No two packets are first at one place, so no two lives of a vehicle are alike (but for one chance in 4 billion)."""
    return f"{zlib.crc32(f'{incarnation}/{position}'.encode()):08x}"


def _enriched(named: Named, state: State, packet: Packet) -> State:
    signals, memory = state.signals, state.memory
    try:
        # Copies: an enricher that writes in place, which it must not, spoils neither the state before nor the checks.
        lent = msgspec.structs.replace(state, signals=dict(signals), memory=dict(memory))
        after = named.enrich(lent, packet)
    except Reject:
        raise
    except Exception as error:
        raise Reject(f"enricher {named.name} raised {type(error).__name__}: {error}") from error
    if not isinstance(after, State):
        raise Reject(f"enricher {named.name} returned {type(after).__name__}, not a State")
    changed = {path: signal for path, signal in after.signals.items() if signal is not signals.get(path)}
    if changed and not _comes_back(_SIGNALS, changed):
        among = ", ".join(map(repr, changed))
        raise Reject(f"enricher {named.name} set what no phone could read, among {among}"[:500])
    kept = {name: one for name, one in after.memory.items() if one is not memory.get(name)}
    if kept and not _comes_back(_MEMORY, kept):
        raise Reject(f"enricher {named.name} remembers what JSON cannot hold")
    set_ = after.signals
    if packet.skewed:  # what it derived is of no better a time than the packet's
        set_ = set_ | {
            p: Signal(s.value, s.at, skewed=True) for p, s in changed.items() if s.at == packet.sent_at
        }
    # What counts and orders is ours: an enricher that touched it would break the chain for every phone.
    return msgspec.structs.replace(state, signals=set_, memory=after.memory)


def _comes_back(decoder: msgspec.json.Decoder[Any], value: object) -> bool:
    """Whether it comes back from JSON as it is: no NaN, no foreign type; and for signals no null, no object."""
    try:
        return bool(decoder.decode(msgspec.json.encode(value)) == value)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        return False


def _after(state: State, packet: Packet) -> tuple[int, int, int]:
    """(boot, seq, seen) once this packet is included."""
    if packet.boot > state.boot or (packet.boot == state.boot and packet.seq > state.seq):
        if packet.boot != state.boot:
            return packet.boot, packet.seq, 0
        ahead = packet.seq - state.seq
        seen = ((state.seen << 1 | 1) << (ahead - 1)) if ahead <= _REMEMBERED else 0
        return packet.boot, packet.seq, seen & ((1 << _REMEMBERED) - 1)
    behind = state.seq - packet.seq
    if packet.boot == state.boot and behind <= _REMEMBERED:
        return state.boot, state.seq, state.seen | 1 << (behind - 1)
    return state.boot, state.seq, state.seen

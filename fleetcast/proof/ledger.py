"""What was acknowledged before a power cut, held against what is there after the boot. Pure.

A packet is kept if it is still queued, as it was sent, or if the state that is there includes it. A commit is kept if its
states and its updates are there; one that was not answered may be there, whole. Each packet may be queued once, in the order
in which it was sent; what was applied must be each good packet once, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from fleetcast.proof.fold import Fold
from fleetcast.proof.oracle import MOST_NOTES
from fleetcast.proof.packets import BOOT_AFTER, body, good_before, is_poison, packet
from fleetcast.proof.rows import Row


class View(msgspec.Struct):
    """A vehicle as LIVE has it: its state, and (version, prev, signals, updated_at) of its updates."""

    version: int = 0
    signals: dict[str, Any] = {}
    updates: list[tuple[int, int, dict[str, Any], str]] = []


class Found(msgspec.Struct):
    """What is there: (vehicle, name, body) of each queued packet in order, views and names of rejected packets by vehicle."""

    queued: list[tuple[str, str, bytes]] = []
    views: dict[str, View] = {}
    rejected: dict[str, set[str]] = {}


class Ledger:
    """Kept by who sends and commits; `judge` counts what is wrong into a row."""

    def __init__(self, seed: int, senders: Iterable[str], committers: Iterable[str]) -> None:
        self.seed = seed
        self.sent = dict.fromkeys(senders, 0)
        """Packets that were sent, answered or not: 0 to n - 1."""
        self.acked = dict.fromkeys(self.sent, 0)
        """Those that were acknowledged."""
        self.committed = dict.fromkeys(committers, 0)
        """By vehicle the version of its last commit that was acknowledged."""
        self.open: dict[int, dict[str, int]] = {}
        """By committer the versions that a commit without an answer yet leads to."""

    @property
    def promises(self) -> int:
        """Packets and updates that were acknowledged."""
        return sum(self.acked.values()) + sum(self.committed.values())

    def judge(self, found: Found, row: Row) -> None:
        """Counts into the row, and says what is wrong."""
        queued: dict[str, list[tuple[int, bytes]]] = {vehicle: [] for vehicle in self.sent}
        for vehicle, name, data in found.queued:
            queued[vehicle].append((_number(name), data))
        for vehicle, acked in self.acked.items():
            there = self._queued(vehicle, queued[vehicle], row)
            applied = self._fold(vehicle, found.views.get(vehicle, View()), row)
            rejected = found.rejected.get(vehicle, set())
            missing = [
                n
                for n in range(acked)
                if n not in there
                and (
                    packet(self.seed, vehicle, n).name not in rejected
                    if is_poison(n)
                    else good_before(n) >= applied
                )
            ]
            if missing:
                row.lost += len(missing)
                say(row, f"{vehicle}: {_few(missing)} of {acked} acknowledged packets are gone")
        for vehicle, version in self.committed.items():
            kept = self._fold(vehicle, found.views.get(vehicle, View()), row)
            if kept < version:
                row.lost += version - kept
                say(row, f"{vehicle}: version {kept} is there, {version} was acknowledged")
        for batch in self.open.values():
            versions = {vehicle: found.views.get(vehicle, View()).version for vehicle in batch}
            if 0 < sum(versions[vehicle] >= upto for vehicle, upto in batch.items()) < len(batch):
                row.lost += 1
                say(row, f"half a commit: {versions} of {batch}")
        self.open.clear()

    def settled(self, found: Found, row: Row) -> None:
        """Once the consumer has come to the end: nothing is queued that is not applied.

        What it applied and acked may still lie there: removing a message is not flushed, so after a cut the stream may have
        again what the consumer's own record says is done, for good. That costs a little room, and nothing else.
        """
        again = 0
        for vehicle, name, _ in found.queued:
            n, view = _number(name), found.views.get(vehicle, View())
            if name in found.rejected.get(vehicle, ()) or (
                not is_poison(n) and good_before(n) < view.version
            ):
                again += 1
            else:
                row.unhealed += 1
                say(row, f"{vehicle}: packet {name} is queued, and the consumer does not get it")
        if again:
            say(
                row,
                f"{again} packets lie in the queue that were applied and acked before a cut, and stay there",
            )

    def _queued(self, vehicle: str, queued: Sequence[tuple[int, bytes]], row: Row) -> set[int]:
        there: set[int] = set()
        last = -1
        for n, data in queued:
            if n in there:
                row.twice += 1
                say(row, f"{vehicle}: packet {n} is queued twice")
            elif n < last:
                row.reordered += 1
                say(row, f"{vehicle}: packet {n} is queued behind {last}")
            if n >= self.sent[vehicle] or data != body(self.seed, vehicle, n)[0]:
                row.lost += 1
                say(row, f"{vehicle}: packet {n} is not what was sent")
            there.add(n)
            last = max(n, last)
        return there

    def _fold(self, vehicle: str, view: View, row: Row) -> int:
        """Holds a view against what its packets come to; the version up to which its updates are right."""
        fold = Fold(self.seed, vehicle)
        for version, prev, signals, stored in view.updates:
            _, patch = fold.advance(later=False, stored=stored)
            if (version, prev, signals) != (fold.version, fold.version - 1, patch):
                row.lost += 1
                say(
                    row,
                    f"{vehicle}: update {prev}->{version} where {fold.version - 1}->{fold.version} was due",
                )
                return fold.version - 1
        if (view.version, view.signals) != (fold.version, fold.signals):
            row.lost += 1
            say(row, f"{vehicle}: state {view.version} is not what its {fold.version} updates come to")
        return fold.version


def say(row: Row, note: str) -> None:
    """A sentence for a person, unless there are plenty."""
    if len(row.notes) < MOST_NOTES:
        row.notes.append(note)


def _number(name: str) -> int:
    """Which packet of its vehicle it is, from 0."""
    boot, seq = map(int, name.split("/"))
    return (boot - 1) * BOOT_AFTER + seq - 1


def _few(numbers: Sequence[int]) -> str:
    text = ", ".join(map(str, numbers[:5]))
    return text if len(numbers) <= 5 else f"{text}, … ({len(numbers)})"

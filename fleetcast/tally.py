"""What a process counted of each vehicle since it started: packets that say something about its sender. Pure.

Duplicates are counted by whoever recognises them: ingest those that the queue knows, consume those that only the state
knows. Late, skewed and rejected are consume's. Nothing is kept beyond the process; the vehicles counted last are remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec


class Tally(msgspec.Struct, frozen=True, gc=False):
    """Packets of one vehicle."""

    duplicate: int = 0
    """Sent again: acknowledged, and applied once."""
    late: int = 0
    """Applied after a newer one."""
    skewed: int = 0
    """With a time that was not believed."""
    rejected: int = 0
    """Put into REJECTED."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.duplicate + other.duplicate,
            self.late + other.late,
            self.skewed + other.skewed,
            self.rejected + other.rejected,
        )


_DUPLICATE, _LATE, _SKEWED, _REJECTED = Tally(1), Tally(0, 1), Tally(0, 0, 1), Tally(0, 0, 0, 1)


class Tallies:
    """The tally of each of the `most` vehicles that were counted last. `since`: when counting began, RFC 3339."""

    def __init__(self, most: int, since: str = "") -> None:
        self.since = since
        self._most = most
        self._tallies: OrderedDict[str, Tally] = OrderedDict()

    def duplicate(self, vehicle: str) -> None:
        """One more of it."""
        self._add(vehicle, _DUPLICATE)

    def late(self, vehicle: str) -> None:
        """One more of it."""
        self._add(vehicle, _LATE)

    def skewed(self, vehicle: str) -> None:
        """One more of it."""
        self._add(vehicle, _SKEWED)

    def rejected(self, vehicle: str) -> None:
        """One more of it."""
        self._add(vehicle, _REJECTED)

    def get(self, vehicle: str) -> Tally:
        """All zeros for one that is not remembered."""
        return self._tallies.get(vehicle, Tally())

    def _add(self, vehicle: str, one: Tally) -> None:
        self._tallies[vehicle] = self.get(vehicle) + one
        self._tallies.move_to_end(vehicle)
        if len(self._tallies) > self._most:
            self._tallies.popitem(last=False)


def total(tallies: Iterable[Tally]) -> Tally:
    """Of several processes."""
    return sum(tallies, Tally())

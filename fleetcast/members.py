"""Who consumes: the live consume processes, and which of them owns which partition.

Each process says once a second that it is there (core NATS, nothing stored). From the names heard lately every process
computes the same owner of each partition, by rendezvous hashing, so that a process that comes or goes moves only its share.
Two that disagree for a moment do no harm: the server pins a partition to one of them, and the fence stops the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from fleetcast.clock import Clock


def owner(partition: int, members: Iterable[str]) -> str:
    """The member that owns this partition: the highest hash. `members` must not be empty."""
    return max(
        members, key=lambda member: (hashlib.blake2b(f"{partition}/{member}".encode()).digest(), member)
    )


def owned(member: str, partitions: int, members: Iterable[str]) -> frozenset[int]:
    """All partitions of this member."""
    everyone = sorted({member, *members})
    return frozenset(number for number in range(partitions) if owner(number, everyone) == member)


class Members:
    """What was heard of the others. `changed` is called when the set of live members is another."""

    def __init__(self, me: str, clock: Clock, timeout: float, changed: Callable[[], None]) -> None:
        self.me = me
        self._clock = clock
        self._timeout = timeout
        self._changed = changed
        self._heard: dict[str, float] = {}

    @property
    def names(self) -> frozenset[str]:
        """Everybody alive, oneself included."""
        return frozenset({self.me, *self._heard})

    def heard(self, name: str, *, leaving: bool) -> bool:
        """Another's word; True if it is news, so that one answers it at once."""
        if name == self.me:
            return False
        known = name in self._heard
        if leaving:
            self._heard.pop(name, None)
        else:
            self._heard[name] = self._clock.monotonic()
        if known is leaving:
            self._changed()
            return not leaving
        return False

    def expire(self) -> None:
        """Forgets those who were silent for too long."""
        now = self._clock.monotonic()
        silent = [name for name, when in self._heard.items() if now - when > self._timeout]
        for name in silent:
            del self._heard[name]
        if silent:
            self._changed()

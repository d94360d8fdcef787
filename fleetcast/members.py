"""Who consumes: the live consume processes, and which of them owns which partition.

Each process says once a second that it is there (core NATS, nothing stored). From the names heard lately every process
computes the same owner of each partition, by rendezvous hashing with equal shares, so that a process that comes or goes
moves little more than its share.
Two that disagree for a moment do no harm: the server pins a partition to one of them, and the fence stops the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache

from fleetcast.clock import Clock


@lru_cache(maxsize=16)
def owners(partitions: int, members: frozenset[str]) -> tuple[str, ...]:
    """The owner of each partition: where its hash with a member is highest, as long as nobody has more than a fair share.

    Shares differ by one at most: of few partitions plain rendezvous hashing would give one member twice another's work.
    """
    ranked = sorted(
        ((_weight(number, member), number, member) for number in range(partitions) for member in members),
        reverse=True,
    )
    found: dict[int, str] = {}
    shares = dict.fromkeys(members, 0)
    for most in (
        partitions // len(members),
        partitions // len(members) + 1,
    ):  # what does not divide comes last
        for _, number, member in ranked:
            if number not in found and shares[member] < most:
                found[number] = member
                shares[member] += 1
    return tuple(found[number] for number in range(partitions))


def _weight(partition: int, member: str) -> bytes:
    return hashlib.blake2b(f"{partition}/{member}".encode()).digest()


def owned(member: str, partitions: int, members: Iterable[str]) -> frozenset[int]:
    """All partitions of this member."""
    everyone = owners(partitions, frozenset({member, *members}))
    return frozenset(number for number, name in enumerate(everyone) if name == member)


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

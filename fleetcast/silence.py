"""When a vehicle has been silent for too long: the timers of the vehicles that a process looks after. Pure.

In: when each vehicle's last packet was stored, how often it is expected to send, and up to which moment nothing of a
partition can be outstanding. Out: the vehicles that have become quiet or offline, each with the moment it was due.

A packet costs one look into a dictionary: a vehicle has one entry in its partition's heap, which is not moved when it sends
but put back when it strikes. A vehicle that is offline has no timer; it is one that is heard for the first time when it sends.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import NamedTuple

LIVE, QUIET, OFFLINE = "live", "quiet", "offline"

UNKEPT = 600.0
"""Seconds after which it is asked again about a vehicle that has no status, and after as much silence forgotten."""
_NEVER = float("inf")


class Turn(NamedTuple):
    """What a vehicle's status has become, and since when (seconds since 1970)."""

    status: str
    since: float


class Rule(NamedTuple):
    """After how many expected intervals without a packet a vehicle is quiet, and offline."""

    quiet_after: float
    offline_after: float

    def turn(self, status: str, last: float, every: float, upto: float) -> Turn | None:
        """What the status becomes of one that sent last at `last` and nothing by `upto`; None: it stays.

        A moment that passed unseen is passed over: who is offline by then is not said to be quiet first.
        """
        if every <= 0:
            return None
        quiet, offline = last + self.quiet_after * every, last + self.offline_after * every
        if upto >= offline:
            return Turn(OFFLINE, offline) if status != OFFLINE else None
        return Turn(QUIET, quiet) if upto >= quiet and status not in (QUIET, OFFLINE) else None

    def deadline(self, status: str, last: float, every: float) -> float:
        """When its status changes if it stays silent."""
        if every <= 0:
            return last + UNKEPT
        after = {QUIET: self.offline_after, OFFLINE: _NEVER}.get(
            status, min(self.quiet_after, self.offline_after)
        )
        return last + after * every


class _Timer:
    """One vehicle's. `strikes`: when its one valid entry in the heap is due; an entry of another time is void."""

    __slots__ = ("every", "last", "status", "strikes")

    def __init__(self, last: float, every: float, status: str) -> None:
        self.last = last
        self.every = every
        self.status = status
        self.strikes = _NEVER


class Timers:
    """Those of one partition's vehicles."""

    def __init__(self, rule: Rule, default: float) -> None:
        self._rule = rule
        self._default = default
        self._timers: dict[str, _Timer] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._timers)

    def __contains__(self, vehicle: str) -> bool:
        return vehicle in self._timers

    def heard(self, vehicle: str, stored: float, status: str = LIVE) -> bool:
        """A packet of it was stored then. True if the vehicle had no timer: how often it sends is to be found out."""
        timer = self._timers.get(vehicle)
        if timer is None:
            timer = self._timers[vehicle] = _Timer(stored, self._default, status)
            self._wind(vehicle, timer)
            return True
        if stored > timer.last:
            timer.last = stored
            if timer.status != LIVE:
                timer.status = LIVE
                self._wind(vehicle, timer)  # it is due earlier than what lies in the heap
        return False

    def expect(self, vehicle: str, every: float) -> None:
        """It is expected to send so often, in seconds; 0: it has no status."""
        timer = self._timers.get(vehicle)
        if timer is not None and timer.every != every:
            timer.every = every
            if timer.strikes != _NEVER:  # one that struck is wound when that is settled
                self._wind(vehicle, timer)

    def kept(self, vehicle: str) -> bool:
        """Whether it has a status, as far as is known."""
        timer = self._timers.get(vehicle)
        return (self._default if timer is None else timer.every) > 0

    def struck(self, upto: float) -> tuple[list[str], list[str]]:
        """Those that have been silent for too long, and those that only were asked about; each must be `settled`, or heard.

        Of the second nothing need be done: they sent in time, or have no status.
        """
        due, passed = [], []
        while self._heap and self._heap[0][0] <= upto:
            when, vehicle = heapq.heappop(self._heap)
            timer = self._timers.get(vehicle)
            if timer is None or timer.strikes != when:
                continue
            deadline = self._rule.deadline(timer.status, timer.last, timer.every)
            if deadline <= upto and timer.every > 0:
                timer.strikes = _NEVER
                due.append(vehicle)
            elif deadline <= upto:
                del self._timers[vehicle]  # without a status, and silent for long
            else:
                self._wind(vehicle, timer)
                passed.append(vehicle)
        return due, passed

    def turn(self, vehicle: str, upto: float, status: str, last: float) -> Turn | None:
        """What the status of one that struck becomes, given that of its state and its last packet; None: nothing."""
        timer = self._timers.get(vehicle)
        return None if timer is None else self._rule.turn(status, max(last, timer.last), timer.every, upto)

    def settled(self, vehicle: str, status: str, last: float) -> None:
        """Winds the timer of one that struck anew, by its state; one that is offline needs none."""
        timer = self._timers.get(vehicle)
        if timer is None:
            return
        if status == OFFLINE:
            del self._timers[vehicle]
            return
        timer.last, timer.status = max(last, timer.last), status or LIVE
        self._wind(vehicle, timer)

    def again(self, vehicle: str) -> None:
        """It could not be settled: it strikes again."""
        if (timer := self._timers.get(vehicle)) is not None:
            self._wind(vehicle, timer)

    def forget(self, vehicle: str) -> None:
        """It is no more."""
        self._timers.pop(vehicle, None)

    def next(self) -> float:
        """When to look again, at the latest."""
        return self._heap[0][0] if self._heap else _NEVER

    def _wind(self, vehicle: str, timer: _Timer) -> None:
        timer.strikes = self._rule.deadline(timer.status, timer.last, timer.every)
        heapq.heappush(self._heap, (timer.strikes, vehicle))


class Silence:
    """The timers of all partitions that a process looks after, by number."""

    def __init__(self, rule: Rule, default: float) -> None:
        self._make: Callable[[], Timers] = lambda: Timers(rule, default)
        self._partitions: dict[int, Timers] = {}

    def of(self, partition: int) -> Timers:
        """Those of this partition, none at first."""
        timers = self._partitions.get(partition)
        if timers is None:
            timers = self._partitions[partition] = self._make()
        return timers

    def keep(self, partitions: Iterable[int]) -> None:
        """Only these are looked after: the others' vehicles are somebody else's."""
        kept = frozenset(partitions)
        for number in [one for one in self._partitions if one not in kept]:
            del self._partitions[number]

    def clear(self) -> None:
        """Nothing is known of any."""
        self._partitions.clear()

"""Packets on their way: pairs the time of an acknowledgement with the times at which phones saw the packet.

Either half may be told first, because cars and phones report each on their own, and may be true first, because an event
can overtake the answer to its packet: then the latency is 0. Also notes when two phones saw a packet at different
versions, which means that a history was rewritten. What finds no other half is forgotten after a while.
"""

from __future__ import annotations

from array import array
from collections import deque
from itertools import islice
from math import ceil

WINDOW = 10.0  # s: the latencies that are recent
PATIENCE = 660.0  # s: how long a half waits for the other one: longer than the replay window

Key = tuple[str, int, int]  # vehicle, boot, seq


class _Journey:
    __slots__ = ("acked", "early", "since", "version")

    def __init__(self, since: float) -> None:
        self.since = since
        self.acked: float | None = None
        self.version: int | None = None
        self.early: list[float] = []  # seen before the acknowledgement was told


class Journeys:
    """All packets of a run. Times are seconds of time.monotonic(); each packet's acknowledgement is told once."""

    def __init__(self) -> None:
        self.forked: list[str] = []  # a sentence for each packet that was seen at two versions
        self._journeys: dict[Key, _Journey] = {}
        self._recent: deque[tuple[float, float]] = deque()  # (seen, latency in ms)
        self._latencies = array("f")

    def acked(self, packet: Key, when: float) -> None:
        """A packet was acknowledged."""
        journey = self._journey(packet, when)
        journey.acked = when
        for seen in journey.early:
            self._pair(when, seen)
        journey.early.clear()

    def seen(self, packet: Key, when: float, version: int) -> None:
        """A phone saw a packet as the update to `version`."""
        journey = self._journey(packet, when)
        if journey.version is None:
            journey.version = version
        elif journey.version != version:
            vehicle, boot, seq = packet
            self.forked.append(f"{vehicle} {boot}/{seq} as versions {journey.version} and {version}")
        if journey.acked is None:
            journey.early.append(when)
        else:
            self._pair(journey.acked, when)

    def latency(self, now: float | None = None) -> tuple[float | None, float | None]:
        """(p50, p99) in ms from acknowledged to seen, of all, or of what was seen in the ten seconds before `now`."""
        if now is None:
            ascending = sorted(self._latencies)
        else:
            while self._recent and self._recent[0][0] < now - WINDOW:
                self._recent.popleft()
            ascending = sorted(latency for _, latency in self._recent)
        return percentile(ascending, 50), percentile(ascending, 99)

    def _journey(self, packet: Key, when: float) -> _Journey:
        journey = self._journeys.get(packet)
        if journey is None:
            journey = self._journeys[packet] = _Journey(when)
            # The first one is nearly the oldest; two at a time keeps up with one that is added.
            for oldest in list(islice(self._journeys, 2)):
                if self._journeys[oldest].since < when - PATIENCE:
                    del self._journeys[oldest]
        return journey

    def _pair(self, acked: float, seen: float) -> None:
        latency = max(0.0, seen - acked) * 1000
        self._latencies.append(latency)
        self._recent.append((seen, latency))


def percentile(ascending: list[float], percent: int) -> float | None:
    """The nearest-rank percentile, rounded to 0.1; None of nothing."""
    return round(ascending[ceil(len(ascending) * percent / 100) - 1], 1) if ascending else None

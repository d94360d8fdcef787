"""When to stop consuming: nearly everything is being rejected, so what is wrong is not the packets. Pure.

A bad deploy of an enricher would otherwise drain the whole queue into REJECTED. In: of each packet handled, whose it is and
whether it is to be rejected, before it is. Out: whether to stop instead. Packets of one vehicle alone never stop anybody.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

SHARE = 0.9

Outcome = tuple[str, bool]
"""A packet's vehicle, and whether it is rejected."""


class Watch:
    """The last `packets` that this process handled; 0: it watches nothing."""

    def __init__(self, packets: int, vehicles: int) -> None:
        self._packets = packets
        self._vehicles = vehicles
        self._outcomes: deque[Outcome] = deque()
        self._rejected: Counter[str] = Counter()  # by vehicle, of those in `_outcomes`

    def poisoned(self, batch: Sequence[Outcome]) -> str:
        """Why to stop before this batch is rejected, or nothing.

        With it nine tenths of the last `packets` are rejected, and from at least so many vehicles. While fewer were handled
        than that, as many must be rejected all the same.
        """
        if not self._packets or not any(rejected for _, rejected in batch):
            return ""
        gone = max(0, len(self._outcomes) + len(batch) - self._packets)  # what the batch pushes out
        rejected = self._rejected.copy()
        rejected.subtract(vehicle for vehicle, bad in [*self._outcomes, *batch][:gone] if bad)
        rejected.update(vehicle for vehicle, bad in batch if bad)
        rejected = +rejected
        count = rejected.total()
        if count < SHARE * self._packets or len(rejected) < self._vehicles:
            return ""
        return (
            f"{count} of the last {self._packets} packets, from {len(rejected)} vehicles, cannot be applied"
        )

    def handled(self, batch: Sequence[Outcome]) -> None:
        """These are done: applied, or rejected."""
        if not self._packets:
            return
        for outcome in batch:
            self._count(outcome, 1)
            self._outcomes.append(outcome)
            if len(self._outcomes) > self._packets:
                self._count(self._outcomes.popleft(), -1)

    def _count(self, outcome: Outcome, by: int) -> None:
        vehicle, bad = outcome
        if bad:
            self._rejected[vehicle] += by
            if not self._rejected[vehicle]:
                del self._rejected[vehicle]

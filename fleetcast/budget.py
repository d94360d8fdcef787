"""What a vehicle may send a minute: two token buckets each, of packets and of bytes. Pure; the caller says what time it is.

A bucket holds one minute's budget at most and fills evenly, so a vehicle that was away for a minute may send a minute's worth
at once. A vehicle that was silent for a minute is forgotten: its buckets would be full, as a new one's are.
"""

from __future__ import annotations

import math
from collections import OrderedDict

MINUTE = 60.0
MOST = 200_000
"""Vehicles remembered at most; beyond it the one that is silent longest begins anew."""

_ROUNDING = 1e-6  # of a packet or byte: what a wait of whole seconds may fall short by, in floats


class Budgets:
    """`packets` and `size` (bytes) are what a vehicle may send a minute; 0: as much as it likes."""

    def __init__(self, packets: int, size: int, most: int = MOST) -> None:
        self._limits = (float(packets), float(size))
        self._most = most
        # (tokens of packets, tokens of bytes, when), the one that is silent longest first.
        self._left: OrderedDict[str, tuple[float, float, float]] = OrderedDict()

    def __len__(self) -> int:
        """Vehicles remembered now."""
        return len(self._left)

    def wait(self, vehicle: str, size: int, now: float) -> int:
        """Whole seconds until a packet of this many bytes could be taken; 0: now. Takes nothing. `size` is at most a
        minute's bytes, or it never can.
        """
        seconds = 0.0
        for left, limit, cost in zip(
            self._filled(vehicle, now), self._limits, (1.0, float(size)), strict=True
        ):
            if limit and left + _ROUNDING < cost:
                seconds = max(seconds, (cost - left - _ROUNDING / 2) * MINUTE / limit)
        return math.ceil(seconds)

    def take(self, vehicle: str, size: int, now: float) -> int:
        """Takes a packet of this many bytes, if `wait` is 0, which it returns; else nothing is taken."""
        if not any(self._limits):
            return 0
        seconds = self.wait(vehicle, size, now)
        if seconds == 0:
            packets, bytes_ = self._filled(vehicle, now)
            self._left[vehicle] = (packets - 1.0, bytes_ - size, now)
            self._left.move_to_end(vehicle)
            self._forget(now)
        return seconds

    def spend(self, vehicle: str, packets: int, size: int, now: float) -> None:
        """So much was sent, whether it could be taken or not: for what is only known afterwards. The debt is a minute's budget
        at most.
        """
        if any(self._limits):
            left = zip(self._filled(vehicle, now), (packets, size), self._limits, strict=True)
            first, second = (max(have - spent, -limit) for have, spent, limit in left)
            self._left[vehicle] = (first, second, now)
            self._left.move_to_end(vehicle)
            self._forget(now)

    def overdrawn(self, vehicle: str, now: float) -> str:
        """What more was spent of than there was; empty if of nothing."""
        found = zip(self._filled(vehicle, now), self._limits, ("packets", "bytes"), strict=True)
        return next((what for left, limit, what in found if limit and left < -_ROUNDING), "")

    def _filled(self, vehicle: str, now: float) -> tuple[float, float]:
        known = self._left.get(vehicle)
        if known is None:
            return self._limits
        share = (now - known[2]) / MINUTE
        packets, size = self._limits
        return min(packets, known[0] + share * packets), min(size, known[1] + share * size)

    def _forget(self, now: float) -> None:
        while self._left:
            vehicle, (_, _, when) = next(iter(self._left.items()))
            if now - when < MINUTE and len(self._left) <= self._most:
                return
            del self._left[vehicle]

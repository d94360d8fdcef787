"""Sets of sequence numbers that stay small.

Who checks that nothing is missing must remember what came, for as long as a run lasts. Numbers that came without a gap
are kept as one run of neighbours, so a faultless day costs as little as a faultless minute.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Runs:
    """A set of whole numbers, kept as runs of neighbours: sequence numbers without gaps cost nothing."""

    def __init__(self) -> None:
        self._lows: list[int] = []
        self._highs: list[int] = []

    def add(self, low: int, high: int | None = None) -> int:
        """Add `low`, or all of low..high; returns how many of them are new."""
        high = low if high is None else high
        if high < low:
            return 0
        # The runs from i to j overlap or touch the new one and become one with it.
        i, j = bisect_left(self._highs, low - 1), bisect_right(self._lows, high + 1)
        had = sum(self._highs[i:j]) - sum(self._lows[i:j]) + j - i if i < j else 0
        if i < j:
            low, high = min(low, self._lows[i]), max(high, self._highs[j - 1])
        self._lows[i:j], self._highs[i:j] = [low], [high]
        return high - low + 1 - had

    def discard(self, number: int) -> bool:
        """Take `number` out; returns whether it was in."""
        if number not in self:
            return False
        i = bisect_left(self._highs, number)
        low, high = self._lows[i], self._highs[i]
        parts = [(a, b) for a, b in ((low, number - 1), (number + 1, high)) if a <= b]
        self._lows[i : i + 1], self._highs[i : i + 1] = [a for a, _ in parts], [b for _, b in parts]
        return True

    def minus(self, other: Runs) -> Iterator[tuple[int, int]]:
        """The runs of numbers that are in here and not in `other`, ascending, both ends included."""
        for low, high in self:
            start = low
            i = bisect_left(other._highs, low)
            while i < len(other._lows) and other._lows[i] <= high:
                if start < other._lows[i]:
                    yield start, other._lows[i] - 1
                start = other._highs[i] + 1
                i += 1
            if start <= high:
                yield start, high

    def count(self) -> int:
        """How many numbers there are."""
        return sum(self._highs) - sum(self._lows) + len(self._lows)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The runs, ascending, both ends included."""
        return zip(self._lows, self._highs, strict=True)

    def __contains__(self, number: int) -> bool:
        i = bisect_left(self._highs, number)
        return i < len(self._lows) and self._lows[i] <= number

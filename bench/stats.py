"""Percentiles, medians and spreads; and records of what was sent and seen, as files between processes. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of them do not exceed; nan of none. `values` need not be in order."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float]) -> str:
    """`median (lowest to highest)` of repeated runs."""
    if len(values) < 2:
        return show(values[0]) if values else "none"
    return f"{show(median(values))} ({show(min(values))} to {show(max(values))})"


def show(value: float | str) -> str:
    """Three digits that count, thousands in groups."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (abs(value) >= 100 and value == value):  # noqa: PLR0124 - nan is the one that is not
        return f"{value:,.0f}"
    return f"{value:.3g}"


class Records:
    """Rows of four unsigned numbers, appended one by one and kept as a file: (vehicle, number, nanoseconds, nanoseconds)."""

    def __init__(self, numbers: array[int] | None = None) -> None:
        self._numbers = array("Q") if numbers is None else numbers

    def add(self, vehicle: int, number: int, first: int, second: int = 0) -> None:
        """One row."""
        self._numbers.extend((vehicle, number, first, second))

    def __len__(self) -> int:
        return len(self._numbers) // 4

    def __iter__(self) -> Iterator[tuple[int, int, int, int]]:
        numbers = self._numbers
        return zip(numbers[0::4], numbers[1::4], numbers[2::4], numbers[3::4], strict=True)

    def save(self, file: Path) -> None:
        """Whole, so that a reader never sees half of it."""
        part = file.with_suffix(".part")
        with part.open("wb") as out:
            self._numbers.tofile(out)
        part.rename(file)

    @classmethod
    def load(cls, *files: Path) -> Records:
        """All rows of these files."""
        numbers = array("Q")
        for file in files:
            numbers.frombytes(file.read_bytes())
        return cls(numbers)

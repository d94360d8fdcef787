"""What a question of the benchmark is given, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")
Cell = str | int | float


class Table(msgspec.Struct, frozen=True):
    """A table of the report. Figures are shown with three digits that count, units stand in the columns' names."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


class Chart(msgspec.Struct, frozen=True):
    """Lines over x; each series is points (x, y)."""

    name: str
    """Of its file."""
    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False
    log_y: bool = False


class Flame(msgspec.Struct, frozen=True):
    """A flame graph: samples by stack, frames from the outermost on with `;` between."""

    name: str
    """Of its file."""
    title: str
    stacks: Mapping[str, int]


class Answer(msgspec.Struct, frozen=True):
    """What one question came to. `figures` are for programs: the plan, the README's table."""

    tables: Sequence[Table]
    charts: Sequence[Chart] = ()
    figures: Mapping[str, float] = {}
    broken: Sequence[str] = ()
    """What went wrong while it was measured: a lost update, a run that gave in too early. Shown, and the exit status tells."""
    flames: Sequence[Flame] = ()


class Bench:
    """The size of this run, a folder on the disk that is measured, and a way to say what is going on."""

    def __init__(self, folder: Path, *, full: bool, seed: int, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.full = full
        self.seed = seed
        self._say = say
        self._began = time.monotonic()

    def size(self, small: T, full: T) -> T:
        """The one that this run is for."""
        return full if self.full else small

    def say(self, text: str) -> None:
        """A line of progress, with the time since this question began."""
        seconds = time.monotonic() - self._began
        self._say(f"  {int(seconds // 60)}:{int(seconds % 60):02d}  {text}")

"""Speed traces: how fast a real car went, second by second.

In: CSV files `second,speed_kmh` with consecutive seconds from 0. Out: `Drive`s, which loop for ever with a parked pause
between the end of a trace and its start. A file that is not such a table is a ValueError of one line that names the
file and the line; nothing is guessed or skipped.
"""

import math
from array import array
from collections.abc import Iterable
from pathlib import Path

CARRIED = Path(__file__).with_name("cycles")
BESIDE = Path(__file__).resolve().parents[2].parent / "shared" / "drives"

HEADER = "second,speed_kmh"
PAUSE = 180
"""Seconds a car stands parked between the end of a trace and its start."""

STANDING = 0.5
"""km/h below which a car stands: GPS seldom says exactly 0."""


class Drive:
    """One trace, looped.

    `name` is the file's stem; `speeds` are km/h, one a second. `period` is the length of one loop in seconds, the
    parked pause included.
    """

    def __init__(self, name: str, speeds: Iterable[float], pause: int = PAUSE) -> None:
        self.name = name
        self.speeds = array("f", speeds)
        if not self.speeds:
            raise ValueError(f"drive {name}: no rows")
        self._loop = self.speeds + array("f", bytes(4 * pause))
        self.period = len(self._loop)

    def speed_at(self, second: float) -> float:
        """Speed in km/h at any second >= 0, interpolated between rows; the trace repeats after `period`."""
        whole = math.floor(second)
        a = self._loop[whole % self.period]
        b = self._loop[(whole + 1) % self.period]
        return a + (b - a) * (second - whole)

    def stop_at(self, second: float) -> tuple[float, float] | None:
        """The stop around a second as its first and last standing second, endless ones too; None if the car moves.

        It knows when the stop ends, as the driver does: a car opens its doors only where there is time for it.
        A trace without any movement is one stop without an end (`inf`).
        """
        first = last = round(second)
        if self._loop[first % self.period] >= STANDING:
            return None
        while self._loop[(first - 1) % self.period] < STANDING and first > 0:
            first -= 1
        while self._loop[(last + 1) % self.period] < STANDING:
            last += 1
            if last - first > self.period:
                return float(first), math.inf
        return float(first), float(last)


def read_drive(file: Path) -> Drive:
    """Read one trace; ValueError naming the file and the line where it is not `second,speed_kmh`."""
    speeds = array("f")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot be read: {error}") from error
    if not lines or lines[0].strip() != HEADER:
        raise ValueError(f"{file}:1: the first line must be {HEADER!r}")
    for number, line in enumerate(lines[1:], start=2):
        second, comma, speed = line.partition(",")
        try:
            value = float(speed)
            if not comma or int(second) != number - 2 or not 0 <= value < 500:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{file}:{number}: expected '{number - 2},<km/h from 0 to 500>', found {line[:40]!r}"
            ) from None
        speeds.append(value)
    if not speeds:
        raise ValueError(f"{file}:2: no rows after the header")
    return Drive(file.stem, speeds)


def find_drives(folder: Path | None = None) -> list[Drive]:
    """All traces of a folder, by name; without one, of `../shared/drives` beside the checkout, else the carried cycles.

    ValueError if a folder was given and has no trace, or if a file in it is not one.
    """
    if folder is None:
        folder = BESIDE if BESIDE.is_dir() and any(BESIDE.glob("*.csv")) else CARRIED
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise ValueError(f"{folder}: no drives (*.csv) there")
    return [read_drive(file) for file in files]

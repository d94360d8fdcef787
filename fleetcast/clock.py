"""Time as a seam: what a process believes the time is, and the one text form of it (RFC 3339, UTC, milliseconds).

Nothing about order or completeness ever rests on a clock; times are shown, and measured.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """`now()` is seconds since 1970, for what is shown; `monotonic()` is seconds, for what is measured."""

    def now(self) -> float: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment, never turned back."""
        return time.monotonic()


def rfc3339(moment: datetime | float) -> str:
    """An aware datetime, or seconds since 1970, as `2026-11-23T10:00:00.000Z`. Such texts compare as the times do."""
    aware = moment.astimezone(UTC) if isinstance(moment, datetime) else datetime.fromtimestamp(moment, UTC)
    return aware.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(text: str) -> float:
    """The other way: seconds since 1970. Raises ValueError."""
    return datetime.fromisoformat(text).timestamp()

"""One text form for every time, which sorts as the times do."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast.clock import SystemClock, rfc3339, seconds

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIMES = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=ZONES)  # noqa: DTZ001 - hypothesis wants naive bounds


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_795_428_000.25, "2026-11-23T10:00:00.250Z"),
        (datetime(2026, 11, 23, 10, tzinfo=timezone(timedelta(hours=2))), "2026-11-23T08:00:00.000Z"),
        (datetime(2026, 11, 23, 10, 0, 0, 999_999, UTC), "2026-11-23T10:00:00.999Z"),
        (datetime(7, 1, 1, tzinfo=UTC), "0007-01-01T00:00:00.000Z"),
    ],
)
def test_text(moment: datetime | float, text: str) -> None:
    assert rfc3339(moment) == text


@given(TIMES)
def test_reads_back_to_the_millisecond(moment: datetime) -> None:
    text = rfc3339(moment)
    assert len(text) == len("2026-11-23T10:00:00.000Z")
    assert timedelta(0) <= moment - datetime.fromisoformat(text) < timedelta(milliseconds=1)


@given(TIMES)
def test_a_text_as_seconds(moment: datetime) -> None:
    assert abs(seconds(rfc3339(moment)) - moment.timestamp()) < 0.002


@given(TIMES, TIMES)
def test_texts_compare_as_the_times_do(one: datetime, other: datetime) -> None:
    if one <= other:
        assert rfc3339(one) <= rfc3339(other)
    else:
        assert rfc3339(one) >= rfc3339(other)


def test_the_system_clock_tells_both_times() -> None:
    clock = SystemClock()
    before, now, after = time.time(), clock.now(), time.time()
    assert before <= now <= after
    assert clock.monotonic() <= clock.monotonic()

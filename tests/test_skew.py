"""A time that cannot be true is the time of the storing, and marked; every other one is left as it is."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast.clock import rfc3339
from fleetcast.packet import Packet, Signal
from fleetcast.skew import believed

STORED = datetime(2026, 11, 23, 10, tzinfo=UTC).timestamp()
AHEAD, BEHIND = 10.0, 7 * 86400.0
NOW = rfc3339(STORED)


def packet(sent: float, **observed: float) -> Packet:
    signals = {path: Signal(1, rfc3339(STORED + seconds)) for path, seconds in observed.items()}
    return Packet("car", 1, 1, rfc3339(STORED + sent), signals)


@pytest.mark.parametrize("seconds", [0, 9.999, 10, -1, -3600, -BEHIND])
def test_within_the_tolerance_the_vehicle_is_believed(seconds: float) -> None:
    """The tolerance itself included: a packet out of a garage is rightly old."""
    one = packet(seconds, a=seconds)
    assert believed(one, STORED, AHEAD, BEHIND) is one


@pytest.mark.parametrize("seconds", [10.001, 3600, 1e9, -BEHIND - 0.001, -1.7e9])
def test_beyond_it_the_packet_is_of_the_moment_of_its_storing(seconds: float) -> None:
    found = believed(packet(seconds, a=seconds, b=seconds), STORED, AHEAD, BEHIND)
    assert (found.sent_at, found.skewed) == (NOW, True)
    assert found.signals == dict.fromkeys("ab", Signal(1, NOW, skewed=True))


def test_in_a_packet_of_a_wrong_clock_a_value_with_a_right_time_keeps_it() -> None:
    found = believed(packet(-1.7e9, gps=-5, own=-1.7e9), STORED, AHEAD, BEHIND)
    assert found.signals == {
        "gps": Signal(1, rfc3339(STORED - 5)),
        "own": Signal(1, NOW, skewed=True),
    }
    assert found.skewed


def test_a_value_with_a_wrong_time_in_a_packet_of_a_right_clock() -> None:
    found = believed(packet(-1, gps=7200, own=-1), STORED, AHEAD, BEHIND)
    assert (found.sent_at, found.skewed) == (rfc3339(STORED - 1), False)
    assert found.signals == {"gps": Signal(1, NOW, skewed=True), "own": Signal(1, rfc3339(STORED - 1))}


@pytest.mark.parametrize(
    "at", ["0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z", "0999-05-05T00:00:00.000Z"]
)
def test_the_ends_of_the_calendar(at: str) -> None:
    found = believed(Packet("car", 1, 1, at, {"a": Signal(1, at)}), STORED, AHEAD, BEHIND)
    assert (found.sent_at, found.signals["a"].at) == (NOW, NOW)


def test_a_tolerance_as_long_as_the_calendar() -> None:
    one = Packet("car", 1, 1, "0001-01-01T00:00:00.000Z", {"a": Signal(1, "9999-12-31T23:59:59.999Z")})
    assert believed(one, STORED, 1e12, 1e12) is one


@given(
    stored=st.floats(0, 4e9),
    sent=st.floats(0, 4e9),
    observed=st.dictionaries(st.sampled_from("abc"), st.floats(0, 4e9)),
)
def test_all_that_comes_out_is_believed_and_marked_if_it_was_not(
    stored: float, sent: float, observed: dict[str, float]
) -> None:
    before = Packet(
        "car", 3, 4, rfc3339(sent), {path: Signal(path, rfc3339(at)) for path, at in observed.items()}
    )
    after = believed(before, stored, AHEAD, BEHIND)
    earliest, latest = rfc3339(stored - BEHIND), rfc3339(stored + AHEAD)
    assert earliest <= after.sent_at <= latest
    assert after.skewed == (after.sent_at != before.sent_at or not earliest <= before.sent_at <= latest)
    assert after.signals.keys() == before.signals.keys()
    for path, signal in after.signals.items():
        assert earliest <= signal.at <= latest
        assert signal.value == path
        assert signal.skewed or signal == before.signals[path]
    assert believed(before, stored, AHEAD, BEHIND) == after  # a redelivery comes to the same
    assert (after.boot, after.seq, after.id) == (before.boot, before.seq, before.id)

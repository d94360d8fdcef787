"""Acknowledgements and sightings find each other in any order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast.simulator.journeys import PATIENCE, Journeys, percentile


def test_latency_is_from_acknowledged_to_seen_whichever_is_told_first() -> None:
    journeys = Journeys()
    journeys.acked(("car", 1, 1), 10.0)
    journeys.seen(("car", 1, 1), 10.010, 1)
    journeys.seen(("car", 1, 2), 20.030, 2)
    journeys.seen(("car", 1, 2), 20.030, 2)
    journeys.acked(("car", 1, 2), 20.0)
    assert journeys.latency() == (30.0, 30.0)
    assert journeys.latency(now=20.5) == (30.0, 30.0)
    assert journeys.latency(now=35.0) == (None, None)


def test_an_event_that_overtakes_its_answer_took_no_time() -> None:
    journeys = Journeys()
    journeys.acked(("car", 1, 1), 10.0)
    journeys.seen(("car", 1, 1), 9.9, 1)
    assert journeys.latency() == (0.0, 0.0)


def test_two_versions_of_one_packet_are_a_fork() -> None:
    journeys = Journeys()
    for version in (7, 7, 8):
        journeys.seen(("car", 1, 1), 1.0, version)
    assert journeys.forked == ["car 1/1 as versions 7 and 8"]


def test_what_finds_no_other_half_is_forgotten() -> None:
    journeys = Journeys()
    for seq in range(1000):
        journeys.acked(("car", 1, seq), float(seq))
    for seq in range(1000, 3000):
        journeys.acked(("car", 1, seq), 5000.0 + PATIENCE)
    journeys.seen(("car", 1, 5), 6000.0, 1)
    assert journeys.latency() == (None, None)
    journeys.seen(("car", 1, 2500), 5001.0 + PATIENCE, 2)
    assert journeys.latency() == (1000.0, 1000.0)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 100))
def test_percentile_is_one_that_so_many_do_not_exceed(values: list[float], percent: int) -> None:
    ascending = sorted(values)
    found = percentile(ascending, percent)
    assert found is not None
    assert found in [round(value, 1) for value in values]
    assert sum(round(value, 1) <= found for value in values) >= len(values) * percent / 100


def test_percentile_of_nothing() -> None:
    assert percentile([], 50) is None
    assert percentile([1.0, 2.0], 50) == pytest.approx(1.0)

"""A vehicle gets what it may send, a minute's worth at once, and not a packet more; the wait that it is told is true."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleetcast.budget import MINUTE, Budgets

PAUSES = st.floats(0, 90) | st.just(0.0)
SIZES = st.integers(0, 1000)
SENT = st.lists(st.tuples(PAUSES, SIZES), max_size=60)


@settings(deadline=None)
@given(packets=st.integers(1, 40), size=st.integers(1000, 5000), sent=SENT, start=st.floats(0, 1e6))
def test_never_more_than_the_burst_and_the_rate(
    packets: int, size: int, sent: list[tuple[float, int]], start: float
) -> None:
    """In any stretch of time, of what was taken: at most a minute's worth, and what the minutes of the stretch give."""
    budgets, now, taken = Budgets(packets, size), start, []
    for pause, cost in sent:
        now += pause
        if budgets.take("car", cost, now) == 0:
            taken.append((now, cost))
    for first in range(len(taken)):
        count = total = 0
        for when, cost in taken[first:]:
            count, total = count + 1, total + cost
            share = 1 + (when - taken[first][0]) / MINUTE
            assert count <= packets * share + 1e-3
            assert total <= size * share + 1e-3


@settings(deadline=None)
@given(packets=st.integers(1, 40), size=st.integers(1000, 5000), sent=SENT, start=st.floats(0, 1e6))
@example(packets=1, size=1000, sent=[(34.8173126766854, 0), (0.0, 0), (0.0, 0)], start=33.8173126766854)
def test_the_wait_is_true(packets: int, size: int, sent: list[tuple[float, int]], start: float) -> None:
    """Waiting that long is enough, a second less is not; asking costs nothing."""
    budgets, now = Budgets(packets, size), start
    for pause, cost in sent:
        now += pause
        seconds = budgets.wait("car", cost, now)
        assert seconds == budgets.wait("car", cost, now)
        assert 0 <= seconds <= MINUTE
        if seconds:
            assert budgets.take("car", cost, now + seconds - 1 - 1e-3) != 0 or seconds == 1
            now += seconds
        assert budgets.wait("car", cost, now) == 0
        assert budgets.take("car", cost, now) == 0


@given(packets=st.integers(1, 100), pauses=st.lists(st.floats(1.0, 5.0), max_size=200))
def test_who_keeps_to_the_rate_is_never_held_up(packets: int, pauses: list[float]) -> None:
    budgets, now = Budgets(packets, 0), 0.0
    for pause in pauses:
        assert budgets.take("car", 10**12, now) == 0
        now += pause * MINUTE / packets


def test_a_minutes_worth_at_once() -> None:
    budgets = Budgets(1_200, 0)
    assert [budgets.take("car", 500, 7.0) for _ in range(1_200)] == [0] * 1_200
    assert budgets.take("car", 500, 7.0) == 1
    assert budgets.take("another", 500, 7.0) == 0
    assert budgets.take("car", 500, 7.05) == 0
    assert budgets.take("car", 500, 7.05) == 1
    assert budgets.wait("car", 500, 7.0 + MINUTE) == 0


def test_the_bytes_of_a_minute() -> None:
    budgets = Budgets(0, 1_000)
    assert budgets.take("car", 1_000, 0.0) == 0
    assert budgets.take("car", 1, 0.0) == 1
    assert budgets.take("car", 500, 0.0) == 30
    assert budgets.take("car", 500, 29.9) == 1
    assert budgets.take("car", 500, 30.0) == 0


def test_what_is_refused_takes_nothing() -> None:
    budgets = Budgets(10, 1_000)
    assert budgets.take("car", 900, 0.0) == 0
    for _ in range(100):
        assert budgets.take("car", 900, 0.0) == 48
    assert [budgets.take("car", 10, 0.0) for _ in range(10)] == [*[0] * 9, 6]


def test_without_limits_nothing_is_kept() -> None:
    budgets = Budgets(0, 0)
    assert all(budgets.take(f"car-{number}", 10**12, 0.0) == 0 for number in range(100))
    assert len(budgets) == 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 40)), max_size=80))
def test_forgetting_the_silent_changes_nothing(sent: list[tuple[str, float]]) -> None:
    budgets, now = Budgets(3, 0), 0.0
    alone = {name: Budgets(3, 0) for name in "abcdef"}
    last: dict[str, float] = {}
    for name, pause in sent:
        now += pause
        found = budgets.take(name, 0, now)
        assert found == alone[name].take(name, 0, now)
        if found == 0:
            last[name] = now
            assert len(budgets) == sum(now - when < MINUTE for when in last.values())


@pytest.mark.parametrize("most", [1, 5])
def test_it_remembers_no_more_than_so_many(most: int) -> None:
    budgets = Budgets(2, 0, most)
    for number in range(100):
        assert budgets.take(f"car-{number}", 0, 0.0) == 0
        assert len(budgets) <= most
    assert budgets.take("car-99", 0, 0.0) == 0
    assert budgets.take("car-99", 0, 0.0) == 30  # the newest is remembered

"""Consumption stops when nearly everything is being rejected, and not for one broken car."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.poison import Outcome, Watch

OUTCOMES = st.tuples(st.sampled_from("abcdef"), st.sampled_from([True, True, True, True, False]))


def bad(count: int, vehicles: int = 20, first: int = 0) -> list[Outcome]:
    return [(f"car-{(first + n) % vehicles}", True) for n in range(count)]


def good(count: int) -> list[Outcome]:
    return [("good", False)] * count


def drive(watch: Watch, batches: Sequence[Sequence[Outcome]]) -> int:
    """How many were rejected until it stopped; -1 if it did not."""
    rejected = 0
    for batch in batches:
        if watch.poisoned(batch):
            return rejected
        watch.handled(batch)
        rejected += sum(gone for _, gone in batch)
    return -1


def test_of_a_queue_of_nothing_else_fewer_are_rejected_than_are_looked_at() -> None:
    for size in (1, 7, 64, 400):
        rejected = drive(Watch(200, 10), [bad(size, first=n * size) for n in range(1000)])
        assert 0 <= rejected < 180
        assert rejected > 180 - 2 * size


def test_the_reason_says_how_many_from_how_many() -> None:
    assert (
        Watch(100, 10).poisoned(bad(90)) == "90 of the last 100 packets, from 20 vehicles, cannot be applied"
    )
    assert Watch(100, 10).poisoned(bad(89)) == ""


def test_one_in_ten_that_can_be_applied_is_not_nearly_everything_rejected() -> None:
    assert drive(Watch(100, 10), [bad(8, first=8 * n) + good(2) for n in range(100)]) == -1
    assert drive(Watch(100, 10), [bad(9, first=9 * n) + good(1) for n in range(100)]) > 0


@pytest.mark.parametrize("vehicles", [1, 9])
def test_a_few_broken_or_hostile_cars_stop_nobody(vehicles: int) -> None:
    assert drive(Watch(200, 10), [bad(64, vehicles) for _ in range(100)]) == -1
    assert drive(Watch(200, 10), [bad(64, 10) for _ in range(100)]) >= 0


def test_what_was_good_before_is_forgotten() -> None:
    watch = Watch(100, 10)
    watch.handled(good(10_000))
    assert 0 < drive(watch, [bad(10, first=10 * n) for n in range(100)]) <= 90


def test_a_batch_without_rejects_is_always_handled() -> None:
    watch = Watch(100, 10)
    watch.handled(bad(100))
    assert watch.poisoned(good(1)) == ""


def test_zero_packets_turn_it_off() -> None:
    assert drive(Watch(0, 1), [bad(400) for _ in range(10)]) == -1


@settings(deadline=None)
@given(
    packets=st.integers(1, 12),
    vehicles=st.integers(1, 4),
    batches=st.lists(st.lists(OUTCOMES, max_size=20), max_size=20),
)
def test_it_is_the_share_of_the_last_packets_and_nothing_else(
    packets: int, vehicles: int, batches: list[list[Outcome]]
) -> None:
    watch = Watch(packets, vehicles)
    handled: list[Outcome] = []
    for batch in batches:
        last = [vehicle for vehicle, gone in (handled + batch)[-packets:] if gone]
        due = len(last) >= 0.9 * packets and len(set(last)) >= vehicles and any(gone for _, gone in batch)
        assert bool(watch.poisoned(batch)) == due
        watch.handled(batch)
        handled += batch

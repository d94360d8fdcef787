"""Runs are a set of whole numbers, and small."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fleetcast.simulator.runs import Runs

NUMBERS = st.integers(0, 60)
SPANS = st.lists(st.tuples(NUMBERS, st.integers(-1, 8)).map(lambda span: (span[0], span[0] + span[1])))


def runs_of(numbers: set[int]) -> Runs:
    runs = Runs()
    for number in sorted(numbers, key=lambda n: (n * 37) % 61):
        runs.add(number)
    return runs


def numbers_in(runs: Runs) -> set[int]:
    return {number for low, high in runs for number in range(low, high + 1)}


@given(SPANS, st.lists(NUMBERS))
def test_is_a_set(spans: list[tuple[int, int]], discards: list[int]) -> None:
    runs, model = Runs(), set[int]()
    for low, high in spans:
        new = set(range(low, high + 1)) - model
        assert runs.add(low, high) == len(new)
        model |= new
    for number in discards:
        assert runs.discard(number) == (number in model)
        model.discard(number)
    assert numbers_in(runs) == model
    assert runs.count() == len(model)
    assert all((number in runs) == (number in model) for number in range(-2, 75))


@given(SPANS)
def test_neighbours_are_one_run(spans: list[tuple[int, int]]) -> None:
    runs = Runs()
    for low, high in spans:
        runs.add(low, high)
    found = list(runs)
    assert all(left[1] + 1 < right[0] for left, right in pairwise(found))


@given(st.sets(NUMBERS), st.sets(NUMBERS))
def test_difference(left: set[int], right: set[int]) -> None:
    found = list(runs_of(left).minus(runs_of(right)))
    assert {n for low, high in found for n in range(low, high + 1)} == left - right
    assert sum(high - low + 1 for low, high in found) == len(left - right)

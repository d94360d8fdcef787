"""Growth's figures: which packet made which version, and slopes."""

from __future__ import annotations

import math

import pytest

from bench.growth import exponent, sights_of


def test_a_line_has_exponent_1_and_a_square_2() -> None:
    assert exponent([(x, 3.0 * x) for x in (1, 2, 4, 8)]) == pytest.approx(1)
    assert exponent([(x, 0.5 * x * x) for x in (1, 2, 4, 8)]) == pytest.approx(2)
    assert math.isnan(exponent([(1, 1)]))


def test_versions_go_on_from_round_to_round() -> None:
    first = [(7, 1, 10, 0), (7, 2, 20, 0), (8, 1, 15, 0)]
    second = [(7, 1, 120, 0), (7, 2, 130, 0)]
    seen = [(7, 2, 11, 0), (7, 3, 22, 0), (7, 4, 125, 0), (7, 4, 126, 0), (7, 5, 136, 0)]
    rounds = [(15, first), (100, second)]
    assert sights_of(rounds, seen, 1) == [[(20, 22)], [(120, 125), (130, 136)]]

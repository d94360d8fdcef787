"""A storm's figures: when all were level, and the fronts' configuration, which stands on the platform's own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("h2", reason="`make setup-bench` installs it")

from bench.storms import Variant, front_text, level, when
from fleetcast.haproxy import configuration
from fleetcast.settings import Settings

SECOND = 1_000_000_000
KILLED, ENDED = 100 * SECOND, 130 * SECOND


def ns(seconds: float) -> int:
    return KILLED + int(seconds * SECOND)


def test_level_is_when_the_last_late_update_was_seen() -> None:
    acked = [(1, 1, ns(2), 0), (2, 1, ns(3), 0), (1, 2, ns(20), 0)]
    seen = [(1, 2, ns(9), 0), (2, 2, ns(12), 0), (1, 3, ns(20.1), 0)]
    assert level(acked, seen, KILLED, ENDED) == (12.0, 0)


def test_an_update_that_was_never_seen_is_missing() -> None:
    assert level([(1, 1, ns(2), 0)], [(2, 2, ns(3), 0)], KILLED, ENDED) == (0.0, 1)


def test_a_reset_leads_past_an_update() -> None:
    acked = [(1, 1, ns(2), 0), (1, 2, ns(3), 0)]
    assert level(acked, [(1, 3, ns(9), 0)], KILLED, ENDED) == (9.0, 0)


def test_what_is_of_other_times_does_not_count() -> None:
    acked = [(1, 1, ns(-5), 0), (1, 2, ns(29), 0)]
    assert level(acked, [], KILLED, ENDED) == (0.0, 0)


def test_back_is_counted_from_when_they_were_gone() -> None:
    assert when([(0, 100), (0.5, 100), (1, 0), (1.5, 98), (2, 99)], 99) == 2
    assert when([(0, 100), (1, 0), (1.5, 98)], 99) == math.inf


@pytest.mark.parametrize("paced", [True, False])
@pytest.mark.parametrize("http2", [True, False])
def test_a_front_is_the_platforms_with_other_bounds(folder: Path, paced: bool, http2: bool) -> None:
    settings = Settings()
    text = configuration(settings, [], folder)["haproxy.cfg"]
    shaped = front_text(text, settings.front_port, Variant(paced, http2))
    changed = set(shaped.splitlines()) - set(text.splitlines())
    assert len(changed) == 2 + http2
    pace = next(line for line in changed if "FLEETCAST_PACE" in line)
    assert int(pace.split()[-1]) == (settings.new_streams // 2 if paced else 1_000_000)
    assert any(line.endswith(f":{settings.front_port} proto h2") for line in changed) == http2

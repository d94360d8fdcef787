"""The doorkeeper's pure parts: lines of nats-server's log, a log that is rotated, and budgets that are asked after the fact."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast.auth import Proof
from fleetcast.budget import Budgets
from fleetcast.mqtt import Forbidden, Tail, forbidden
from fleetcast.nats_callout import user_claims

LINE = '[2269] 2026/11/26 03:19:24.897710 [ERR] 127.0.0.1:56977 - mid:11 - "car-1" - Publish Violation - Subject "{}"'


def test_a_line_about_a_forbidden_publish_is_read() -> None:
    assert forbidden(LINE.format("vehicles.car-2.packets")) == Forbidden(
        "car-1", "127.0.0.1:56977", 11, "vehicles/car-2/packets"
    )


@pytest.mark.parametrize(
    "line",
    [
        "",
        LINE.format("x").replace("Publish", "Subscription"),
        LINE.format("x").replace("mid:", "cid:"),  # one of ours
        LINE.format("x").replace("[ERR]", "[INF]"),
        f"x {LINE.format('x')}",
        # What a client may call itself, or publish to, stands in quotes and escaped.
        r'[1] 2026/11/26 03:19:24 [ERR] 1.2.3.4:5 - mid:1 - "x - mid:7 - \"b\" - Publish Violation - Subject \"y\""',
    ],
)
def test_no_other_line_is(line: str) -> None:
    assert forbidden(line) is None


@given(st.text())
def test_any_text_is_a_line(text: str) -> None:
    forbidden(text)
    found = forbidden(LINE.format(text.replace("\n", "")))
    assert found is None or found.cid == 11


# A log that is rotated


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def by_renaming(path: Path) -> None:
    path.rename(path.with_suffix(".1"))
    path.touch()


def by_truncating(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("rotate", [by_renaming, by_truncating])
def test_a_log_is_followed_over_rotations(tmp_path: Path, rotate: Callable[[Path], None]) -> None:
    path = tmp_path / "log"
    path.write_text("old\n")
    tail = Tail(path)
    assert tail.lines() == []
    append(path, "one\ntw")
    assert tail.lines() == ["one"]
    append(path, "o\nthree\n")
    assert tail.lines() == ["two", "three"]
    for number in range(3):
        rotate(path)
        seen = tail.lines()
        append(path, f"{number}\n")
        seen += tail.lines() + tail.lines()
        assert seen == [f"{number}"]
    tail.close()


def test_a_log_that_comes_later_is_read_from_its_beginning(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    assert tail.lines() == []
    append(tmp_path / "log", "first\n")
    assert tail.lines() == ["first"]
    (tmp_path / "log").unlink()
    assert tail.lines() == []
    tail.close()


def test_what_was_written_before_a_rename_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    tail = Tail(path)
    append(path, "before\n")
    by_renaming(path)
    append(path, "after\n")
    assert tail.lines() + tail.lines() + tail.lines() == ["before", "after"]
    tail.close()


# Budgets

STEPS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5000), st.floats(0, 90)), max_size=30)


@given(STEPS)
def test_who_keeps_within_the_budget_is_never_overdrawn(steps: list[tuple[int, int, float]]) -> None:
    budgets, now = Budgets(60, 6000), 0.0
    for _, _, pause in steps:
        now += max(pause, 1.0)
        budgets.spend("car-1", 1, 100, now)
        assert budgets.overdrawn("car-1", now) == ""


@given(STEPS)
def test_who_sends_more_is_overdrawn_until_it_has_filled(steps: list[tuple[int, int, float]]) -> None:
    """Held against the plain sum: what came in, less what the time since the beginning allows."""
    budgets, now, packets, size = Budgets(60, 6000), 0.0, 60.0, 6000.0
    for count, weight, pause in steps:
        now += pause
        packets = max(min(60.0, packets + pause) - count, -60.0)
        size = max(min(6000.0, size + 100 * pause) - weight, -6000.0)
        budgets.spend("car-1", count, weight, now)
        expected = {"packets"} if packets < -1e-6 else {"bytes"} if size < -1e-6 else {""}
        unsure = abs(packets) < 1e-6 or abs(size) < 1e-6
        assert unsure or budgets.overdrawn("car-1", now) in expected
    assert budgets.overdrawn("car-2", now) == ""
    assert budgets.overdrawn("car-1", now + 60.1) == ""


def test_zero_is_no_limit() -> None:
    budgets = Budgets(0, 0)
    budgets.spend("car-1", 10**9, 10**12, 1.0)
    assert budgets.overdrawn("car-1", 1.0) == ""


# What nats-server is told


@given(st.floats(min_value=-1e18, max_value=1e18), st.integers(1, 2_000_000_000))
def test_a_user_ends_with_its_credentials_or_within_an_hour(until: float, now: int) -> None:
    claims = user_claims(Proof("car-1", until), "U", now)
    assert now < claims["exp"] <= now + 3600
    assert claims["exp"] <= max(until, now + 1)
    assert claims["nats"]["pub"] == {"allow": ["vehicles.car-1.>"]}
    assert claims["nats"]["allowed_connection_types"] == ["MQTT"]

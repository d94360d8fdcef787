"""What py-spy saw is counted and drawn as it is."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.flame import collapsed, library, shares
from bench.question import Flame
from bench.report import boxes, draw_flame
from bench.world import Failed

RAW = """\
run (asyncio/runners.py:118);read (nats/aio/client.py:2103);parse (nats/protocol/parser.py:90) 30
run (asyncio/runners.py:118);read (nats/aio/client.py:2111);parse (nats/protocol/parser.py:95) 20
run (asyncio/runners.py:118);take (fleetcast/nats_queue.py:7) 49
run (asyncio/runners.py:118);_find_spec (<frozen importlib._bootstrap>:1040) 500
run (asyncio/runners.py:118) 1
"""
STACKS = {
    "run (asyncio/runners.py);read (nats/aio/client.py);parse (nats/protocol/parser.py)": 50,
    "run (asyncio/runners.py);take (fleetcast/nats_queue.py)": 49,
    "run (asyncio/runners.py)": 1,
}


def test_stacks_are_summed_without_lines_and_imports() -> None:
    assert collapsed(RAW) == STACKS


@pytest.mark.parametrize(
    ("frame", "name"),
    [
        ("parse (nats/protocol/parser.py)", "nats"),
        ("select (selectors.py)", "selectors"),
        ("main (<frozen runpy>)", "runpy"),
        ("a.<locals>.b (fleetcast/ingest.py)", "fleetcast"),
        ("process 12:python", "the interpreter"),
    ],
)
def test_a_frame_is_of_a_library(frame: str, name: str) -> None:
    assert library(frame) == name


def test_shares_are_of_the_innermost_functions() -> None:
    assert shares("pull", STACKS) == [
        ("pull", "nats", "50.0%", "`parse`, 50.0%"),
        ("pull", "fleetcast", "49.0%", "`take`, 49.0%"),
        ("pull", "asyncio", "1.0%", "`run`, 1.0%"),
    ]
    with pytest.raises(Failed):
        shares("pull", {})


@given(
    st.dictionaries(
        st.lists(st.sampled_from("abc"), min_size=1, max_size=5).map(";".join), st.integers(1, 9), min_size=1
    )
)
def test_a_box_stands_within_the_one_below_and_beside_its_neighbours(stacks: dict[str, int]) -> None:
    found = boxes(stacks)
    near = 1e-9
    assert sum(width for depth, _, width, _ in found if depth == 0) <= 1 + near
    for depth, left, width, _ in found:
        assert width > 0
        if depth:
            assert any(
                low - near <= left and left + width <= low + wide + near
                for other, low, wide, _ in found
                if other == depth - 1
            )
    for depth in {depth for depth, *_ in found}:
        level = sorted((left, width) for other, left, width, _ in found if other == depth)
        for (left, width), (following, _) in itertools.pairwise(level):
            assert left + width <= following + near


def test_it_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="`make setup-bench` installs it")
    draw_flame(Flame("flame-x", "CPU time", STACKS), tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    assert "<script" not in text
    assert all(name in text for name in ("parse", "take", "read", "CPU time"))

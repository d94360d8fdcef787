"""What the benchmark computes, writes and sends is right, apart from what it measures."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.cars import Bodies, Options, vehicle
from bench.question import Answer, Table
from bench.report import filled, markdown
from bench.stats import Records, percentile, show, spread
from bench.world import room
from fleetcast.decode import load
from fleetcast.haproxy import files_needed
from fleetcast.packet import JSON, NDJSON
from fleetcast.settings import Settings

decode = load(Settings().decoders).decode


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_is_a_value_that_this_share_does_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)


@pytest.mark.parametrize("edges", [1, 2, 3, 8])
def test_a_platform_of_the_benchmark_starts_with_20_000_open_files(edges: int) -> None:
    """Those of three edges and more did not, since long-polls had raised what HAProxy needs."""
    numbers = range(edges)
    settings = Settings(
        edges=edges,
        edge_connections=room(edges),
        edge_sub=tuple(f"127.0.0.1:{9003 + 10 * number}" for number in numbers),
        edge_http=tuple(f"127.0.0.1:{9004 + 10 * number}" for number in numbers),
    )
    assert files_needed(settings) <= 20_000


def test_figures_are_shown_with_three_digits_that_count() -> None:
    assert [show(value) for value in (0.01234, 1.0, 12.345, 123.4, 1234.5, 3, "text")] == [
        "0.0123", "1", "12.3", "123", "1,234", "3", "text",
    ]  # fmt: skip
    assert spread([3.0, 1.0, 2.0]) == "2 (1 to 3)"
    assert spread([2.0]) == "2"


def test_records_come_back_from_their_files(tmp_path: Path) -> None:
    one, other = Records(), Records()
    one.add(1, 2, 3, 4)
    other.add(5, 6, 7)
    one.save(tmp_path / "a")
    other.save(tmp_path / "b")
    assert list(Records.load(tmp_path / "a", tmp_path / "b")) == [(1, 2, 3, 4), (5, 6, 7, 0)]


@pytest.mark.parametrize(
    ("size", "form"), [(0, "json"), (500_000, "ndjson"), (500_000, "json"), (1_000_000, "ndjson")]
)
def test_packets_are_what_a_vehicle_sends(size: int, form: str) -> None:
    options = Options(port=0, cars=10, rate=1, size=size, form="json" if form == "json" else "ndjson")
    body = Bodies(options).body(7, 3)
    packet = decode(body, JSON if form == "json" else NDJSON, "zstd" if size else "identity", 1_048_576)
    assert (packet.vehicle, packet.boot, packet.seq) == (vehicle(7), 2, 3)
    assert packet.signals["Vehicle.Speed"].value == 20 + (7 * 7 + 3) % 100 + 0.5
    if size:
        assert size / 10 < len(body) < size
        assert packet.samples()


def test_a_document_is_filled_in_its_places_and_nowhere_else() -> None:
    document = (
        "before\n<!-- bench one -->\nold\n<!-- end -->\nbetween\n<!-- bench two -->\n<!-- end -->\nafter\n"
    )
    new = filled(document, {"one": "new\n", "two": "more\n"})
    assert new == document.replace("old", "new").replace("two -->\n", "two -->\nmore\n")
    assert filled(new, {"one": "new\n"}) == new
    with pytest.raises(ValueError, match="0 places for three"):
        filled(document, {"three": ""})


def test_a_table_in_markdown() -> None:
    table = Table("Title", ("what", "ms"), [("a", 1.234), ("b", 1000)], "A note.")
    assert (
        markdown(table)
        == "**Title**\n\n| what | ms |\n| --- | --: |\n| a | 1.23 |\n| b | 1,000 |\n\nA note.\n"
    )
    assert Answer([table]).broken == ()


def test_a_seed_makes_the_same_packets_again() -> None:
    options = Options(port=0, cars=10, rate=1, size=20_000, seed=random.randrange(1000))
    assert Bodies(options)._tails == Bodies(options)._tails

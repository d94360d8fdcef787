"""A plan grows as the fleet does, and never says less than one of anything that is needed."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast.commands import main
from fleetcast.commands.plan import COSTS
from fleetcast.plan import Costs, Fleet, Row, between, plan

FLEETS = st.builds(
    Fleet,
    registered=st.integers(1, 10_000_000),
    streaming=st.integers(1, 1_000_000),
    per_minute=st.floats(1, 120),
    mqtt=st.floats(0, 1),
    size=st.integers(1_000, 1_048_576),
    phones=st.integers(0, 5_000_000),
    replicas=st.sampled_from([1, 3, 5]),
    headroom=st.floats(0.1, 1),
)


@pytest.fixture(scope="module")
def costs() -> Costs:
    return msgspec.json.decode(COSTS.read_bytes(), type=Costs)


@given(FLEETS, st.sampled_from(["registered", "streaming", "per_minute", "size", "phones", "replicas"]))
def test_more_of_anything_never_needs_less(costs: Costs, fleet: Fleet, what: str) -> None:
    more = msgspec.structs.replace(fleet, **{what: 2 * getattr(fleet, what)})
    before, after = plan(fleet, costs), plan(more, costs)
    assert after.busy >= before.busy * 0.999
    assert after.shards >= before.shards
    assert after.disk_gb >= before.disk_gb * 0.999
    assert after.memory_gb >= before.memory_gb * 0.999


@given(FLEETS)
def test_no_process_has_more_to_do_than_it_can(costs: Costs, fleet: Fleet) -> None:
    found = plan(fleet, costs)
    for row in found.rows:
        assert row.processes >= 1
        if row.role != "nats-server":  # which uses all cores of its machine
            assert row.cores <= row.processes * fleet.headroom * 1.001
    assert found.cores == pytest.approx(found.busy / fleet.headroom)


def test_updates_are_counted_for_each_phone() -> None:
    assert Fleet(streaming=600, per_minute=60, phones=0).updates == 0
    assert Fleet(streaming=600, per_minute=60, phones=300).updates == pytest.approx(300)
    assert Fleet(streaming=600, per_minute=60, phones=1200).updates == pytest.approx(1200)


@given(FLEETS)
def test_vehicles_by_mqtt_take_memory_of_nats_server_and_no_time_of_ingest(
    costs: Costs, fleet: Fleet
) -> None:
    def rows(mqtt: float) -> dict[str, Row]:
        found = plan(msgspec.structs.replace(fleet, mqtt=mqtt), costs)
        return {row.role: row for row in found.rows}

    none, all_ = rows(0), rows(1)
    each = between(costs.connection, fleet.size)
    grown = all_["nats-server"].memory_gb - none["nats-server"].memory_gb
    assert grown == pytest.approx(fleet.streaming * each / 1e6, rel=1e-3, abs=1e-9)
    assert all_["ingest"].cores == 0 < none["ingest"].cores
    assert all_["consume"] == none["consume"]


def test_between_points_lies_a_line_and_beyond_them_none() -> None:
    points = [(0.0, 10.0), (100.0, 20.0), (200.0, 60.0)]
    assert [between(points, x) for x in (-5, 0, 50, 100, 150, 200, 900)] == [10, 10, 15, 20, 40, 60, 60]
    assert between([(5.0, 7.0)], 1) == between([(5.0, 7.0)], 9) == 7


def test_the_command_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--streaming", "50000", "--phones", "5000"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("nats-server", "consume", "shards", "assumed:"))
    assert main(["plan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shards"] >= 1


@pytest.mark.parametrize(
    "arguments", [["--streaming", "0"], ["--headroom", "2"], ["--mqtt", "1.5"], ["--costs", "/nowhere"]]
)
def test_what_makes_no_plan_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_costs_that_are_none_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "costs.json").write_text('{"machine": 1}')
    assert main(["plan", "--costs", str(tmp_path / "costs.json")]) == 2
    assert "machine" in capsys.readouterr().err

import random
from itertools import islice

import pytest

from bench.cars import turn
from bench.latency import ways_of
from bench.stats import Records
from bench.streams import Step, slope
from fleetcast.explain import Trace

MS = 1_000_000


def test_each_turn_has_every_vehicle_once_in_an_order_of_its_own() -> None:
    numbers = turn(50, random.Random(1))
    first, second = list(islice(numbers, 50)), list(islice(numbers, 50))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


def test_without_chance_vehicles_come_in_turn() -> None:
    assert list(islice(turn(3, None), 7)) == [0, 1, 2, 0, 1, 2, 0]


def test_hops_add_up_from_due_to_seen_over_two_clocks() -> None:
    offset = 1_700_000_000 * 1000 * MS
    sent, seen = Records(), {(7, 2): 112 * MS}
    sent.add(7, 2, 104 * MS, 100 * MS)
    wall = 1_700_000_000.0
    trace = Trace(
        "car-000007", "2/2", 2, 9, "", wall + 0.102, wall + 0.103, wall + 0.108, wall + 0.109, "consume-0", ()
    )
    hops = ways_of([trace], sent, seen, 0, 200 * MS, offset)
    assert [round(values[0], 2) for values in hops.values()] == [2, 2, -1, 5, 1, 4]


def test_a_trace_of_a_packet_from_another_time_counts_for_nothing() -> None:
    sent = Records()
    sent.add(7, 2, 104 * MS, 100 * MS)
    trace = Trace("car-000007", "2/2", 2, 9, "", 0, 0, 0, 0, "consume-0", ())
    assert not any(ways_of([trace], sent, {(7, 2): 105 * MS}, 110 * MS, 200 * MS, 0).values())


def test_the_slope_is_kb_a_stream_whatever_the_replicas_take_without() -> None:
    grown = [
        Step(streams, {"condure": 90 + streams * 0.04}, 0, 0, 0, 0, 0, 0, 0, 0)
        for streams in (0, 5000, 10_000)
    ]
    assert slope(grown, lambda step: step.servers) == pytest.approx(40)

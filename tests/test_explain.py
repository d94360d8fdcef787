from typing import Any

import msgspec
import pytest

from fleetcast.explain import Known, Trace, Traces, counted, hops, sentence
from fleetcast.nats_explain import Told, together
from fleetcast.state import State
from fleetcast.tally import Tally

TRACE = Trace(
    vehicle="car-1",
    packet="1/7",
    version=7,
    position=70,
    sent_at="2026-11-23T10:00:00.000Z",
    stored=1795428000.1,
    handled=1795428000.102,
    committed=1795428000.112,
    published=1795428000.1125,
    member="consume-1",
    replicas=["127.0.0.1:5562"],
)
STATE = State("car-1", 7, "2026-11-23T10:00:00.100Z", boot=1, seq=7, position=70)
KNOWN = Known(now=1795428004.1, state=STATE, waiting=0, rejected="", trace=TRACE)


def known(**changes: Any) -> Known:
    return msgspec.structs.replace(KNOWN, **changes)


def test_each_hop_of_the_last_packet_with_its_time() -> None:
    found = hops(KNOWN)
    assert [hop for hop, _, _ in found] == ["sent", "stored", "handled", "committed", "published"]
    assert [time for _, time, _ in found] == sorted(time for _, time, _ in found)
    remarks = " ".join(remark for _, _, remark in found)
    for word in (
        "position 70",
        "2.0 ms later, by consume-1",
        "10.0 ms later, as version 7",
        "127.0.0.1:5562",
    ):
        assert word in remarks


def test_a_packet_that_nobody_listened_to_is_said_to_be() -> None:
    trace = msgspec.structs.replace(TRACE, replicas=[])
    assert "no phone listens" in hops(known(trace=trace))[-1][2]


@pytest.mark.parametrize("trace", [None, msgspec.structs.replace(TRACE, version=6, position=69)])
def test_what_is_not_remembered_is_not_made_up(trace: Trace | None) -> None:
    assert [hop for hop, _, _ in hops(known(trace=trace))] == ["stored"]


def test_a_vehicle_that_never_sent_has_no_hops() -> None:
    assert hops(known(state=State("car-1"), trace=None)) == []


@pytest.mark.parametrize(
    ("changes", "updated", "said"),
    [
        ({}, 1795428000.1, "4.0 s old"),
        ({"now": 1795428000.1 + 600}, 1795428000.1, "10 min old"),
        ({"now": 1795428000.1 - 5}, 1795428000.1, "0.0 s old"),
        ({"waiting": 1}, 1795428000.1, "1 packet waits in the queue"),
        ({"waiting": 3}, 1795428000.1, "3 packets wait in the queue"),
        ({"rejected": "enricher x raised"}, 1795428000.1, "rejected (enricher x raised)"),
        ({"rejected": "not a packet"}, None, "rejected (not a packet)"),
        ({}, None, "never sent"),
    ],
)
def test_one_sentence_says_why(changes: dict[str, Any], updated: float | None, said: str) -> None:
    text = sentence(known(**changes), updated)
    assert said in text
    assert "\n" not in text


def test_a_clock_that_is_not_believed_is_said_to_be() -> None:
    skewed = msgspec.structs.replace(TRACE, skewed=True)
    assert hops(known(trace=skewed))[0][2] == "by the vehicle's own clock, which is not believed"
    assert hops(known())[0][2] == "by the vehicle's own clock"


def test_what_was_counted_stands_in_one_line() -> None:
    told = known(tally=Tally(1, 2, 3, 4), since="2026-11-23T09:00:00.000Z", kept=5)
    assert counted(told) == (
        "duplicate 1, late 2, skewed 3, rejected 4 since 2026-11-23T09:00:00.000Z; 5 in REJECTED"
    )
    assert counted(known()) == "duplicate 0, late 0, skewed 0, rejected 0; 0 in REJECTED"


def test_several_processes_are_one_answer() -> None:
    older = msgspec.structs.replace(TRACE, version=6, member="consume-0")
    told = [
        Told(older, Tally(late=1), "2026-11-23T09:00:00.000Z"),
        Told(None, Tally(duplicate=2), "2026-11-23T08:00:00.000Z"),
        Told(TRACE, Tally(late=2), "2026-11-23T10:00:00.000Z"),
    ]
    assert together(told) == Told(TRACE, Tally(duplicate=2, late=3), "2026-11-23T08:00:00.000Z")
    assert together([]) == Told()


def test_the_traces_of_the_vehicles_handled_last_are_kept() -> None:
    traces = Traces(2)
    for vehicle in ("a", "b", "a", "c"):
        traces.note(msgspec.structs.replace(TRACE, vehicle=vehicle))
    assert [traces.get(vehicle) is not None for vehicle in "abc"] == [True, False, True]


def test_a_trace_survives_its_way_over_the_wire() -> None:
    assert msgspec.json.decode(msgspec.json.encode(TRACE), type=Trace) == TRACE

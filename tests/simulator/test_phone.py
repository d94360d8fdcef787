"""A phone finds every kind of fault in a stream, and none in a good one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast.simulator.phone import Covered, Packet, Phone, merged

CAR = "car-00001"


def signals(seq: int, boot: int = 1, **more: Any) -> dict[str, Any]:
    return {"Simulator.Packet": {"value": [boot, seq], "at": "2026-01-01T00:00:00.000Z"}, **more}


def event(phone: Phone, name: str, when: float = 0.0, **document: Any) -> None:
    phone.on_event(f"e-{document.get('version')}", name, msgspec.json.encode(document).decode(), when)


def snapshot(phone: Phone, version: int, view: dict[str, Any] | None = None, vehicle: str = CAR) -> None:
    event(phone, "snapshot", vehicle=vehicle, version=version, updated_at=None, signals=view or {})


def update(
    phone: Phone,
    version: int,
    prev: int | None = None,
    seq: int | None = None,
    vehicle: str = CAR,
    boot: int = 1,
) -> None:
    event(
        phone,
        "update",
        when=float(version),
        vehicle=vehicle,
        version=version,
        prev=version - 1 if prev is None else prev,
        updated_at="2026-01-01T00:00:00.000Z",
        signals=signals(version if seq is None else seq, boot),
    )


def reset(phone: Phone, reason: str) -> None:
    phone.on_event("e-9", "reset", f'{{"reason":"{reason}","from":3,"to":9}}')


def latest(version: int, view: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"vehicle": CAR, "version": version, "updated_at": None, "signals": view})


def watching(version: int = 3) -> Phone:
    phone = Phone(CAR)
    snapshot(phone, version, signals(version) if version else None)
    return phone


def found(phone: Phone) -> dict[str, int]:
    """The faults it counted, without those that are none."""
    counts = msgspec.structs.asdict(phone.counts)
    return {
        k: v
        for k, v in counts.items()
        if v and k not in {"updates", "statuses", "unnamed", "snapshots", "unavailable"}
    }


def test_an_update_that_names_no_packet_is_counted_and_is_no_fault() -> None:
    phone = watching(3)
    update(phone, 4)
    late = {"Vehicle.Speed": {"value": 1, "at": "t"}}
    event(phone, "update", vehicle=CAR, version=5, prev=4, updated_at=None, signals=late)
    event(phone, "update", vehicle=CAR, version=6, prev=5, updated_at=None, signals={})
    assert (phone.counts.updates, phone.counts.unnamed, found(phone), phone.version) == (3, 2, {}, 6)


def test_a_good_stream() -> None:
    phone = watching(3)
    for version in range(4, 10):
        update(phone, version)
    assert (phone.counts.updates, phone.counts.snapshots, found(phone), phone.faults) == (6, 1, {}, [])
    assert phone.last_event_id == "e-9"
    assert phone.take_snapshots() == [Covered(Packet(1, 3), 3)]
    assert [(s.packet.seq, s.version, s.when) for s in phone.take_seen()] == [
        (v, v, float(v)) for v in range(4, 10)
    ]
    assert (phone.take_seen(), phone.take_snapshots()) == ([], [])


def test_a_vehicle_that_never_sent_goes_live() -> None:
    phone = watching(0)
    assert phone.take_snapshots() == [Covered(Packet(0, 0), 0)]
    assert phone.level(None)
    update(phone, 1)
    assert found(phone) == {}
    assert phone.difference(None) == "the phone has version 1, the platform has none"


def test_a_view_may_skip_versions() -> None:
    phone = watching(3)
    update(phone, 7, prev=3)
    update(phone, 9, prev=7)
    assert found(phone) == {}


def test_a_gap_is_lost() -> None:
    phone = watching(3)
    update(phone, 7)
    assert found(phone) == {"lost": 3}
    assert phone.faults == ["versions 4 to 6 are missing"]


def test_what_comes_late_is_not_lost_but_out_of_order() -> None:
    phone = watching(3)
    update(phone, 6)
    update(phone, 4)
    assert found(phone) == {"lost": 1, "reordered": 1}
    assert [s.version for s in phone.take_seen()] == [6, 4]
    update(phone, 4)
    assert found(phone) == {"lost": 1, "reordered": 1, "twice": 1}


@pytest.mark.parametrize("again", [2, 3, 5])
def test_a_version_that_it_has_came_twice(again: int) -> None:
    phone = watching(3)
    update(phone, 4)
    update(phone, 5)
    update(phone, again)
    assert found(phone) == {"twice": 1}
    assert phone.version == 5


@pytest.mark.parametrize("seq", [2, 3, 4])
def test_a_packet_that_was_applied_again_came_twice(seq: int) -> None:
    phone = watching(3)
    update(phone, 4)
    update(phone, 5, seq=seq)
    assert found(phone) == {"twice": 1}


def test_packets_applied_out_of_order() -> None:
    phone = watching(3)
    update(phone, 4, seq=5)
    update(phone, 5, seq=4)
    assert found(phone) == {"reordered": 1}
    update(phone, 6, seq=1, boot=2)
    update(phone, 7, seq=6, boot=1)
    assert found(phone) == {"reordered": 2}


def test_a_chain_that_went_back() -> None:
    phone = watching(3)
    update(phone, 5, prev=2)
    assert found(phone) == {"reordered": 1}


def test_an_update_before_any_snapshot() -> None:
    phone = Phone(CAR)
    update(phone, 1)
    assert found(phone) == {"reordered": 1}
    assert phone.version is None


def test_an_announced_reset() -> None:
    phone = watching(3)
    reset(phone, "expired")
    snapshot(phone, 9, signals(9))
    update(phone, 10)
    assert found(phone) == {"resets": 1}
    assert phone.take_snapshots() == [Covered(Packet(1, 3), 3), Covered(Packet(1, 9), 9)]
    assert phone.faults == ["reset (expired) from 3 to 9, at version 3"]


def test_a_reset_keeps_what_was_lost_before_it() -> None:
    phone = watching(3)
    update(phone, 5)
    reset(phone, "foreign")
    snapshot(phone, 1, signals(1))
    update(phone, 2)
    assert found(phone) == {"lost": 1, "resets": 1}


def test_an_update_between_reset_and_snapshot() -> None:
    phone = watching(3)
    reset(phone, "expired")
    update(phone, 4)
    assert found(phone) == {"resets": 1, "reordered": 1}


def test_a_snapshot_without_a_reset_hides_a_loss() -> None:
    phone = watching(3)
    snapshot(phone, 5, signals(5))
    assert found(phone) == {"resets": 1, "lost": 2}
    assert phone.take_snapshots() == [Covered(Packet(1, 3), 3)]
    snapshot(phone, 5, signals(5))
    assert found(phone) == {"resets": 2, "lost": 2}
    snapshot(phone, 4, signals(4))
    assert found(phone) == {"resets": 3, "lost": 2, "reordered": 1}


def test_unavailable_is_no_fault_and_keeps_the_place() -> None:
    phone = watching(3)
    phone.on_event(phone.last_event_id, "unavailable", '{"reason":"origin away"}')
    assert (phone.counts.unavailable, found(phone), phone.last_event_id) == (1, {}, "e-3")
    update(phone, 4)
    assert found(phone) == {}


def test_an_event_of_another_vehicle_changes_nothing() -> None:
    phone = watching(3)
    update(phone, 4, vehicle="car-00002")
    snapshot(phone, 9, vehicle="car-00002")
    assert found(phone) == {"foreign": 2}
    assert phone.version == 3


@pytest.mark.parametrize(
    ("name", "data"),
    [
        *((name, data) for name in ("snapshot", "update", "reset") for data in ("", "{", "[]")),
        *((name, data) for name in ("snapshot", "update") for data in ('{"vehicle":"a"}', '{"version":"4"}')),
    ],
)
def test_what_cannot_be_read(name: str, data: str) -> None:
    phone = watching(3)
    phone.on_event("x", name, data)
    assert found(phone) == {"malformed": 1}


def test_events_of_unknown_names_are_for_later() -> None:
    phone = watching(3)
    phone.on_event("e-3", "heartbeat", "{}")
    assert found(phone) == {}


def test_faults_are_counted_beyond_those_that_are_told() -> None:
    phone = watching(3)
    for _ in range(100):
        update(phone, 2)
    assert phone.counts.twice == 100
    assert len(phone.faults) == 20
    assert phone.report()["twice"] == 100


def test_level_compares_versions_and_signals() -> None:
    phone = watching(3)
    view = signals(3)
    assert phone.level(latest(3, view))
    assert phone.difference(latest(4, view)) == "the phone has version 3, the latest is 4"
    assert "1 signals differ, first Speed" in phone.difference(latest(3, view | {"Speed": {"value": 1}}))
    assert "is of car-9" in phone.difference(latest(3, view).replace(b"car-00001", b"car-9"))
    assert "cannot be read" in phone.difference(b"<html>")
    assert phone.difference(None)


# The examples of RFC 7396, appendix A.
@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: Any, patch: Any, result: Any) -> None:
    assert merged(target, patch) == result


VIEWS = st.dictionaries(
    st.sampled_from("abcd"),
    st.fixed_dictionaries({"value": st.integers(0, 3), "at": st.sampled_from("xy")}),
    max_size=4,
)


@given(VIEWS, st.lists(VIEWS, max_size=6))
def test_snapshot_and_patches_come_to_the_latest_state(
    first: dict[str, Any], views: list[dict[str, Any]]
) -> None:
    phone = Phone(CAR)
    snapshot(phone, 5, first)
    before = first
    for version, view in enumerate(views, 6):
        patch = {path: view.get(path) for path in {*before, *view} if before.get(path) != view.get(path)}
        event(phone, "update", vehicle=CAR, version=version, prev=version - 1, updated_at=None, signals=patch)
        before = view
    assert found(phone) == {}
    assert phone.difference(latest(5 + len(views), before)) == ""


@given(st.integers(2, 12), st.data())
def test_any_one_fault_in_a_stream_is_found(length: int, data: st.DataObject) -> None:
    versions = list(range(1, length + 1))
    kind = data.draw(st.sampled_from(["drop", "again", "swap"]))
    place = data.draw(st.integers(0, length - 2))
    if kind == "drop":
        del versions[place]
    elif kind == "again":
        versions.insert(data.draw(st.integers(place + 1, length)), versions[place])
    else:
        versions[place], versions[place + 1] = versions[place + 1], versions[place]
    phone = watching(0)
    for version in versions:
        update(phone, version)
    assert found(phone) == {{"drop": "lost", "again": "twice", "swap": "reordered"}[kind]: 1}


def test_a_status_is_a_link_of_the_chain_and_no_packet() -> None:
    phone = Phone("car-1")
    phone.on_event("a-1", "snapshot", '{"vehicle":"car-1","version":1,"updated_at":"t","signals":{}}')
    status = '{"vehicle":"car-1","version":%d,"prev":%d,"updated_at":"t","signals":{},"status":"quiet","since":"u"}'
    phone.on_event("a-2", "status", status % (2, 1))
    assert (phone.version, found(phone), phone.counts.statuses, phone.counts.updates) == (2, {}, 1, 0)
    assert phone.take_seen() == []
    phone.on_event("a-4", "status", status % (4, 3))
    assert found(phone) == {"lost": 1}

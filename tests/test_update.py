"""Snapshot and updates lead to the latest state, by our own means and by anybody's RFC 7396."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.packet import Signal
from fleetcast.state import State
from fleetcast.update import Snapshot, Update, diff, merged, patched, snapshot

# Few paths, times and values, so that signals stay, change, go and come back.
SIGNALS = st.builds(
    Signal,
    st.sampled_from([0, 1, 2.5, "", "null", "1", []]) | st.lists(st.sampled_from([0, "a", "b"]), max_size=2),
    st.sampled_from(["2026-11-23T10:00:00.000Z", "2026-11-23T10:00:01.000Z"]),
    st.booleans(),
)
VIEWS = st.dictionaries(st.sampled_from(["a", "a.b", "b", "c", "é", "~1/\n", ""]), SIGNALS, max_size=6)
HISTORIES = st.lists(VIEWS, min_size=1, max_size=8)


def states(views: list[dict[str, Signal]]) -> list[State]:
    return [State("car", version, f"t{version}", signals) for version, signals in enumerate(views)]


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2, word for word."""
    if not isinstance(patch, dict):
        return patch
    if not isinstance(target, dict):
        target = {}
    for name, value in patch.items():
        if value is None:
            if name in target:
                del target[name]
        else:
            target[name] = merge_patch(target.get(name), value)
    return target


def document(value: Snapshot | Update) -> Any:
    return json.loads(msgspec.json.encode(value))


@settings(deadline=None)
@given(HISTORIES)
def test_snapshot_and_all_updates_are_the_final_state(views: list[dict[str, Signal]]) -> None:
    history = states(views)
    view = snapshot(history[0])
    for before, after in pairwise(history):
        view = patched(view, diff(before, after))
        assert view == snapshot(after)
    assert view == snapshot(history[-1])


@settings(deadline=None)
@given(HISTORIES, st.data())
def test_a_phone_gets_there_by_rfc_7396(views: list[dict[str, Signal]], data: st.DataObject) -> None:
    """On the JSON documents as they are sent, from any snapshot on, with somebody else's merge patch."""
    history = states(views)
    start = data.draw(st.integers(0, len(history) - 1))
    signals = document(snapshot(history[start]))["signals"]
    for before, after in pairwise(history[start:]):
        signals = merge_patch(signals, document(diff(before, after))["signals"])
    assert json.dumps(signals, sort_keys=True) == json.dumps(
        document(snapshot(history[-1]))["signals"], sort_keys=True
    )


@settings(deadline=None)
@given(HISTORIES, st.data())
def test_updates_made_one_lead_where_they_led_one_by_one(
    views: list[dict[str, Signal]], data: st.DataObject
) -> None:
    """Cut into runs anywhere; by our own means, and by anybody's on the JSON that is sent."""
    history = states(views)
    updates = [diff(before, after) for before, after in pairwise(history)]
    view, signals = snapshot(history[0]), document(snapshot(history[0]))["signals"]
    while updates:
        many = data.draw(st.integers(1, len(updates)))
        one, updates = merged(updates[:many]), updates[many:]
        view = patched(view, one)
        signals = merge_patch(signals, document(one)["signals"])
        assert view == snapshot(history[one.version])
        assert signals == document(view)["signals"]
        assert set(document(one)) == {"vehicle", "version", "prev", "updated_at", "signals"}


def test_a_mark_that_was_taken_away_stays_taken_away_in_what_is_made_one() -> None:
    signal = {"marked": Signal(1, "t", skewed=True), "gone": Signal(1, "t", skewed=True)}
    history = states([signal, {"marked": Signal(2, "t")}, {"marked": Signal(3, "t"), "gone": Signal(3, "t")}])
    one = merged([diff(before, after) for before, after in pairwise(history)])
    assert document(one)["signals"] == {
        "marked": {"value": 3, "at": "t", "skewed": None},
        "gone": {"value": 3, "at": "t", "skewed": None},
    }


@settings(deadline=None)
@given(VIEWS, VIEWS)
def test_an_update_holds_what_changed_and_no_more(one: dict[str, Signal], other: dict[str, Signal]) -> None:
    before, after = states([one, other])
    update = diff(before, after)
    assert (update.vehicle, update.prev, update.version, update.updated_at) == ("car", 0, 1, "t1")
    unchanged = {path for path in one if one[path] == other.get(path)}
    assert update.signals.keys() == (one.keys() | other.keys()) - unchanged
    for path, signal in update.signals.items():
        if signal is not None and signal.skewed is None:
            assert one[path].skewed, "a null only where a mark is to be taken away"
            assert msgspec.structs.replace(signal, skewed=False) == other.get(path)
        else:
            assert signal == other.get(path)


@pytest.mark.parametrize(("one", "other"), [(1, True), (0, False), ([1], [True]), ([0, "a"], [False, "a"])])
def test_true_is_not_one(one: Any, other: Any) -> None:
    """To Python they are equal; in JSON, and so to a phone, they are not."""
    before, after = states([{"a": Signal(one, "t")}, {"a": Signal(other, "t")}])
    found = patched(snapshot(before), diff(before, after))
    assert json.dumps(document(found)["signals"]) == json.dumps(document(snapshot(after))["signals"])


def test_the_documents_are_those_of_the_contract() -> None:
    at = "2026-11-23T10:00:00.000Z"
    before = State("car", 4, "t4", {"a": Signal(1, at), "b": Signal("x", at)}, memory={"secret": {"x": 1}})
    after = State("car", 5, "t5", {"a": Signal([1, "y"], at)}, boot=3, seq=9)
    assert document(snapshot(before)) == {
        "vehicle": "car",
        "version": 4,
        "updated_at": "t4",
        "signals": {"a": {"value": 1, "at": at}, "b": {"value": "x", "at": at}},
    }
    assert document(diff(before, after)) == {
        "vehicle": "car",
        "version": 5,
        "prev": 4,
        "updated_at": "t5",
        "signals": {"a": {"value": [1, "y"], "at": at}, "b": None},
    }


def test_an_update_survives_its_storing() -> None:
    before, after = states([{"a": Signal(1, "t"), "b": Signal(2.5, "t")}, {"a": Signal([True, "x"], "t")}])
    update = diff(before, after)
    assert msgspec.json.decode(msgspec.json.encode(update), type=Update) == update


@pytest.mark.parametrize(
    "update",
    [
        Update("car", 7, 6, "", {}),  # one was missed
        Update("car", 5, 4, "", {}),  # it was there already
        Update("car", 6, 4, "", {}),
        Update("other", 6, 5, "", {}),
    ],
)
def test_an_update_that_does_not_follow_is_refused(update: Update) -> None:
    with pytest.raises(ValueError, match="does not follow version 5"):
        patched(Snapshot("car", 5, "", {}), update)
    assert patched(Snapshot("car", 5, "", {}), Update("car", 9, 5, "", {})).version == 9

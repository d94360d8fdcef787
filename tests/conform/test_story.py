"""The suite's own bookkeeping: it takes every stream that is right, and none that is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast.conform import story
from fleetcast.conform.events import Event
from fleetcast.conform.shapes import View
from fleetcast.conform.words import Failed
from fleetcast.packet import Signal
from fleetcast.update import Snapshot, Update, patched

AT = "2026-11-23T10:00:00.000Z"
_SIGNAL = st.builds(
    lambda value: Signal(value, AT), st.one_of(st.booleans(), st.integers(0, 9), st.text(max_size=3))
)
_PATHS = st.sampled_from(["a", "b", "c", "ä"])


def encoded(name: str, view: Snapshot | Update) -> Event:
    body: dict[str, Any] = {"vehicle": view.vehicle, "version": view.version, "updated_at": view.updated_at}
    body["signals"] = {
        path: None if signal is None else {"value": signal.value, "at": signal.at}
        for path, signal in view.signals.items()
    }
    if isinstance(view, Update):
        body["prev"] = view.prev
    return Event(name, json.dumps(body), str(view.version), str(view.version))


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Event], list[Snapshot]]:
    """A right stream, and the views that the platform's own code says it shows."""
    view = Snapshot("v", draw(st.integers(0, 5)), AT, draw(st.dictionaries(_PATHS, _SIGNAL)))
    events, views = [encoded("snapshot", view)], [view]
    for _ in range(draw(st.integers(0, 6))):
        version = view.version + draw(st.integers(1, 3))
        changed = draw(st.dictionaries(_PATHS, st.one_of(_SIGNAL, st.none()), min_size=1))
        update = Update("v", version, view.version, AT, changed)
        view = patched(view, update)
        events.append(encoded("update", update))
        views.append(view)
        if draw(st.booleans()):
            events.append(
                Event(draw(st.sampled_from(["news", "message"])), "not JSON")
            )  # may be added one day
    return events, views


@given(streams())
def test_a_right_stream_adds_up_to_what_the_platform_says(given: tuple[list[Event], list[Snapshot]]) -> None:
    events, views = given
    told = story.tell(events, "v")
    assert list(told.views) == [view.version for view in views]
    for view in views:
        shown = {path: {"value": s.value, "at": s.at} for path, s in view.signals.items()}
        assert told.views[view.version].signals == shown
    assert (told.snapshots, len(told.updates), told.resets) == (1, len(views) - 1, [])


@given(streams(), st.data())
def test_without_one_of_its_events_or_with_one_twice_or_swapped_it_is_refused(
    given: tuple[list[Event], list[Snapshot]], data: st.DataObject
) -> None:
    events = [event for event in given[0] if event.name in ("snapshot", "update")]
    if len(events) < 3:
        return
    which = data.draw(st.integers(0, len(events) - 2))
    before, one, after = events[:which], events[which], events[which + 1 :]
    for wrong in ([*before, *after], [*before, one, one, *after], [*before, after[0], one, *after[1:]]):
        with pytest.raises(Failed):
            story.tell(wrong, "v")


@given(streams(), st.data())
def test_who_comes_back_goes_on_from_the_view_that_it_has(
    given: tuple[list[Event], list[Snapshot]], data: st.DataObject
) -> None:
    events = [event for event in given[0] if event.name in ("snapshot", "update")]
    left = data.draw(st.integers(1, len(events)))
    at = story.tell(events[:left], "v").at
    again = story.tell(events[left:], "v", at)
    assert again.at == story.tell(events, "v").at
    assert again.snapshots == 0


def snap(version: int, vehicle: str = "v") -> Event:
    return encoded("snapshot", Snapshot(vehicle, version, AT, {}))


def reset(to: str) -> Event:
    return Event("reset", json.dumps({"vehicle": "v", "reason": "foreign", "from": "x", "to": to}))


def test_a_reset_is_followed_by_its_snapshot() -> None:
    told = story.tell([reset("3"), snap(3)], "v", View("v", 1, AT, {}))
    assert told.resets == [("foreign", "x", "3")]
    assert told.at == View("v", 3, AT, {})
    update = encoded("update", Update("v", 2, 1, AT, {}))
    for wrong in (
        [reset("3"), snap(4)],
        [reset("3"), update],
        [reset("3"), reset("3")],
        [snap(1)],
        [snap(2), snap(3)],
    ):
        with pytest.raises(Failed):
            story.tell(wrong, "v", View("v", 1, AT, {}))


def test_an_event_of_another_vehicle_is_refused() -> None:
    with pytest.raises(Failed, match="w on the stream of v"):
        story.tell([snap(1, "w")], "v")


def test_a_version_that_does_not_rise_is_refused() -> None:
    with pytest.raises(Failed, match="does not lead on"):
        story.tell([snap(1), encoded("update", Update("v", 1, 1, AT, {}))], "v")


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 7396, appendix A
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
def test_patches_are_merged_by_the_rfc(target: object, patch: object, result: object) -> None:
    assert story.merged(target, patch) == result

"""What the suite takes for an answer or an event is what docs/openapi.yaml says, member by member."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetcast.conform import shapes
from fleetcast.conform.words import Failed
from fleetcast.sse import Parser
from tests.docs.test_openapi import read_yaml

DOCUMENT = read_yaml((Path(__file__).parents[2] / "docs" / "openapi.yaml").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]
JUDGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "snapshot": shapes.snapshot,
    "update": shapes.update,
    "reset": shapes.reset,
    "status": shapes.status,
}
AT = "2026-11-23T10:00:00.000Z"
VIEW = {"vehicle": "v", "version": 1, "updated_at": AT, "signals": {"a": {"value": 1, "at": AT}}}
GOOD: dict[str, dict[str, Any]] = {
    "snapshot": VIEW,
    "update": {**VIEW, "prev": 0, "signals": {"a": {"value": [1, "x", True], "at": AT}, "b": None}},
    "reset": {"vehicle": "v", "reason": "foreign", "from": "x", "to": "0-1"},
    "status": {**VIEW, "prev": 0, "signals": {}, "status": "quiet", "since": AT},
}


def examples() -> Iterator[tuple[str, dict[str, Any]]]:
    """(event, data) of each example of a stream, and the states among the answers."""
    paths = DOCUMENT["paths"]
    stream = paths["/v1/vehicles/{vehicle}/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    for example in stream["examples"].values():
        for event in Parser().feed(example["value"].encode()):
            yield event.event, shapes.parsed(event.data, "")
    state = paths["/v1/vehicles/{vehicle}"]["get"]["responses"]["200"]["content"]["application/json"]
    for example in state["examples"].values():
        yield "snapshot", example["value"]


def test_the_documents_examples_are_taken() -> None:
    judged = [name for name, data in examples() if name in JUDGES and JUDGES[name](data)]
    assert set(judged) == set(JUDGES)


@pytest.mark.parametrize("name", GOOD)
def test_every_member_that_the_document_requires_is_required(name: str) -> None:
    JUDGES[name](GOOD[name] | {"one more": 1})
    required = SCHEMAS["StatusChange" if name == "status" else name.capitalize()]["required"]
    assert set(required) == set(GOOD[name])
    for member in required:
        with pytest.raises(Failed):
            JUDGES[name]({key: value for key, value in GOOD[name].items() if key != member})
        with pytest.raises(Failed):
            JUDGES[name](GOOD[name] | {member: None})


@pytest.mark.parametrize(
    "change",
    [
        {"vehicle": "a.b"},
        {"vehicle": "x" * 65},
        {"version": -1},
        {"version": True},
        {"version": "1"},
        {"updated_at": "2026-11-23T10:00:00Z"},
        {"updated_at": "2026-11-23T10:00:00.000+01:00"},
        {"updated_at": ""},
        {"signals": []},
        {"signals": {"": {"value": 1, "at": AT}}},
        {"signals": {"x" * 257: {"value": 1, "at": AT}}},
        {"signals": {"a": 1}},
        {"signals": {"a": {"at": AT}}},
        {"signals": {"a": {"value": None, "at": AT}}},
        {"signals": {"a": {"value": {}, "at": AT}}},
        {"signals": {"a": {"value": [[]], "at": AT}}},
        {"signals": {"a": {"value": 1}}},
        {"signals": {"a": {"value": 1, "at": "now"}}},
    ],
    ids=str,
)
def test_what_the_document_does_not_allow_is_refused(change: dict[str, Any]) -> None:
    for name in ("snapshot", "update"):
        with pytest.raises(Failed):
            JUDGES[name](GOOD[name] | change)


def test_a_snapshot_has_no_null() -> None:
    with pytest.raises(Failed):
        shapes.snapshot(VIEW | {"signals": {"a": None}})


def test_a_vehicle_that_never_sent_was_never_updated() -> None:
    assert shapes.snapshot(VIEW | {"version": 0, "updated_at": "", "signals": {}}).version == 0


@pytest.mark.parametrize("text", ["", "[]", "1", "{", '{"a":1', "null"])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(Failed):
        shapes.parsed(text, "it")


def test_a_problem_says_the_status_that_it_came_with() -> None:
    good = {"type": "about:blank", "status": 404, "title": "No such id"}
    assert shapes.problem(good, 404) == "No such id"
    for change in ({"status": 400}, {"type": "x"}, {"title": None}, {"detail": 1}):
        with pytest.raises(Failed):
            shapes.problem(good | change, 404)

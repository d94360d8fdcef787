"""What the contract says that answers and events look like (docs/openapi.yaml's schemas), checked by hand. Pure.

Each function takes decoded JSON and returns it typed; whatever is missing or of another kind raises Failed. Members that are
not listed are let be: within /v1 new ones may appear.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from fleetcast.conform.words import Failed, short

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)


class View(msgspec.Struct, frozen=True):
    """A snapshot, or an update or change of status, of which `prev` is the version before it. `status` is empty if not said."""

    vehicle: str
    version: int
    updated_at: str
    signals: dict[str, Any]
    prev: int = -1
    status: str = ""
    since: str = ""


STATUSES = ("live", "quiet", "offline")


def parsed(text: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        found = json.loads(text)
    except ValueError:
        raise Failed(f"{what} is not JSON: {short(text)}") from None
    if not isinstance(found, dict):
        raise Failed(f"{what} is not a JSON object: {short(text)}")
    return found


def snapshot(body: dict[str, Any], what: str = "the snapshot") -> View:
    """The whole view."""
    view = _view(body, what)
    for path, signal in view.signals.items():
        _signal(path, signal, what)
    return view


def update(body: dict[str, Any], what: str = "the update") -> View:
    """What one packet changed: a signal may be null, which removes it."""
    view = _view(body, what)
    prev = _version(body, "prev", what)
    for path, signal in view.signals.items():
        if signal is not None:
            _signal(path, signal, what)
    return msgspec.structs.replace(view, prev=prev)


def status(body: dict[str, Any], what: str = "the change of status") -> View:
    """An update that no packet made: its status, and no signals."""
    view = update(body, what)
    if not view.status:
        raise Failed(f"{what} has no status")
    if view.signals:
        raise Failed(f"{what} has signals: {short(', '.join(view.signals), 40)}")
    return view


def reset(body: dict[str, Any]) -> tuple[str, str, str]:
    """(reason, from, to)."""
    if body.get("reason") not in ("expired", "foreign", "many"):
        raise Failed(f"the reset's reason is {short(body.get('reason'))}, not expired, foreign or many")
    _text(body, "vehicle", "the reset")
    return body["reason"], _text(body, "from", "the reset"), _text(body, "to", "the reset")


def poll(body: dict[str, Any]) -> tuple[list[tuple[str, str | None, dict[str, Any]]], str]:
    """A long-poll's answer: (name, its own id or None, data) of each event, and last_event_id."""
    events = body.get("events")
    if not isinstance(events, list) or not all(isinstance(one, dict) for one in events):
        raise Failed(f"the answer's events are {short(events, 40)}")
    last = _text(body, "last_event_id", "the answer")
    if not last:
        raise Failed("the answer's last_event_id is empty")
    found: list[tuple[str, str | None, dict[str, Any]]] = []
    for one in events:
        data, own = one.get("data"), one.get("id")
        if not isinstance(data, dict) or not (own is None or (isinstance(own, str) and own)):
            raise Failed(f"an event with id {short(own, 40)}, data {short(data, 40)}")
        found.append((_text(one, "event", "an event"), own, data))
    return found, last


def problem(body: dict[str, Any], status: int) -> str:
    """RFC 9457: its title."""
    if body.get("type") != "about:blank" or body.get("status") != status:
        raise Failed(f"type {short(body.get('type'))}, status {short(body.get('status'))} in a {status}")
    if not isinstance(body.get("detail", ""), str):
        raise Failed("the problem's detail is no text")
    return _text(body, "title", "the problem")


def _view(body: dict[str, Any], what: str) -> View:
    vehicle = _text(body, "vehicle", what)
    if not _ID.fullmatch(vehicle):
        raise Failed(f"{what} is of vehicle {short(vehicle)}, which is no id")
    version = _version(body, "version", what)
    updated = _text(body, "updated_at", what)
    if not _TIME.fullmatch(updated) and (updated or version):
        raise Failed(f"{what}'s updated_at is {short(updated)}, not UTC with milliseconds")
    signals = body.get("signals")
    if not isinstance(signals, dict):
        raise Failed(f"{what} has no signals object")
    status, since = body.get("status", ""), body.get("since", "")
    if (status or since) and (
        status not in STATUSES or not isinstance(since, str) or not _TIME.fullmatch(since)
    ):
        raise Failed(f"{what} has status {short(status, 20)} since {short(since, 40)}")
    return View(vehicle, version, updated, signals, status=status, since=since)


def _signal(path: str, signal: object, what: str) -> None:
    if not 1 <= len(path) <= 256:
        raise Failed(f"{what} has a path of {len(path)} characters")
    if not isinstance(signal, dict) or "value" not in signal:
        raise Failed(f"{what}: {short(path, 40)} is {short(signal, 40)}, without a value")
    if not _is_value(signal["value"]):
        raise Failed(
            f"{what}: the value of {short(path, 40)} is {short(signal['value'], 40)}, null or an object"
        )
    at = signal.get("at")
    if not isinstance(at, str) or not _TIME.fullmatch(at):
        raise Failed(f"{what}: {short(path, 40)} is of {short(at, 40)}, not UTC with milliseconds")


def _is_value(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, bool | int | float | str) for item in value)
    return isinstance(value, bool | int | float | str)


def _text(body: dict[str, Any], name: str, what: str) -> str:
    found = body.get(name)
    if not isinstance(found, str):
        raise Failed(f"{what}'s {name} is {short(found, 40)}, not a text")
    return found


def _version(body: dict[str, Any], name: str, what: str) -> int:
    found = body.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise Failed(f"{what}'s {name} is {short(found, 40)}, not a count")
    return found

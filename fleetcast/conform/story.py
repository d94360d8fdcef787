"""Whether a stream's events follow each other, and what they add up to: an app's own bookkeeping. Pure.

`tell` goes through them as docs/protocol.md says that an app does: a snapshot replaces all; an update must name the version
that the app is at as its `prev`, and its signals are merged (RFC 7396); after a reset a snapshot comes at once. What does
not follow raises Failed. Events of other names are passed over, as the protocol asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from fleetcast.conform import shapes
from fleetcast.conform.events import Event
from fleetcast.conform.shapes import View
from fleetcast.conform.words import Failed, short


class Story(msgspec.Struct):
    """What came: `views` by version, `updates` and changes of status in order, `resets` as (reason, from, to); `at` is the view
    at the end.
    """

    at: View | None = None
    views: dict[int, View] = msgspec.field(default_factory=dict)
    updates: list[View] = msgspec.field(default_factory=list)
    resets: list[tuple[str, str, str]] = msgspec.field(default_factory=list)
    statuses: list[View] = msgspec.field(default_factory=list)
    snapshots: int = 0


def data(event: Event) -> dict[str, Any]:
    """What an event carries."""
    return shapes.parsed(event.text, f"the data of {event.name}")


def version(event: Event) -> int:
    """The version that an app is at after it; -1 for an event that leads to none."""
    if event.name not in ("snapshot", "update", "status"):
        return -1
    found = data(event).get("version")
    return found if isinstance(found, int) else -1


def merged(target: object, patch: object) -> object:
    """RFC 7396, section 2, word for word."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def patched(view: View, update: View) -> View:
    """The view after this update, which must follow it."""
    if update.prev != view.version:
        raise Failed(f"update {update.version} has prev {update.prev} after the event of {view.version}")
    if update.version <= update.prev:
        raise Failed(f"update {update.version} does not lead on from {update.prev}")
    # By the RFC to the letter, as a library would: were a member of a signal to go away, the patch would have to say null.
    signals = merged(view.signals, update.signals)
    assert isinstance(signals, dict)
    status, since = view.status, view.since
    if update.status:
        status, since = update.status, update.since
    return View(view.vehicle, update.version, update.updated_at, signals, status=status, since=since)


def same(shown: View | None, polled: View) -> bool:
    """Whether the view that a stream adds up to is the polled one. The first live of all is told to nobody."""
    if shown is None:
        return False
    if not shown.status and polled.status == "live":
        shown = msgspec.structs.replace(shown, status=polled.status, since=polled.since)
    return shown == polled


def tell(events: Sequence[Event], vehicle: str, at: View | None = None) -> Story:
    """The story so far; `at` is the view that an app had that came back with an id."""
    story = Story(at)
    due = ""  # the id of the snapshot that a reset announced
    for event in events:
        if event.name == "snapshot":
            if story.at is not None and not due:
                raise Failed("a snapshot came without a reset before it")
            if due and event.id != due:
                raise Failed(f"a reset to {short(due, 40)} was followed by the snapshot of {event.id}")
            story.at, due = shapes.snapshot(data(event)), ""
            story.snapshots += 1
        elif event.name in ("update", "status"):
            is_status = event.name == "status"
            update = (shapes.status if is_status else shapes.update)(data(event))
            if due:
                raise Failed("a reset was followed by an update, not by a snapshot")
            if story.at is None:
                raise Failed("the first event is an update, not a snapshot")
            story.at = patched(story.at, update)
            (story.statuses if is_status else story.updates).append(update)
        elif event.name == "reset":
            if due:
                raise Failed("a reset was followed by a reset")
            story.resets.append(shapes.reset(data(event)))
            due = story.resets[-1][2]
            continue
        else:
            continue
        if story.at.vehicle != vehicle:
            raise Failed(f"an event of {short(story.at.vehicle, 70)} on the stream of {vehicle}")
        story.views[story.at.version] = story.at
    return story

"""A stream from its beginning: `GET /v1/{noun}/{vehicle}/events`. Most of it looks at the recording."""

from __future__ import annotations

import asyncio

from fleetcast.conform import shapes, story
from fleetcast.conform.recording import PROMPT
from fleetcast.conform.target import STREAM, Target, difference
from fleetcast.conform.words import Failed, NotTried, short

_DEAD = 75.0  # seconds without a byte after which an app gives a stream up


async def content_type(target: Target) -> str:
    """It is text/event-stream, in UTF-8."""
    kind = target.recording.headers.get("content-type", "")
    name, _, more = kind.partition(";")
    if name.strip() != STREAM or more.strip().lower() not in ("", "charset=utf-8"):
        raise Failed(f"Content-Type {short(kind) or 'missing'}")
    return kind


async def no_store(target: Target) -> str:
    """Nothing on the way may keep it, or wait for its end: no-store, no length."""
    headers = target.recording.headers
    cache = headers.get("cache-control", "")
    if "no-store" not in cache:
        raise Failed(f"Cache-Control {short(cache) or 'missing'}")
    for name in ("content-length", "etag", "age", "content-encoding"):
        if name in headers:
            raise Failed(f"{name}: {short(headers[name])}")
    return cache


async def not_compressed(target: Target) -> str:
    """Asked with Accept-Encoding as browsers send it, it is not compressed: what compresses holds events back."""
    async with target.follow(headers={"Accept-Encoding": "gzip, deflate, br, zstd"}) as stream:
        encoding = stream.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise Failed(f"Content-Encoding {short(encoding)}")
        await stream.first()
    return "identity"


async def no_plumbing(target: Target) -> str:
    """No header of the machinery behind it reaches an app."""
    found = [name for name in target.recording.headers if name.startswith("grip")]
    if found:
        raise Failed(", ".join(found))
    return f"{len(target.recording.headers)} headers"


async def snapshot_first(target: Target) -> str:
    """The first event is a snapshot: the state as it is polled."""
    async with target.follow() as stream:
        (first,) = await stream.first()
        if first.name != "snapshot":
            raise Failed(f"the first event is {short(first.name)}")
        view = shapes.snapshot(story.data(first))
        await target.level(stream)
    return f"version {view.version}, {len(view.signals)} signals"


async def never_sent(target: Target) -> str:
    """A vehicle that never sent begins with an empty snapshot of version 0."""
    async with target.follow(target.stranger()) as stream:
        (first,) = await stream.first()
        found = story.data(first)
        if first.name != "snapshot" or not first.id:
            raise Failed(f"{first.name} with id {first.id}")
        wanted = {"vehicle": stream.vehicle, "version": 0, "updated_at": "", "signals": {}}
        if found != {**found, **wanted}:
            raise Failed(first.text)
    return "empty, with an id"


async def ids(target: Target) -> str:
    """Snapshots and updates have ids, each another; the id is the ETag that is polled for the same version."""
    events = [event for event in target.recording.events if event.name in ("snapshot", "update")]
    if not events:
        raise Failed(target.recording.wrong or "no snapshot came")
    bare = [event for event in events if not event.id]
    if bare:
        raise Failed(f"{bare[0].name} {story.version(bare[0])} has no id")
    if len({event.id for event in events}) != len(events):
        raise Failed(f"of {len(events)} events two have the same id")
    async with target.follow() as stream:
        (first,) = await stream.first()
        view, tag = await target.latest()
        if view.version == story.version(first) and tag != f'"{first.id}"':
            raise Failed(f"version {view.version}: ETag {tag}, id {first.id}")
    return f"{len(events)} ids"


async def chain(target: Target) -> str:
    """Each update names the version of the event before it as its prev: none is missing, twice, or out of order."""
    updates = target.recording.updates
    told = story.tell(target.recording.events, target.vehicle)
    if told.snapshots != 1:
        raise Failed(f"{told.snapshots} snapshots came on one stream")
    if target.sender is not None:
        target.sender.judge(told)
        if told.at is None or not told.views.keys() >= target.sender.numbers.keys() - {
            min(target.sender.numbers)
        }:
            raise Failed(target.recording.wrong or "not every packet that was sent has its event")
    return f"{len(updates)} updates, versions {min(told.views)} to {max(told.views)}"


async def patch(target: Target) -> str:
    """A snapshot and its updates, merged by RFC 7396, are the state that is polled at that version."""
    updates, polled = target.recording.updates, target.recording.after
    try:
        told = story.tell(target.recording.events, target.vehicle)
    except Failed as why:
        raise NotTried(f"the recorded stream does not add up: {why}") from None
    if polled is None or polled.version not in told.views:
        raise NotTried("what was polled is not among what was recorded")
    if not story.same(told.views[polled.version], polled):
        raise Failed(difference(told.views[polled.version], polled))
    return f"{len(updates)} updates, the same as version {polled.version}"


async def removed(target: Target) -> str:
    """A signal that is null in an update is removed."""
    nulls = sum(
        signal is None
        for event in target.recording.updates
        for signal in shapes.update(story.data(event)).signals.values()
    )
    if not nulls:
        raise NotTried("only business logic removes signals, and none did meanwhile")
    return f"{nulls} removed (whether rightly, stream.patch says)"


async def prompt(target: Target) -> str:
    """An update comes as soon as its packet is applied: nothing between buffers the stream."""
    delays, bound = target.recording.delays, min(PROMPT, target.wish.within)
    if target.sender is None:
        raise NotTried("needs --send: only of a packet of our own is it known when it was acknowledged")
    if not delays or max(delays) >= bound:
        raise Failed(f"one came {max(delays, default=0):.1f} s after its packet's acknowledgement, or never")
    return f"{1000 * min(delays):.0f} to {1000 * max(delays):.0f} ms after its acknowledgement"


async def keep_alive(target: Target) -> str:
    """A comment comes when nothing else does, every keep_alive seconds; no event, and no end."""
    bound = min(_DEAD, 1.5 * target.wish.keep_alive + 2)
    async with target.follow(target.stranger()) as stream:
        await stream.first()
        before, began = stream.comments, asyncio.get_running_loop().time()
        await stream.until(
            lambda: stream.comments > before or len(stream.events) > 1, "a comment on an idle stream", bound
        )
        if len(stream.events) > 1:
            raise Failed(f"an event ({stream.events[1].name}) of a vehicle that never sent")
        return f"after {asyncio.get_running_loop().time() - began:.0f} s"


CHECKS = (
    content_type,
    no_store,
    not_compressed,
    no_plumbing,
    snapshot_first,
    never_sent,
    ids,
    chain,
    patch,
    removed,
    prompt,
    keep_alive,
)

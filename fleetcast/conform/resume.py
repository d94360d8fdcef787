"""Coming back: `Last-Event-ID`, or `?last_event_id=`. Nothing missing, nothing twice, and no reset that need not be."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from fleetcast.conform import story
from fleetcast.conform.shapes import View
from fleetcast.conform.story import Story
from fleetcast.conform.target import Stream, Target
from fleetcast.conform.words import Failed, NotTried

_FOREIGN = "0-0"
_DROPS = 8


async def header(target: Target) -> str:
    """With Last-Event-ID a stream begins with the first update that was missed, and has each of them once."""
    last, at = target.recording.left_before(4)
    async with target.follow(last=last) as stream:
        told = await _back(target, stream, at)
    return f"{len(told.updates)} updates from version {at.version}"


async def query(target: Target) -> str:
    """?last_event_id= does the same."""
    last, at = target.recording.left_before(2)
    async with target.follow(query=last) as stream:
        told = await _back(target, stream, at)
    return f"{len(told.updates)} updates from version {at.version}"


async def header_holds(target: Target) -> str:
    """Of both the header holds."""
    last, at = target.recording.left_before(1)
    async with target.follow(last=last, query=_FOREIGN) as stream:
        await _back(target, stream, at)
    return "the query's was foreign"


async def same_events(target: Target) -> str:
    """What is missed comes as it came to those that stayed: the same ids and data."""
    last, at = target.recording.left_before(4)
    missed = target.recording.events[-min(4, len(target.recording.updates)) :]
    async with target.follow(last=last) as stream:
        await _back(target, stream, at)
        came = [event for event in stream.events if event.name == "update"][: len(missed)]
    for ours, theirs in zip(missed, came, strict=True):
        if (ours.id, ours.text) != (theirs.id, theirs.text):
            raise Failed(f"{theirs.id} {theirs.text[:60]} was {ours.id} {ours.text[:60]}")
    return f"{len(missed)} updates"


async def nothing_missed(target: Target) -> str:
    """With the latest id nothing is repeated; the first thing is a comment, at once; then it goes live."""
    for _ in range(10):
        async with target.follow() as first:
            await first.first()
            at = (await target.level(first)).at
            last = first.last_id
        assert at is not None
        async with target.follow(last=last) as stream:
            await stream.until(lambda: stream.comments or stream.events, "a comment or an event", 10.0)
            if stream.events and target.sender is None:
                continue  # it changed in between
            if stream.events:
                raise Failed(f"an event ({stream.events[0].name}) though nothing was missed")
            await target.change()
            told = await _back(target, stream, at) if target.sender else None
            return f"a comment{f', then {len(told.updates)} live' if told else ''}"
    raise NotTried("the vehicle changes too quickly")


async def from_zero(target: Target) -> str:
    """The id of the empty snapshot, version 0, can be come back with."""
    if not target.recording.zero:
        raise NotTried("needs --send, and a vehicle that never sent before")
    at = View(target.vehicle, 0, "", {})
    async with target.follow(last=target.recording.zero) as stream:
        told = await _back(target, stream, at)
    return f"{len(told.updates)} updates"


async def many_at_once(target: Target) -> str:
    """The same for many who come back at once, from different ids, while it changes: over all replicas there are."""
    count = target.wish.streams
    async with AsyncExitStack() as stack:

        async def come(number: int) -> tuple[Stream, View]:
            last, at = target.recording.left_before(1 + number % 6)
            return await stack.enter_async_context(target.follow(last=last)), at

        coming = asyncio.gather(*(come(number) for number in range(count)))
        await target.change(6)
        streams = await coming
        told = [await _back(target, stream, at) for stream, at in streams]
    return f"{count} streams, {sum(len(one.updates) for one in told)} updates"


async def again_and_again(target: Target) -> str:
    """A phone that loses its connection again and again misses nothing, and gets nothing twice."""
    if target.sender is None:
        raise NotTried("needs --send")
    last, at = target.recording.left_before(1)
    seen = 0
    for _ in range(_DROPS):
        async with target.follow(last=last) as stream:
            sending = asyncio.create_task(target.change(3))
            try:
                await stream.until(lambda: stream.events, "an update")  # and away, whatever is on its way
            except Failed:
                await sending
                raise
        told = story.tell(stream.events, target.vehicle, at)
        target.sender.judge(told)
        if told.resets or told.snapshots:
            raise Failed("a reset or a snapshot for an id that the stream before gave")
        assert told.at is not None
        last, at, seen = stream.last_id, told.at, seen + len(told.updates)
        await sending
    async with target.follow(last=last) as stream:
        seen += len((await _back(target, stream, at)).updates)
    return f"{_DROPS} connections, {seen} updates"


async def _back(target: Target, stream: Stream, at: View) -> Story:
    """Level, without a reset or a snapshot."""
    told = await target.level(stream, at)
    if told.resets:
        reason, came_from, _ = told.resets[0]
        raise Failed(f"a reset ({reason}) from {came_from}, which this stream itself was given a moment ago")
    if told.snapshots:
        raise Failed("a snapshot, not what was missed")
    return told


CHECKS = (header, query, header_holds, same_events, nothing_missed, from_zero, many_at_once, again_and_again)

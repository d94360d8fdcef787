"""Several streams at once: they agree, whoever holds them; a slow reader is brought level; none has another's events."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from fleetcast.conform import story
from fleetcast.conform.sender import Sender
from fleetcast.conform.target import Stream, Target
from fleetcast.conform.words import Failed, NotTried

_LARGE = 100_000  # characters of one signal
_PACKETS = 60  # so 6 MB: more than the buffers on the way hold


async def agree(target: Target) -> str:
    """Streams of one vehicle have the same events, with the same ids and data, on whatever replica they are."""
    async with AsyncExitStack() as stack:
        opening = (stack.enter_async_context(target.follow()) for _ in range(max(2, target.wish.streams)))
        streams = await asyncio.gather(*opening)
        await asyncio.gather(*(stream.first() for stream in streams))
        await target.change(8)
        seen: dict[int, tuple[str, str]] = {}
        count = 0
        for stream in streams:
            told = await target.level(stream)
            if told.resets:
                raise Failed(f"a stream that stayed was reset as {told.resets[0][0]}")
            for event in stream.events:
                if event.name == "update":
                    count += 1
                    first = seen.setdefault(story.version(event), (event.last_id, event.text))
                    if first != (event.last_id, event.text):
                        raise Failed(
                            f"version {story.version(event)} is {event.text[:60]} and {first[1][:60]}"
                        )
    return f"{len(streams)} streams, {count} updates"


async def slow_reader(target: Target) -> str:
    """A phone that does not read for a while is brought level when it does, or cut and brought level when it comes back."""
    if (sender := target.sender) is None:
        raise NotTried("needs --send")
    async with target.follow(slow=True) as stream:
        (first,) = await stream.first()
        at, last = story.tell([first], target.vehicle).at, first.last_id
        stream.reads.clear()
        for number in range(_PACKETS):
            await sender.send({"Conform.Large": f"{number} {'x' * _LARGE}"})
        await sender.send({"Conform.Large": "small again"})
        await target.arrived()
        stream.reads.set()
        try:
            await stream.until(lambda: stream.version >= sender.version - 1, "level after reading again")
            await target.change()  # what follows shows whether the last one before was missing
            told = await target.level(stream)
        except Failed:
            if not stream.ended:
                raise
        else:
            return f"{len(told.updates)} updates, {stream.size / 1e6:.1f} MB, on the same stream"
        # As the protocol says: a stream may end, and one comes back with the last id.
        before = story.tell(stream.events, target.vehicle)
        at, last = before.at, stream.last_id
    async with target.follow(last=last) as stream:
        told = await target.level(stream, at)
        if told.resets or told.snapshots:
            raise Failed("it was cut, and reset when it came back")
    return f"cut after {len(before.updates)} updates; the other {len(told.updates)} when it came back"


async def not_another(target: Target) -> str:
    """A vehicle's stream has no event of one whose id begins alike, and another's event id brings nothing of it."""
    if target.sender is None:
        raise NotTried("needs --send")
    if len(target.vehicle) > 63:
        raise NotTried("the vehicle's id is too long for another that begins alike")
    neighbour = target.neighbour()
    await neighbour.send()
    async with target.follow() as ours, target.follow(neighbour.vehicle) as theirs:
        await asyncio.gather(ours.first(), theirs.first())
        for _ in range(3):
            await neighbour.send()
        await target.change(2)
        told = await target.level(ours)
        await theirs.until(lambda: _another(theirs) or _has_last(theirs, neighbour), "the neighbour's update")
        _none_of_another(theirs)
        last = theirs.last_id
    async with target.follow(last=last) as stream:  # updates that follow, or a reset: but of this vehicle
        await stream.until(lambda: stream.events or stream.comments, "an answer to another vehicle's id")
        _none_of_another(stream)
    return f"{len(told.updates)} updates, and {len(theirs.events)} events of {neighbour.vehicle}"


def _another(stream: Stream) -> str | None:
    """The vehicle of the first event that is not of the stream's own."""
    named = (
        story.data(event).get("vehicle") for event in stream.events if event.name in ("snapshot", "update")
    )
    return next((str(vehicle) for vehicle in named if vehicle != stream.vehicle), None)


def _none_of_another(stream: Stream) -> None:
    if (vehicle := _another(stream)) is not None:
        raise Failed(f"an event of {vehicle} on the stream of {stream.vehicle}")


def _has_last(stream: Stream, sender: Sender) -> bool:
    return any(sender.is_last(story.data(event)) for event in stream.events if event.name == "update")


CHECKS = (agree, slow_reader, not_another)

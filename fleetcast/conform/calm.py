"""Calm streams: `?every=5s`, at most one update in so many seconds, of the same chain and with the same ids."""

from __future__ import annotations

import asyncio
from datetime import datetime
from itertools import pairwise

from fleetcast.conform import story
from fleetcast.conform.target import STREAM, Target, difference
from fleetcast.conform.words import Failed, NotTried, short

_CLASS = 5
_DRIVEN = 11.0  # seconds: two ends of a bucket, at least
_PAUSE = 0.25
_BAD = ("5", "4s", "5S", "0s", "5s,30s", "-5s", "5m", "500s")


async def bad(target: Target) -> str:
    """A class that is none is a 400, told as problem+json, for a stream before it begins, and for a long-poll."""
    async with target.follow(every=f"{_CLASS}s") as stream:
        await stream.first()
    said = ""
    for every in _BAD:
        for accept, more in ((STREAM, ""), ("application/json", ""), ("application/json", "&wait=5")):
            answer = await target.ask(
                "GET", f"{target.path(tail='/events')}?every={every}{more}", {"Accept": accept}
            )
            try:
                said = answer.problem(400)
            except Failed as why:
                raise Failed(f"every={every}: {why}") from None
    return f"{len(_BAD)} of them: {said}"


async def snapshot(target: Target) -> str:
    """A calm stream begins with the snapshot as it is now, of the id that is polled; and goes on with an id of any class."""
    async with target.follow(every=f"{_CLASS}s") as stream:
        (first,) = await stream.first()
        view, tag = await target.latest()
        if view.version == story.version(first) and tag != f'"{first.id}"':
            raise Failed(f"version {view.version}: ETag {tag}, id {first.id}")
        if first.name != "snapshot":
            raise Failed(f"the first event is {short(first.name)}")
    async with target.follow(last=first.last_id, every="30s") as stream:
        await stream.until(lambda: stream.comments or stream.events, "a comment or an event")
        if any(event.name in ("reset", "snapshot") for event in stream.events):
            raise Failed(f"{stream.events[0].name} for an id that another class gave")
    return f"version {story.version(first)}"


async def buckets(target: Target) -> str:
    """At most one update in a bucket of the wall clock, which holds the newest of all that changed; nothing is lost by it."""
    if target.sender is None:
        raise NotTried("needs --send")
    driven = target.neighbour("c")
    await driven.send()
    loop = asyncio.get_running_loop()
    async with (
        target.follow(driven.vehicle) as plain,
        target.follow(driven.vehicle, every=f"{_CLASS}s") as calm,
    ):
        await asyncio.gather(plain.first(), calm.first())
        until = loop.time() + _DRIVEN
        while loop.time() < until:
            await driven.send()
            await asyncio.sleep(_PAUSE)
        await plain.until(lambda: driven.is_last(story.data(plain.events[-1])), "the last packet")
        every, last = story.tell(plain.events, driven.vehicle), plain.version
        await calm.until(
            lambda: calm.version >= last, "the last bucket's update", target.wish.within + _CLASS
        )
        told = story.tell(calm.events, driven.vehicle)
        if told.resets or told.snapshots != 1:
            raise Failed(f"{len(told.resets)} resets and {told.snapshots} snapshots on one stream")
        if calm.last_id != plain.last_id:
            raise Failed(
                f"the id of version {last} is {calm.last_id}, on a stream that is not calm {plain.last_id}"
            )
        for version, view in told.views.items():
            # Of two streams one may have begun before the first packet, which tells nobody that the vehicle is live.
            other = every.views.get(version, view)
            if not (story.same(view, other) or story.same(other, view)):
                raise Failed(difference(view, other))
        began = [_bucket(update.updated_at) for update in told.updates]
        twice = sum(one == other for one, other in pairwise(began))
        if twice > 1:  # what makes up for something may come beside the one that is due
            raise Failed(f"{len(began)} updates in {len(set(began))} buckets of {_CLASS} s")
        at, came = told.at, calm.last_id
    await driven.send()
    async with target.follow(driven.vehicle, came) as stream:
        again = await target.level(stream, at)
        if again.resets or again.snapshots:
            raise Failed("a stream that is not calm was reset by the id of a calm one")
    return f"{len(every.updates)} updates in {len(told.updates)}"


def _bucket(at: str) -> int:
    return int(datetime.fromisoformat(at).timestamp()) // _CLASS


CHECKS = (bad, snapshot, buckets)

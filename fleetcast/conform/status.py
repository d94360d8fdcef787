"""Status: live, quiet, offline. The platform says that a vehicle is silent, though no packet arrives to cause it."""

from __future__ import annotations

import time

from fleetcast.conform import shapes, story
from fleetcast.conform.fleet import found_in_list
from fleetcast.conform.target import Target
from fleetcast.conform.words import Failed, NotTried

_LATE = 10.0  # seconds; a platform that runs takes some tenths of one
_TRIES = 20


async def shown(target: Target) -> str:
    """The latest state, the fleet's list and a snapshot have the vehicle's status, and since when, alike."""
    for _ in range(_TRIES):
        polled, _ = await target.latest()
        if not polled.status:
            raise NotTried(
                "it has no status: nothing is expected of it here (expected_every), or there is none yet"
            )
        listed = await found_in_list(target)
        async with target.follow() as stream:
            (first,) = await stream.first()
            snapshot = shapes.snapshot(story.data(first))
        if polled.version == listed.version == snapshot.version:
            said = {(one.status, one.since) for one in (polled, listed, snapshot)}
            if len(said) > 1:
                raise Failed(f"version {polled.version} is {said}")
            return f"{polled.status} since {polled.since}"
    raise NotTried("the vehicle changes too quickly")


async def told(target: Target) -> str:
    """A vehicle that is silent for too long is told to be quiet, and right before its next update to be live: both replayed."""
    if target.sender is None:
        raise NotTried("needs --send")
    if target.wish.quiet > target.wish.patience:
        raise NotTried(
            f"a vehicle is quiet after {target.wish.quiet:.0f} s: --quiet and --patience say whether to wait for it"
        )
    silent = target.neighbour("s")
    sent = time.monotonic()
    await silent.send()
    async with target.follow(silent.vehicle) as stream:
        await stream.until(
            lambda: stream.events and silent.is_last(story.data(stream.events[-1])), "the packet"
        )
        await stream.until(
            lambda: stream.events[-1].name == "status",
            "a status, as nothing was sent",
            target.wish.quiet + min(_LATE, target.wish.within),
        )
        took = time.monotonic() - sent
        quiet = await target.level(stream)
        if [one.status for one in quiet.statuses[-1:]] != ["quiet"]:
            raise Failed(f"it is {quiet.statuses[-1].status}, after {took:.0f} s")
        if took < target.wish.quiet - 1:
            raise Failed(f"quiet after {took:.1f} s, not {target.wish.quiet:.0f}")
        if not stream.events[-1].id:
            raise Failed("the change of status has no id")
        at, last = quiet.at, stream.last_id
        await silent.send()
        await stream.until(
            lambda: silent.is_last(story.data(stream.events[-1])), "the update after its return"
        )
        names = [event.name for event in stream.events[-2:]]
        back = await target.level(stream)
        if names != ["status", "update"] or back.statuses[-1].status != "live":
            raise Failed(f"{names} as it came back, {back.statuses[-1].status}")
    async with target.follow(silent.vehicle, last) as stream:  # who was away when it came back
        missed = await target.level(stream, at)
        if [one.status for one in missed.statuses] != ["live"] or len(missed.updates) != 1 or missed.resets:
            raise Failed(
                f"{len(missed.statuses)} changes of status were missed, and {len(missed.updates)} updates"
            )
    return f"quiet after {took:.1f} s, live by the next packet"


CHECKS = (shown, told)

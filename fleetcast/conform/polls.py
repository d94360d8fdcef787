"""Long-polls: `GET …/events?wait=25`, the events of a stream one answer at a time. Held, answered, and nothing between two."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress

import msgspec

from fleetcast.conform import shapes, story
from fleetcast.conform.events import Event
from fleetcast.conform.recording import PROMPT
from fleetcast.conform.sender import Sender
from fleetcast.conform.story import Story
from fleetcast.conform.target import STREAM, Answer, Target, Turned, difference
from fleetcast.conform.words import Failed, NotTried, short

_BAD = ("0", "61", "-1", "1.5", "abc", "", "25s", "1e1", "100")
_HELD = 1.6  # seconds in which a poll that is not held would have been answered, and the edge has looked again once
_PACKETS = 12
_WAIT = 6  # less than 5 is as good as 5
_POLLERS = 6


class Polled(msgspec.Struct):
    """An answer; `last` is what to ask with next."""

    events: list[Event]
    last: str


async def begin(target: Target) -> str:
    """Without an id the answer comes at once: a snapshot, as JSON, which nothing on the way may keep."""
    answer = await _asked(target, wait=60, bound=min(10.0, target.wish.within))
    kind, cache = answer.headers.get("content-type", ""), answer.headers.get("cache-control", "")
    if kind.partition(";")[0] != "application/json" or "no-store" not in cache:
        raise Failed(f"{kind or 'no content type'}, Cache-Control {cache or 'missing'}")
    if found := [name for name in answer.headers if name.startswith("grip")]:
        raise Failed(", ".join(found))
    polled = _read(answer)
    if [event.name for event in polled.events] != ["snapshot"] or polled.events[0].id != polled.last:
        raise Failed(f"{_names(polled)} with last_event_id {short(polled.last, 40)}")
    return f"version {story.version(polled.events[0])}"


async def held(target: Target) -> str:
    """With the latest id it is held, and answered with the next update as soon as there is one."""
    if target.sender is None:
        raise NotTried("needs --send: only of a vehicle of our own is it known when it changes")
    sender = await _unwatched(target, target.sender)
    polled = await _poll(target, wait=1, vehicle=sender.vehicle)
    at = story.tell(polled.events, sender.vehicle).at
    while at is not None and not sender.is_last(
        {"signals": at.signals}
    ):  # what was sent before is on its way
        polled = await _poll(target, polled.last, wait=5, vehicle=sender.vehicle)
        at = story.tell(polled.events, sender.vehicle, at).at
    asking = asyncio.create_task(_poll(target, polled.last, wait=20, vehicle=sender.vehicle))
    try:
        await asyncio.wait({asking}, timeout=_HELD)
        if asking.done():
            raise Failed(f"answered at once, though nothing happened: {_names(asking.result())}")
        await sender.send()
        began = time.monotonic()
        answer = await asking
    finally:
        asking.cancel()
    took = time.monotonic() - began
    if [event.name for event in answer.events] != ["update"]:
        raise Failed(f"{_names(answer)}, not the update, {took:.1f} s after the packet's acknowledgement")
    if took > PROMPT:
        raise Failed(f"answered {took:.1f} s after the packet's acknowledgement")
    story.tell(answer.events, sender.vehicle, at)
    if not sender.is_last(story.data(answer.events[0])):
        raise Failed(f"{short(answer.events[0].text, 60)}: not what was sent")
    if answer.last != answer.events[-1].id:
        raise Failed(f"last_event_id is {short(answer.last, 40)}, the update's {answer.events[-1].id}")
    return f"{1000 * took:.0f} ms after its acknowledgement"


async def _unwatched(target: Target, own: Sender) -> Sender:
    """A vehicle that nobody has a stream of: the long-poll alone must be heard of. Our own if the token sees no other."""
    neighbour = target.neighbour()
    if len(neighbour.vehicle) > 64:
        return own
    await neighbour.send()
    answer = await target.ask("GET", f"{target.path(neighbour.vehicle, '/events')}?wait=1")
    return own if answer.status in (401, 403) else neighbour


async def empty(target: Target) -> str:
    """If nothing happens it is answered after `wait` seconds, with no events and the id that was sent; also a 200."""
    vehicle = target.stranger()
    first = await _poll(target, wait=1, vehicle=vehicle)
    began = time.monotonic()
    answer = await _poll(target, first.last, wait=_WAIT, vehicle=vehicle)
    took = time.monotonic() - began
    if answer.events or answer.last != first.last:
        raise Failed(
            f"{_names(answer)}, last_event_id {short(answer.last, 40)} after {short(first.last, 40)}"
        )
    if not _WAIT - 1 <= took <= _WAIT + 5:
        raise Failed(f"wait={_WAIT} took {took:.1f} s")
    return f"wait={_WAIT}: after {took:.1f} s"


async def missed(target: Target) -> str:
    """What was missed is answered at once, all of it and in order, as it came on the stream; the id by header or query."""
    async with target.follow() as stream:
        await stream.first()
        at = (await target.level(stream)).at
        assert at is not None
        last, had = stream.last_id, len(stream.events)
        await target.change(4)
        if target.sender is None:
            with suppress(Failed):
                await stream.until(lambda: len(stream.events) > had, "an update", target.wish.patience)
        await target.level(stream)
        due = stream.events[had:]
    if not due:
        raise NotTried("the vehicle did not change meanwhile")
    for by_query in (False, True):
        answer = await _poll(target, last, wait=60, by_query=by_query, bound=10.0)
        told = story.tell(answer.events, target.vehicle, at)
        if told.resets or told.snapshots:
            raise Failed(f"{_names(answer)}, not what was missed")
        came = [(event.id, story.data(event)) for event in answer.events]
        if came[: len(due)] != [(event.id, story.data(event)) for event in due]:
            raise Failed(f"{short(came, 80)}, on the stream it was {short(due, 80)}")
        if answer.last != answer.events[-1].id:
            raise Failed(
                f"last_event_id is {short(answer.last, 40)}, the last event's {answer.events[-1].id}"
            )
    return f"{len(answer.events)} updates, by the header and by the query"


async def no_gap(target: Target) -> str:
    """Asked again and again while it changes, by many at once: nothing is missing between two polls, nothing comes twice."""
    sent = asyncio.Event()
    pollers = [asyncio.create_task(_again_and_again(target, sent)) for _ in range(_POLLERS)]
    try:
        if target.sender is not None:
            for _ in range(_PACKETS):
                await target.sender.send()
            sent.set()
            await target.change()  # for those that wait again already
        told = await asyncio.gather(*pollers)
    finally:
        for poller in pollers:
            poller.cancel()
        await asyncio.gather(*pollers, return_exceptions=True)
    return f"{_POLLERS} pollers, {sum(len(one.updates) for one in told)} updates"


async def _again_and_again(target: Target, sent: asyncio.Event) -> Story:
    """Until all is sent and it is level; of somebody else's vehicle until it has changed twice, or for its patience."""
    events: list[Event] = []
    last = ""
    now = asyncio.get_running_loop().time
    patient, deadline = now() + target.wish.patience, now() + target.wish.patience + target.wish.within
    while True:
        answer = await _poll(target, last, wait=5)
        events += answer.events
        last = answer.last
        told = story.tell(events, target.vehicle)
        if target.sender is not None:
            target.sender.judge(told)
        if told.resets or told.snapshots != 1:
            raise Failed(f"{len(told.resets)} resets and {told.snapshots} snapshots in a row of polls")
        enough = sent.is_set() if target.sender is not None else len(told.updates) > 1 or now() > patient
        if not enough:
            continue
        polled, _ = await target.latest()
        if polled.version in told.views:
            if not story.same(told.views[polled.version], polled):
                raise Failed(difference(told.views[polled.version], polled))
            return told
        if now() > deadline:
            raise Failed(f"the polled state is version {polled.version}, the long-polls at {max(told.views)}")


async def foreign(target: Target) -> str:
    """An id that cannot be continued is answered at once: `reset`, which has no id, and `snapshot`; there one goes on."""
    for last in ("garbage", "00000000-1", "0" * 300):
        answer = await _poll(target, last, wait=60, bound=10.0)
        if [event.name for event in answer.events] != ["reset", "snapshot"]:
            raise Failed(f"{short(last, 20)}: {_names(answer)}, not reset and snapshot")
        reset, snapshot = answer.events
        reason, _, to = shapes.reset(story.data(reset))
        if reset.id is not None or reason != "foreign" or not to == snapshot.id == answer.last:
            raise Failed(f"{short(last, 20)}: {reason} to {to}, {snapshot.id}, last_event_id {answer.last}")
    await target.change()
    told = story.tell(answer.events + (await _poll(target, answer.last, wait=1)).events, target.vehicle)
    if len(told.resets) != 1:
        raise Failed("the id that a reset gave was reset")
    return "3 of them"


async def crossed(target: Target) -> str:
    """An id of a stream, and an ETag without its quotes, can be asked with, and a stream goes on from a poll's."""
    async with target.follow() as stream:
        await stream.first()
        at = (await target.level(stream)).at
        last = stream.last_id
    await target.change(2)
    polled = await _poll(target, last, wait=1)
    told = story.tell(polled.events, target.vehicle, at)
    await target.change()
    async with target.follow(last=polled.last) as stream:
        again = await target.level(stream, told.at)
    state, tag = await target.latest()
    await target.change()
    answer = await _poll(target, tag.strip('"'), wait=1)
    after = story.tell(answer.events, target.vehicle, state)
    for one in (told, again, after):
        if one.resets or one.snapshots:
            raise Failed("a reset or a snapshot for an id that was given a moment ago")
    return f"{len(told.updates)} by the poll, {len(again.updates)} by the stream"


async def bad_wait(target: Target) -> str:
    """A wait that is none, or out of bounds (1 to 60), is a 400, told as problem+json, whatever Accept says."""
    await begin(target)
    for wait in _BAD:
        for accept in ("application/json", STREAM):
            path = f"{target.path(tail='/events')}?wait={wait}"
            answer = await target.ask("GET", path, {"Accept": accept})
            try:
                said = answer.problem(400)
            except Failed as why:
                raise Failed(f"wait={wait}: {why}") from None
    return f"{len(_BAD)} of them: {said}"


async def _asked(
    target: Target, last: str = "", *, wait: int, vehicle: str = "", by_query: bool = False, bound: float = 0
) -> Answer:
    """A 200 that is no stream."""
    query = {"wait": wait, "last_event_id": last if by_query else ""}
    headers = {"Last-Event-ID": last} if last and not by_query else {}
    path = target.path(vehicle, "/events", **query)
    answer = await target.ask("GET", path, headers, bound=bound or wait + 20.0)
    if answer.status == 503:
        raise Turned("503: temporarily unavailable; try again when it is well")
    if answer.status in (401, 403):
        raise NotTried(f"{answer.status} for {vehicle or target.vehicle}: the token does not allow it")
    if answer.headers.get("content-type", "").startswith(STREAM):
        raise NotTried("wait= is answered with a stream: is it older than long-polls?")
    if answer.status != 200:
        raise Failed(f"{answer.said} for a long-poll")
    return answer


async def _poll(
    target: Target, last: str = "", *, wait: int, vehicle: str = "", by_query: bool = False, bound: float = 0
) -> Polled:
    return _read(await _asked(target, last, wait=wait, vehicle=vehicle, by_query=by_query, bound=bound))


def _read(answer: Answer) -> Polled:
    """Its events as a stream would have had them."""
    events, last = shapes.poll(answer.json)
    at = ""
    read = []
    for name, own, data in events:
        at = own or at
        read.append(Event(name, json.dumps(data), at, own))
    return Polled(read, last)


def _names(polled: Polled) -> str:
    return ", ".join(event.name for event in polled.events) or "no events"


CHECKS = (begin, held, empty, missed, no_gap, foreign, crossed, bad_wait)

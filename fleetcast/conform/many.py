"""Streams of many vehicles: `POST /v1/streams` answers an address; each vehicle keeps the chain and ids that it has alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fleetcast.conform import story
from fleetcast.conform.events import Event
from fleetcast.conform.shapes import View
from fleetcast.conform.story import Story
from fleetcast.conform.target import STREAM, Answer, Shown, Stream, Target
from fleetcast.conform.words import Failed, NotTried, short

_PATH = "/v1/streams"
_BAD = (
    b"",
    b"{",
    b"[]",
    b"{}",
    b'{"vehicles": []}',
    b'{"vehicles": ["a.b"]}',
    b'{"vehicles": ["a"], "fleet": "f"}',
)


async def live(target: Target) -> str:
    """Of each vehicle its snapshot, then what happens to any: each event says whose it is, and has the id that it has alone."""
    vehicles = await _vehicles(target)
    async with target.follow(path=await _made(target, vehicles=vehicles)) as stream:
        await stream.until(lambda: len(_of(stream.events)) >= len(vehicles), "a snapshot of each")
        await _changed(target, vehicles)
        told = await _level(target, stream, vehicles)
        for vehicle in vehicles:
            _, tag = await target.latest(vehicle=vehicle)
            events = _of(stream.events)[vehicle]
            if told[vehicle].snapshots != 1 or told[vehicle].resets:
                raise Failed(
                    f"{vehicle}: {told[vehicle].snapshots} snapshots, {len(told[vehicle].resets)} resets"
                )
            if target.sender is not None and tag != f'"{events[-1].id}"':
                raise Failed(f"{vehicle}: ETag {tag}, id {events[-1].id}")
    return f"{len(vehicles)} vehicles, {sum(len(one.updates) for one in told.values())} updates"


async def back(target: Target) -> str:
    """Asked for with the ids that an app has, it begins with what was missed of each, and with the snapshot of the others."""
    vehicles = await _vehicles(target)
    async with target.follow(vehicles[0]) as stream:
        await stream.first()
        last = stream.last_id
        at = story.tell(stream.events, vehicles[0]).at
    await _changed(target, vehicles)
    async with target.follow(
        path=await _made(target, vehicles=vehicles, versions={vehicles[0]: last})
    ) as stream:
        await stream.until(lambda: set(_of(stream.events)) >= set(vehicles[1:]), "a snapshot of the others")
        told = await _level(target, stream, vehicles, {vehicles[0]: at})
        first = told.pop(vehicles[0])
        if first.resets or first.snapshots:
            raise Failed(f"{vehicles[0]} was reset, or began again, by an id that it gave")
        if any(one.snapshots != 1 for one in told.values()):
            raise Failed("a vehicle without an id began with no snapshot")
    return f"{len(first.updates)} updates, {len(told)} snapshots"


async def last_event_id(target: Target) -> str:
    """A Last-Event-ID cannot say where each is: one reset, for the reason `many`, and the snapshot of each."""
    vehicles = await _vehicles(target)
    path = await _made(target, vehicles=vehicles)
    async with target.follow(path=path, last="0-1") as stream:
        (reset,) = await stream.first()
        reason = story.data(reset).get("reason")
        if reset.name != "reset" or reason != "many" or reset.id is not None:
            raise Failed(f"{reset.name} {reason}, not a reset of many")
        _, *rest = await stream.first(1 + len(vehicles))
        names = [event.name for event in rest[: len(vehicles)]]
        if names != ["snapshot"] * len(vehicles):
            raise Failed(f"after the reset {', '.join(names)}")
        await _changed(target, vehicles)
        await _level(target, stream, vehicles, skip=1)
    return f"{len(vehicles)} snapshots"


async def bad(target: Target) -> str:
    """What cannot be asked for is a 400, an address that is none a 404, before any stream; so is a view or class."""
    await _made(target, vehicles=[target.vehicle])
    wrong: list[dict[str, Any]] = [{"view": "nonsense"}, {"every": "7s"}, {"versions": 1}]
    wrong += [{"vehicles": [f"{target.vehicle[:60]}{number}" for number in range(401)]}]
    bodies = [*_BAD, *(json.dumps({"vehicles": [target.vehicle]} | more).encode() for more in wrong)]
    for body in bodies:
        answer = await target.ask("POST", _PATH, body=body)
        try:
            answer.problem(400)
        except Failed as why:
            raise Failed(f"{short(body.decode(), 40)}: {why}") from None
    for name in ("nonsense", "x" * 22, "a.b", "x" * 200):
        (await target.ask("GET", f"{_PATH}/{name}", {"Accept": STREAM})).problem(404)
    return f"{len(bodies)} bodies, 4 addresses"


async def guarded(target: Target) -> str:
    """Neither asking nor opening goes without credentials (401), nor may another's vehicle be among those asked for (403)."""
    if not target.wish.token:
        raise NotTried("needs --token")
    answer = await target.ask("POST", "/v1/tickets", body=json.dumps({"vehicles": [target.vehicle]}).encode())
    if answer.status != 201:
        raise NotTried(f"{answer.status} for a ticket")
    ticket = answer.json.get("ticket")
    path = await _made(target, vehicles=[target.vehicle])
    nothing: Shown = ()
    body = json.dumps({"vehicles": [target.vehicle]}).encode()
    (await target.ask("POST", _PATH, body=body, shown=nothing)).problem(401)
    (await target.ask("GET", path, {"Accept": STREAM}, shown=nothing)).problem(401)
    more = json.dumps({"vehicles": [target.vehicle, target.stranger()]}).encode()
    (await target.ask("POST", f"{_PATH}?ticket={ticket}", body=more, shown=nothing)).problem(403)
    opened = await target.ask("GET", f"{path}?ticket={ticket}", {"Accept": STREAM}, shown=nothing)
    if opened.status != 200:
        raise Failed(f"{opened.said} by a ticket of the same user")
    return "401 and 403; opened by a ticket"


async def _made(target: Target, **asked: Any) -> str:
    """Its address."""
    answer: Answer = await target.ask("POST", _PATH, body=json.dumps(asked).encode())
    if answer.status in (404, 405):
        raise NotTried(f"{answer.status} for {_PATH}: is it older than streams of many vehicles?")
    if answer.status in (401, 403):
        raise NotTried(f"{answer.status}: the token does not allow it")
    if answer.status != 201:
        raise Failed(f"{answer.said} for {short(asked, 60)}")
    url = answer.json.get("url")
    if (
        not isinstance(url, str)
        or not url.startswith(f"{_PATH}/")
        or answer.json.get("vehicles") != len(asked["vehicles"])
    ):
        raise Failed(short(answer.json, 100))
    return url


async def _vehicles(target: Target) -> list[str]:
    """Two, if there is another of our own that may be seen; else the one."""
    if target.sender is None or len(target.vehicle) > 63:
        return [target.vehicle]
    neighbour = target.neighbour()
    await neighbour.send()
    answer = await target.ask("GET", target.path(neighbour.vehicle))
    return [target.vehicle] if answer.status in (401, 403) else [target.vehicle, neighbour.vehicle]


async def _changed(target: Target, vehicles: Sequence[str]) -> None:
    await target.change(2)
    if len(vehicles) > 1:
        await target.neighbour().send()


def _of(events: Sequence[Event], skip: int = 0) -> dict[str, list[Event]]:
    """By vehicle."""
    found: dict[str, list[Event]] = {}
    for event in events[skip:]:
        if event.name in ("snapshot", "update", "status", "reset"):
            found.setdefault(str(story.data(event).get("vehicle")), []).append(event)
    return found


async def _level(
    target: Target,
    stream: Stream,
    vehicles: Sequence[str],
    at: Mapping[str, View | None] | None = None,
    skip: int = 0,
) -> dict[str, Story]:
    """Waits until each vehicle has what is polled now: what its events add up to must be that."""
    told: dict[str, Story] = {}
    for vehicle in vehicles:
        had = (at or {}).get(vehicle)
        deadline = asyncio.get_running_loop().time() + target.wish.within
        while True:
            polled, _ = await target.latest(vehicle=vehicle)
            found = told[vehicle] = story.tell(_of(stream.events, skip).get(vehicle, []), vehicle, had)
            shown = found.views.get(
                polled.version, had if had is not None and had.version == polled.version else None
            )
            if shown is not None:
                if not story.same(shown, polled):
                    raise Failed(f"{vehicle} at version {polled.version} is not as it is polled")
                break
            if stream.ended or asyncio.get_running_loop().time() > deadline:
                raise Failed(
                    f"{vehicle}: the polled state is version {polled.version}, the stream at {max(found.views, default=-1)}"
                )
            await asyncio.sleep(0.05)
    if others := set(_of(stream.events, skip)) - set(vehicles):
        raise Failed(f"events of {short(', '.join(others), 60)}")
    return told


CHECKS = (live, back, last_event_id, bad, guarded)

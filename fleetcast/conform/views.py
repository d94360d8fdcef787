"""Views: `?view=` names a set of signals, which has a state, a chain and ids of its own.

The documented views are looked for; an operator may have others, or none. With a vehicle of the suite's own one signal of each
is sent, and beside it signals that are in none of them.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from urllib.parse import urlencode

from fleetcast.conform import reset
from fleetcast.conform.fleet import found_in_list
from fleetcast.conform.shapes import View
from fleetcast.conform.target import STREAM, Target, difference
from fleetcast.conform.words import Failed, NotTried, short

PROBES = {
    "summary": "Vehicle.Exterior.AirTemperature",
    "tyres": "Vehicle.Chassis.Axle.Row1.Wheel.Left.Tire.AirTemperature",
    "security": "Vehicle.Body.Hood.IsOpen",
    "location": "Vehicle.CurrentLocation.Latitude",
}
"""By view a signal that is in it, and in no other of them."""
_PLACE = "Vehicle.CurrentLocation"
_BAD = ("nonsense", "", "ALL", "all,tyres", "tyres ", "../all", "x" * 300)
_TRIES = 20


async def bad(target: Target) -> str:
    """A view that is none is a 400, told as problem+json: for the state, the fleet, the stream (before it begins), a poll."""
    await _there(target)
    events = target.path(tail="/events")
    ways = [
        (f"{path}{'&' if '?' in path else '?'}{urlencode({'view': name})}", accept)
        for path in (target.path(), f"/v1/{target.wish.noun}", events, f"{events}?wait=5")
        for accept in ("application/json", STREAM)
        for name in _BAD
    ]
    answers = await asyncio.gather(*(target.ask("GET", path, {"Accept": accept}) for path, accept in ways))
    for (path, _), answer in zip(ways, answers, strict=True):
        try:
            said = answer.problem(400)
        except Failed as why:
            raise Failed(f"{short(path, 60)}: {why}") from None
    return f"{len(_BAD)} of them: {said}"


async def signals(target: Target) -> str:
    """A view shows its signals as they are among all, and no others; where the car is, only views that are for it."""
    names = await _sent(target)
    shown = 0
    for name in names:
        everything, view = await _both(target, name)
        if view.version > everything.version:
            raise Failed(f"{name} is at version {view.version}, all at {everything.version}")
        shown += len(view.signals)
        for path, signal in view.signals.items():
            _belongs(name, path)
            if everything.signals.get(path) != signal:
                raise Failed(f"{short(path, 60)} is {short(signal, 40)} in {name}, but not among all")
        if target.sender is not None and PROBES[name] not in view.signals:
            raise Failed(f"{name} does not show {PROBES[name]}, which was sent")
    return f"{', '.join(names)}: {shown} signals"


async def chain(target: Target) -> str:
    """A view's stream has an event only when one of its signals changed, with its signals only; its prev is its own."""
    names = await _sent(target)
    due: dict[str, list[int]] = {name: [] for name in names}
    async with AsyncExitStack() as stack:
        opening = (stack.enter_async_context(target.follow(view=name)) for name in names)
        streams = dict(zip(names, await asyncio.gather(*opening), strict=True))
        await asyncio.gather(*(stream.first() for stream in streams.values()))
        if target.sender is not None:
            for number in range(2):
                for name in names:
                    await target.sender.send()  # which is in none of them
                    await target.sender.send({PROBES[name]: _value(name, number)})
                    due[name].append(target.sender.version)
            await target.arrived()
        seen = 0
        for name, stream in streams.items():
            told = await target.level(stream)
            if told.snapshots != 1 or told.resets:
                raise Failed(f"{name}: {told.snapshots} snapshots, {len(told.resets)} resets on one stream")
            seen += len(told.updates)
            for update in told.updates:
                if not update.signals:
                    raise Failed(f"{name}: update {update.version} has no signal of it")
                for path in update.signals:
                    _belongs(name, path)
            missing = set(due[name]) - {update.version for update in told.updates}
            if missing:
                raise Failed(f"{name}: update {min(missing)} changed it, and did not come")
    return f"{len(streams)} streams, {seen} updates"


async def resume(target: Target) -> str:
    """With an id of the view a stream goes on with what was missed of it, each once, and without a reset."""
    name = (await _sent(target))[0]
    async with target.follow(view=name) as stream:
        await stream.first()
        at = (await target.level(stream)).at
        last = stream.last_id
    if target.sender is not None:
        for number in range(3):
            await target.sender.send({PROBES[name]: _value(name, number)})
            await target.sender.send()
        await target.arrived()
    async with target.follow(last=last, view=name) as stream:
        await stream.until(lambda: stream.comments or stream.events, "a comment or an event")
        told = await target.level(stream, at)
        if told.resets or told.snapshots:
            raise Failed(f"{name}: it was reset, or began again, by an id that it gave")
        if target.sender is not None and len(told.updates) < 3:
            raise Failed(f"{name}: {len(told.updates)} updates came; 3 were missed")
    return f"{name}: {len(told.updates)} updates"


async def foreign(target: Target) -> str:
    """An id of another view, or of all, is reset as foreign; then comes this view's snapshot, and what follows."""
    names = (await _sent(target))[:2]
    ids = {}
    for name in ("", *names):
        async with target.follow(view=name) as stream:
            (first,) = await stream.first()
            ids[name] = first.last_id
    if len(set(ids.values())) != len(ids):
        raise Failed(f"two views have the same id, {short(next(iter(ids.values())), 40)}")
    tried = 0
    for name in ids:
        for other, last in ids.items():
            if other == name:
                continue
            async with target.follow(last=last, view=name) as stream:
                try:
                    view = await reset.reset_first(stream, last, told_back=True)
                    for path in view.signals if name else ():
                        _belongs(name, path)
                    await target.level(stream)
                except Failed as why:
                    raise Failed(f"{name or 'all'} with an id of {other or 'all'}: {why}") from None
            tried += 1
    return f"{tried} ids"


async def everything(target: Target) -> str:
    """`view=all` is what there is without a view: the same state and the same ids."""
    await _there(target)
    for _ in range(_TRIES):
        plain, tag = await target.latest()
        named, other = await target.latest(view="all")
        if plain.version == named.version:
            break
    if (plain, tag) != (named, other):
        raise Failed(difference(named, plain) if plain != named else f"ETag {other}, without a view {tag}")
    async with target.follow(last=tag.strip('"'), view="all") as stream:
        told = await target.level(stream, named)
        if told.resets:
            raise Failed("an id that was given without a view was reset")
    return f"version {plain.version}"


async def listed(target: Target) -> str:
    """The fleet's list shows the view of each vehicle, if one is asked for."""
    name = (await _sent(target))[0]
    for _ in range(_TRIES):
        before, _ = await target.latest(view=name)
        found = await found_in_list(target, view=name)
        if found.version == before.version:
            if found != before:
                raise Failed(difference(found, before))
            return f"{name}: version {found.version}, {len(found.signals)} signals"
    raise NotTried("the vehicle changes too quickly")


async def _there(target: Target) -> list[str]:
    """Those of the documented views that are here. Raises NotTried if there are none."""
    answers = await asyncio.gather(*(target.ask("GET", target.path(view=name)) for name in PROBES))
    names = [name for name, answer in zip(PROBES, answers, strict=True) if answer.status == 200]
    if not names:
        status = answers[0].status
        raise NotTried(f"none of the documented views is here ({status} for {next(iter(PROBES))})")
    plain = await target.ask("GET", target.path())
    if target.sender is None and all(answer.body == plain.body for answer in answers):
        raise NotTried("view= changes nothing here")
    return names


async def _sent(target: Target) -> list[str]:
    """The views that are here, each touched at least once if the vehicle is ours."""
    names = await _there(target)
    if target.sender is not None:
        await target.sender.send({PROBES[name]: _value(name, 7) for name in names})
        await target.arrived()
        plain, _ = await target.latest()
        if [(await target.latest(view=name))[0] for name in names] == [plain] * len(names):
            raise NotTried("view= changes nothing here: is it older than views?")
    return names


async def _both(target: Target, name: str) -> tuple[View, View]:
    """All and the view, of one moment."""
    for _ in range(_TRIES):
        before, tag = await target.latest()
        view, own = await target.latest(view=name)
        after, _ = await target.latest()
        if before.version == after.version:
            if own == tag:
                raise Failed(f"{name} has the ETag of all, {own}")
            return after, view
    raise NotTried("the vehicle changes too quickly")


def _belongs(name: str, path: str) -> None:
    """Raises Failed for a signal that is another view's."""
    other = next((view for view, probe in PROBES.items() if path == probe), name)
    place = name != "location" and path.startswith(_PLACE)
    if other != name or place or path.startswith("Conform."):
        raise Failed(f"{short(path, 60)} is shown in {name}")


def _value(name: str, number: int) -> object:
    return number % 2 == 0 if name == "security" else number + 0.5


CHECKS = (bad, signals, chain, resume, foreign, everything, listed)

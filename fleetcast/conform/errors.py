"""What is asked wrongly, or otherwise than most apps do; and a temporary failure, if one came."""

from __future__ import annotations

import asyncio

from fleetcast.conform import story
from fleetcast.conform.target import STREAM, Target
from fleetcast.conform.words import Failed, NotTried, short

_BAD = ("a.b", "ä", "a b", "x" * 65, "*", ">", "a\r\nb", "a\0", "%", "a;b", "x" * 2000)
_METHODS = ("POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_RETRY = (1000, 4000)
_CUT = 15.0


async def bad_id(target: Target) -> str:
    """An id that is none is a 400, told as problem+json: for the state and for the stream."""
    said = ""
    for vehicle in _BAD:
        for tail in ("", "/events"):
            for accept in ("application/json", STREAM):
                answer = await target.ask("GET", target.path(vehicle, tail), {"Accept": accept})
                try:
                    said = answer.problem(400)
                except Failed as why:
                    raise Failed(f"{short(vehicle, 30)}{tail}: {why}") from None
    slash = await target.ask("GET", target.path("a/b"))
    slash.problem(400, 404)
    return f"{len(_BAD)} ids: {said}"


async def no_such_path(target: Target) -> str:
    """A path that is none is a 404, told as problem+json."""
    said = ""
    for path in (
        target.path() + "/nothing",
        "/v1/nothing",
        "/v0",
        f"/v1/{target.wish.noun}//events",
        "/next/0",
    ):
        said = (await target.ask("GET", path)).problem(403, 404)
    return said


async def other_method(target: Target) -> str:
    """Another method is a 405; Allow names those there are."""
    for path in (target.path(), target.path(tail="/events"), f"/v1/{target.wish.noun}"):
        for method in _METHODS:
            answer = await target.ask(method, path)
            answer.problem(405)
            if "GET" not in answer.headers.get("allow", ""):
                raise Failed(f"{method} {path}: Allow {answer.headers.get('allow', 'missing')}")
    return f"{', '.join(_METHODS)}"


async def head(target: Target) -> str:
    """HEAD is answered like GET, without a body: the state's headers, and a stream's, which ends at once."""
    got = await target.ask("GET", target.path())
    answer = await target.ask("HEAD", target.path())
    if answer.status != got.status or answer.body:
        raise Failed(f"{answer.status} with {len(answer.body)} bytes to HEAD, {got.status} to GET")
    for name in ("content-type", "cache-control"):
        if answer.headers.get(name) != got.headers.get(name):
            raise Failed(f"{name} {answer.headers.get(name)} to HEAD, {got.headers.get(name)} to GET")
    stream = await target.ask("HEAD", target.path(tail="/events"), {"Accept": STREAM})
    if stream.status != 200 or not stream.headers.get("content-type", "").startswith(STREAM) or stream.body:
        raise Failed(f"{stream.said} to HEAD of a stream")
    missing = await target.ask("HEAD", target.path(target.stranger()))
    if missing.status not in (404, 401, 403):
        raise Failed(f"{missing.status} to HEAD of a vehicle that never sent")
    return "the state, a stream, one that never sent"


async def any_accept(target: Target) -> str:
    """Whatever Accept says, the state is JSON and the stream is events: curl and libraries send what they like."""
    for accept in ("*/*", "text/html", "application/json;q=0.1, */*;q=0", "nonsense", ""):
        answer = await target.ask("GET", target.path(), {"Accept": accept})
        if answer.status != 200 or not answer.headers.get("content-type", "").startswith("application/json"):
            raise Failed(f"Accept: {accept}: {answer.said}")
        async with target.follow(headers={"Accept": accept}) as stream:
            (first,) = await stream.first()
            if first.name != "snapshot":
                raise Failed(f"Accept: {accept}: {first.name}")
    return "5 of them"


async def forged_headers(target: Target) -> str:
    """Headers of the machinery that a client makes up change nothing."""
    forged = {
        "Grip-Sig": "forged",
        "Grip-Hold": "response",
        "Grip-Channel": "v/other/all/",
        "Grip-Last": "v/other/all/; last-id=0-0",
        "Grip-Link": "</>; rel=next",
    }
    answer = await target.ask("GET", target.path(), forged)
    if answer.status != 200:
        raise Failed(answer.said)
    async with target.follow(headers=forged) as stream:
        await stream.first()
        await target.change()
        await target.level(stream)
    return f"{len(forged)} headers"


async def too_large(target: Target) -> str:
    """A request that is too large is refused for good, not told to try again: 414, 431, beyond 16 kB a 400 or a cut."""
    large = {f"X-Conform-{number}": "z" for number in range(90)}
    said = ""
    for path in (target.path(), target.path(tail="/events")):
        for accept in ("application/json", STREAM):
            long = await target.ask("GET", f"{path}?x={'z' * 5000}", {"Accept": accept})
            long.problem(414)
            for headers in (large, {"X-Conform": "z" * 9000}):
                said = (await target.ask("GET", path, {"Accept": accept, **headers})).problem(431)
            try:
                huge = await target.ask(
                    "GET", path, {"Accept": accept, "X-Conform": "z" * 100_000}, bound=_CUT
                )
            except Failed as why:
                if "no answer" in str(why):
                    raise
            else:
                if not 400 <= huge.status < 500:
                    raise Failed(f"{huge.said} to a header of 100 kB")
    return said


async def unavailable(target: Target) -> str:
    """A temporary failure is told in band: 200, retry of 1 to 4 s, unavailable without an id, the end."""
    if not target.unavailable:
        raise NotTried("it cannot be provoked from outside, and none came meanwhile")
    for stream in target.unavailable:
        event = next(event for event in stream.events if event.name == "unavailable")
        if event.id is not None:
            raise Failed(f"it has an id, {short(event.id, 40)}")
        if not isinstance(story.data(event).get("reason"), str):
            raise Failed(f"it says no reason: {short(event.text)}")
        if stream.retry is None or not _RETRY[0] <= stream.retry <= _RETRY[1]:
            raise Failed(f"retry is {stream.retry}")
        if event is not stream.events[-1]:
            raise Failed(f"it was followed by {stream.events[-1].name}")
    return f"{len(target.unavailable)} came"


async def many_requests(target: Target) -> str:
    """Requests that are wrong, all at once, take nothing from one that is right."""
    wrong = [target.ask("GET", target.path(vehicle)) for vehicle in _BAD * 3]
    right = target.ask("GET", target.path())
    *refused, answer = await asyncio.gather(*wrong, right)
    for one in refused:
        one.problem(400)
    if answer.status != 200:
        raise Failed(answer.said)
    return f"{len(refused)} refused, one served"


CHECKS = (
    bad_id,
    no_such_path,
    other_method,
    head,
    any_accept,
    forged_headers,
    many_requests,
    too_large,
    unavailable,
)

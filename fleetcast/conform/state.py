"""The latest state, for polling: `GET /v1/{noun}/{vehicle}`."""

from __future__ import annotations

import re

from fleetcast.conform import shapes
from fleetcast.conform.target import Target
from fleetcast.conform.words import Failed, NotTried, short

_TAG = re.compile(r'"[0-9a-z_.]{1,80}-[0-9]+"')
_TRIES = 20  # of a vehicle that changes between one request and the next


async def latest(target: Target) -> str:
    """The latest state is a snapshot, as application/json."""
    answer = await target.ask("GET", target.path())
    if answer.status != 200 or answer.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise Failed(answer.said)
    view = shapes.snapshot(answer.json)
    if view.vehicle != target.vehicle:
        raise Failed(f"the state of {short(view.vehicle)} was answered")
    return f"version {view.version}, {len(view.signals)} signals"


async def etag(target: Target) -> str:
    """It has a strong ETag, and caches must ask each time."""
    answer = await target.ask("GET", target.path())
    tag, cache = answer.headers.get("etag", ""), answer.headers.get("cache-control", "")
    if not _TAG.fullmatch(tag):
        raise Failed(f"ETag {short(tag) or 'missing'}")
    if "no-cache" not in cache and "no-store" not in cache:
        raise Failed(f"Cache-Control {short(cache) or 'missing'}: a cache may answer for it")
    return f"{tag}, {cache}"


async def not_modified(target: Target) -> str:
    """If-None-Match with its ETag is answered 304, without a body: alone, weak, in a list, as *."""
    forms = ("{}", "W/{}", '"other", {}', "*")
    for form in forms:
        for _ in range(_TRIES):
            _, tag = await target.latest()
            known = form.format(tag)
            answer = await target.ask("GET", target.path(), {"If-None-Match": known})
            if answer.status == 304 or answer.headers.get("etag") == tag:
                break
        if answer.status != 304:
            raise Failed(f"If-None-Match: {known}: {answer.said}")
        if answer.body:
            raise Failed(f"a 304 with a body of {len(answer.body)} bytes")
        if form != "*" and answer.headers.get("etag") != tag:
            raise Failed(f"304 with the ETag {answer.headers.get('etag')}, not {tag}")
    return f"{len(forms)} forms"


async def modified(target: Target) -> str:
    """Once it has changed, its old ETag is answered 200, with another ETag and a later version."""
    before = target.recording.before
    old = shapes.snapshot(before.json) if before.status == 200 else None
    tag = before.headers.get("etag", "")
    if old is None or not tag:
        raise NotTried("no state with an ETag to begin with")
    expected = target.sender.version if target.sender is not None else old.version + 1
    if target.sender is None and (await target.latest())[0].version == old.version:
        raise NotTried("the vehicle did not change meanwhile")
    answer = await target.ask("GET", target.path(), {"If-None-Match": tag})
    if answer.status != 200:
        raise Failed(f"{answer.said} to the ETag of version {old.version}")
    new = shapes.snapshot(answer.json)
    if answer.headers.get("etag") == tag or new.version < expected:
        raise Failed(f"version {new.version} with ETag {answer.headers.get('etag')} after {old.version}")
    return f"version {old.version}, then {new.version}"


async def other_tag(target: Target) -> str:
    """An ETag that was never its own is answered 200."""
    for tag in ('"0-1"', '"x"', "nonsense, ,"):
        answer = await target.ask("GET", target.path(), {"If-None-Match": tag})
        if answer.status != 200:
            raise Failed(f"{answer.said} to If-None-Match: {tag}")
    return "3 of them"


async def never_sent(target: Target) -> str:
    """A vehicle that never sent is a 404, told as problem+json."""
    answer = await target.ask("GET", target.path(target.stranger()))
    if answer.status in (401, 403):
        raise NotTried(f"{answer.status}: the token allows no other vehicle")
    return answer.problem(404)


CHECKS = (latest, etag, not_modified, modified, other_tag, never_sent)

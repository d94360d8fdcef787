"""Who may see what: tokens, tickets, the cookie. Refused before the stream, and no way around.

It needs an app's token. A ticket can be narrowed to the vehicle, so that another's can be tried whatever the token lets see.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from fleetcast.conform.target import STREAM, Answer, Shown, Target
from fleetcast.conform.words import Failed, NotTried, short

_NOTHING: Shown = ()
_LONGEST = 15.0  # seconds for which a ticket's end is waited for
_COOKIE = "fleetcast"


async def nothing_shown(target: Target) -> str:
    """Without credentials everything of a vehicle is a 401 with WWW-Authenticate, told as problem+json, before any stream."""
    await _ticket(target)
    return await _refused(target, _ways(target), _NOTHING, 401)


async def none_that_hold(target: Target) -> str:
    """Nor does anything else let in: a changed or unsigned token, another scheme, a token in the URL or as a ticket."""
    token, ticket = target.wish.token, await _ticket(target)
    bad = {
        "a changed token": _bearer(_changed(token)),
        "an unsigned token": _bearer(_unsigned(token)),
        "no token": _bearer("x"),
        "an empty one": [("Authorization", "Bearer")],
        "another scheme": [("Authorization", f"Basic {token}")],
        "a ticket as a token": _bearer(ticket),
        "a changed cookie": [("Cookie", f"{_COOKIE}={_changed(token)}")],
    }
    for what, shown in bad.items():
        try:
            await _refused(target, _ways(target), shown, 401)
        except Failed as why:
            raise Failed(f"{what}: {why}") from None
    asked = [{name: token} for name in ("token", "access_token", "authorization", "ticket")]
    asked += [{"ticket": _changed(ticket)}, {"ticket": "x"}]
    for query in asked:
        try:
            await _refused(target, _ways(target, **query), _NOTHING, 401)
        except Failed as why:
            raise Failed(f"in the query as {next(iter(query))}: {why}") from None
    return f"{len(bad) + len(asked)} ways"


async def ticket(target: Target) -> str:
    """`POST /v1/tickets` gives a ticket, no longer than 3,000 characters, that opens streams by the query, several times."""
    answer = await _tickets(target, b"")
    given = answer.json.get("ticket")
    until = _moment(answer)
    if "no-store" not in answer.headers.get("cache-control", ""):
        raise Failed(f"Cache-Control {answer.headers.get('cache-control', 'missing')}")
    if not isinstance(given, str) or not 0 < len(given) <= 3000 or target.wish.token in given:
        raise Failed(f"the ticket is {short(given, 30)}")
    if not 0 < until - time.time() <= 3600 + 60:
        raise Failed(f"it expires in {until - time.time():.0f} s")
    for _ in range(2):
        await _opens(target, _NOTHING, ticket=given)
    async with target.follow(shown=_NOTHING, ticket=given) as stream:
        await stream.first()
        await target.change()
        await target.level(stream)
    return f"{len(given)} characters, for {until - time.time():.0f} s"


async def ticket_goes_on(target: Target) -> str:
    """A stream that a ticket opened outlives it; and after its end it opens none: 401."""
    answer = await _tickets(target, b"")
    given, until = str(answer.json.get("ticket")), _moment(answer)
    if until - time.time() > _LONGEST:
        raise NotTried(f"tickets hold {until - time.time():.0f} s here; {_LONGEST:.0f} s are waited for")
    async with target.follow(shown=_NOTHING, ticket=given) as stream:
        await stream.first()
        await asyncio.sleep(max(0.0, until - time.time()) + 0.1)
        deadline = time.time() + 2.0  # clocks differ
        while True:
            answer = await target.ask("GET", target.path(ticket=given), shown=_NOTHING)
            if answer.status == 401 or time.time() > deadline:
                break
            await asyncio.sleep(0.1)
        await _refused(target, _ways(target, ticket=given), _NOTHING, 401)
        await asyncio.sleep(0.5)
        if stream.ended:
            raise Failed(f"the stream that it opened ended with it ({stream.ended})")
        await target.level(stream)
    return "401 afterwards, and its stream goes on"


async def anothers(target: Target) -> str:
    """Another's vehicle is a 403, whether there is one or not: its state, its stream before it begins, a long-poll, a view."""
    given = await _ticket(target, target.vehicle)
    others = [target.stranger(), await _neighbour(target)]
    for other in filter(None, others):
        await _refused(target, _ways(target, other, ticket=given), _NOTHING, 403)
        await _refused(target, _ways(target, other, ticket=given, view="tyres"), _NOTHING, 403)
        # The ticket counts: a token that may see it does not help.
        await _refused(target, _ways(target, other, ticket=given), _bearer(target.wish.token), 403)
    mine = await target.ask("GET", target.path(ticket=given), shown=_NOTHING)
    if mine.status != 200:
        raise Failed(f"{mine.said} for the vehicle that the ticket is for")
    answer = await target.ask("GET", target.path(target.stranger()))
    word = "403 too" if answer.status == 403 else f"{answer.status}: it sees everything"
    return f"by a ticket for {target.vehicle} alone; by the token itself {word}"


async def listed(target: Target) -> str:
    """The fleet's list holds what may be seen, and nothing else, on whatever page it is asked for."""
    given = await _ticket(target, target.vehicle)
    await _neighbour(target)
    for query in ("", "&search=conform", "&after=0&limit=100", f"&search={target.vehicle}0"):
        path = f"/v1/{target.wish.noun}?ticket={given}{query}"
        answer = await target.ask("GET", path, shown=_NOTHING)
        if answer.status != 200:
            raise Failed(answer.said)
        found = [one.get("vehicle") for one in answer.json.get("vehicles", [])]
        if set(found) - {target.vehicle}:
            raise Failed(f"{short(', '.join(map(str, found)))} by a ticket for {target.vehicle} alone")
    return "4 pages"


async def ticket_gets_none(target: Target) -> str:
    """Only the token gets a ticket or a session: no ticket does, nor does nothing, nor a ticket for what may not be seen."""
    given = await _ticket(target, target.vehicle)
    for path in ("/v1/tickets", "/v1/session"):
        for asked, shown in (
            (path, _NOTHING),
            (f"{path}?ticket={given}", _NOTHING),
            (path, _bearer(given)),
            (path, [("Cookie", f"{_COOKIE}={target.wish.token}")]),
        ):
            answer = await target.ask("POST", asked, shown=shown)
            try:
                answer.problem(401)
            except Failed as why:
                raise Failed(f"POST {short(path, 20)} without a token: {why}") from None
    for body in (b"1", b'{"vehicles": []}', b'{"vehicles": ["a.b"]}', b"{"):
        (await target.ask("POST", "/v1/tickets", body=body)).problem(400)
    return "8 ways"


async def session(target: Target) -> str:
    """`POST /v1/session` gives a cookie that no script can read, which opens streams, as a page of the same site needs."""
    answer = await target.ask("POST", "/v1/session")
    if answer.status == 404:
        raise NotTried("404: no sessions here")
    if answer.status != 204:
        raise Failed(answer.said)
    made = answer.headers.get("set-cookie", "")
    words = {word.strip().lower() for word in made.split(";")[1:]}
    if not made.startswith(f"{_COOKIE}=") or not {"httponly", "samesite=strict"} <= words:
        raise Failed(f"Set-Cookie has {short(', '.join(sorted(words))) or 'nothing'}")
    cookie: Shown = [("Cookie", f"a=b; {made.partition(';')[0]}")]
    await _opens(target, cookie)
    async with target.follow(shown=cookie) as stream:
        await stream.first()
        await target.change()
        await target.level(stream)
    ended = await target.ask("DELETE", "/v1/session", shown=cookie)
    if ended.status != 204 or "max-age=0" not in ended.headers.get("set-cookie", "").lower():
        raise Failed(
            f"{ended.status} to DELETE, Set-Cookie {short(ended.headers.get('set-cookie', 'missing'))}"
        )
    return "HttpOnly, SameSite=Strict; gone by DELETE"


async def next_link(target: Target) -> str:
    """The link by which the edge recovers is of no use to an app, whatever it shows: 404."""
    forged = {"Grip-Last": f"v/{target.vehicle}/all/; last-id=0-0", "Grip-Sig": "x"}
    shown = [_NOTHING, _bearer(target.wish.token)] if target.wish.token else [_NOTHING]
    for one in shown:
        for path in ("/next/0", "/next/15", f"/next/1?channel=v/{target.vehicle}/all/"):
            for headers in ({}, forged):
                (await target.ask("GET", path, headers, shown=one)).problem(404)
    return f"{6 * len(shown)} ways"


def _ways(target: Target, vehicle: str = "", **query: str) -> Sequence[tuple[str, str]]:
    """(path, Accept) of all that shows something of a vehicle; its own also by the fleet's list."""
    events = target.path(vehicle, "/events", **query)
    return [
        (target.path(vehicle, **query), "application/json"),
        (target.path(vehicle, "/events", **query), STREAM),
        (target.path(vehicle, "/events", last_event_id="0-1", **query), "*/*"),
        (f"{events}{'&' if '?' in events else '?'}wait=1", "application/json"),
    ]


async def _refused(target: Target, ways: Sequence[tuple[str, str]], shown: Shown, status: int) -> str:
    """Each of these is this status."""
    said = ""
    answers = await asyncio.gather(
        *(target.ask("GET", path, {"Accept": accept}, shown=shown) for path, accept in ways)
    )
    for (path, accept), answer in zip(ways, answers, strict=True):
        try:
            said = answer.problem(status)
        except Failed as why:
            raise Failed(f"{path.partition('?')[0]} as {accept}: {why}") from None
        if status == 401 and not answer.headers.get("www-authenticate", "").startswith("Bearer"):
            raise Failed(f"WWW-Authenticate {answer.headers.get('www-authenticate', 'missing')}")
    return said


async def _opens(target: Target, shown: Shown, **query: str) -> None:
    """Raises Failed if what is shown does not let see the state and the stream."""
    for path, accept in _ways(target, **query)[:2]:
        answer = await target.ask("GET", path, {"Accept": accept}, shown=shown)
        if answer.status != 200:
            raise Failed(f"{answer.said} for {path.partition('?')[0]}, by what was given for it")


async def _tickets(target: Target, body: bytes) -> Answer:
    """The answer that has a ticket. Raises NotTried if there are none here."""
    if not target.wish.token:
        raise NotTried("needs --token")
    answer = await target.ask("POST", "/v1/tickets", body=body)
    if answer.status == 404:
        raise NotTried("404 for /v1/tickets: this deployment asks for no credentials")
    if answer.status != 201:
        raise Failed(f"{answer.said} for a ticket")
    return answer


async def _ticket(target: Target, *vehicles: str) -> str:
    """One that was just made, for these vehicles or for all that the token lets see."""
    body = json.dumps({"vehicles": vehicles}).encode() if vehicles else b""
    given = (await _tickets(target, body)).json.get("ticket")
    if not isinstance(given, str):
        raise Failed(f"the ticket is {short(given, 30)}")
    return given


async def _neighbour(target: Target) -> str:
    """Another vehicle, which is there; "" if none can be made."""
    if target.sender is None or len(target.vehicle) > 63:
        return ""
    neighbour = target.neighbour()
    await neighbour.send()
    return neighbour.vehicle


def _moment(answer: Answer) -> float:
    at = answer.json.get("expires_at")
    try:
        return datetime.strptime(str(at), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise Failed(f"expires_at is {short(at, 40)}") from None


def _bearer(token: str) -> Shown:
    return [("Authorization", f"Bearer {token}")]


def _changed(token: str) -> str:
    """With another signature; the last character may hold unused bits only, so one in the middle of it."""
    at = len(token) - 10
    return f"{token[:at]}{'A' if token[at] != 'A' else 'B'}{token[at + 1 :]}"


def _unsigned(token: str) -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    return ".".join([head, *token.split(".")[1:2], ""])


CHECKS = (
    nothing_shown,
    none_that_hold,
    ticket,
    ticket_goes_on,
    anothers,
    listed,
    ticket_gets_none,
    session,
    next_link,
)

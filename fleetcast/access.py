"""Who may see what: an app's credentials, the vehicles that they let it see, and what its streams are closed by.

In: a request's headers. Out: `Rights`, or `Unproven` (401); and for a vehicle `Seen`, or `Unproven` (403). A stream carries its
credential in a channel of the edge, so that the next link, which is asked without the phone's headers, knows whose it is. That
channel also keeps the edge from answering two phones by one answer, unless they show the same token. Nothing here logs or
repeats any part of a token.
"""

from __future__ import annotations

import asyncio
import importlib
import math
from bisect import bisect, bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import jwt
import msgspec
import structlog
from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from fleetcast import metrics
from fleetcast.auth import KeyFile, Tokens, Unproven
from fleetcast.clock import Clock
from fleetcast.errors import Refuse, Unavailable, Unusable
from fleetcast.fleets import Fleets
from fleetcast.known import Known
from fleetcast.many import each, few
from fleetcast.registry import Registry
from fleetcast.revoked import Revoked
from fleetcast.rights import (
    BY_CLAIM,
    BY_FLEET,
    BY_RESOLVER,
    MOST_FLEETS,
    Credential,
    Rights,
    Seen,
    credential,
    rights,
)
from fleetcast.settings import Settings

log = structlog.get_logger()

Resolve = Callable[[Mapping[str, Any], str], Awaitable[bool]]
"""`await resolve(claims, vehicle)`: whether whoever has these claims may see the vehicle."""

COOKIE = "fleetcast"
_MOST_CACHED = 10_000
_MOST_TICKET = 3_000
_ANSWERS = 2.0  # seconds that a resolver has
_AT_ONCE = 32
_MOST_ASKED = 512  # of a resolver, for one page of the fleet


_ANYWAY = Seen()
_NOBODY = Rights("", "", 0.0, math.inf, True, (), (), {})  # noqa: FBT003 - everything may be seen


class Open:
    """Without keys: everybody sees everything."""

    cache = "no-cache"
    """The Cache-Control of a latest state."""

    def __init__(self, fleets: Fleets | None = None) -> None:
        self._fleets = fleets

    async def who(self, headers: Headers) -> Rights:
        """Asks for nothing."""
        return _NOBODY

    async def sees(self, who: Rights, vehicle: str) -> Seen:
        """Always."""
        return _ANYWAY

    async def sees_all(self, who: Rights, vehicles: Sequence[str]) -> Seen:
        """Always."""
        return _ANYWAY

    async def go_on(
        self, channels: Sequence[str], vehicles: Sequence[str]
    ) -> tuple[Seen | None, Collection[str]]:
        """Always."""
        return _ANYWAY, ()

    async def of_fleet(self, who: Rights, fleet: str) -> list[str]:
        """The vehicles of a fleet, in order."""
        return sorted(await self._fleets.of(fleet)) if self._fleets is not None else []

    async def page(
        self, who: Rights, everyone: Sequence[str], after: str, search: str, limit: int
    ) -> tuple[list[str], str | None]:
        """Of all vehicles, in order: those after `after` that hold `search`, `limit` at most; and where the next page
        begins.
        """
        found = list(islice((v for v in everyone[bisect(everyone, after) :] if search in v), limit + 1))
        return found[:limit], found[limit - 1] if len(found) > limit else None


class Guarded(Open):
    """With keys: each request shows a token, a ticket, or the cookie of a session."""

    cache = "private, no-cache"

    def __init__(
        self,
        settings: Settings,
        known: Known,
        registry: Registry,
        revoked: Revoked,
        clock: Clock,
        resolve: Resolve | None = None,
    ) -> None:
        """Raises Unusable if the keys cannot be read."""
        if not settings.ticket_key:
            raise Unusable("ticket_key: missing; origins sign tickets with it, and `up` makes one")
        self._settings = settings
        super().__init__(Fleets(registry, clock))
        self._known = known
        self._revoked = revoked
        self._clock = clock
        self._resolve = resolve
        self._tokens = Tokens(
            KeyFile(Path(settings.app_keys), "app_keys"),
            lambda claims: rights(claims, settings.revoked_seconds, clock.now()),
            settings.app_issuer,
            settings.app_audience,
            _MOST_CACHED,
        )

    # Who it is

    async def who(self, headers: Headers) -> Rights:
        """By a token (Bearer), a ticket that the front made of the query (Ticket), or the cookie. Raises Unproven."""
        scheme, shown = _shown(headers)
        if scheme == "ticket":
            return self._holding(self._by_ticket(shown))
        if not shown:
            shown = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        if not shown:
            raise _refused(
                "missing", "show a token: Authorization: Bearer …, or a ticket, or a session's cookie"
            )
        return self.by_token(shown)

    def owner(self, headers: Headers) -> tuple[str, Rights]:
        """The token, and what it says: for what only a token can do, such as getting a ticket. Raises Unproven."""
        scheme, shown = _shown(headers)
        if scheme != "bearer":
            raise _refused("missing", "show a token: Authorization: Bearer …")
        return shown, self.by_token(shown)

    def by_token(self, token: str) -> Rights:
        """Raises Unproven."""
        try:
            found = self._tokens.proof(token)
        except Unproven as why:
            metrics.UNSEEN.labels(why.reason).inc()
            raise
        return self._holding(found)

    def _holding(self, found: Rights) -> Rights:
        if found.until <= self._clock.now():  # without leeway: what closes open streams has none either
            raise _refused("expired", "the token has expired")
        if self._revoked.holds(found.user, found.token, found.issued):
            raise _refused("revoked", "the token was revoked")
        return found

    # Tickets

    def ticket(self, who: Rights, vehicles: Sequence[str] | None) -> tuple[str, float]:
        """A ticket for these rights, or for these vehicles of them, and when it ends. Raises Refuse if it would be too long."""
        until = min(self._clock.now() + self._settings.ticket_seconds, who.until)
        body: dict[str, Any] = {"iss": "fleetcast", "aud": "ticket", "exp": until, "claims": dict(who.claims)}
        if vehicles is not None:
            body["only"] = sorted(set(vehicles))
            if self._resolve is None:  # no longer than it need be
                listed = [one for one in body["only"] if who.everything or _holds(who.vehicles, one)]
                body["claims"] |= {"vehicles": listed}
        made = jwt.encode(body, self._settings.ticket_key, "HS256")
        if len(made) > _MOST_TICKET:
            raise Refuse(
                400, "Too long", "the rights are too many for a URL: name the vehicles that are to be seen"
            )
        return made, until

    def _by_ticket(self, ticket: str) -> Rights:
        try:
            body = jwt.decode(
                ticket,
                self._settings.ticket_key,
                algorithms=["HS256"],
                issuer="fleetcast",
                audience="ticket",
                options={"require": ["exp", "iss", "aud"], "verify_exp": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError, AttributeError):
            raise _refused("ticket", "not a ticket of this platform") from None
        if body["exp"] <= self._clock.now():
            raise _refused("expired", "the ticket has expired: get another one")
        only = body.get("only")
        found = rights(body["claims"])
        return found if only is None else msgspec.structs.replace(found, only=tuple(only))

    # What it may see

    async def sees(self, who: Rights, vehicle: str) -> Seen:
        """Raises Unproven, or Unavailable if that cannot be known now."""
        by = await self._by(who, vehicle)
        if by is None:
            raise _refused("other", f"these credentials do not let you see {vehicle}", 403)
        return self._seen(who, by)

    def _seen(self, who: Rights, by: str) -> Seen:
        until = who.until
        if by == BY_RESOLVER:
            until = min(until, self._clock.now() + self._settings.resolver_seconds)
        return Credential(who.user, who.token, int(who.issued), math.ceil(until), by).seen

    async def sees_all(self, who: Rights, vehicles: Sequence[str]) -> Seen:
        """The same of all of them, for one stream: its credential says what lets them be seen, so that must be the claim of
        each, or fleets. Raises Refuse too.
        """
        if self._resolve is not None:
            found = await each(lambda one: self._by(who, one), vehicles)
            _none_of([one for one, by in zip(vehicles, found, strict=True) if by is None], vehicles)
            return self._seen(who, BY_RESOLVER)
        mine = [one for one in vehicles if who.only is None or _holds(who.only, one)]
        claimed = {one for one in mine if who.everything or _holds(who.vehicles, one)}
        if len(claimed) == len(vehicles):
            return self._seen(who, BY_CLAIM)
        entries = await each(self._known.check, mine) if who.fleets else []
        fleets = {
            entry.vehicle: common
            for entry in entries
            if entry is not None and (common := {one for one in who.fleets if one in entry.fleets})
        }
        _none_of([one for one in vehicles if one not in claimed and one not in fleets], vehicles)
        if alone := [one for one in vehicles if one not in fleets]:
            raise Refuse(
                400,
                "Two streams",
                "some of these are seen by their fleets, others by name alone: ask for two streams, one with those seen by"
                f" name: {few(alone)}",
            )
        return self._seen(who, BY_FLEET + ".".join(_cover(list(fleets.values()))))

    async def of_fleet(self, who: Rights, fleet: str) -> list[str]:
        """Those of them that may be seen. Raises Refuse if a resolver had to be asked for too many."""
        found = await super().of_fleet(who, fleet)
        if who.only is not None:
            found = [one for one in found if _holds(who.only, one)]
        if self._resolve is not None:
            if len(found) > _MOST_ASKED:
                raise Refuse(
                    400, "Too many", f"the fleet has more than {_MOST_ASKED} vehicles: name those to be seen"
                )
            seen = await each(lambda one: self._resolved(who, one), found)
            return [one for one, yes in zip(found, seen, strict=True) if yes]
        if who.everything or fleet in who.fleets:
            return found
        mine = await self._named(who)
        return [one for one in found if one in mine]

    async def _named(self, who: Rights) -> set[str]:
        """All that it names, or has by its fleets."""
        assert self._fleets is not None
        return set(who.vehicles).union(*[await self._fleets.of(fleet) for fleet in who.fleets])

    async def _by(self, who: Rights, vehicle: str) -> str | None:
        """What lets it see this vehicle; None if nothing does."""
        if who.only is not None and not _holds(who.only, vehicle):
            return None
        if self._resolve is not None:
            return BY_RESOLVER if await self._resolved(who, vehicle) else None
        if who.everything or _holds(who.vehicles, vehicle):
            return BY_CLAIM
        if who.fleets and (entry := await self._known.check(vehicle)) is not None:
            return next((BY_FLEET + one for one in who.fleets if one in entry.fleets), None)
        return None

    async def _resolved(self, who: Rights, vehicle: str) -> bool:
        assert self._resolve is not None
        try:
            async with asyncio.timeout(_ANSWERS):
                return await self._resolve(who.claims, vehicle) is True
        except Exception as error:  # a plugin may raise anything
            log.warning("app_resolver does not answer", vehicle=vehicle, error=type(error).__name__)
            raise Unavailable(f"app_resolver: {type(error).__name__}") from error

    async def go_on(
        self, channels: Sequence[str], vehicles: Sequence[str]
    ) -> tuple[Seen | None, Collection[str]]:
        """Whether a stream of these vehicles, which is held by these channels, may go on (None: it is to end), and which of
        them may be seen no longer.

        Raises Unavailable. The signature of its token was checked when it began.
        """
        found = [one for one in map(credential, channels) if one is not None]
        why = self._ends(found[0]) if len(found) == 1 else "foreign"
        if why:
            metrics.ENDED.labels(why).inc()
            return None, vehicles
        fleets = found[0].fleets
        if not fleets:
            return found[0].seen, ()
        entries = await each(self._known.check, vehicles)
        gone = {
            vehicle
            for vehicle, entry in zip(vehicles, entries, strict=True)
            if entry is None or fleets.isdisjoint(entry.fleets)
        }
        metrics.ENDED.labels("fleet").inc(len(gone))
        return found[0].seen, gone

    def _ends(self, stream: Credential) -> str:
        """Why it is over, in a word; empty if it is not."""
        if stream.until <= self._clock.now():
            return "expired"
        if self._revoked.holds(stream.user, stream.token, stream.issued):
            return "revoked"
        if (stream.by == BY_RESOLVER) != (self._resolve is not None):
            return "resolver"
        return ""

    async def page(
        self, who: Rights, everyone: Sequence[str], after: str, search: str, limit: int
    ) -> tuple[list[str], str | None]:
        """The same of those that may be seen. A resolver is asked for some hundreds at most: then the page may be short."""
        if self._resolve is not None:
            return await self._asked(who, everyone, after, search, limit)
        if not who.everything:
            mine = await self._named(who)
            everyone = sorted(one for one in mine if _holds(everyone, one))
        if who.only is not None:
            everyone = [one for one in who.only if _holds(everyone, one)]
        return await super().page(who, everyone, after, search, limit)

    async def _asked(
        self, who: Rights, everyone: Sequence[str], after: str, search: str, limit: int
    ) -> tuple[list[str], str | None]:
        if who.only is not None:
            everyone = [one for one in who.only if _holds(everyone, one)]
        due = list(islice((v for v in everyone[bisect(everyone, after) :] if search in v), _MOST_ASKED + 1))
        found: list[str] = []
        asked = due[:_MOST_ASKED]
        for start in range(0, len(asked), _AT_ONCE):
            some = asked[start : start + _AT_ONCE]
            answers = await asyncio.gather(*(self._resolved(who, one) for one in some))
            found += [one for one, yes in zip(some, answers, strict=True) if yes]
            if len(found) > limit:
                return found[:limit], found[limit - 1]
        return found, asked[-1] if len(due) > len(asked) else None


def _shown(headers: Headers) -> tuple[str, str]:
    """(scheme in small letters, credentials), both empty if none are shown. Raises Unproven."""
    shown = headers.getlist("authorization")
    if not shown:
        return "", ""
    scheme, _, credentials = shown[0].partition(" ")
    scheme, credentials = scheme.lower(), credentials.strip()
    if len(shown) > 1 or scheme not in ("bearer", "ticket") or not credentials:
        raise _refused("malformed", "Authorization must be one: Bearer and the token")
    return scheme, credentials


def _refused(reason: str, detail: str, status: int = 401) -> Unproven:
    metrics.UNSEEN.labels(reason).inc()
    return Unproven(reason, detail, status)


def _none_of(refused: Sequence[str], vehicles: Sequence[str]) -> None:
    if refused:
        raise _refused(
            "other",
            f"these credentials do not let you see {len(refused)} of {len(vehicles)}: {few(refused)}",
            403,
        )


def _cover(vehicles: Sequence[set[str]]) -> list[str]:
    """A few fleets of which each vehicle is in one: again and again the one that most of the rest are in. Raises Refuse."""
    rest, found = list(vehicles), list[str]()
    while rest:
        count = Counter(fleet for fleets in rest for fleet in fleets)
        found.append(min(count, key=lambda fleet: (-count[fleet], fleet)))
        rest = [fleets for fleets in rest if found[-1] not in fleets]
    if len(found) > MOST_FLEETS:
        raise Refuse(
            400, "Two streams", f"these are of more than {MOST_FLEETS} fleets: ask for several streams"
        )
    return found


def _holds(ordered: Sequence[str], one: str) -> bool:
    at = bisect_left(ordered, one)
    return at < len(ordered) and ordered[at] == one


def check(settings: Settings) -> None:
    """Raises Unusable if the keys or the resolver that the settings name will not do."""
    if settings.app_keys:
        KeyFile(Path(settings.app_keys), "app_keys")
    if settings.app_resolver:
        load_resolver(settings.app_resolver)


def load_resolver(name: str) -> Resolve:
    """`module:function` -> the function. Raises Unusable."""
    module, _, function = name.partition(":")
    if not function:
        raise Unusable(f"app_resolver: {name} is not module:function")
    try:
        found: Resolve = getattr(importlib.import_module(module), function)
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything
        raise Unusable(f"app_resolver: {name} cannot be loaded: {error}") from None
    if not asyncio.iscoroutinefunction(found) and not asyncio.iscoroutinefunction(
        getattr(found, "__call__", None)  # noqa: B004 - an object with an async __call__ will do
    ):
        raise Unusable(f"app_resolver: {name} is no async function")
    return found

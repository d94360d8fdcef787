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
import re
from bisect import bisect, bisect_left
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import msgspec
import structlog
from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from fleetcast import metrics
from fleetcast.auth import KeyFile, Tokens, Unproven
from fleetcast.clock import Clock
from fleetcast.errors import Refuse, Unavailable, Unusable
from fleetcast.known import Known
from fleetcast.registry import Registry, is_fleet
from fleetcast.revoked import Revoked, digest
from fleetcast.settings import Settings
from fleetcast.subjects import expiry_channel, is_vehicle, token_channel, user_channel

log = structlog.get_logger()

Resolve = Callable[[Mapping[str, Any], str], Awaitable[bool]]
"""`await resolve(claims, vehicle)`: whether whoever has these claims may see the vehicle."""

COOKIE = "fleetcast"
_LONGEST_NAME = 256
_MOST_CACHED = 10_000
_MOST_TICKET = 3_000
_ANSWERS = 2.0  # seconds that a resolver has
_AT_ONCE = 32
_MOST_ASKED = 512  # of a resolver, for one page of the fleet
_FLEETS_SECONDS = 3.0
_SHARE = 10  # reading all of a large registry takes at most a tenth of the time
_SOON = 0.25
_EVERYTHING = "*"
_NONE = "-"
_BY_CLAIM, _BY_RESOLVER, _BY_FLEET = "v", "r", "f-"
_CREDENTIAL = re.compile(
    r"as/([0-9a-f]{20})\.([0-9a-f]{20}|-)\.([0-9]{1,12})\.([0-9]{1,12})\.(v|r|f-[A-Za-z0-9_-]{1,64})/\Z"
)


class Rights(msgspec.Struct, frozen=True):
    """What a token says: whose it is, from when until when, and what may be seen. Times are seconds since 1970."""

    user: str
    """The digest of `sub`."""
    token: str
    """The digest of `jti`, or empty."""
    issued: float
    until: float
    everything: bool
    vehicles: tuple[str, ...]
    """In order."""
    fleets: tuple[str, ...]
    claims: Mapping[str, Any]
    only: tuple[str, ...] | None = None
    """In order, of a ticket: what it was narrowed to."""


class Seen(NamedTuple):
    """A vehicle that may be seen, and what a stream of it must be held by besides: (channel, id it is at, or "" if none)."""

    channels: tuple[tuple[str, str], ...] = ()


_ANYWAY = Seen()


class Credential(NamedTuple):
    """What a stream's own channel says of whose it is. `by` is what let it see the vehicle."""

    user: str
    token: str
    issued: int
    until: int
    by: str

    @property
    def channel(self) -> str:
        """Its name, which `credential` reads."""
        return f"as/{self.user}.{self.token or _NONE}.{self.issued}.{self.until}.{self.by}/"

    @property
    def seen(self) -> Seen:
        """The channels: the one that says whose it is, and those that close it."""
        closing = [user_channel(self.user), *([token_channel(self.token)] if self.token else [])]
        closing.append(expiry_channel(self.until))
        return Seen(((self.channel, "0"), *((name, "") for name in closing)))


def credential(name: str) -> Credential | None:
    """The credential that a channel is of, or None if it is another channel."""
    if (match := _CREDENTIAL.match(name)) is None:
        return None
    user, token, issued, until, by = match.groups()
    return Credential(user, "" if token == _NONE else token, int(issued), int(until), by)


def rights(claims: Mapping[str, Any], longest: float = math.inf, now: float = 0.0) -> Rights:
    """Of a verified token's claims, `exp` as a float among them. Raises Unproven. `longest`: what it may have left at `now`."""
    user, token, issued = claims["sub"], claims.get("jti", ""), claims.get("iat", 0)
    for name, text in (("sub", user), ("jti", token)):
        if not isinstance(text, str) or len(text) > _LONGEST_NAME:
            raise Unproven("claims", f"the token's {name} is no text of at most {_LONGEST_NAME} characters")
    if not user:
        raise Unproven("claims", "the token's sub is empty")
    if isinstance(issued, bool) or not isinstance(issued, int | float) or not 0 <= issued < 1e11:
        raise Unproven("claims", "the token's iat is no time")
    until = claims["exp"]
    if not until < 1e11 or until - now > longest:
        raise Unproven(
            "claims", f"the token ends in more than {longest:.0f} s: a revocation would be over before"
        )
    vehicles, fleets = (_texts(claims, name) for name in ("vehicles", "fleets"))
    return Rights(
        user=digest(user),
        token=digest(token) if token else "",
        issued=float(issued),
        until=until,
        everything=_EVERYTHING in vehicles,
        vehicles=tuple(sorted({one for one in vehicles if is_vehicle(one)})),
        fleets=tuple(sorted({one for one in fleets if is_fleet(one)})),
        claims=claims,
    )


def _texts(claims: Mapping[str, Any], name: str) -> Sequence[str]:
    found = claims.get(name, [])
    if isinstance(found, str):
        found = [found]
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise Unproven("claims", f"the token's {name} is no list of texts")
    return found


_NOBODY = Rights("", "", 0.0, math.inf, True, (), (), {})  # noqa: FBT003 - everything may be seen


class Open:
    """Without keys: everybody sees everything."""

    cache = "no-cache"
    """The Cache-Control of a latest state."""

    async def who(self, headers: Headers) -> Rights:
        """Asks for nothing."""
        return _NOBODY

    async def sees(self, who: Rights, vehicle: str) -> Seen:
        """Always."""
        return _ANYWAY

    async def goes_on(self, channels: Sequence[str], vehicle: str) -> Seen | None:
        """Always."""
        return _ANYWAY

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
        self._known = known
        self._fleets = Fleets(registry, clock)
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
        until = who.until
        if by == _BY_RESOLVER:
            until = min(until, self._clock.now() + self._settings.resolver_seconds)
        return Credential(who.user, who.token, int(who.issued), math.ceil(until), by).seen

    async def _by(self, who: Rights, vehicle: str) -> str | None:
        """What lets it see this vehicle; None if nothing does."""
        if who.only is not None and not _holds(who.only, vehicle):
            return None
        if self._resolve is not None:
            return _BY_RESOLVER if await self._resolved(who, vehicle) else None
        if who.everything or _holds(who.vehicles, vehicle):
            return _BY_CLAIM
        if who.fleets and (entry := await self._known.check(vehicle)) is not None:
            return next((_BY_FLEET + one for one in who.fleets if one in entry.fleets), None)
        return None

    async def _resolved(self, who: Rights, vehicle: str) -> bool:
        assert self._resolve is not None
        try:
            async with asyncio.timeout(_ANSWERS):
                return await self._resolve(who.claims, vehicle) is True
        except Exception as error:  # a plugin may raise anything
            log.warning("app_resolver does not answer", vehicle=vehicle, error=type(error).__name__)
            raise Unavailable(f"app_resolver: {type(error).__name__}") from error

    async def goes_on(self, channels: Sequence[str], vehicle: str) -> Seen | None:
        """Whether a stream of this vehicle, which is held by these channels, may go on; None: it is to end.

        Raises Unavailable. The signature of its token was checked when it began.
        """
        found = [one for one in map(credential, channels) if one is not None]
        why = await self._ends(found[0], vehicle) if len(found) == 1 else "foreign"
        if why:
            metrics.ENDED.labels(why).inc()
            return None
        return found[0].seen

    async def _ends(self, stream: Credential, vehicle: str) -> str:
        """Why it is over, in a word; empty if it is not."""
        if stream.until <= self._clock.now():
            return "expired"
        if self._revoked.holds(stream.user, stream.token, stream.issued):
            return "revoked"
        if (stream.by == _BY_RESOLVER) != (self._resolve is not None):
            return "resolver"
        if stream.by.startswith(_BY_FLEET):
            entry = await self._known.check(vehicle)
            if entry is None or stream.by.removeprefix(_BY_FLEET) not in entry.fleets:
                return "fleet"
        return ""

    async def page(
        self, who: Rights, everyone: Sequence[str], after: str, search: str, limit: int
    ) -> tuple[list[str], str | None]:
        """The same of those that may be seen. A resolver is asked for some hundreds at most: then the page may be short."""
        if self._resolve is not None:
            return await self._asked(who, everyone, after, search, limit)
        if not who.everything:
            mine = set(who.vehicles).union(*[await self._fleets.of(fleet) for fleet in who.fleets])
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


class Fleets:
    """The vehicles of each fleet, for lists: all of the registry is read when it has changed, at most every few seconds."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._stamp = ""
        self._next = 0.0
        self._fleets: dict[str, set[str]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def of(self, fleet: str) -> set[str]:
        """Raises Unavailable if they are not known yet. While they are read anew, they are as they were."""
        if self._reading is None and self._clock.monotonic() >= self._next:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._done)
        if self._reading is not None:
            await asyncio.wait({self._reading}, timeout=_SOON if self._stamp else _ANSWERS)
        if not self._stamp:
            raise Unavailable("the registry's fleets are not known yet")
        return self._fleets.get(fleet, set())

    def _done(self, task: asyncio.Task[None]) -> None:
        self._reading = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("the registry's fleets cannot be read", error=str(error))

    async def _read(self) -> None:
        began = self._clock.monotonic()
        stamp = await self._registry.stamp()
        if stamp != self._stamp:
            fleets: dict[str, set[str]] = {}
            async for vehicle in self._registry.all():
                for fleet in vehicle.fleets:
                    fleets.setdefault(fleet, set()).add(vehicle.vehicle)
            self._fleets, self._stamp = fleets, stamp
        now = self._clock.monotonic()
        self._next = now + max(_FLEETS_SECONDS, _SHARE * (now - began))


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

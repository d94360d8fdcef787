"""What an app's token says, and what a stream's channel says of whose it is. Pure: nothing is asked here.

In: a verified token's claims, or a channel's name. Out: `Rights`, or `Credential` with the channels that its streams are held
by besides their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from fleetcast.auth import Unproven
from fleetcast.registry import is_fleet
from fleetcast.revoked import digest
from fleetcast.subjects import expiry_channel, is_vehicle, token_channel, user_channel

_LONGEST_NAME = 256
_EVERYTHING = "*"
_NONE = "-"
BY_CLAIM, BY_RESOLVER, BY_FLEET = "v", "r", "f-"
"""What lets a vehicle be seen: the claim `vehicles`, a resolver, or a fleet, whose name follows. Several vehicles of one stream
may be of several fleets, whose names have dots between them."""
MOST_FLEETS = 8
_CREDENTIAL = re.compile(
    r"as/([0-9a-f]{20})\.([0-9a-f]{20}|-)\.([0-9]{1,12})\.([0-9]{1,12})\.(v|r|f-[A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64}){0,7})/\Z"
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


class Credential(NamedTuple):
    """What a stream's own channel says of whose it is. `by` is what let it see the vehicle, or all its vehicles."""

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
    def fleets(self) -> frozenset[str]:
        """In one of which a vehicle must be to be seen; empty if not by a fleet."""
        return (
            frozenset(self.by.removeprefix(BY_FLEET).split("."))
            if self.by.startswith(BY_FLEET)
            else frozenset()
        )

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

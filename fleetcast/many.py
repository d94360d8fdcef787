"""A stream of many vehicles: what an app asks for, and the seam that keeps it under a short id. `nats_streams` is the adapter.

An address takes some 4,000 characters, and 400 ids have 25,000: so the list is posted, and the stream's address names it. What
is kept ends by itself, and nothing depends on it once the stream is open; an app whose id is gone posts its list again.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from fleetcast.errors import Refuse
from fleetcast.subjects import ALL, is_vehicle

MOST = 400
"""Vehicles of one stream: each is a channel of the edge, and a header of 180 bytes at most between edge and origin."""
MOST_BODY = 128_000
_AT_ONCE = 32
"""Of what is read of the vehicles of one request: enough to wait for none, and not the whole of what the servers can do."""
_LONGEST_ID = 256
_ID = re.compile(r"[A-Za-z0-9_-]{22}\Z")

A = TypeVar("A")
B = TypeVar("B")


async def each(call: Callable[[A], Awaitable[B]], things: Iterable[A]) -> list[B]:
    """What the calls return, in the order of the things; some are under way at once. The first that raises ends it."""
    free = asyncio.Semaphore(_AT_ONCE)

    async def one(thing: A) -> B:
        async with free:
            return await call(thing)

    tasks = [asyncio.ensure_future(one(thing)) for thing in things]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request for a stream. `versions`: by vehicle the id of the event that the app is at."""

    vehicles: list[str] | None = None
    fleet: str = ""
    view: str = ALL
    every: str = ""
    versions: dict[str, str] = {}


class Stream(msgspec.Struct, frozen=True):
    """What is kept: whose it is (the digest of the user, empty in open development), and what was asked for."""

    user: str
    vehicles: tuple[str, ...]
    view: str
    every: int
    versions: Mapping[str, str]


class Streams(Protocol):
    """The seam. Every method raises Unavailable for what may be otherwise soon."""

    async def put(self, name: str, stream: Stream, seconds: float) -> None:
        """Can be read by every process when it returns, and is gone after so many seconds."""

    async def get(self, name: str) -> Stream | None:
        """None for one that never was, or is over."""


def new_name() -> str:
    """A short id that nobody guesses."""
    return secrets.token_urlsafe(16)


def is_name(text: str) -> bool:
    """Whether it can be such an id."""
    return _ID.match(text) is not None


def asked(body: bytes) -> Asked:
    """What a body asks for, each vehicle once, in its order. Raises Refuse."""
    try:
        found = msgspec.json.decode(body, type=Asked)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Refuse(400, "Bad request", f'not {{"vehicles": […]}} or {{"fleet": …}}: {error}') from None
    if (found.vehicles is None) == (not found.fleet):
        raise Refuse(400, "Bad request", "name the vehicles, or a fleet")
    if found.vehicles is None:
        return found
    vehicles = list(dict.fromkeys(found.vehicles))
    if not 1 <= len(vehicles) <= MOST or not all(map(is_vehicle, vehicles)):
        raise Refuse(400, "Bad request", f"vehicles: 1 to {MOST} ids, each 1 to 64 of A-Z a-z 0-9 - _")
    return msgspec.structs.replace(found, vehicles=vehicles)


def known_of(versions: Mapping[str, str], vehicles: Iterable[str]) -> dict[str, str]:
    """The ids that an app has of these vehicles; of one that is too long to be ours, as much as shows that."""
    return {vehicle: last[:_LONGEST_ID] for vehicle in vehicles if (last := versions.get(vehicle))}


def few(vehicles: Sequence[str], most: int = 5) -> str:
    """Names for a person: the first few, and how many there are besides."""
    more = f" and {len(vehicles) - most} more" if len(vehicles) > most else ""
    return f"{', '.join(vehicles[:most])}{more}"

"""The seam of the registry: which vehicles there are, their fleets, how often each is expected to send, enabled or not.

`nats_registry` is ours, on JetStream. A maker who keeps vehicles elsewhere names another in the setting `registry`:
`module:function`, called with the settings. The doors ask it by way of `known`, which remembers answers for as long as
`stamp` stays the same. So `get` need not be quick, and a registry that is away for a while stops no vehicle that was asked
for before.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from fleetcast.errors import Unusable
from fleetcast.settings import Settings
from fleetcast.subjects import is_vehicle

MOST_SECONDS = 1e8
_FLEET = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


class Vehicle(msgspec.Struct, frozen=True, gc=False):
    """One vehicle: its id, the fleets it belongs to, the seconds expected between its packets, whether it may send."""

    vehicle: str
    fleets: tuple[str, ...] = ()
    every: float = 60.0
    enabled: bool = True


class Registry(Protocol):
    """See the module's text. Every method raises Unavailable for what may be otherwise soon."""

    async def get(self, vehicle: str) -> Vehicle | None:
        """As the last finished `put` left it, from whichever process; None if there is no such vehicle."""

    async def put(self, vehicle: Vehicle) -> None:
        """Durable when it returns. Replaces what there was. Raises Unusable if the vehicles are kept elsewhere."""

    async def remove(self, vehicle: str) -> None:
        """Durable when it returns, and nothing is left; no error if there was nothing. Raises Unusable as `put` does."""

    def all(self, fleet: str | None = None) -> AsyncIterator[Vehicle]:
        """Each vehicle once, of this fleet or of all, in no order; one that changes meanwhile as it was or as it is."""

    async def stamp(self) -> str:
        """A text that is another one after any `put` or `remove`. Asked once a second by each process that is a door.

        What cannot tell may answer with one that changes every two seconds: then each vehicle is asked for as often.
        """


def checked(vehicle: Vehicle) -> Vehicle:
    """Itself, if it can be one. Raises Unusable."""
    if not is_vehicle(vehicle.vehicle):
        raise Unusable(f"{vehicle.vehicle[:80]!r} is no vehicle id: it is 1 to 64 of A-Z a-z 0-9 - _")
    for fleet in vehicle.fleets:
        if not is_fleet(fleet):
            raise Unusable(f"{fleet[:80]!r} is no fleet's name: it is 1 to 64 of A-Z a-z 0-9 - _")
    if not 0 < vehicle.every <= MOST_SECONDS:  # NaN neither
        raise Unusable(f"every: {vehicle.every} is not a number of seconds above 0")
    return vehicle


def is_fleet(text: str) -> bool:
    """Whether this can be a fleet's name."""
    return _FLEET.match(text) is not None


def load(name: str, settings: Settings) -> Registry:
    """`module:function` -> what the function makes of the settings. Raises Unusable."""
    module, _, function = name.partition(":")
    if not function:
        raise Unusable(f"registry: {name} is not module:function")
    try:
        made: Registry = getattr(importlib.import_module(module), function)(settings)
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything
        raise Unusable(f"registry: {name} cannot be loaded: {error}") from None
    if missing := [one for one in ("get", "put", "remove", "all", "stamp") if not hasattr(made, one)]:
        raise Unusable(f"registry: what {name} makes has no {missing[0]}")
    return made

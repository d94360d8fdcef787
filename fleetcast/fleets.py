"""The vehicles of each fleet, for lists: all of the registry, read again when it has changed.

At most every few seconds, and for at most a tenth of the time; meanwhile what was known is served.
"""

from __future__ import annotations

import asyncio

import structlog

from fleetcast.clock import Clock
from fleetcast.errors import Unavailable
from fleetcast.registry import Registry

log = structlog.get_logger()

_ANSWERS = 2.0
_FLEETS_SECONDS = 3.0
_SHARE = 10  # reading all of a large registry takes at most a tenth of the time
_SOON = 0.25


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

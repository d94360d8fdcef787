"""What the doors know of the vehicles: the registry's answers, remembered for as long as the registry stays as it is.

A change holds at every door within `HOLDS` seconds. If the registry does not answer, what was known last is served; a
vehicle that was never asked for is Unavailable then. Bounded in size: the vehicles asked for longest ago are forgotten.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import structlog

from fleetcast.clock import Clock
from fleetcast.errors import Refuse, Unavailable
from fleetcast.registry import Registry, Vehicle
from fleetcast.settings import Settings

log = structlog.get_logger()

HOLDS = 5.0
"""Seconds after a change of the registry in which every door has noticed it. A look each second, one that takes two, and
two to spare."""
_LOOK = 1.0
_ANSWERS = 2.0
_MOST = 100_000


class Known:
    """A door's view of the registry."""

    def __init__(
        self, registry: Registry, clock: Clock, *, refuse_unknown: bool = False, most: int = _MOST
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._refuse_unknown = refuse_unknown
        self._most = most
        self._entries: OrderedDict[str, tuple[str, Vehicle | None]] = OrderedDict()
        self._stamp = ""
        self._looked = -_LOOK
        self._looking = asyncio.Lock()

    async def check(self, vehicle: str) -> Vehicle | None:
        """The vehicle as the registry has it, or had it `HOLDS` ago at most; None for one that is not in it.

        Raises Unavailable if it is not known here and the registry does not answer.
        """
        if self._clock.monotonic() - self._looked >= _LOOK:
            await self._look()
        stamp, known = self._entries.get(vehicle, ("", None))
        if not stamp or stamp != self._stamp:
            try:
                async with asyncio.timeout(_ANSWERS):
                    # The stamp of before the question: should it change meanwhile, it is asked again.
                    stamp, known = self._stamp, await self._registry.get(vehicle)
            except (Unavailable, TimeoutError) as why:
                if vehicle not in self._entries:
                    raise Unavailable(f"registry: {str(why) or 'no answer'}") from why
            else:
                self._entries[vehicle] = (stamp, known)
                while len(self._entries) > self._most:
                    self._entries.popitem(last=False)
        self._entries.move_to_end(vehicle)
        return known

    async def admit(self, request: object, vehicle: str) -> None:
        """Returns if packets of this vehicle are taken. Raises Refuse. Of the request nothing counts."""
        try:
            known = await self.check(vehicle)
        except Unavailable as why:
            log.warning("vehicle not looked up", vehicle=vehicle, error=str(why))
            raise Refuse(
                503, "Not stored", "the registry does not answer now; keep the packet and send it again"
            ) from why
        if known is None and self._refuse_unknown:
            raise Refuse(403, "Unknown vehicle", f"{vehicle} is not in the registry")
        if known is not None and not known.enabled:
            raise Refuse(403, "Vehicle disabled", f"{vehicle} is disabled in the registry")

    async def _look(self) -> None:
        """Has anything changed? One asks, however many wait; should there be no answer, all goes on as it was known."""
        async with self._looking:
            if self._clock.monotonic() - self._looked < _LOOK:
                return
            try:
                async with asyncio.timeout(_ANSWERS):
                    self._stamp = await self._registry.stamp()
            except (Unavailable, TimeoutError) as why:
                log.warning("registry does not answer; going on with what is known", error=str(why))
            self._looked = self._clock.monotonic()


def refuses_unknown(settings: Settings, *, identity: bool) -> bool:
    """Whether a vehicle that is not in the registry is refused, given whether vehicles must prove who they are."""
    return identity if settings.unknown_vehicles == "" else settings.unknown_vehicles == "refuse"

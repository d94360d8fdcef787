"""Updates to the edge: of each view that they touch, and only where somebody listens.

In: what was committed, in order. Out: items with the id before each on its channel, so that a replica which missed one asks
the origin. Whatever may have been missed by whoever owned a vehicle before is made good by publishing its latest again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from fleetcast import metrics
from fleetcast.edge import Edge, Item
from fleetcast.errors import Unavailable
from fleetcast.events import update_event
from fleetcast.live import Change, Live
from fleetcast.resume import event_id
from fleetcast.subjects import channel, split_channel
from fleetcast.update import Update
from fleetcast.views import View, Views

_READS = 64  # at once

Watched = tuple[str, View]
"""A vehicle, and a view of it."""


class Publisher:
    """Of one consume process. `epoch` is the one that it commits in."""

    def __init__(self, live: Live, edge: Edge, views: Views) -> None:
        self._live = live
        self._edge = edge
        self._views = views
        self.epoch = ""

    async def publish(self, changes: Iterable[Change]) -> None:
        """The updates of these commits."""
        items = []
        for state, updates in ((change.state, change.updates) for change in changes):
            watched = [v for v in self._views.touched(updates) if self._listened(state.vehicle, v)]
            for update in updates:
                found = [self._item(view, one, state.life) for view in watched if (one := view.of(update))]
                items += found
                (metrics.PUBLISHED if found else metrics.SKIPPED).inc()
        if items:
            await self._edge.publish(items)

    async def publish_latest(self, views: Iterable[Watched]) -> None:
        """The last update of each again: whoever owned them before may have died between the commit and the publish.

        Only the last: its `prev` tells a replica that missed more to ask the origin. One that has it asks once too, and
        gets nothing. Raises Unavailable.
        """
        slots = asyncio.Semaphore(_READS)
        watched = [(vehicle, view) for vehicle, view in views if self._listened(vehicle, view)]
        reads = await asyncio.gather(*(self._last_item(vehicle, view, slots) for vehicle, view in watched))
        if items := [item for item in reads if item is not None]:
            # After the reads: what was read of a live state that was restored meanwhile is of no chain that we know.
            if await self._live.epoch() != self.epoch:
                raise Unavailable("the live state was restored")
            await self._edge.publish(items)

    def watched(self) -> list[Watched]:
        """All that somebody listens to."""
        found = [split for name in self._edge.channels() if (split := split_channel(name)) is not None]
        return [(vehicle, self._views.named[name]) for vehicle, name in found if name in self._views.named]

    def replicas(self, vehicle: str, updates: Sequence[Update]) -> Sequence[str]:
        """Those that listen to any view that was touched."""
        names = [channel(vehicle, view.name) for view in self._views.touched(updates)]
        return sorted({replica for name in names for replica in self._edge.replicas(name)})

    def _listened(self, vehicle: str, view: View) -> bool:
        return self._edge.listeners(channel(vehicle, view.name)) > 0

    def _item(self, view: View, update: Update, life: str) -> Item:
        name, prev = (event_id(self.epoch, one, life, view.key) for one in (update.version, update.prev))
        return Item(channel(update.vehicle, view.name), name, prev, update_event(update, name))

    async def _last_item(self, vehicle: str, view: View, slots: asyncio.Semaphore) -> Item | None:
        async with slots:
            held = await self._live.latest(vehicle, leader=True)
            since = view.version(held.state) - 1
            state, updates = await self._live.since(vehicle, since, leader=True, view=view)
        last = [one for update in updates if (one := view.of(update)) is not None][-1:]
        return self._item(view, last[0], state.life) if last else None

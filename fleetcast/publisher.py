"""Updates to the edge: of each view that they touch, and only where somebody listens.

In: what was committed, in order. Out: items with the id before each on its channel, so that a replica which missed one asks
the origin. What is for calm streams waits for the end of its bucket (`calm`), in memory: what dies with the process is in the
window. Whatever may have been missed by whoever owned a vehicle before is made good by publishing its latest again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec
import structlog

from fleetcast import metrics
from fleetcast.calm import CLASSES, Calm, Ripe, at_once, ended
from fleetcast.clock import Clock
from fleetcast.edge import FITS_NOBODY, Edge, Item
from fleetcast.errors import Unavailable
from fleetcast.events import update_event
from fleetcast.live import Change, Live
from fleetcast.resume import event_id
from fleetcast.subjects import channel, split_channel
from fleetcast.update import Update
from fleetcast.views import View, Views

log = structlog.get_logger()

_READS = 64  # at once

Watched = tuple[str, View]
"""A vehicle, and a view of it."""


class Publisher:
    """Of one consume process."""

    def __init__(
        self, live: Live, edge: Edge, views: Views, clock: Clock, classes: Sequence[int] = CLASSES
    ) -> None:
        self._live = live
        self._edge = edge
        self._views = views
        self._clock = clock
        self._classes = (0, *classes)  # 0: not calm
        self._calm = Calm(classes)
        self._epoch = ""
        self._sending = asyncio.Lock()  # in order, though there are two who send

    @property
    def epoch(self) -> str:
        """The one that it commits in."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: str) -> None:
        if epoch != self._epoch:
            self._calm.clear()
        self._epoch = epoch

    async def publish(self, changes: Iterable[Change]) -> None:
        """The updates of these commits."""
        items: list[Item] = []
        for state, updates in ((change.state, change.updates) for change in changes):
            watched = [
                (view, classes)
                for view in self._views.touched(updates)
                if (classes := self._listened(state.vehicle, view))
            ]
            for update in updates:
                found = False
                for view, classes in watched:
                    if (one := view.of(update)) is not None:
                        found = True
                        for every in classes:
                            items += self._due(view, every, state.life, one)
                (metrics.PUBLISHED if found else metrics.SKIPPED).inc()
        await self._send(items)

    async def publish_latest(self, views: Iterable[Watched]) -> None:
        """The last update of each again: whoever owned them before may have died between the commit and the publish.

        Only the last: its `prev` tells a replica that missed more to ask the origin. One that has it asks once too, and
        gets nothing. Raises Unavailable.
        """
        slots = asyncio.Semaphore(_READS)
        watched = [(vehicle, view) for vehicle, view in views if self._listened(vehicle, view)]
        reads = await asyncio.gather(*(self._last(vehicle, view, slots) for vehicle, view in watched))
        if found := [one for one in reads if one is not None]:
            # After the reads: what was read of a live state that was restored meanwhile is of no chain that we know.
            if await self._live.epoch() != self.epoch:
                raise Unavailable("the live state was restored")
            await self._send(
                [
                    self._again(one._replace(every=every))
                    for one in found
                    for every in self._listened(one.update.vehicle, one.view)
                ]
            )

    async def keep_calm(self) -> None:
        """Publishes what waited for the end of a bucket, for as long as it runs."""
        while True:
            await asyncio.sleep(self._calm.pause(self._clock.now()))
            await self.end_buckets()

    async def end_buckets(self, **grace: float) -> None:
        """Once: of the buckets that are over, and without any `grace` at the end of all."""
        ripe = self._calm.ripe(self._clock.now(), **grace)
        items = [
            self._item(one)
            for one in ripe
            if self._edge.listeners(channel(one.update.vehicle, one.view.name, one.every))
        ]
        try:
            await self._send(items)
        except Exception:  # what is not calm goes on, and the next link heals this
            log.exception("calm updates were not published")

    def forget(self, vehicle: str) -> None:
        """It was erased."""
        self._calm.forget(vehicle)

    def watched(self) -> list[Watched]:
        """All that somebody listens to, calmly or not."""
        found = {
            (vehicle, view): None
            for name in self._edge.channels()
            if (split := split_channel(name)) is not None
            for vehicle, view, every in [split]
            if every in self._classes
        }
        return [(vehicle, self._views.named[name]) for vehicle, name in found if name in self._views.named]

    def replicas(self, vehicle: str, updates: Sequence[Update]) -> Sequence[str]:
        """Those that listen to any view that was touched."""
        names = [
            channel(vehicle, view.name, every)
            for view in self._views.touched(updates)
            for every in self._classes
        ]
        return sorted({replica for name in names for replica in self._edge.replicas(name)})

    async def _send(self, items: Sequence[Item]) -> None:
        async with self._sending:
            if items:
                await self._edge.publish(items)

    def _listened(self, vehicle: str, view: View) -> list[int]:
        """The classes in which somebody listens, 0 among them."""
        return [
            every for every in self._classes if self._edge.listeners(channel(vehicle, view.name, every)) > 0
        ]

    def _due(self, view: View, every: int, life: str, update: Update) -> list[Item]:
        if not every:
            return [self._item(Ripe(view, every, life, update))]
        return [self._item(one) for one in self._calm.put(view, every, life, update)]

    def _again(self, one: Ripe) -> Item:
        """What makes a channel's phones whole. On a calm one, if its last update still waits, an item that brings nothing and
        fits nobody: so the edge asks for what did not wait, and was perhaps not published; what waits comes with its bucket.
        """
        update = one.update
        if not one.every or at_once(update) or update.updated_at < ended(self._clock.now(), one.every):
            return self._item(one)
        self._calm.put(*one)
        word = Update(update.vehicle, update.version, update.version, update.updated_at, {})
        item = self._item(one._replace(update=word))
        # The edge passes over an id that it had within the last minute: the next item may be of this version too.
        unheard = f"{item.id}.{self._clock.now():.3f}"
        return msgspec.structs.replace(item, id=unheard, prev=FITS_NOBODY)

    def _item(self, one: Ripe) -> Item:
        view, every, life, update = one
        name, prev = (
            event_id(self.epoch, version, life, view.key) for version in (update.version, update.prev)
        )
        return Item(channel(update.vehicle, view.name, every), name, prev, update_event(update, name))

    async def _last(self, vehicle: str, view: View, slots: asyncio.Semaphore) -> Ripe | None:
        async with slots:
            held = await self._live.latest(vehicle, leader=True)
            since = view.version(held.state) - 1
            state, updates = await self._live.since(vehicle, since, leader=True, view=view)
        last = [one for update in updates if (one := view.of(update)) is not None][-1:]
        return Ripe(view, 0, state.life, last[0]) if last else None

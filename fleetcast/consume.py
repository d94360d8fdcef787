"""The streaming consumer: packets out of the queue, through the business logic, into the live state and to the edge.

In: deliveries of the partitions that this process owns, in order. Out: one atomic commit a batch, then the updates to the
edge replicas that listen (of each view that they touch and somebody watches), then the acks, in this order: so a crash at
any point repeats work and loses none. What can never be applied goes to REJECTED with the reason and blocks nothing. For
everything unexpected there is one way back, `_recover`: forget what is held, reset the partitions, publish again the latest of
what is watched.

Between the batches the vehicles that have been silent for too long are told (`statuses`): committed and published as a packet's
update is. One that comes back is live by the same commit as its packet, a version earlier.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
import structlog

from fleetcast import metrics
from fleetcast.calm import CLASSES
from fleetcast.clock import Clock, rfc3339, seconds
from fleetcast.decode import Decoders
from fleetcast.edge import Edge
from fleetcast.ending import ended
from fleetcast.errors import Poisoned, Recover, Reject, Unavailable
from fleetcast.explain import Trace, Traces
from fleetcast.live import Change, Fenced, Held, Live, Refused
from fleetcast.packet import Packet
from fleetcast.poison import Outcome, Watch
from fleetcast.publisher import Publisher, Watched
from fleetcast.queue import Delivery, Queue
from fleetcast.settings import Settings
from fleetcast.silence import LIVE, Turn
from fleetcast.skew import believed
from fleetcast.state import Named, State, apply, stored_already
from fleetcast.statuses import Every, Statuses
from fleetcast.subjects import partition
from fleetcast.tally import Tallies
from fleetcast.update import Update, diff, turned
from fleetcast.views import Views

log = structlog.get_logger()

_FAILURES = 3  # in a row, after which vehicles are committed one by one
_BACK_OFF = (0.05, 0.2, 0.5, 1.0, 2.0)


@dataclass
class _Folded:
    """What a batch comes to, before anything of it is kept."""

    states: dict[str, State]
    updates: dict[str, list[Update]] = field(default_factory=dict)
    rejected: list[tuple[Delivery, str]] = field(default_factory=list)
    redelivered: set[str] = field(default_factory=set)
    repeated: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    skewed: list[str] = field(default_factory=list)
    handled: list[Outcome] = field(default_factory=list)
    sent: dict[str, Packet] = field(default_factory=dict)
    """By vehicle its last packet, with its own times."""

    def reject(self, delivery: Delivery, reason: str) -> None:
        """It can never be applied."""
        self.rejected.append((delivery, reason))
        self.handled.append((delivery.vehicle, True))

    def apply(
        self,
        before: State,
        after: State,
        packet: Packet,
        views: Views,
        *,
        skewed: bool,
        back: Update | None = None,
    ) -> None:
        """It leads from one state to the next; if they are the same it is a repeat, under another position.

        `back`: by which the vehicle became live before it.
        """
        vehicle = packet.vehicle
        self.handled.append((vehicle, False))
        if after is before:
            self.repeated.append(vehicle)
            return
        after, update = views.chained(before, after, diff(before, after))
        self.states[vehicle] = after
        self.sent[vehicle] = packet
        updates = self.updates.setdefault(vehicle, [])
        if back is not None:
            updates.append(back)
        updates.append(update)
        if (after.boot, after.seq) == (before.boot, before.seq):
            self.late.append(vehicle)
        if skewed:
            self.skewed.append(vehicle)


class Consumer:
    """One consume process's loop over its seams."""

    def __init__(
        self,
        queue: Queue,
        live: Live,
        edge: Edge,
        enrichers: Sequence[Named],
        decoders: Decoders,
        settings: Settings,
        clock: Clock,
        classes: Sequence[int] = CLASSES,
        every: Every | None = None,
    ) -> None:
        self._queue = queue
        self._live = live
        self._enrichers = enrichers
        self._decode = decoders.decode
        self._settings = settings
        self._clock = clock
        self._views = Views(settings.views, settings.urgent)
        self._publisher = Publisher(live, edge, self._views, clock, classes)
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._stopping = asyncio.Event()
        self._statuses = Statuses(queue, live, settings, every)
        self._watch = Watch(settings.poison_packets, settings.poison_vehicles)
        self.traces = Traces(settings.state_cache)
        self.tallies = Tallies(settings.state_cache, rfc3339(clock.now()))
        self.poisoned = ""
        """Why it stopped by itself; empty while it has not."""

    async def run(self) -> None:
        """Until `stop`: what is in hand then is finished. Or until nearly everything is being rejected."""
        keeping_calm = asyncio.create_task(self._publisher.keep_calm())
        beside = asyncio.create_task(self._statuses.run())
        try:
            await self._work()
            await self._publisher.end_buckets(grace=0)
        except Poisoned as why:
            self.poisoned = str(why)
            metrics.POISONED.set(1)
            log.error(
                "consumption stops, the rest stays in the queue: look at `fleetcast rejected list`, roll back or mend, and"
                " restart consume; poison_packets = 0 rejects all the same",
                reason=self.poisoned,
            )
        finally:
            await ended([keeping_calm, beside])

    async def _work(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            whole = failures < _FAILURES
            # After a failure a smaller batch: what the live state refuses as too much may pass in parts.
            most = max(1, self._settings.batch_packets >> (failures if whole else 0))
            try:
                batch = await self._pull(most)
            except Recover as why:  # a partition is newly ours, or its deliveries may have a hole
                await self._recover(why)
                continue
            try:
                await (self.handle if whole else self._vehicle_by_vehicle)(batch)
                await self._tell(most)
                failures = 0
            except Recover as why:
                await self._recover(why)
                await self._pause(failures)
                failures += 1

    def stop(self) -> None:
        """Ends `run` after the batch in hand."""
        self._stopping.set()

    async def stopped(self) -> None:
        """Waits for `stop`."""
        await self._stopping.wait()

    async def well(self) -> None:
        """Raises Unavailable once it has stopped by itself."""
        if self.poisoned:
            raise Unavailable(
                f"stopped: {self.poisoned}; see `fleetcast rejected list`, roll back or mend, and restart"
            )

    def forget(self, vehicle: str) -> None:
        """The vehicle was erased from the streams: nothing of it is kept here either."""
        self._held.pop(vehicle, None)
        self._publisher.forget(vehicle)
        self._statuses.forget(vehicle)
        self.traces.forget(vehicle)

    async def _pause(self, failures: int) -> None:
        """Nothing after the first failure, then longer each time: a live state that is full stays so for a while."""
        if failures > 0:
            seconds = _BACK_OFF[min(failures, len(_BACK_OFF)) - 1]
            log.warning("recovering again and again", times=failures + 1, seconds=seconds)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._stopping.wait()

    async def _pull(self, most: int) -> Sequence[Delivery]:
        """A batch, or nothing when it is time to stop, or to tell that somebody is silent."""
        pulling = asyncio.create_task(self._queue.pull(most))
        others = [asyncio.create_task(one.wait()) for one in (self._stopping, self._statuses.waiting)]
        try:
            await asyncio.wait({pulling, *others}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (pulling, *others):
                task.cancel()
        # Waited for: it may have had a batch in this moment, which then is handled; nothing that was pulled is let go.
        await asyncio.wait({pulling, *others})
        return () if pulling.cancelled() else pulling.result()

    async def handle(self, batch: Sequence[Delivery]) -> None:
        """The flow. Raises Recover, or Poisoned before anything of the batch is rejected.

        Whatever happened by then, nothing is acked that is not applied or rejected.
        """
        if not batch:
            return
        handled = self._clock.now()
        try:
            held = await self._load({delivery.vehicle for delivery in batch})
            folded = self._fold(batch, held)
            self._look_out(folded.handled)
            # Before the commit: once a state is past a packet, a redelivery of it is taken for applied.
            for delivery, reason in folded.rejected:
                await self._reject(delivery, reason)
            changes = [
                Change(folded.states[v], held[v].revision, updates) for v, updates in folded.updates.items()
            ]
            self._keep(changes, await self._live.commit(changes, self._publisher.epoch))
            committed = self._clock.now()
            await self._publisher.publish(changes)
            await self._publisher.publish_latest(self._passed_over(folded))
            await self._queue.ack(batch)
            self._count(batch, folded)
            self._note(batch, folded, handled, committed)
        except Refused as why:
            await self._isolate(batch, why)
        except (Fenced, Unavailable) as why:
            raise Recover(str(why), {delivery.partition for delivery in batch}) from why

    def _fold(self, batch: Sequence[Delivery], held: dict[str, Held]) -> _Folded:
        folded = _Folded({vehicle: one.state for vehicle, one in held.items()})
        for delivery in batch:
            before = folded.states[delivery.vehicle]
            if stored_already(before, delivery.incarnation, delivery.position):
                folded.redelivered.add(delivery.vehicle)
                continue
            try:
                packet = self._decode(
                    delivery.body, delivery.form, delivery.encoding, self._settings.max_packet
                )
                if packet.vehicle != delivery.vehicle:
                    raise Reject(f"says it is of vehicle {packet.vehicle}")
                received = delivery.stored if delivery.received is None else delivery.received
                ahead, behind = self._settings.clock_ahead, self._settings.clock_behind
                timed = believed(packet, received, ahead, behind)
                stored_at = rfc3339(delivery.stored)
                before, back = self._greeted(before, stored_at)
                after = apply(
                    before, timed, delivery.incarnation, delivery.position, stored_at, self._enrichers
                )
            except Reject as why:
                folded.reject(delivery, str(why))
                continue
            except Exception as bug:
                log.exception("cannot handle a packet", vehicle=delivery.vehicle, packet=delivery.position)
                folded.reject(delivery, f"cannot be handled: {type(bug).__name__}: {bug}")
                continue
            folded.apply(before, after, packet, self._views, skewed=timed is not packet, back=back)
        return folded

    def _greeted(self, state: State, stored_at: str) -> tuple[State, Update | None]:
        """The state that a packet stored now is to be applied to: live; and the update by which it became so, if it was not.

        Nobody need be told that one is who was never said not to be.
        """
        if state.status == LIVE or (not state.status and not self._statuses.kept(state.vehicle)):
            return state, None
        if not state.status:
            return msgspec.structs.replace(state, status=LIVE, since=stored_at), None
        return self._views.all_chained(state, *turned(state, LIVE, stored_at, heard=stored_at))

    async def _tell(self, most: int) -> None:
        """Those that have been silent for too long, some at a time. Raises Recover."""
        if not (vehicles := self._statuses.take(most)):
            return
        try:
            held = await self._load(vehicles)
            if turns := await self._silent(self._statuses.judge(one.state for one in held.values())):
                await self._turn(turns, held)
        except (Fenced, Unavailable) as why:
            self._statuses.again(vehicles)
            count = self._settings.partitions
            raise Recover(str(why), {partition(vehicle, count) for vehicle in vehicles}) from why

    async def _silent(self, turns: Sequence[tuple[State, Turn]]) -> Sequence[tuple[State, Turn]]:
        """Those of which nothing is on its way: on a busy machine a packet may be, for long. Raises Unavailable."""
        newest = await asyncio.gather(*(self._queue.newest(state.vehicle) for state, _ in turns))
        silent = []
        for (state, turn), place in zip(turns, newest, strict=True):
            if place is None or stored_already(state, *place):
                silent.append((state, turn))
            else:
                self._statuses.again([state.vehicle])
        return silent

    async def _turn(self, turns: Sequence[tuple[State, Turn]], held: Mapping[str, Held]) -> None:
        changes = []
        for state, turn in turns:
            after, update = self._views.all_chained(state, *turned(state, turn.status, rfc3339(turn.since)))
            changes.append(Change(after, held[state.vehicle].revision, [update]))
        try:
            revisions = await self._live.commit(changes, self._publisher.epoch)
        except Refused as why:
            if len(turns) > 1:
                for one in turns:
                    await self._turn([one], held)
                return
            # It has no room for a status: said once, and not again before it is heard.
            log.warning("status not told", vehicle=turns[0][0].vehicle, reason=str(why))
            self._statuses.settled(changes[0].state)
            return
        # Only those that were held: of many that fell silent long ago none is worth the place of one that sends.
        kept = [
            (change, r)
            for change, r in zip(changes, revisions, strict=True)
            if change.state.vehicle in self._held
        ]
        self._keep([change for change, _ in kept], [revision for _, revision in kept])
        for change in changes:
            self._statuses.settled(change.state)
            metrics.STATUSES.labels(change.state.status).inc()
            log.debug("status", vehicle=change.state.vehicle, status=change.state.status)
        await self._publisher.publish(changes)

    def _look_out(self, batch: Sequence[Outcome]) -> None:
        if why := self._watch.poisoned(batch):
            raise Poisoned(why)

    async def _load(self, vehicles: Iterable[str]) -> dict[str, Held]:
        known = {vehicle: self._held[vehicle] for vehicle in vehicles if vehicle in self._held}
        missing = [vehicle for vehicle in vehicles if vehicle not in known]
        # From the leader: a replica that lags would give an old revision, and the fence would refuse us for ever.
        loaded = await asyncio.gather(*(self._live.latest(vehicle, leader=True) for vehicle in missing))
        return known | dict(zip(missing, loaded, strict=True))

    def _keep(self, changes: Sequence[Change], revisions: Sequence[int]) -> None:
        for change, revision in zip(changes, revisions, strict=True):
            self._held[change.state.vehicle] = Held(change.state, revision)
            self._held.move_to_end(change.state.vehicle)
        while len(self._held) > self._settings.state_cache:
            self._held.popitem(last=False)

    def _note(self, batch: Sequence[Delivery], folded: _Folded, handled: float, committed: float) -> None:
        """What `fleetcast explain` tells, and the log at level debug."""
        now = self._clock.now()
        stored = {delivery.vehicle: delivery.stored for delivery in batch}
        for vehicle in folded.updates:
            state, sent = folded.states[vehicle], folded.sent[vehicle]
            packet = f"{sent.boot}/{sent.seq}"
            log.debug("committed", vehicle=vehicle, packet=packet, version=state.version)
            self.traces.note(
                Trace(
                    vehicle=vehicle,
                    packet=packet,
                    version=state.version,
                    position=state.position,
                    sent_at=sent.sent_at,
                    stored=stored[vehicle],
                    handled=handled,
                    committed=committed,
                    published=now,
                    member=self._settings.member or "a consume process",
                    replicas=self._publisher.replicas(vehicle, folded.updates[vehicle]),
                    skewed=vehicle in folded.skewed,
                )
            )

    def _count(self, batch: Sequence[Delivery], folded: _Folded) -> None:
        self._watch.handled(folded.handled)
        updates = [update for updates in folded.updates.values() for update in updates]
        back = sum(1 for update in updates if update.status)
        applied = len(updates) - back
        metrics.STATUSES.labels(LIVE).inc(back)
        metrics.APPLIED.inc(applied)
        metrics.REPEATED.inc(len(batch) - applied - len(folded.rejected))
        metrics.LATE.inc(len(folded.late))
        metrics.SKEWED.inc(len(folded.skewed))
        for vehicles, count in (
            (folded.repeated, self.tallies.duplicate),
            (folded.late, self.tallies.late),
            (folded.skewed, self.tallies.skewed),
            ([delivery.vehicle for delivery, _ in folded.rejected], self.tallies.rejected),
        ):
            for vehicle in vehicles:
                count(vehicle)
        now = self._clock.now()
        # By what the state says: a packet that was stored again is no sign of life that a snapshot shows.
        for vehicle, number in {one.vehicle: one.partition for one in batch}.items():
            if vehicle in folded.updates:
                self._statuses.heard(vehicle, number, seconds(folded.states[vehicle].updated_at))
        for delivery in batch:
            metrics.AGE_SECONDS.observe(max(0.0, now - delivery.stored))

    def _passed_over(self, folded: _Folded) -> list[Watched]:
        """Views of vehicles of which a packet came again, but those that this batch has touched: what is new says the rest."""
        return [
            (vehicle, view)
            for vehicle in folded.redelivered
            for view in self._views.named.values()
            if not any(view.of(update) for update in folded.updates.get(vehicle, ()))
        ]

    async def _reject(self, delivery: Delivery, reason: str) -> None:
        await self._queue.reject(delivery, reason)
        metrics.REJECTED.inc()
        log.warning("packet rejected", vehicle=delivery.vehicle, packet=delivery.position, reason=reason)

    async def _isolate(self, batch: Sequence[Delivery], why: Refused) -> None:
        """The commit is refused for something in it: one packet at a time, and the one that is refused alone is it."""
        if len(batch) > 1:
            for delivery in batch:
                try:
                    await self.handle([delivery])
                except Recover as more:
                    # All of the batch: those behind it left the queue's hands and were not handled, and were their
                    # partitions not reset, a later packet would be applied before them, and they be taken for applied.
                    raise Recover(str(more), {one.partition for one in batch}) from more
            return
        outcome = [(batch[0].vehicle, True)]
        self._look_out(outcome)
        try:
            await self._reject(batch[0], str(why))
            await self._queue.ack(batch)
            self._watch.handled(outcome)
            self.tallies.rejected(batch[0].vehicle)
        except Unavailable as error:
            raise Recover(str(error), {batch[0].partition}) from error

    async def _vehicle_by_vehicle(self, batch: Sequence[Delivery]) -> None:
        """The same after several failures in a row: a vehicle that cannot be committed holds up no other."""
        failed: Recover | None = None
        for vehicle in dict.fromkeys(delivery.vehicle for delivery in batch):
            try:
                await self.handle([delivery for delivery in batch if delivery.vehicle == vehicle])
            except Recover as why:
                log.error("commit failed again", vehicle=vehicle, error=str(why))
                failed = why if failed is None else Recover(str(why), failed.partitions | why.partitions)
        if failed is not None:
            raise failed

    async def _recover(self, why: Recover) -> None:
        """The one way back. Tries until it succeeds: there is nothing better to do meanwhile.

        In another epoch everything held is of another history: all of it is forgotten, and every partition begins anew.
        """
        self._statuses.unseen(why.partitions)
        metrics.RECOVERIES.inc()
        log.info("recovering", partitions=len(why.partitions), reason=str(why))
        count, partitions = self._settings.partitions, why.partitions
        for vehicle in [v for v in self._held if partition(v, count) in partitions]:
            del self._held[vehicle]
        for attempt in range(1_000_000):
            try:
                epoch = await self._live.epoch()
                if self._publisher.epoch not in ("", epoch):
                    log.warning("the live state was restored: beginning anew", epoch=epoch)
                    self._held.clear()
                    partitions = frozenset(range(count))
                    self._statuses.unseen(partitions, restored=True)
                self._publisher.epoch = epoch
                await self._queue.reset(partitions)
                await self._publisher.publish_latest(self._watched(partitions))
            except Unavailable as error:
                pause = _BACK_OFF[min(attempt, len(_BACK_OFF) - 1)]
                log.warning("cannot recover yet; trying again", error=str(error), seconds=pause)
                await asyncio.sleep(pause)
                if self._stopping.is_set():
                    return
            else:
                return

    def _watched(self, partitions: frozenset[int]) -> list[Watched]:
        count = self._settings.partitions
        return [one for one in self._publisher.watched() if partition(one[0], count) in partitions]

"""The load of the power cuts: vehicles that put packets, the consumer, and committers, all with the platform's own code.

Each vehicle sends its packets one after the other, each until it is acknowledged. The consumer is the real one, with nobody
at its edge. Committers besides write atomic batches for vehicles of their own. What was acknowledged stands in `ledger`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from fleetcast import decode, enrich
from fleetcast.clock import SystemClock
from fleetcast.consume import Consumer
from fleetcast.edge import Item
from fleetcast.errors import Unavailable
from fleetcast.jetstream import Connection
from fleetcast.live import Change, Fenced
from fleetcast.nats_live import NatsLive
from fleetcast.nats_queue import NatsQueue
from fleetcast.packet import Signal
from fleetcast.proof.fold import Fold
from fleetcast.proof.ledger import Ledger
from fleetcast.proof.packets import body, packet
from fleetcast.queue import Delivery, Stored
from fleetcast.settings import Settings
from fleetcast.state import State
from fleetcast.update import Update

_SENDERS = [f"sender-{number:02d}" for number in range(24)]
_COMMITTERS = [[f"commit-{number}-{one}" for one in range(5)] for number in range(3)]


class _Gated:
    """The consumer's queue: nothing is pulled while the gate is shut."""

    def __init__(self, inner: NatsQueue, gate: asyncio.Event) -> None:
        self._inner = inner
        self._gate = gate

    async def put(self, vehicle: str, packet_id: str, body: bytes, form: str, encoding: str) -> Stored:
        return await self._inner.put(vehicle, packet_id, body, form, encoding)

    async def pull(self, most: int) -> Sequence[Delivery]:
        await self._gate.wait()
        return await self._inner.pull(most)

    def handed(self) -> Mapping[int, float]:
        return self._inner.handed()

    async def newest(self, vehicle: str) -> tuple[str, int] | None:
        return await self._inner.newest(vehicle)

    async def ack(self, deliveries: Iterable[Delivery]) -> None:
        await self._inner.ack(deliveries)

    async def reject(self, delivery: Delivery, reason: str) -> None:
        await self._inner.reject(delivery, reason)

    async def reset(self, partitions: Iterable[int]) -> None:
        await self._inner.reset(partitions)


class _NoEdge:
    """Nobody watches."""

    async def ready(self) -> None: ...

    def listeners(self, channel: str) -> int:
        return 0

    def replicas(self, channel: str) -> Sequence[str]:
        return ()

    def channels(self) -> Sequence[str]:
        return ()

    async def publish(self, items: Sequence[Item]) -> None: ...

    async def close(self) -> None: ...


class Load:
    """Vehicles that send, the consumer, and committers; `go` and `consume` are their gates."""

    def __init__(self, connection: Connection, settings: Settings, seed: int) -> None:
        self.ledger = Ledger(seed, _SENDERS, [vehicle for group in _COMMITTERS for vehicle in group])
        self.go, self.consume, self.answered = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.busy = 0
        self._seed = seed
        self._queue = NatsQueue(connection, settings, SystemClock())
        self._live = NatsLive(connection, settings)
        self._consumer = Consumer(
            _Gated(self._queue, self.consume),
            self._live,
            _NoEdge(),
            enrich.load(settings.enrichers),
            decode.load(settings.decoders),
            settings,
            SystemClock(),
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        await self._queue.join()
        self._tasks = [
            asyncio.create_task(self._consumer.run()),
            *(asyncio.create_task(self._send(vehicle)) for vehicle in _SENDERS),
            *(asyncio.create_task(self._commit(number)) for number in range(len(_COMMITTERS))),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self._queue.leave()

    async def stop(self) -> None:
        """Nobody does anything any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check(self) -> None:
        """Raises what ended one of them."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _send(self, vehicle: str) -> None:
        """One packet after the other, each until it is acknowledged."""
        dice = random.Random(f"{self._seed}/{vehicle}")
        for n in range(1_000_000):
            await self.go.wait()
            self.busy += 1
            data, form, encoding = body(self._seed, vehicle, n)
            self.ledger.sent[vehicle] = n + 1
            name = f"{vehicle}/{packet(self._seed, vehicle, n).name}"
            while True:
                with suppress(Unavailable):
                    await self._queue.put(vehicle, name, data, form, encoding)
                    break
                await asyncio.sleep(dice.uniform(0.05, 0.2))
            self.ledger.acked[vehicle] = n + 1
            self.answered.set()
            self.busy -= 1

    async def _commit(self, number: int) -> None:
        """Atomic batches, each of a few vehicles and a few updates of each."""
        dice = random.Random(f"{self._seed}/commit/{number}")
        folds = {vehicle: Fold(self._seed, vehicle) for vehicle in _COMMITTERS[number]}
        revisions = dict.fromkeys(folds, 0)
        while True:
            await self.go.wait()
            chosen = dice.sample(sorted(folds), dice.randint(2, len(folds)))
            after = {vehicle: folds[vehicle].copy() for vehicle in chosen}
            changes = []
            for vehicle, fold in after.items():
                updates = [_update(fold) for _ in range(dice.randint(1, 8))]
                changes.append(Change(_state(fold), revisions[vehicle], updates))
            self.ledger.open[number] = {vehicle: fold.version for vehicle, fold in after.items()}
            try:
                new = await self._live.commit(changes)
            except (Fenced, Unavailable):
                await self._reload(chosen, folds, revisions)
            else:
                folds |= after
                revisions |= dict(zip(after, new, strict=True))
                self.ledger.committed |= {vehicle: fold.version for vehicle, fold in after.items()}
                self.ledger.open.pop(number, None)

    async def _reload(self, vehicles: list[str], folds: dict[str, Fold], revisions: dict[str, int]) -> None:
        """What is there now, from the leader: a commit without an answer may have happened."""
        for vehicle in vehicles:
            while True:
                with suppress(Unavailable):
                    held = await self._live.latest(vehicle, leader=True)
                    break
                await asyncio.sleep(0.1)
            fold = Fold(self._seed, vehicle)
            while fold.version < held.state.version:
                fold.advance(later=False, stored="")
            folds[vehicle], revisions[vehicle] = fold, held.revision


def _update(fold: Fold) -> Update:
    """The vehicle's next one; the fold is after it."""
    _, patch = fold.advance(later=False, stored="")
    signals = _signals(patch)
    return Update(fold.vehicle, fold.version, fold.version - 1, "", dict(signals))


def _state(fold: Fold) -> State:
    return State(fold.vehicle, fold.version, "", _signals(fold.signals))


def _signals(found: Mapping[str, Any]) -> dict[str, Signal]:
    return {path: msgspec.convert(signal, Signal) for path, signal in found.items()}

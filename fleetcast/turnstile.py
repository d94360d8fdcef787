"""The MQTT door without identity asks nobody who sends, so nats-server acknowledges what a disabled vehicle publishes too.

In: the queue's deliveries. Out: the same, without those that came by MQTT from a vehicle that the registry has disabled (or
does not know, if `unknown_vehicles` refuses those): they go to REJECTED, with the reason, in the log and counted. So a disabled
vehicle moves nothing from `known.HOLDS` seconds on, by whichever door. What was acknowledged is kept, and can be replayed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog

from fleetcast import metrics
from fleetcast.clock import Clock
from fleetcast.errors import Recover, Refuse, Unavailable
from fleetcast.known import HOLDS, Known
from fleetcast.queue import Delivery, Queue, Stored
from fleetcast.subjects import is_vehicle

log = structlog.get_logger()


class Turnstile:
    """`queue.Queue` around another one. `rejected` is told of each packet's vehicle.

    While the registry does not answer, vehicles that it was never asked about pass: consumption must not wait for it.
    """

    def __init__(self, queue: Queue, known: Known, clock: Clock, rejected: Callable[[str], None]) -> None:
        self._queue = queue
        self._known = known
        self._clock = clock
        self._rejected = rejected
        self._asked_again = 0.0

    async def pull(self, most: int) -> Sequence[Delivery]:
        """What may be applied. Raises Recover. Cancelled when it has taken a batch it finishes that, and returns what is left
        of it, which may be nothing: what was taken and let go would be passed over.
        """
        while True:
            sifting = asyncio.create_task(self._sift(await self._queue.pull(most)))
            try:
                left = await asyncio.shield(sifting)
            except asyncio.CancelledError:
                return await sifting
            if left:
                return left

    async def _sift(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        vehicles = list({one.vehicle for one in batch if _asks(one)})
        why = dict(zip(vehicles, await asyncio.gather(*map(self._why_not, vehicles)), strict=True))
        out = [(one, why[one.vehicle]) for one in batch if _asks(one) and why[one.vehicle]]
        if not out:
            return batch
        try:
            for one, reason in out:
                await self._queue.reject(one, reason)
        except Unavailable as error:
            raise Recover(str(error), {one.partition for one in batch}) from error
        await self._queue.ack([one for one, _ in out])
        for one, reason in out:
            metrics.REJECTED.inc()
            self._rejected(one.vehicle)
            log.warning("packet rejected", vehicle=one.vehicle, packet=one.position, reason=reason)
        return [one for one in batch if not (_asks(one) and why[one.vehicle])]

    async def _why_not(self, vehicle: str) -> str:
        """Why it may not send; empty if it may, or if that is not known now."""
        if self._clock.monotonic() < self._asked_again:
            return ""
        try:
            await self._known.admit(None, vehicle)
        except Refuse as why:
            if why.status != 503:
                return str(why)
            self._asked_again = self._clock.monotonic() + HOLDS
        return ""

    async def put(self, vehicle: str, packet_id: str, body: bytes, form: str, encoding: str) -> Stored:
        """The queue's own."""
        return await self._queue.put(vehicle, packet_id, body, form, encoding)

    def handed(self) -> Mapping[int, float]:
        """The queue's own."""
        return self._queue.handed()

    async def newest(self, vehicle: str) -> tuple[str, int] | None:
        """The queue's own."""
        return await self._queue.newest(vehicle)

    async def ack(self, deliveries: Iterable[Delivery]) -> None:
        """The queue's own."""
        await self._queue.ack(deliveries)

    async def reject(self, delivery: Delivery, reason: str) -> None:
        """The queue's own."""
        await self._queue.reject(delivery, reason)

    async def reset(self, partitions: Iterable[int]) -> None:
        """The queue's own."""
        await self._queue.reset(partitions)


def _asks(delivery: Delivery) -> bool:
    """By HTTP ingest has asked; it names a content type. What an operator has put into the queue again is meant to pass."""
    return "/" not in delivery.form and delivery.received is None and is_vehicle(delivery.vehicle)

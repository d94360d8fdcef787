"""The seam of the message queue: what ingest and consume ask of it. `nats_queue` is the one adapter yet.

A packet that `put` answered for is durable. Partitions have one owner at a time; within one, packets come in the order
they were stored, each until it is acked. Whatever is unexpected comes as `Recover` from `pull`, and `reset` is the answer
to it: after a reset everything not yet acked comes again, in order, and nothing else has been skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec


class Stored(msgspec.Struct, frozen=True, gc=False):
    """Where a packet is in the queue; `duplicate` if it had been put before (the position is the first one's)."""

    position: int
    duplicate: bool


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One packet out of the queue, as it was stored (`stored`: when, seconds since 1970).

    `token` is the adapter's own, for the ack. `received`: when it first was stored, if it was put again out of REJECTED.
    """

    vehicle: str
    partition: int
    incarnation: str
    position: int
    stored: float
    form: str
    encoding: str
    body: bytes
    token: Any
    received: float | None = None


class Queue(Protocol):
    """See the module's text."""

    async def put(self, vehicle: str, packet_id: str, body: bytes, form: str, encoding: str) -> Stored:
        """Stores the packet durably, once for each `packet_id`. Raises Unavailable; then it may or may not be stored."""

    async def pull(self, most: int) -> Sequence[Delivery]:
        """At least one and at most `most` packets of the partitions that are ours. Waits.

        Raises Recover, always before the first packet of a partition that is newly ours. Cancelled while it waits it has taken
        nothing.
        """

    def handed(self) -> Mapping[int, float]:
        """By partition that is ours: `pull` has given out every packet of it that was stored before this moment.

        In seconds since 1970 by the clock of the queue, as `Delivery.stored` is; 0 of one of which that is not known.
        """

    async def newest(self, vehicle: str) -> tuple[str, int] | None:
        """(incarnation, position) of the newest packet of it that is in the queue, given out or not; None if there is none.

        All that was stored before the question is seen. Raises Unavailable.
        """

    async def ack(self, deliveries: Iterable[Delivery]) -> None:
        """These were applied, or rejected: they need not come again (they may: an ack can get lost)."""

    async def reject(self, delivery: Delivery, reason: str) -> None:
        """Keeps the packet durably with the reason, once. The caller acks it afterwards. Raises Unavailable."""

    async def reset(self, partitions: Iterable[int]) -> None:
        """Everything of these partitions that is not acked comes again, in order. Raises Unavailable."""

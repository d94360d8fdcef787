"""Asking the running processes what they know of a vehicle, over core NATS; nothing is stored.

Consume processes tell the way of its last packet, they and ingest what they counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

import msgspec
import nats.errors
from nats.aio.msg import Msg

from fleetcast.errors import Unavailable
from fleetcast.explain import Trace
from fleetcast.jetstream import ApiError, Connection
from fleetcast.subjects import EXPLAIN, PACKETS, REJECTED, partition, queued_subjects, rejected_subject
from fleetcast.tally import Tallies, Tally, total

_WAIT = 0.5  # seconds that processes get to answer


class Told(msgspec.Struct, frozen=True):
    """What a process knows, or all of them: `since` is when the first of them began to count, empty if none answered."""

    trace: Trace | None = None
    tally: Tally = Tally()
    since: str = ""


_TOLD = msgspec.json.Decoder(Told)


async def answer(connection: Connection, lookup: Callable[[str], Trace | None], tallies: Tallies) -> None:
    """From now on answers those who ask."""

    async def asked(message: Msg) -> None:
        vehicle = message.data.decode("utf-8", "replace")
        told = Told(lookup(vehicle), tallies.get(vehicle), tallies.since)
        if message.reply:
            with suppress(nats.errors.Error, OSError):
                await message.respond(msgspec.json.encode(told))

    await connection.client.subscribe(EXPLAIN, cb=asked)


async def ask(connection: Connection, vehicle: str) -> Told:
    """The newest trace that any process remembers, and all their counts together. Raises Unavailable."""
    client = connection.client
    inbox = client.new_inbox()
    found: list[Told] = []
    try:
        answers = await client.subscribe(inbox)
        await client.publish(EXPLAIN, vehicle.encode(), reply=inbox)
        with suppress(TimeoutError):
            async with asyncio.timeout(_WAIT):
                async for message in answers.messages:
                    found.append(_TOLD.decode(message.data))  # noqa: PERF401 - what came before the time ended counts
        await answers.unsubscribe()
    except (nats.errors.Error, OSError) as error:
        raise Unavailable(f"nats-server: {type(error).__name__}") from error
    return together(found)


def together(found: Iterable[Told]) -> Told:
    """What several processes told, as one."""
    told = list(found)
    trace = max((one.trace for one in told if one.trace), key=lambda trace: trace.version, default=None)
    return Told(trace, total(one.tally for one in told), min((one.since for one in told), default=""))


async def waiting(connection: Connection, vehicle: str, partitions: int) -> int:
    """How many packets of the vehicle are in the queue. Raises Unavailable."""
    subjects = queued_subjects(partition(vehicle, partitions), vehicle)
    try:
        info = await connection.api(f"STREAM.INFO.{PACKETS}", {"subjects_filter": subjects})
    except ApiError as error:
        raise Unavailable(f"stream {PACKETS}: {error}") from error
    return sum((info["state"].get("subjects") or {}).values())


async def rejected(connection: Connection, vehicle: str, partitions: int) -> int:
    """How many packets of the vehicle are in REJECTED. Raises Unavailable."""
    subject = rejected_subject(partition(vehicle, partitions), vehicle)
    try:
        info = await connection.api(f"STREAM.INFO.{REJECTED}", {"subjects_filter": subject})
    except ApiError as error:
        raise Unavailable(f"stream {REJECTED}: {error}") from error
    return int((info["state"].get("subjects") or {}).get(subject, 0))

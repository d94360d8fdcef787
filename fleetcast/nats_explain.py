"""Asking the consume processes what they remember of a vehicle's last packet, over core NATS; nothing is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec
import nats.errors
from nats.aio.msg import Msg

from fleetcast.errors import Unavailable
from fleetcast.explain import Trace
from fleetcast.jetstream import ApiError, Connection
from fleetcast.subjects import EXPLAIN, PACKETS, partition, queued_subjects

_WAIT = 0.5  # seconds that processes get to answer
_TRACE = msgspec.json.Decoder(Trace)


async def answer(connection: Connection, lookup: Callable[[str], Trace | None]) -> None:
    """From now on answers those who ask, if there is something to say."""

    async def asked(message: Msg) -> None:
        trace = lookup(message.data.decode("utf-8", "replace"))
        if trace is not None and message.reply:
            with suppress(nats.errors.Error, OSError):
                await message.respond(msgspec.json.encode(trace))

    await connection.client.subscribe(EXPLAIN, cb=asked)


async def ask(connection: Connection, vehicle: str) -> Trace | None:
    """The newest trace that any process remembers. Raises Unavailable."""
    client = connection.client
    inbox = client.new_inbox()
    found: list[Trace] = []
    try:
        answers = await client.subscribe(inbox)
        await client.publish(EXPLAIN, vehicle.encode(), reply=inbox)
        with suppress(TimeoutError):
            async with asyncio.timeout(_WAIT):
                async for message in answers.messages:
                    found.append(_TRACE.decode(message.data))  # noqa: PERF401 - what came before the time ended counts
        await answers.unsubscribe()
    except (nats.errors.Error, OSError) as error:
        raise Unavailable(f"nats-server: {type(error).__name__}") from error
    return max(found, key=lambda trace: trace.version, default=None)


async def waiting(connection: Connection, vehicle: str, partitions: int) -> int:
    """How many packets of the vehicle are in the queue. Raises Unavailable."""
    subjects = queued_subjects(partition(vehicle, partitions), vehicle)
    try:
        info = await connection.api(f"STREAM.INFO.{PACKETS}", {"subjects_filter": subjects})
    except ApiError as error:
        raise Unavailable(f"stream {PACKETS}: {error}") from error
    return sum((info["state"].get("subjects") or {}).values())

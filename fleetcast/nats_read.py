"""Every message of a stream, read from its leader from front to back.

A message that is replaced while it is read (`max_msgs_per_subject`) comes as it was, as it is, or both; it is never missed.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from fleetcast.errors import FleetcastError, Unavailable
from fleetcast.jetstream import Connection

_PULL = 500
_PULL_BYTES = 8_000_000
_QUIET = 10.0


async def messages(connection: Connection, stream: str) -> AsyncIterator[tuple[Msg, int]]:
    """Each message in order, and how many are left after it. Raises ApiError or Unavailable."""
    name = f"read-{uuid.uuid4().hex}"
    config = {"name": name, "ack_policy": "none", "mem_storage": True, "inactive_threshold": 60_000_000_000}
    await connection.api(
        f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": config, "action": "create"}
    )
    try:
        due, asked = 1, 0
        async with inbox(connection) as (address, answers):
            request = {"batch": _PULL, "max_bytes": _PULL_BYTES, "no_wait": True}
            while True:
                if asked == 0:
                    asked = _PULL
                    subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"
                    await connection.client.publish(subject, msgspec.json.encode(request), reply=address)
                message = await next_of(answers, stream)
                headers: dict[str, str] = message.headers or {}
                if "Status" in headers and not message.reply:
                    asked = 0
                    if headers["Status"] == "404":  # nothing is left
                        return
                    if headers["Status"] == "503":
                        raise Unavailable(f"stream {stream}: the reading was ended")
                    continue
                tokens = message.reply.split(".")
                if int(tokens[-3]) != due:
                    raise Unavailable(f"stream {stream}: message {due} was lost on its way")
                due, asked = due + 1, asked - 1
                yield message, int(tokens[-1])
    finally:
        with suppress(FleetcastError):
            await connection.api(f"CONSUMER.DELETE.{stream}.{name}")


@asynccontextmanager
async def inbox(connection: Connection) -> AsyncIterator[tuple[str, Subscription]]:
    """An address for answers, and what comes to it."""
    address = connection.client.new_inbox()
    subscription = await connection.client.subscribe(address, pending_msgs_limit=-1, pending_bytes_limit=-1)
    try:
        yield address, subscription
    finally:
        with suppress(nats.errors.Error, OSError):
            await subscription.unsubscribe()


async def next_of(subscription: Subscription, stream: str) -> Msg:
    """The next answer. Raises Unavailable if none comes."""
    try:
        return await subscription.next_msg(timeout=_QUIET)
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise Unavailable(f"stream {stream}: {type(error).__name__}") from error

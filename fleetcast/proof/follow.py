"""Follows LIVE's updates in the order it took them, each once, from before the first packet, through every restart of it.

It asks for what comes after a position, a few hundred at a time, and keeps nothing in the server: so nothing of the server's
can make it skip one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

import msgspec
import nats.errors
from backports import zstd
from nats.aio.msg import Msg

from fleetcast.errors import FleetcastError
from fleetcast.jetstream import Connection
from fleetcast.subjects import LIVE

_BATCH = 256
_PAUSE = 0.1

Committed = Callable[[str, bytes, float], None]
"""(vehicle, the update as JSON, when it was stored in seconds since 1970)."""


class Follower:
    """`run` follows until cancelled; `position` is the last message that was read."""

    def __init__(self, connection: Connection, committed: Committed) -> None:
        self._connection = connection
        self._committed = committed
        self.position = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            found = 0
            with suppress(FleetcastError, nats.errors.Error, OSError, TimeoutError):
                found = await self._read()
            if found < _BATCH:
                await asyncio.sleep(_PAUSE)

    async def _read(self) -> int:
        client = self._connection.client
        inbox, came = client.new_inbox(), asyncio.Queue[Msg]()
        # By a callback: the client's own `next_msg` can swallow a cancelling in Python 3.11, and this would never end.
        answers = await client.subscribe(inbox, cb=came.put, pending_bytes_limit=-1, pending_msgs_limit=-1)
        try:
            wanted = {"seq": self.position + 1, "batch": _BATCH, "next_by_subj": "update.*.*"}
            await client.publish(f"$JS.API.DIRECT.GET.{LIVE}", msgspec.json.encode(wanted), reply=inbox)
            count = 0
            while True:
                async with asyncio.timeout(2):
                    message = await came.get()
                headers: dict[str, str] = message.headers or {}
                if (
                    "Status" in headers
                ):  # the end; or nobody is there, which names a subject too: that of the question
                    return count
                _, vehicle, _ = headers["Nats-Subject"].split(".")
                stored = datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp()
                self._committed(vehicle, zstd.decompress(message.data), stored)
                self.position = int(headers["Nats-Sequence"])
                count += 1
        finally:
            with suppress(nats.errors.Error, OSError):
                await answers.unsubscribe()

"""Revocations on JetStream: KV bucket REVOKED, one entry each, on disk before `put` returns, gone by itself when it is over.

`Follower` tells a process of each new one: at once by the message itself, and by a look at the stream each half second should
that have been lost.
"""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Callable, Sequence

import msgspec
import nats.errors
import structlog

from fleetcast.clock import Clock
from fleetcast.errors import Unavailable
from fleetcast.jetstream import AGAIN, NO_MESSAGE, ApiError, Connection
from fleetcast.nats_read import messages
from fleetcast.revoked import Revocation
from fleetcast.subjects import REVOKED, revoked_subject

log = structlog.get_logger()

_LOOK = 0.5
_ENTRY = msgspec.json.Decoder(Revocation)

Take = Callable[[Sequence[Revocation]], None]


async def put(connection: Connection, entry: Revocation, clock: Clock) -> None:
    """Durable when it returns. Raises Unavailable."""
    ttl = max(1, math.ceil(entry.until - clock.now()))
    answer = msgspec.json.decode(
        await connection.request(
            revoked_subject(entry.key),
            msgspec.json.encode(entry),
            headers={"Nats-TTL": f"{ttl}s"},
            timeout=10,
            again=AGAIN,
        )
    )
    if (error := answer.get("error")) is not None:
        raise Unavailable(f"stream {REVOKED} refuses: {error.get('description')}")


async def everything(connection: Connection) -> tuple[list[Revocation], int]:
    """All of them, and the place of the last. Raises Unavailable."""
    found, last = [], 0
    try:
        async for message, _ in messages(connection, REVOKED):
            last = int(message.reply.split(".")[-4])
            if (entry := _entry(message.data)) is not None:
                found.append(entry)
    except ApiError as error:
        raise Unavailable(f"stream {REVOKED}: {error}") from error
    except (nats.errors.Error, OSError) as error:
        raise Unavailable(f"nats-server: {type(error).__name__}") from error
    return found, last


class Follower:
    """Hands each revocation to `take`, all that there are first; one may be handed over twice."""

    def __init__(self, connection: Connection, take: Take) -> None:
        self._connection = connection
        self._take = take
        self._which = ""
        self._last = 0
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Returns once all that there are were taken: before that nobody is to be let in."""
        await self._connection.client.subscribe(revoked_subject(">"), cb=self._heard)
        while True:
            try:
                await self._look()
            except Unavailable as why:
                log.warning("revocations cannot be read yet", error=str(why))
                await asyncio.sleep(_LOOK)
            else:
                return

    async def run(self) -> None:
        """For ever. While nats-server is away what is known holds on."""
        failing = False
        while True:
            try:
                async with asyncio.timeout(_LOOK):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            try:
                await self._look()
                failing = False
            except Unavailable as why:
                if not failing:
                    log.warning("revocations cannot be read; going on with what is known", error=str(why))
                failing = True

    async def _heard(self, message: object) -> None:
        if (entry := _entry(getattr(message, "data", b""))) is not None:
            self._take([entry])
        self._news.set()

    async def _look(self) -> None:
        last = self._last
        try:
            info = await self._connection.api(f"STREAM.INFO.{REVOKED}", timeout=2)
            which, last = str(info["created"]), int(info["state"]["last_seq"])
            if which != self._which or last < self._last:
                found, _ = await everything(self._connection)
                self._take(found)
                self._which, self._last = which, last
            while self._last < last:
                wanted = {"seq": self._last + 1, "next_by_subj": revoked_subject(">")}
                message = (await self._connection.api(f"STREAM.MSG.GET.{REVOKED}", wanted, timeout=2))[
                    "message"
                ]
                if (entry := _entry(base64.b64decode(message.get("data", "")))) is not None:
                    self._take([entry])
                self._last = int(message["seq"])
        except ApiError as error:
            if error.err_code != NO_MESSAGE:
                raise Unavailable(f"stream {REVOKED}: {error}") from error
            self._last = last  # those between are over already


def _entry(data: bytes) -> Revocation | None:
    """None for a marker, or what is none of ours."""
    try:
        return _ENTRY.decode(data)
    except msgspec.MsgspecError:
        return None

"""The streams of many vehicles on JetStream: KV bucket STREAMS, one entry each, gone by itself after its time.

It is bounded: when it is full the oldest give way, whose apps are told 404 and post their lists again. It is in no backup.
"""

from __future__ import annotations

import base64
import math

import msgspec

from fleetcast.errors import Unavailable
from fleetcast.jetstream import AGAIN, NO_MESSAGE, ApiError, Connection
from fleetcast.many import Stream
from fleetcast.subjects import STREAMS, stream_subject

_ENTRY = msgspec.json.Decoder(Stream)


class NatsStreams:
    """`many.Streams` on stream KV_STREAMS."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def put(self, name: str, stream: Stream, seconds: float) -> None:
        """One publish; JetStream answers when it is on disk."""
        answer = msgspec.json.decode(
            await self._connection.request(
                stream_subject(name),
                msgspec.json.encode(stream),
                headers={"Nats-TTL": f"{max(1, math.ceil(seconds))}s"},
                timeout=10,
                again=AGAIN,
            )
        )
        if (error := answer.get("error")) is not None:
            raise Unavailable(f"stream {STREAMS} refuses: {error.get('description')}")

    async def get(self, name: str) -> Stream | None:
        """One get by subject, from the leader: it may have been put a moment ago."""
        try:
            wanted = {"last_by_subj": stream_subject(name)}
            answer = await self._connection.api(f"STREAM.MSG.GET.{STREAMS}", wanted)
        except ApiError as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise Unavailable(f"stream {STREAMS}: {error}") from error
        try:
            return _ENTRY.decode(base64.b64decode(answer["message"].get("data", "")))
        except msgspec.MsgspecError:  # a marker, or written by something else
            return None

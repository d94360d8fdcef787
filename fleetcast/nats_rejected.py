"""The packets that could not be applied, in stream REJECTED: listed, read, put back into the queue, or dropped.

A packet that is put back is applied like any other: if its vehicle has sent newer ones since, as a late packet, so it never
turns the live state back. It leaves REJECTED only when the queue has it durably.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from email.parser import BytesHeaderParser

import msgspec

from fleetcast.errors import Unavailable
from fleetcast.jetstream import NO_MESSAGE, ApiError, Connection
from fleetcast.subjects import ENCODING, FORM, POSITION, REASON, REJECTED, STORED, put_subject


class Rejected(msgspec.Struct, frozen=True):
    """One packet in REJECTED: its number there, why it is there, where and when it was stored, and its bytes."""

    number: int
    vehicle: str
    reason: str
    rejected_at: str
    stored_at: str
    position: int
    form: str
    encoding: str
    body: bytes


class NatsRejected:
    """Stream REJECTED, for an operator."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def all(self, vehicle: str | None = None) -> AsyncIterator[Rejected]:
        """Each one in order, of one vehicle or of all. Raises Unavailable."""
        after = 0
        while (
            found := await self._get({"seq": after + 1, "next_by_subj": f"rejected.*.{vehicle or '*'}"})
        ) is not None:
            yield found
            after = found.number

    async def get(self, number: int) -> Rejected | None:
        """The one of this number, or None. Raises Unavailable."""
        return await self._get({"seq": number})

    async def replay(self, one: Rejected) -> int:
        """Puts it into the queue again, then drops it here; its new position. Raises Unavailable."""
        headers = {
            "Nats-Msg-Id": f"replay/{one.number}/{one.rejected_at}",
            FORM: one.form,
            ENCODING: one.encoding,
            STORED: one.stored_at,  # by which the vehicle's clock is judged, however long it lay here
        }
        answer = msgspec.json.decode(
            await self._connection.request(put_subject(one.vehicle), one.body, headers)
        )
        if (error := answer.get("error")) is not None:
            raise Unavailable(f"the queue refuses: {error.get('description')}")
        await self.drop(one.number)
        return int(answer["seq"])

    async def drop(self, number: int) -> None:
        """Removes it for good. Raises Unavailable."""
        try:
            await self._connection.api(f"STREAM.MSG.DELETE.{REJECTED}", {"seq": number})
        except ApiError as error:
            raise Unavailable(f"stream {REJECTED}: {error}") from error

    async def _get(self, which: dict[str, object]) -> Rejected | None:
        try:
            answer = await self._connection.api(f"STREAM.MSG.GET.{REJECTED}", which)
        except ApiError as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise Unavailable(f"stream {REJECTED}: {error}") from error
        message = answer["message"]
        raw = base64.b64decode(message.get("hdrs", ""))
        headers = BytesHeaderParser().parsebytes(raw.partition(b"\r\n")[2])  # the first line is NATS/1.0
        return Rejected(
            number=int(message["seq"]),
            vehicle=str(message["subject"]).rpartition(".")[2],
            reason=headers.get(REASON, ""),
            rejected_at=str(message["time"]),
            stored_at=headers.get(STORED, ""),
            position=int(headers.get(POSITION, "0")),
            form=headers.get(FORM, ""),
            encoding=headers.get(ENCODING, "identity"),
            body=base64.b64decode(message.get("data", "")),
        )

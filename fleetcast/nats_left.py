"""Packets that stay in the queue though their consumer is past them: delivered again by us, and removed when acked.

nats-server keeps what was acked and what was removed in different files, and after a power cut or a full disk the first may be
the newer one. It then delivers such a message to nobody and removes it never, and it takes room of the queue for good. What
is found here is acked, so most often it is applied: the state says, as for every redelivery. Seen with 2.15.1.
"""

from __future__ import annotations

import base64
from contextlib import suppress
from datetime import datetime
from email.parser import BytesHeaderParser
from typing import Any

from fleetcast.clock import seconds
from fleetcast.errors import Unavailable
from fleetcast.inflate import sniffed
from fleetcast.jetstream import NO_MESSAGE, ApiError, Connection, Generation
from fleetcast.queue import Delivery
from fleetcast.subjects import ENCODING, FORM, PACKETS, STORED, partition_filter, split_ingest

MOST = 256
"""Found at a time: the rest at the next reset of the partition."""


async def left_behind(
    connection: Connection, number: int, consumer: dict[str, Any], generation: Generation
) -> list[Delivery]:
    """Those of partition `number`, in order, given the information on its consumer that was just reset.

    Raises ApiError or Unavailable.
    """
    wanted = partition_filter(number)
    info = await connection.api(f"STREAM.INFO.{PACKETS}", {"subjects_filter": wanted})
    held = sum((info["state"].get("subjects") or {}).values())
    # What came since the reset is in the one and not in the other: then one question more is asked, in vain.
    if held <= consumer["num_pending"] + consumer["num_ack_pending"]:
        return []
    found: list[Delivery] = []
    floor, position = int(consumer["ack_floor"]["stream_seq"]), 0
    while len(found) < MOST:
        try:
            which = {"seq": position + 1, "next_by_subj": wanted}
            message = (await connection.api(f"STREAM.MSG.GET.{PACKETS}", which))["message"]
        except ApiError as error:
            if error.err_code == NO_MESSAGE:
                break
            raise
        if (position := int(message["seq"])) > floor:
            break
        found.append(_delivery(message, generation))
    return found


async def remove(connection: Connection, position: int) -> None:
    """As an ack does. What is not removed now is found again."""
    with suppress(ApiError, Unavailable):
        await connection.api(f"STREAM.MSG.DELETE.{PACKETS}", {"seq": position, "no_erase": True})


def _delivery(message: dict[str, Any], generation: Generation) -> Delivery:
    raw = base64.b64decode(message.get("hdrs", ""))
    headers = BytesHeaderParser().parsebytes(raw.partition(b"\r\n")[2])  # the first line is NATS/1.0
    number, vehicle, form = split_ingest(message["subject"])
    body = base64.b64decode(message.get("data", ""))
    position = int(message["seq"])
    return Delivery(
        vehicle=vehicle,
        partition=number,
        incarnation=generation.incarnation(position),
        position=position,
        stored=datetime.fromisoformat(message["time"]).timestamp(),
        form=headers.get(FORM) or form,
        encoding=headers.get(ENCODING) or sniffed(body),
        body=body,
        token="",
        received=first_stored(headers.get(STORED, "")),
    )


def first_stored(text: str) -> float | None:
    """When a packet that was put again out of REJECTED first came, by what its header says; None of any other."""
    with suppress(ValueError):
        return seconds(text)
    return None

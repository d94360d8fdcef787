"""What the streams hold after a boot, read message by message: not by the code that is proved."""

from __future__ import annotations

import asyncio
import base64
import gzip

import msgspec
from backports import zstd

from fleetcast.jetstream import NO_MESSAGE, ApiError, Connection, stream_info
from fleetcast.nats_rejected import NatsRejected
from fleetcast.proof.ledger import Found, View
from fleetcast.subjects import LIVE, PACKETS, REJECTED, split_ingest

_READS = 64
_BATCH = 256


async def look(connection: Connection) -> Found:
    """All that is there, read from the streams as they are."""
    found = Found()
    if await stream_info(connection, PACKETS) is not None:
        found.queued = await _queue(connection)
    if await stream_info(connection, LIVE) is not None:
        found.views = await _live(connection)
    if await stream_info(connection, REJECTED) is not None:
        async for one in NatsRejected(connection).all():
            text = {"gzip": gzip.decompress, "zstd": zstd.decompress}.get(one.encoding, bytes)(one.body)
            head = msgspec.json.decode(text.partition(b"\n")[0])
            found.rejected.setdefault(one.vehicle, set()).add(f"{head['boot']}/{head['seq']}")
    return found


async def _live(connection: Connection) -> dict[str, View]:
    """States and updates by vehicle, some hundreds of messages at a time."""
    found: dict[str, View] = {}
    client, position, last = connection.client, 0, -1
    while position != last:
        last = position
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox, pending_bytes_limit=-1, pending_msgs_limit=-1)
        wanted = {"seq": position + 1, "batch": _BATCH, "next_by_subj": ">"}
        await client.publish(f"$JS.API.DIRECT.GET.{LIVE}", msgspec.json.encode(wanted), reply=inbox)
        while True:
            message = await answers.next_msg(timeout=30)
            headers: dict[str, str] = message.headers or {}
            if "Nats-Subject" not in headers:
                break
            position = int(headers["Nats-Sequence"])
            kind, vehicle, *_ = headers["Nats-Subject"].split(".")
            value = msgspec.json.decode(zstd.decompress(message.data))
            view = found.setdefault(vehicle, View())
            if kind == "update":
                view.updates.append((value["version"], value["prev"], value["signals"], value["updated_at"]))
            else:
                view.version, view.signals = value["version"], value.get("signals", {})
        await answers.unsubscribe()
    return found


async def _queue(connection: Connection) -> list[tuple[str, str, bytes]]:
    info = await connection.api(f"STREAM.INFO.{PACKETS}", {"deleted_details": True}, timeout=30)
    gone = set(info["state"].get("deleted") or ())
    slots = asyncio.Semaphore(_READS)

    async def read(number: int) -> tuple[str, str, bytes] | None:
        async with slots:
            try:
                answer = await connection.api(f"STREAM.MSG.GET.{PACKETS}", {"seq": number}, timeout=30)
            except ApiError as error:
                if error.err_code != NO_MESSAGE:
                    raise
                return None
        message = answer["message"]
        _, vehicle, _ = split_ingest(message["subject"])
        lines = base64.b64decode(message["hdrs"]).decode().split("\r\n")
        name = next(line.partition(": ")[2] for line in lines if line.startswith("Nats-Msg-Id: "))
        return vehicle, name.partition("/")[2], base64.b64decode(message["data"])

    numbers = range(info["state"]["first_seq"], info["state"]["last_seq"] + 1)
    read_all = await asyncio.gather(*(read(number) for number in numbers if number not in gone))
    return [one for one in read_all if one is not None]

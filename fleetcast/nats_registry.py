"""The registry on JetStream: KV bucket VEHICLES, one JSON value a vehicle, on disk before a change is answered.

Entries are read from the leader, so that what is read after `stamp` is not older than that. An entry that was deleted with
other tools leaves a marker there, which counts as none; one that is removed here leaves nothing.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import nats.errors

from fleetcast.errors import Unavailable
from fleetcast.jetstream import AGAIN, NO_MESSAGE, RESTORED, ApiError, Connection
from fleetcast.nats_read import messages
from fleetcast.registry import Vehicle
from fleetcast.subjects import REGISTRY, registry_subject

_OPERATION = b"KV-Operation:"
_ENTRY = msgspec.json.Decoder(Vehicle)


class NatsRegistry:
    """`registry.Registry` on stream KV_VEHICLES."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def get(self, vehicle: str) -> Vehicle | None:
        """One get by subject, from the leader."""
        try:
            wanted = {"last_by_subj": registry_subject(vehicle)}
            answer = await self._connection.api(f"STREAM.MSG.GET.{REGISTRY}", wanted)
        except ApiError as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise Unavailable(f"stream {REGISTRY}: {error}") from error
        message = answer["message"]
        if _OPERATION in base64.b64decode(message.get("hdrs", "")):
            return None
        return _entry(vehicle, base64.b64decode(message.get("data", "")))

    async def put(self, vehicle: Vehicle) -> None:
        """One publish; JetStream answers when it is on disk."""
        data = msgspec.json.encode(vehicle)
        answer = msgspec.json.decode(
            await self._connection.request(registry_subject(vehicle.vehicle), data, timeout=10, again=AGAIN)
        )
        if (error := answer.get("error")) is not None:
            raise Unavailable(f"stream {REGISTRY} refuses: {error.get('description')}")

    async def remove(self, vehicle: str) -> None:
        """Purged: a marker, as KV has them, would keep the id."""
        try:
            subject = registry_subject(vehicle)
            await self._connection.api(f"STREAM.PURGE.{REGISTRY}", {"filter": subject}, timeout=10)
        except ApiError as error:
            raise Unavailable(f"stream {REGISTRY}: {error}") from error

    async def all(self, fleet: str | None = None) -> AsyncIterator[Vehicle]:
        """In the order of their last change."""
        seen: set[str] = set()
        try:
            async for message, _ in messages(self._connection, REGISTRY):
                vehicle = message.subject.rpartition(".")[2]
                if vehicle in seen or "KV-Operation" in (message.headers or {}):
                    continue
                seen.add(vehicle)
                entry = _entry(vehicle, message.data)
                if fleet is None or fleet in entry.fleets:
                    yield entry
        except ApiError as error:
            raise Unavailable(f"stream {REGISTRY}: {error}") from error
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"nats-server: {type(error).__name__}") from error

    async def stamp(self) -> str:
        """A put makes the last sequence rise, a removal the number of messages fall; a restore makes another stream."""
        try:
            info = await self._connection.api(f"STREAM.INFO.{REGISTRY}")
        except ApiError as error:
            raise Unavailable(f"stream {REGISTRY}: {error}") from error
        state: dict[str, Any] = info["state"]
        which = info["created"], info["config"].get("metadata", {}).get(RESTORED, "")
        return " ".join(map(str, (*which, state["last_seq"], state["messages"])))


def _entry(vehicle: str, data: bytes) -> Vehicle:
    try:
        entry = _ENTRY.decode(data)
    except msgspec.MsgspecError as error:  # written by something else; it must not pass for enabled
        raise Unavailable(f"stream {REGISTRY}: what it holds of {vehicle} is no vehicle: {error}") from error
    return entry if entry.vehicle == vehicle else msgspec.structs.replace(entry, vehicle=vehicle)

"""Erasing a vehicle: its queued packets, state, window, rejected packets and registry entry, and what processes remember.

Disabled first, so that the doors take nothing more of it; then its queue is waited for, so that nothing of it is in the
hands of a consume process, which would commit it afterwards; then everything is purged, and asked for until it is empty; the
entry goes last. Whatever ends this early leaves the vehicle disabled: do it again. A consume process that holds the state
nevertheless is refused by the fence, and reads that there is none. If the vehicle sends again it begins at version 1, in
another life: whoever watches is reset.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg

from fleetcast.errors import Unavailable, Unusable
from fleetcast.jetstream import NOT_FOUND, ApiError, Connection
from fleetcast.known import HOLDS
from fleetcast.registry import Registry, Vehicle
from fleetcast.subjects import FORGET, everything_of

log = structlog.get_logger()

Say = Callable[[str], None]

_DRAINED = 30.0
"""Seconds that consume gets for the vehicle's packets in the queue."""
_IN_HAND = 3.0
"""Seconds for what consume holds of a queue that did not get empty: a batch takes milliseconds."""
_ASK = 0.2
_TIMES = 5


class Forgotten(msgspec.Struct, frozen=True):
    """What was erased and what is left, in messages, by `queue`, `state`, `window`, …; and the registry's entry, if any."""

    erased: Mapping[str, int]
    left: Mapping[str, int]
    entry: Vehicle | None

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return self.entry is None and not any(self.left.values())


async def listen(connection: Connection, forget: Callable[[str], None]) -> None:
    """From now on `forget` is called with each vehicle that is erased."""

    async def told(message: Msg) -> None:
        vehicle = message.data.decode("utf-8", "replace")
        log.info("vehicle forgotten", vehicle=vehicle)
        forget(vehicle)

    await connection.client.subscribe(FORGET, cb=told)


async def held(connection: Connection, vehicle: str) -> dict[str, int]:
    """How many messages the streams hold of it, by what they are. Raises Unavailable."""
    found: dict[str, int] = {}
    for what, stream, subjects in everything_of(vehicle):
        found[what] = found.get(what, 0) + await _count(connection, stream, subjects)
    return found


async def forget(connection: Connection, registry: Registry, vehicle: str, say: Say) -> Forgotten:
    """Erases it. Raises Unavailable; then do it again."""
    entry = await registry.get(vehicle) or Vehicle(vehicle)
    if entry.enabled:
        await registry.put(msgspec.structs.replace(entry, enabled=False))
    say(f"disabled; the doors know within {HOLDS:.0f} s")
    await asyncio.sleep(HOLDS)
    if waiting := await _drained(connection, vehicle):
        say(f"{waiting} packets still wait, consume is behind or not running: erased as they are")
        await _purge(connection, vehicle, only="queue")
        await asyncio.sleep(_IN_HAND)
    erased: dict[str, int] = {"queue": waiting}
    for _ in range(_TIMES):
        for what, count in (await _purge(connection, vehicle)).items():
            erased[what] = erased.get(what, 0) + count
        await _tell(connection, vehicle)
        await asyncio.sleep(_ASK)
        if not any((await held(connection, vehicle)).values()):
            break
    with suppress(Unusable):  # kept elsewhere: the entry is said to be left
        await registry.remove(vehicle)
    return Forgotten(erased, await held(connection, vehicle), await registry.get(vehicle))


async def _drained(connection: Connection, vehicle: str) -> int:
    """How many of its packets still wait in the queue once it had its time."""
    deadline = asyncio.get_running_loop().time() + _DRAINED
    while True:
        waiting = (await held(connection, vehicle))["queue"]
        if not waiting or asyncio.get_running_loop().time() > deadline:
            return waiting
        await asyncio.sleep(_ASK)


async def _purge(connection: Connection, vehicle: str, only: str = "") -> dict[str, int]:
    """How many messages were removed, by what they were."""
    purged: dict[str, int] = {}
    for what, stream, subjects in everything_of(vehicle):
        if only in ("", what):
            try:
                answer = await connection.api(f"STREAM.PURGE.{stream}", {"filter": subjects}, timeout=30)
            except ApiError as error:
                if error.err_code != NOT_FOUND:
                    raise Unavailable(f"stream {stream}: {error}") from error
                answer = {}
            purged[what] = purged.get(what, 0) + int(answer.get("purged", 0))
    return purged


async def _count(connection: Connection, stream: str, subjects: str) -> int:
    try:
        info = await connection.api(f"STREAM.INFO.{stream}", {"subjects_filter": subjects})
    except ApiError as error:
        if error.err_code == NOT_FOUND:
            return 0
        raise Unavailable(f"stream {stream}: {error}") from error
    return sum((info["state"].get("subjects") or {}).values())


async def _tell(connection: Connection, vehicle: str) -> None:
    with suppress(nats.errors.Error, OSError):
        await connection.client.publish(FORGET, vehicle.encode())
        await connection.client.flush(2)

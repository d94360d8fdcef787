"""Taking a server out of HAProxy in good order, and putting it back: its admin socket, and the closing of an edge's streams.

A drained server gets nothing new, and finishes what it has. A stream never finishes by itself, so the edge's own are closed
a few at a time, by its control channels; each phone comes back with its last id, through another replica.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx2
import structlog

from fleetcast.errors import Unavailable
from fleetcast.settings import Settings
from fleetcast.subjects import CONTROL_CHANNELS, control_channel
from fleetcast.wsevents import REPLACED

log = structlog.get_logger()

PACE = 16.0  # control channels closed a second, at most
_SHARE = 0.8  # of what the front lets in again: others come, too
_TRIES, _PAUSE = 50, 0.2  # HAProxy may be starting again
_LOOK = 0.05
_MOVED = {"action": "close", "code": REPLACED, "reason": "come back"}


class Balancer:
    """HAProxy by its admin socket. Servers are named `backend/server`. Everything raises Unavailable if it is not there."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def tell(self, command: str) -> str:
        """What it answers to one command."""
        for attempt in range(_TRIES):
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._socket))
            except OSError as error:
                if attempt == _TRIES - 1:
                    raise Unavailable(f"HAProxy's admin socket: {error}") from error
                await asyncio.sleep(_PAUSE)
                continue
            try:
                writer.write(f"{command}\n".encode())
                return (await reader.read()).decode().strip()
            finally:
                writer.close()
        raise AssertionError

    async def set(self, servers: Sequence[str], state: str) -> None:
        """`ready`, `drain` or `maint`."""
        for server in servers:
            await self._do(f"set server {server} state {state}")

    async def add(self, server: str, options: str) -> None:
        """A server more; it takes part as soon as its check says so."""
        await self._do(f"add server {server} {options}", "New server registered.")
        await self._do(f"enable health {server}")
        await self.set([server], "ready")

    async def delete(self, server: str) -> None:
        """Forgets a server for good. What it still had is cut."""
        await self.set([server], "maint")
        await self.tell(f"shutdown sessions server {server}")
        for attempt in range(_TRIES):
            try:
                await self._do(f"del server {server}", "Server deleted.")
            except Unavailable:  # a connection that it kept for later is not closed yet
                if attempt == _TRIES - 1:
                    raise
                await asyncio.sleep(_PAUSE)
            else:
                return

    async def sessions(self, servers: Sequence[str]) -> int:
        """What these have in hand."""
        rows = await self._rows()
        return sum(int(rows[server]["scur"]) for server in servers if server in rows)

    async def up(self, servers: Sequence[str]) -> bool:
        """Whether all of these take requests."""
        rows = await self._rows()
        return all(rows[server]["status"].startswith("UP") for server in servers)

    async def empty(self, servers: Sequence[str], bound: float) -> int:
        """Waits until they have nothing in hand, at most so long; returns what is left."""
        deadline = asyncio.get_running_loop().time() + bound
        while True:
            left = await self.sessions(servers)
            if not left or asyncio.get_running_loop().time() > deadline:
                return left
            await asyncio.sleep(_LOOK)

    async def _rows(self) -> Mapping[str, Mapping[str, str]]:
        rows = csv.DictReader(io.StringIO((await self.tell("show stat")).removeprefix("# ")))
        return {f"{row['pxname']}/{row['svname']}": row for row in rows}

    async def _do(self, command: str, expect: str = "") -> None:
        if (answer := await self.tell(command)) != expect:
            raise Unavailable(f"HAProxy refuses `{command}`: {answer}")


async def move_streams(
    balancer: Balancer, server: str, publish: str, settings: Settings, bound: float
) -> int:
    """Closes the streams of a drained edge until it has none, or all were told and `bound` seconds are over; returns how many
    are left.

    `publish` is host:port of that replica's HTTP input. No faster than the front lets the phones in again.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + bound
    async with httpx2.AsyncClient(timeout=5, trust_env=False) as client:
        while True:
            held = await balancer.sessions([server])
            pace = min(PACE, _SHARE * settings.new_streams * CONTROL_CHANNELS / max(1, held))
            for number in range(CONTROL_CHANNELS):
                if not await balancer.sessions([server]):
                    return 0
                await _close(client, publish, number)
                await asyncio.sleep(1 / pace)
            if loop.time() > deadline:
                return await balancer.sessions([server])


async def _close(client: httpx2.AsyncClient, publish: str, number: int) -> None:
    item = {
        "channel": control_channel(number),
        "formats": {"http-stream": {"action": "close"}, "ws-message": _MOVED},
    }
    try:
        answer = await client.post(f"http://{publish}/publish/", content=json.dumps({"items": [item]}))
        answer.raise_for_status()
    except (
        httpx2.TransportError
    ) as error:  # busy, or dead, and started again by its supervisor: the next pass tells it
        log.warning(
            "an edge that is drained does not take an item", edge=publish, error=str(error) or repr(error)
        )
    except httpx2.HTTPStatusError as error:
        raise Unavailable(f"the edge at {publish} does not take an item: {error}") from error

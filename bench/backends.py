"""The stages before ours, as processes of a platform: what `stages.py` measures, and nothing of the product.

    consume   the platform's, but for where updates go: nowhere, for phones that poll; or to a bus that every replica hears
    backend   answers polls, by the code of `origin`; or holds phones' streams itself: a snapshot from LIVE, then from the bus
              what is of the stream's vehicle

The bus is core NATS: a server of its own, so that its bytes and its CPU time are told from those of the queue and of LIVE.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import nats
import uvicorn
from nats.aio.client import Client
from nats.aio.msg import Msg
from starlette.types import ASGIApp, Receive, Scope, Send

from fleetcast import health, metrics, origin, sse, wiring
from fleetcast.edge import Edge, Item
from fleetcast.jetstream import connect
from fleetcast.live import Live
from fleetcast.nats_live import NatsLive
from fleetcast.resume import event_id
from fleetcast.settings import Settings, load
from fleetcast.subjects import split_channel
from fleetcast.update import snapshot

_FINISH = 3
_HEAD = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]


class Nobody:
    """`edge.Edge` of phones that poll: nothing is published."""

    async def ready(self) -> None:
        """At once."""

    def listeners(self, channel: str) -> int:
        """None."""
        return 0

    def replicas(self, channel: str) -> Sequence[str]:
        """None."""
        return ()

    def channels(self) -> Sequence[str]:
        """None."""
        return ()

    async def publish(self, items: Sequence[Item]) -> None:
        """Never called."""

    async def close(self) -> None:
        """Nothing is on its way."""


class Broadcast(Nobody):
    """`edge.Edge` by the bus: every update to every replica, whoever listens there."""

    def __init__(self, bus: str) -> None:
        self._bus = bus
        self._client: Client | None = None

    def listeners(self, channel: str) -> int:
        """It cannot know: somebody. That stage has no calm streams."""
        found = split_channel(channel)
        return int(found is not None and not found[2])

    async def publish(self, items: Sequence[Item]) -> None:
        """`updates.<vehicle>.<version>`, the event's text as it goes to phones."""
        if self._client is None:
            self._client = await nats.connect(self._bus)
        for item in items:
            found = split_channel(item.channel)
            assert found is not None
            await self._client.publish(f"updates.{found[0]}.{item.id.rpartition('-')[2]}", item.content)

    async def close(self) -> None:
        """Sends what is on its way."""
        if self._client is not None:
            await self._client.drain()


class _Seams(wiring.Seams):
    def __init__(self, bus: str) -> None:
        self.made = Broadcast(bus) if bus else Nobody()

    def edge(self, edge: Edge) -> Edge:
        """Ours instead."""
        return self.made


class Streams:
    """The application that holds streams: a queue and a task for each, in the process that a deploy ends."""

    def __init__(self, live: Live, keep_alive: int) -> None:
        self._live = live
        self._keep_alive = keep_alive
        self._held: dict[str, set[asyncio.Queue[tuple[int, bytes] | None]]] = {}

    async def on_update(self, message: Msg) -> None:
        """Of whatever vehicle: most are nobody's here."""
        _, vehicle, version = message.subject.split(".")
        for queue in self._held.get(vehicle, ()):
            queue.put_nowait((int(version), message.data))

    async def keep(self) -> None:
        """A comment to every stream now and then."""
        while True:
            await asyncio.sleep(self._keep_alive)
            for queue in [queue for queues in self._held.values() for queue in queues]:
                queue.put_nowait((sys.maxsize, sse.KEEP_ALIVE))

    def end(self) -> None:
        """Every stream ends: the process is about to."""
        for queues in self._held.values():
            for queue in queues:
                queue.put_nowait(None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`/v1/vehicles/{vehicle}/events`, for as long as the phone stays."""
        vehicle = scope["path"].split("/")[-2]
        queue: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        queues = self._held.setdefault(vehicle, set())
        queues.add(queue)  # before the snapshot is read: no update falls between the two
        sending = asyncio.create_task(self._send(vehicle, queue, send))
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            queues.discard(queue)
            if not queues:
                self._held.pop(vehicle, None)

    async def _send(self, vehicle: str, queue: asyncio.Queue[tuple[int, bytes] | None], send: Send) -> None:
        epoch = await self._live.epoch()
        state = (await self._live.latest(vehicle)).state
        metrics.SNAPSHOTS.inc()
        first = sse.event("snapshot", msgspec.json.encode(snapshot(state)), event_id(epoch, state.version))
        await send({"type": "http.response.start", "status": 200, "headers": _HEAD})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        while (found := await queue.get()) is not None:
            version, content = found
            if version > state.version:
                await send({"type": "http.response.body", "body": content, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class _Server(uvicorn.Server):
    """Signals are the process's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run_backend(settings: Settings, bus: str) -> None:
    """One replica: with a bus it holds streams, without it answers polls. Its health is on the same port."""
    connection = await connect(settings, "fleetcast-bench")
    live = NatsLive(connection, settings)
    streams = Streams(live, settings.keep_alive)
    polled = origin.application(
        live,
        settings,
        signed=lambda _: True,
        hold=lambda *_: [],
        hold_poll=lambda *_: [],
        last_ids=lambda _: {},
    )
    about = health.health("backend", {"live": live.epoch})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path, chosen = scope.get("path", ""), polled
        if path in ("/live", "/ready", "/metrics"):
            chosen = about
        elif bus and path.endswith("/events"):
            chosen = streams
        await chosen(scope, receive, send)

    async with _listening(streams, bus):
        await _serve(app, settings, streams)
    await connection.close()


@asynccontextmanager
async def _listening(streams: Streams, bus: str) -> AsyncIterator[None]:
    if not bus:
        yield
        return
    client = await nats.connect(bus)
    await client.subscribe("updates.>", cb=streams.on_update, pending_msgs_limit=-1, pending_bytes_limit=-1)
    keeping = asyncio.create_task(streams.keep())
    try:
        yield
    finally:
        keeping.cancel()
        await client.close()


async def _serve(app: ASGIApp, settings: Settings, streams: Streams) -> None:
    """As the platform's roles do, until SIGTERM; then streams are ended, and requests in hand finished."""
    server = _Server(
        uvicorn.Config(
            app,
            port=settings.origin_port,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            backlog=4096,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_FINISH,
        )
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    serving, stopping = asyncio.create_task(server.serve()), asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    streams.end()
    await serving
    stopping.cancel()


async def run_consume(settings: Settings, bus: str) -> None:
    """The platform's, with our edge in place of its own."""
    seams = _Seams(bus)
    await wiring.run_consume(settings, seams)
    await seams.made.close()


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="bench.backends", description=__doc__)
    parser.add_argument("--bus", default="", help="nats://host:port")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("role", choices=["consume", "backend"])
    given = parser.parse_args()
    settings = load(given.config, os.environ)
    wiring.configure_logging(settings, given.role)
    asyncio.run((run_consume if given.role == "consume" else run_backend)(settings, given.bus))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Joins seams and adapters for each role, and serves it until it is told to stop.

`run_ingest`, `run_consume` and `run_origin` are whole processes' lives: connect, make what is missing, serve, and at SIGTERM
finish what is in hand. Whatever goes wrong before that raises; a supervisor starts the process again.
"""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TextIO, cast

import structlog
import uvicorn
from starlette.types import ASGIApp

from fleetcast import (
    access,
    auth,
    decode,
    enrich,
    health,
    ingest,
    nats_explain,
    nats_forget,
    natsserver,
    origin,
    pushpin,
)
from fleetcast.admission import Admit, TlsProtocol, every, identified, tls_context
from fleetcast.budget import Budgets
from fleetcast.clock import Clock, SystemClock, rfc3339
from fleetcast.closing import Closing
from fleetcast.consume import Consumer
from fleetcast.edge import Edge
from fleetcast.ending import ended
from fleetcast.errors import Unusable
from fleetcast.fleets import Fleets
from fleetcast.jetstream import Connection, connect, provisioned, takes_packets
from fleetcast.known import Known, refuses_unknown
from fleetcast.live import Live
from fleetcast.mqtt import Doorkeeper
from fleetcast.nats_callout import Callout, Welcome
from fleetcast.nats_live import NatsLive
from fleetcast.nats_queue import NatsQueue
from fleetcast.nats_registry import NatsRegistry
from fleetcast.nats_revoked import Follower
from fleetcast.nats_streams import NatsStreams
from fleetcast.nats_system import System
from fleetcast.queue import Queue
from fleetcast.registry import Registry
from fleetcast.registry import load as load_registry
from fleetcast.revoked import Revoked
from fleetcast.settings import Settings
from fleetcast.tally import Tallies
from fleetcast.turnstile import Turnstile

log = structlog.get_logger()

# Seconds that requests in hand get at SIGTERM; a batch gets two more. With a nats-server that hangs, handing over and
# closing take five on top of that: the worst case is 12.
_FINISH = 5


class Seams:
    """What a role makes of its seams before it uses them: nothing. The proof's have traps in them."""

    clock: Clock = SystemClock()

    def queue(self, queue: Queue) -> Queue:
        """Of ingest and of consume."""
        return queue

    def live(self, live: Live) -> Live:
        """Of consume and of origin."""
        return live

    def edge(self, edge: Edge) -> Edge:
        """Of consume."""
        return edge


_AS_THEY_ARE = Seams()


class _Log:
    """A stream whose failures are passed over: a log on a full disk must not end the process that writes it."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()


def configure_logging(settings: Settings, role: str) -> None:
    """Structured logs on standard error: for people on a terminal, one JSON object a line otherwise."""
    text = settings.log == "text" or (settings.log == "auto" and sys.stderr.isatty())
    renderer = structlog.dev.ConsoleRenderer() if text else structlog.processors.JSONRenderer()
    levels = {"debug": 10, "info": 20, "warning": 30, "error": 40}
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(levels[settings.log_level]),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Log(sys.stderr))),
    )
    structlog.contextvars.bind_contextvars(role=role)


async def run_ingest(settings: Settings, seams: Seams = _AS_THEY_ARE) -> None:
    """The HTTP door for vehicles."""
    who, tls = auth.identity(settings), tls_context(settings)
    connection = await _connected(settings, "ingest")
    queue = NatsQueue(connection, settings, seams.clock)
    checks = {"queue": partial(takes_packets, connection, settings)}
    tallies = Tallies(settings.state_cache, rfc3339(seams.clock.now()))
    registry = make_registry(connection, settings)
    known = Known(registry, seams.clock, refuse_unknown=refuses_unknown(settings, identity=settings.identity))
    admits: list[Admit] = [known.admit]
    if who is not None:
        admits.insert(0, identified(who))
    else:
        log.info("no credentials are configured: open for development, on loopback only")
    app = ingest.application(
        seams.queue(queue), settings, admit=every(*admits), tallies=tallies, clock=seams.clock
    )
    await nats_explain.answer(connection, lambda vehicle: None, tallies)
    async with _mqtt_door(settings, connection, who, [partial(known.admit, None)]) as keeper:
        serve = partial(
            _serve, settings, "ingest", checks, app, settings.vehicle_host, settings.ingest_port, tls
        )
        await (serve() if keeper is None else serve(life=keeper.run, finish=keeper.stop))
    await connection.close()


@asynccontextmanager
async def _mqtt_door(
    settings: Settings, connection: Connection, who: auth.Identity | None, welcomes: Sequence[Welcome]
) -> AsyncIterator[Doorkeeper | None]:
    """Answers nats-server who may connect; nothing without identity. Raises Unusable."""
    if who is None or not settings.mqtt_identity:
        yield None
        return
    if not settings.nats_seed:
        raise Unusable("nats_seed: missing; with it ingest signs who may connect by MQTT, and `up` makes one")
    system = await connect(settings, "fleetcast-doorkeeper", natsserver.system_user(settings))
    keeper = Doorkeeper(
        System(system),
        Budgets(settings.packets_per_minute, settings.bytes_per_minute),
        Path(settings.nats_log) if settings.nats_log else None,
        welcomes,
    )
    try:
        await Callout(connection, settings.nats_seed, who, [keeper.welcome, *welcomes]).start()
        yield keeper
    finally:
        await system.close()


async def run_origin(settings: Settings, seams: Seams = _AS_THEY_ARE) -> None:
    """The app-facing API behind the edge."""
    if not settings.sig_key:
        raise Unusable(
            "sig_key: missing; an origin must know the key by which the edge signs (setting sig_key)"
        )
    access.check(settings)
    connection = await _connected(settings, "origin")
    live = NatsLive(connection, settings)
    guard, following = await _guard(settings, connection, seams.clock)
    app = origin.application(
        seams.live(live),
        settings,
        signed=lambda signature: pushpin.signed_by_edge(signature, settings.sig_key),
        hold=lambda channel, at, control, link, begins: pushpin.hold(
            channel, at, control, link, settings, begins=begins
        ),
        hold_poll=pushpin.hold_poll,
        last_ids=pushpin.last_ids,
        clock=seams.clock,
        access=guard,
        asked=NatsStreams(connection),
    )
    await _serve(
        settings, "origin", {"live": live.epoch}, app, "127.0.0.1", settings.origin_port, life=following
    )
    await connection.close()


async def _guard(
    settings: Settings, connection: Connection, clock: Clock
) -> tuple[access.Open, Callable[[], Coroutine[None, None, None]] | None]:
    """Who may see what, once all revocations are known, and what keeps them known."""
    registry, revoked = make_registry(connection, settings), Revoked()
    if not settings.app_keys:
        return access.Open(Fleets(registry, clock)), None
    resolve = access.load_resolver(settings.app_resolver) if settings.app_resolver else None
    guard = access.Guarded(settings, Known(registry, clock), registry, revoked, clock, resolve)
    follower = Follower(connection, lambda entries: revoked.take(entries, clock.now()))
    await follower.start()
    return guard, follower.run


async def run_consume(settings: Settings, seams: Seams = _AS_THEY_ARE) -> None:
    """The streaming consumer."""
    enrichers, decoders = enrich.load(settings.enrichers), decode.load(settings.decoders)
    clock = seams.clock
    connection = await _connected(settings, "consume")
    queue = NatsQueue(connection, settings, clock)
    live = NatsLive(connection, settings)
    edge = pushpin.ZmqEdge(settings) if settings.publish == "zmq" else pushpin.HttpEdge(settings)
    closing = Closing(edge, clock, hears=edge.hears)
    registry = make_registry(connection, settings)
    asked: Queue = queue
    if settings.mqtt_port and not settings.identity:
        known = Known(registry, clock, refuse_unknown=refuses_unknown(settings, identity=False))

        def rejected(vehicle: str) -> None:
            consumer.tallies.rejected(vehicle)

        asked = Turnstile(queue, known, clock, rejected)
    consumer = Consumer(
        seams.queue(asked),
        seams.live(live),
        seams.edge(edge),
        enrichers,
        decoders,
        settings,
        clock,
        every=_intervals(registry, clock),
    )
    checks: dict[str, health.Check] = {
        "consumption": consumer.well,
        "queue": partial(takes_packets, connection, settings),
        "live": live.epoch,
        "partitions": queue.settled,
    }

    async def life() -> None:
        await edge.ready()
        ending = asyncio.create_task(_ending(settings, connection, closing))
        await nats_explain.answer(connection, consumer.traces.get, consumer.tallies)
        await nats_forget.listen(connection, consumer.forget)
        await queue.join()
        try:
            await consumer.run()
        finally:
            await queue.leave()
        # One that stopped by itself stays, to say so: started again it would go on rejecting.
        await consumer.stopped()
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)

    try:
        await _serve(settings, "consume", checks, life=life, finish=consumer.stop)
    finally:
        await edge.close()
        await connection.close()


async def _ending(settings: Settings, connection: Connection, closing: Closing) -> None:
    """Closes streams whose credential is over, for as long as it runs; nothing in open development."""
    if not settings.app_keys:
        return
    follower = Follower(connection, closing.take)
    await follower.start()
    async with asyncio.TaskGroup() as group:
        group.create_task(follower.run())
        group.create_task(closing.run())


def _intervals(registry: Registry, clock: Clock) -> Callable[[str], Coroutine[None, None, float | None]]:
    """How often a vehicle is to send, by the registry as it is known here."""
    known = Known(registry, clock)

    async def every(vehicle: str) -> float | None:
        entry = await known.check(vehicle)
        return None if entry is None else entry.every

    return every


def make_registry(connection: Connection, settings: Settings) -> Registry:
    """Ours, or the one that the settings name. Raises Unusable."""
    if settings.registry:
        return load_registry(settings.registry, settings)
    return NatsRegistry(connection)


async def _connected(settings: Settings, role: str) -> Connection:
    connection = await connect(settings, f"fleetcast-{role}")
    await provisioned(connection, settings)
    return connection


class _Server(uvicorn.Server):
    """One of several in a process: the process, not the server, handles the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(app: ASGIApp, host: str, port: int, tls: ssl.SSLContext | None = None) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http="auto" if tls is None else TlsProtocol,
            ws="none",  # sockets come by the edge, as requests
            ssl_context_factory=None if tls is None else lambda *_: tls,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,  # nothing here asks who the client is
            backlog=4096,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_FINISH,
        )
    )


async def _serve(
    settings: Settings,
    role: str,
    checks: Mapping[str, health.Check],
    app: ASGIApp | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    life: Callable[[], Coroutine[None, None, None]] | None = None,
    finish: Callable[[], None] | None = None,
) -> None:
    """Serves the application and the admin port, and lives `life`, until SIGTERM or SIGINT; then calls `finish`."""
    servers = [_server(health.health(role, checks), "127.0.0.1", settings.admin_port)]
    if app is not None:
        servers.append(_server(app, host, port, tls))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tasks: list[asyncio.Task[None]] = [asyncio.create_task(server.serve()) for server in servers]
    if life is not None:
        tasks.append(asyncio.create_task(life()))
    stopping = asyncio.create_task(stop.wait())
    log.info("started", port=port or None, admin=settings.admin_port)
    await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
    early = [task for task in tasks if task.done()]
    log.info("stopping" if stop.is_set() else "ended by itself")
    if finish is not None:
        finish()
    for server in servers:
        server.should_exit = True
    _, pending = await asyncio.wait(tasks, timeout=_FINISH + 2)
    await ended([*pending, stopping])
    for task in early:
        task.result()  # a server that could not bind, or a bug: raise it here
    log.info("stopped")

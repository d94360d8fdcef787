"""Other ways to the same phones, to compare ours with: a Pushpin by itself, nginx with nchan, sse-starlette; and their feeder.

Run as a process, with its options as JSON: `Feed` sends numbered versions of the vehicles at an even rate, each to one drawn by
chance, from `go` on; its records are rows of (vehicle, version, sent, due) in ns of the machine's monotonic clock. For Pushpin
it is the origin too, as bare as can be: it answers with the headers that the platform's own does, out of a dictionary. `Serve`
is the sse-starlette server.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import sys
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import httptools
import httpx2
import msgspec
import zmq
import zmq.asyncio

from bench.cars import keep_saying, listen, say, vehicle
from bench.question import Bench
from bench.stats import Records
from bench.world import Failed
from fleetcast import machine, probes, pushpin, sse
from fleetcast.proof.ports import free_ports, platform_settings
from fleetcast.resume import event_id, version_of
from fleetcast.settings import Settings
from fleetcast.subjects import NEXT_LINKS, channel, control_number, split_channel
from fleetcast.supervisor import Program, Supervisor

NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
_EPOCH = "bench"
_LATE = 0.0005
_POSTS = 16
_EDGES = 8  # of one settings object: ports are taken from blocks of a hundred
_UP = 15.0


class Feed(msgspec.Struct, frozen=True, tag=True):
    """`rate` updates a second, each with `size` bytes of data, to `ports`: of each Pushpin's ZeroMQ input, of nchan, of
    the sse-starlette server's line. With Pushpin the vehicles are those that are listened to, and `origin` is where it asks.
    """

    kind: Literal["pushpin", "nchan", "sse-starlette"]
    ports: list[int]
    vehicles: int
    rate: float
    size: int
    origin: int = 0
    next_poll: int = 600
    keep_alive: int = 25
    seed: int = 1


class Serve(msgspec.Struct, frozen=True, tag=True):
    """sse-starlette under uvicorn in one process: phones come to `port`, what they are to be sent comes as lines to `line`."""

    port: int
    line: int
    keep_alive: int = 25


Send = Callable[[int, int, bytes], None]
"""(a vehicle's number, version, data): puts it on its way."""


class Feeder:
    """The versions of all vehicles, and the schedule."""

    def __init__(self, options: Feed) -> None:
        self.options = options
        self.records = Records()
        self.versions: dict[int, int] = {}
        self.going = asyncio.Event()
        self.stopping = asyncio.Event()
        self.pool: list[int] = [] if options.kind == "pushpin" else list(range(options.vehicles))
        self.listened = set(self.pool)
        self.asked = 0
        self._pad = "x" * max(0, options.size - 60)

    def data(self, number: int, version: int) -> bytes:
        """An event's: one line of JSON."""
        name = vehicle(number)
        return f'{{"vehicle":"{name}","version":{version},"prev":{version - 1},"pad":"{self._pad}"}}'.encode()

    def hears(self, number: int, *, listens: bool) -> None:
        """Somebody listens, or nobody any more."""
        if not listens:
            self.listened.discard(number)
        elif number not in self.listened:
            self.listened.add(number)
            self.pool.append(number)

    async def run(self, send: Send) -> None:
        """From `go` until `stop`."""
        waiting = [asyncio.create_task(event.wait()) for event in (self.going, self.stopping)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        rng = random.Random(self.options.seed)
        began, count = time.monotonic_ns(), 0
        while not self.stopping.is_set():
            due = began + int(count * 1e9 / self.options.rate)
            if (ahead := (due - time.monotonic_ns()) / 1e9) > _LATE:
                await asyncio.sleep(min(ahead, 0.1))
                continue
            count += 1
            if self.pool and (number := rng.choice(self.pool)) in self.listened:
                version = self.versions[number] = self.versions.get(number, 0) + 1
                data = self.data(number, version)
                self.records.add(number, version, time.monotonic_ns(), due)
                send(number, version, data)
            if not count % 16:
                await asyncio.sleep(0)

    def line(self) -> dict[str, float]:
        """What is said each half second."""
        return {
            "ready": 1,
            "listened": len(self.listened),
            "asked": self.asked,
            "cpu": time.process_time(),
            "sent": len(self.records),
        }


def _event(data: bytes, version: int, name: str = "update") -> bytes:
    return sse.event(name, data, event_id(_EPOCH, version))


# Pushpin


async def _to_pushpin(feeder: Feeder) -> Send:
    """One XPUB for all replicas: ZeroMQ itself sends each of them only what it has subscribed to."""
    socket: zmq.asyncio.Socket = zmq.asyncio.Context.instance().socket(zmq.XPUB)
    socket.set(zmq.SNDHWM, 100_000)
    socket.set(zmq.RCVHWM, 0)
    socket.set(zmq.XPUB_NODROP, 1)
    for port in feeder.options.ports:
        socket.connect(f"tcp://127.0.0.1:{port}")

    async def hear() -> None:
        while True:
            (message,) = await socket.recv_multipart()
            if (found := split_channel(message[1:].decode())) is not None:
                feeder.hears(int(found[0].rpartition("-")[2]), listens=message[:1] == b"\x01")

    def send(number: int, version: int, data: bytes) -> None:
        item = {
            "id": event_id(_EPOCH, version),
            "prev-id": event_id(_EPOCH, version - 1),
            "no-seq": True,
            "formats": {"http-stream": {"content": _event(data, version).decode()}},
        }
        frames = [channel(vehicle(number)).encode(), b"J" + msgspec.json.encode(item)]
        asyncio.ensure_future(socket.send_multipart(frames, flags=zmq.NOBLOCK)).result()  # it is done at once

    _kept.append(asyncio.create_task(hear()))
    await asyncio.get_running_loop().create_server(
        lambda: _Asked(feeder), "127.0.0.1", feeder.options.origin, backlog=4096
    )
    return send


_kept: list[asyncio.Task[None]] = []


class _Asked(asyncio.Protocol):
    """A connection of Pushpin's zurl to the bare origin."""

    def __init__(self, feeder: Feeder) -> None:
        self.feeder = feeder
        options = feeder.options
        self.settings = Settings(next_poll=options.next_poll, keep_alive=options.keep_alive)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self._begin()

    def _begin(self) -> None:
        self.path = b""
        self.lasts: list[str] = []

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"grip-last":
            self.lasts.append(value.decode())

    def on_message_complete(self) -> None:
        self.feeder.asked += 1
        parts = self.path.decode().split("/")
        if parts[1] == "next":
            body, held = self._next(int(parts[2]), pushpin.last_ids(self.lasts))
        else:
            body, held = self._events(parts[3])
        head = [("Content-Type", sse.MEDIA_TYPE), ("Content-Length", str(len(body))), *held]
        lines = "".join(f"{name}: {value}\r\n" for name, value in head)
        self.transport.write(f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode() + body)
        self._begin()

    def _events(self, name: str) -> tuple[bytes, list[tuple[str, str]]]:
        number = int(name.rpartition("-")[2])
        version = self.feeder.versions.get(number, 0)
        body = _event(self.feeder.data(number, version), version, "snapshot")
        link = int(time.time()) % NEXT_LINKS
        at = event_id(_EPOCH, version)
        return body, pushpin.hold(channel(name), at, control_number(name), link, self.settings)

    def _next(self, link: int, lasts: Mapping[str, str]) -> tuple[bytes, list[tuple[str, str]]]:
        """The latest version of each channel that has not had it: what fell in between is counted as lost by who measures."""
        body, held = b"", list[tuple[str, str]]()
        for name, last in lasts.items():
            found = split_channel(name)
            assert found is not None
            number = int(found[0].rpartition("-")[2])
            version = self.feeder.versions.get(number, 0)
            if version_of(_EPOCH, last) != version:
                body += _event(self.feeder.data(number, version), version)
            at = event_id(_EPOCH, version)
            more = pushpin.hold(name, at, control_number(found[0]), link, self.settings)
            held = [*(header for header in held if header[0] == "Grip-Channel"), *more]
        return body, held


@asynccontextmanager
async def pushpins(
    bench: Bench,
    count: int,
    streams: int,
    change: Callable[[str], str] = str,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Pushpins]:
    """So many replicas beside each other, each for so many streams, without front; their origin is at `.origin`.

    They are configured as the platform configures them, but for what `change` makes of that text.
    """
    groups: list[Settings] = []
    while (missing := count - sum(one.edges for one in groups)) > 0:
        folder = bench.folder / f"edges-{len(groups)}"
        edges = min(missing, _EDGES)
        groups.append(
            platform_settings(
                folder, edges=edges, edge_connections=streams, sig_key=secrets.token_urlsafe(32)
            )
        )
    origin = groups[0].inner_port
    (bench.folder / "log").mkdir(exist_ok=True)
    supervisor = Supervisor(bench.folder / "log", bench.say)
    running = Pushpins(supervisor, origin, [], [])
    try:
        for settings in groups:
            for number in range(settings.edges):
                folder = Path(settings.data) / str(number)
                (folder / "log").mkdir(parents=True, exist_ok=True)
                own = msgspec.structs.replace(settings, inner_port=origin)
                for file, text in pushpin.configuration(own, number, folder).items():
                    machine.write(folder / file, change(text) if file == "pushpin.conf" else text)
                port, name = settings.edge_port + 10 * number, f"pushpin-{len(running.ports)}"
                command = ["pushpin", "--config", str(folder / "pushpin.conf")]
                supervisor.start(
                    Program(
                        name,
                        command,
                        {**os.environ, "PATH": machine.search_path(), **(environment or {})},
                    )
                )
                running.ports.append(port)
                running.inputs.append(int(settings.edge_sub[number].rpartition(":")[2]))
        for port in running.ports:
            itself = {"Host": "alive.invalid"}
            await _up("pushpin", partial(probes.http, f"http://127.0.0.1:{port}/", headers=itself))
        yield running
    finally:
        await supervisor.stop()


class Pushpins:
    """Replicas that run: where phones come to, where items go to, and where they ask."""

    def __init__(self, supervisor: Supervisor, origin: int, ports: list[int], inputs: list[int]) -> None:
        self.supervisor = supervisor
        self.origin = origin
        self.ports = ports
        self.inputs = inputs

    def leaders(self) -> dict[str, int]:
        """For `world.spent`."""
        return _leaders(self.supervisor)


def _leaders(supervisor: Supervisor) -> dict[str, int]:
    return {name: pid for name in supervisor.names if (pid := supervisor.pid(name)) is not None}


async def _up(name: str, check: Callable[[], Awaitable[object]]) -> None:
    deadline = asyncio.get_running_loop().time() + _UP
    while True:
        try:
            await check()
        except (OSError, httpx2.HTTPError) as error:
            if asyncio.get_running_loop().time() > deadline:
                raise Failed(f"{name} is not up after {_UP:.0f} s: {error}") from None
            await asyncio.sleep(0.05)
        else:
            return


# nginx with nchan


@asynccontextmanager
async def nchan(bench: Bench, streams: int) -> AsyncIterator[tuple[Callable[[], Mapping[str, int]], int]]:
    """nginx, one worker, one location to publish to and one of SSE subscribers: (its processes for `world.spent`, the port)."""
    (port,) = free_ports(1)
    folder = bench.folder / "nginx"
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    user = "user root;" if os.getuid() == 0 else ""
    text = f"""\
load_module {NCHAN};
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {streams + 500};
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections {streams + 400}; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_body_in_single_buffer on;
    keepalive_requests 1000000000;
    tcp_nodelay on;
    nchan_shared_memory_size 512M;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location ~ ^/publish/([a-z0-9-]+)$ {{
            nchan_publisher;
            nchan_channel_id $1;
        }}
        location ~ ^/v1/vehicles/([a-z0-9-]+)/events$ {{
            nchan_subscriber eventsource;
            nchan_channel_id $1;
            nchan_subscriber_first_message newest;
            nchan_eventsource_ping_interval 25;
        }}
    }}
}}
"""
    machine.write(folder / "nginx.conf", text)
    (bench.folder / "log").mkdir(exist_ok=True)
    supervisor = Supervisor(bench.folder / "log", bench.say)
    environment = {**os.environ, "PATH": machine.search_path()}
    command = ["nginx", "-p", str(folder), "-e", f"{folder}/error.log", "-c", str(folder / "nginx.conf")]
    try:
        supervisor.start(Program("nginx", command, environment))
        await _up("nginx", partial(probes.tcp, "127.0.0.1", port))
        yield partial(_leaders, supervisor), port
    finally:
        await supervisor.stop()


async def _to_nchan(feeder: Feeder) -> Send:
    """POSTs over a few kept connections, as many at a time."""
    free: list[_Post] = []
    waiting: deque[bytes] = deque()
    for _ in range(_POSTS):
        await asyncio.get_running_loop().create_connection(
            lambda: _Post(free, waiting), "127.0.0.1", feeder.options.ports[0]
        )

    def send(number: int, version: int, data: bytes) -> None:
        head = (
            f"POST /publish/{vehicle(number)} HTTP/1.1\r\nHost: bench\r\nX-EventSource-Event: update\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        request = head.encode() + data
        if free:
            free.pop().transport.write(request)
        else:
            waiting.append(request)

    return send


class _Post(asyncio.Protocol):
    def __init__(self, free: list[_Post], waiting: deque[bytes]) -> None:
        self.free = free
        self.waiting = waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.parser = httptools.HttpResponseParser(self)
        self.free.append(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        if (status := self.parser.get_status_code()) not in (200, 201, 202):
            raise Failed(f"nchan answers {status}")
        if self.waiting:
            self.transport.write(self.waiting.popleft())
        else:
            self.free.append(self)


# sse-starlette


async def _to_line(feeder: Feeder) -> Send:
    _, writer = await asyncio.open_connection("127.0.0.1", feeder.options.ports[0])

    def send(number: int, version: int, data: bytes) -> None:
        writer.write(b"%s %d %s\n" % (vehicle(number).encode(), version, data))

    return send


async def _serve(options: Serve) -> None:
    import uvicorn
    from sse_starlette import EventSourceResponse, ServerSentEvent
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    queues: dict[str, set[asyncio.Queue[ServerSentEvent]]] = defaultdict(set)

    async def events(request: Request) -> Response:
        queue: asyncio.Queue[ServerSentEvent] = asyncio.Queue()
        of_vehicle = queues[request.path_params["vehicle"]]

        async def told() -> AsyncIterator[ServerSentEvent]:
            of_vehicle.add(queue)
            try:
                while True:
                    yield await queue.get()
            finally:
                of_vehicle.discard(queue)

        response: Response = EventSourceResponse(told(), ping=options.keep_alive, sep="\n")
        return response

    async def fed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            name, version, data = line.decode().rstrip("\n").split(" ", 2)
            for queue in queues[name]:
                queue.put_nowait(ServerSentEvent(data, event="update", id=version))
        writer.close()

    app = Starlette(routes=[Route("/v1/vehicles/{vehicle}/events", events)])
    server = uvicorn.Server(
        uvicorn.Config(
            app, port=options.port, log_config=None, access_log=False, lifespan="off", backlog=4096
        )
    )
    await asyncio.start_server(fed, "127.0.0.1", options.line, limit=1 << 20)
    serving = asyncio.create_task(server.serve())
    # It would wait for its streams to end; nothing here needs a good end.
    telling = asyncio.create_task(listen({"stop": partial(os._exit, 0)}))
    while not server.started:  # noqa: ASYNC110 - it has no event for it
        await asyncio.sleep(0.01)
    say({"ready": 1})
    await asyncio.gather(serving, telling)


_TO: Mapping[str, Callable[[Feeder], Awaitable[Send]]] = {
    "pushpin": _to_pushpin,
    "nchan": _to_nchan,
    "sse-starlette": _to_line,
}


async def _feed(options: Feed, records: Path) -> None:
    feeder = Feeder(options)
    send = await _TO[options.kind](feeder)
    telling = asyncio.create_task(listen({"go": feeder.going.set, "stop": feeder.stopping.set}))
    saying = asyncio.create_task(keep_saying(feeder.line))
    await feeder.run(send)
    for task in (telling, saying, *_kept):
        task.cancel()
    feeder.records.save(records)
    say(feeder.line())


def _main(arguments: Sequence[str]) -> None:
    options = msgspec.json.decode(arguments[0], type=Feed | Serve)
    asyncio.run(_serve(options) if isinstance(options, Serve) else _feed(options, Path(arguments[1])))


if __name__ == "__main__":
    _main(sys.argv[1:])

"""The real servers that tests run against: nats-server, Pushpin, HAProxy and a small origin, on free ports of loopback.

Every server has its own folder, which must be short (`conftest.folder`): Pushpin's sockets lie in it. Ports are below those
that the kernel gives to clients, out of blocks that a process holds by a lock, so that test processes side by side never
take each other's. Nothing here waits for a time: `until` waits for a condition, and fails after a bound.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from fleetcast import haproxy, natsserver, pushpin
from fleetcast.jetstream import connect, provision
from fleetcast.mqtt_line import MqttLine
from fleetcast.proof.ports import free_ports as free_ports
from fleetcast.proof.ports import platform_settings as platform_settings
from fleetcast.proof.ports import short_folder as short_folder
from fleetcast.settings import Settings

_BOUND = 30.0
_GRACE = 8.0


async def until(condition: Callable[[], Any], what: str = "", bound: float = _BOUND) -> Any:
    """Waits until the condition (a function, async or not) gives something true, and returns that."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + bound
    while True:
        found = condition()
        asks = inspect.isawaitable(found)
        if asks:
            found = await found
        if found:
            return found
        if loop.time() > deadline:
            raise AssertionError(f"not within {bound:.0f} s: {what or condition}")
        await asyncio.sleep(0.05 if asks else 0.01)  # to ask takes time of what is waited for


# Processes


class Server:
    """A server's process, in a session of its own. It can be killed and started again on the same folder."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        ready: Callable[[], Awaitable[object]],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._ready = ready
        self._environment = {
            **os.environ,
            "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
            **(environment or {}),
        }
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Its process id; it must run."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Returns when it is ready."""
        assert self._process is None, f"{self.name} runs already"
        setpriv = shutil.which("setpriv")  # ends it should this process be killed
        with_us = [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *with_us,
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,
            )
        try:
            await until(self._answers, f"{self.name} is ready")
        except BaseException:
            print(self.log.read_text(errors="replace")[-4000:])
            await self.kill()
            raise

    async def kill(self) -> None:
        """kill -9, and its children."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM, and if that is not enough SIGKILL. Nothing if it does not run."""
        await self._end(signal.SIGTERM)

    async def restart(self) -> None:
        """kill -9, then a start on what is left."""
        await self.kill()
        await self.start()

    async def _end(self, sign: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if sign == signal.SIGTERM and process.returncode is None:
            with suppress(ProcessLookupError, TimeoutError):
                process.send_signal(sign)
                await asyncio.wait_for(process.wait(), _GRACE)
        _kill_session(process.pid)
        await process.wait()

    async def _answers(self) -> bool:
        assert self._process is not None
        if self._process.returncode is not None:
            raise AssertionError(f"{self.name} ended with status {self._process.returncode}")
        try:
            await self._ready()
        except OSError:
            return False
        return True


def _kill_session(leader: int) -> None:
    """Pushpin's children are each in a process group of their own, but all in its session."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # pid (name) state parent group session …; the name may hold anything
                if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) == leader:
                    os.kill(int(entry.name), signal.SIGKILL)


@asynccontextmanager
async def _running(server: Server) -> AsyncIterator[Server]:
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


def nats_server(folder: Path, port: int, settings: Settings) -> AbstractAsyncContextManager[Server]:
    """`async with nats_server(…) as server:` nats-server as the platform runs it, its data in `folder`/nats."""
    store = folder / "nats"
    store.mkdir(parents=True, exist_ok=True)
    config = folder / "nats.conf"
    config.write_text(natsserver.configuration(settings, store))
    assert natsserver.address(settings)[1] == port
    ours = Path(sys.executable).parent / "nats-server"
    command = [str(ours) if ours.exists() else "nats-server", "-c", str(config)]
    return _running(
        Server("nats-server", command, folder / "nats.log", lambda: _nats_answers(port, settings))
    )


async def open_mqtt(nats: Server, folder: Path, settings: Settings) -> None:
    """Starts this nats-server again with its MQTT listener, once the streams are there, as a platform does."""
    connection = await connect(settings, "test")
    await provision(connection, settings)
    await connection.close()
    (folder / "nats.conf").write_text(natsserver.configuration(settings, folder / "nats", mqtt=True))
    await nats.kill()
    await nats.start()

    async def opens() -> bool:
        try:
            (await MqttLine.open(settings.mqtt_port, "first")).close()
        except OSError:
            return False
        return True

    await until(opens, "MQTT is listened for")


def pushpin_server(folder: Path, settings: Settings, number: int) -> AbstractAsyncContextManager[Server]:
    """`async with pushpin_server(…) as server:` edge replica `number`; its origin, with a `/live`, is at `settings.inner_port`.

    A replica that has just started may answer 502, or lose a request, until its processes have found each other.
    """
    own = folder / f"edge-{number}"
    (own / "log").mkdir(parents=True, exist_ok=True)
    for name, text in pushpin.configuration(settings, number, own).items():
        (own / name).write_text(text)
    port = settings.edge_port + 10 * number
    inputs = [int(specs[number].rpartition(":")[2]) for specs in (settings.edge_sub, settings.edge_http)]

    async def ready() -> None:
        for one in inputs:
            await tcp_answers(one)
        await http_answers(port, "/live")

    command = ["pushpin", "--config", str(own / "pushpin.conf")]
    return _running(Server(f"edge-{number}", command, folder / f"edge-{number}.log", ready))


def haproxy_server(
    folder: Path, settings: Settings, origins: Sequence[tuple[str, int]]
) -> AbstractAsyncContextManager[Server]:
    """`async with haproxy_server(…) as server:` the front and inner balancer, before these origins (address, admin port)."""
    own = folder / "haproxy"
    own.mkdir(parents=True, exist_ok=True)
    for name, text in haproxy.configuration(settings, origins, own).items():
        (own / name).write_text(text)
    command = ["haproxy", "-db", "-f", str(own / "haproxy.cfg")]
    ready = lambda: http_answers(settings.haproxy_port, "/live")  # noqa: E731
    return _running(Server("haproxy", command, folder / "haproxy.log", ready))


@asynccontextmanager
async def http_server(app: ASGIApp, port: int, **more: Any) -> AsyncIterator[uvicorn.Server]:
    """The ASGI application on this port, in this process; `more` is uvicorn's."""
    config = uvicorn.Config(
        app,
        "127.0.0.1",
        port,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        **more,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    try:
        await until(lambda: server.started or task.done(), "the server listens")
        yield server
    finally:
        server.should_exit = True
        await task


# Whether they answer


async def tcp_answers(port: int) -> None:
    """Raises OSError until somebody listens there."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    await writer.wait_closed()


async def http_answers(port: int, path: str = "/", host: str = "127.0.0.1") -> None:
    """Raises OSError until that answers 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        status = await asyncio.wait_for(reader.readline(), 2)
    except TimeoutError:
        raise OSError("no answer") from None
    finally:
        writer.close()
    if b" 200 " not in status:
        raise OSError(status.decode(errors="replace"))


async def _nats_answers(port: int, settings: Settings) -> None:
    """Its first line comes before JetStream has read its store; PONG to a JetStream request comes after."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    ours = {"verbose": False, "user": settings.nats_user, "pass": settings.nats_password}
    try:
        writer.write(f"CONNECT {json.dumps(ours)}\r\nSUB answer 1\r\n".encode())
        writer.write(b"PUB $JS.API.INFO answer 0\r\n\r\n")
        async with asyncio.timeout(2):
            while not (line := await reader.readline()).startswith(b"MSG answer"):
                if not line:
                    raise OSError("closed")
    except TimeoutError:
        raise OSError("JetStream does not answer") from None
    finally:
        writer.close()


# Between a client and a server


class Proxy:
    """A TCP proxy that sees every byte, and can lose them. `up` is from the client to the server, `down` back.

    A filter gets each chunk and returns what is passed on; None cuts the connection.
    """

    def __init__(self, port: int, to: int) -> None:
        self.port = port
        self.up: Callable[[bytes], bytes | None] = lambda data: data
        self.down: Callable[[bytes], bytes | None] = lambda data: data
        self.sent = 0
        self.received = 0
        self._to = to
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def opened(self) -> None:
        """A connection begins."""

    def cut(self) -> None:
        """Closes every connection, both sides."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, to_server = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self.opened()
        self._writers |= {writer, to_server}
        pair = (writer, to_server)
        for task in (
            asyncio.create_task(self._pass(reader, to_server, pair, up=True)),
            asyncio.create_task(self._pass(there, writer, pair, up=False)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        *,
        up: bool,
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if up:
                    self.sent += len(data)
                else:
                    self.received += len(data)
                passed = (self.up if up else self.down)(data)
                if passed is None:
                    break
                writer.write(passed)
                await writer.drain()
        for one in pair:
            one.transport.abort()
            self._writers.discard(one)

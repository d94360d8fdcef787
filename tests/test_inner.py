"""The inner balancer, in the real HAProxy: over few connections, and no more at a time than origins answer."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn
from starlette.types import Receive, Scope, Send

from fleetcast.haproxy import connections
from fleetcast.proof.client import get
from tests.servers import free_ports, haproxy_server, http_server, platform_settings, until


class Counted:
    """An origin that counts the connections it is asked over."""

    def __init__(self) -> None:
        self.asked = 0
        self.peers: set[object] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/next/"):
            self.asked += 1
            self.peers.add(scope["client"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


async def test_origins_are_asked_over_few_connections_however_many_streams_there_are(folder: Path) -> None:
    """HAProxy kept none from a quarter of its files on, which streams took: of 100 requests 78 opened one."""
    origin, (port,) = Counted(), free_ports(1)
    settings = platform_settings(folder, edges=1, edge_connections=20)
    async with (
        http_server(origin, port),
        haproxy_server(folder, settings, [(f"127.0.0.1:{port}", port)]),
    ):

        async def answers() -> bool:
            return (await get(settings.inner_port, "/live")).status == 200

        await until(answers, "the origin is known to be there")
        with ExitStack() as stack:
            for _ in range(connections(settings) * 6 // 10):  # phones: as many, and of the files a third
                stack.enter_context(socket.create_connection(("127.0.0.1", settings.front_port)))
            for number in range(40):
                assert (await get(settings.inner_port, f"/next/{number}")).status == 200
        assert origin.asked == 40
        assert len(origin.peers) <= 4


class Busy:
    """An origin that takes its time over each request, and answers nothing else meanwhile, not the check either."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/live":
            self.paths.append(scope["path"])
            time.sleep(self.seconds)  # noqa: ASYNC251 - as one that computes
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@contextmanager
def elsewhere(app: Busy, port: int) -> Iterator[None]:
    """In a thread of its own, so that it keeps nobody else waiting."""
    config = uvicorn.Config(app, "127.0.0.1", port, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


@asynccontextmanager
async def balanced(folder: Path, *origins: Busy) -> AsyncIterator[int]:
    """The port of the inner balancer, once it knows that the origins are there."""
    ports = free_ports(len(origins))
    settings = platform_settings(folder)
    async with AsyncExitStack() as stack:
        for origin, port in zip(origins, ports, strict=True):
            stack.enter_context(elsewhere(origin, port))
        addresses = [(f"127.0.0.1:{port}", port) for port in ports]
        await stack.enter_async_context(haproxy_server(folder, settings, addresses))

        async def answer() -> bool:
            await get(settings.inner_port, "/v1/here")
            return all("/v1/here" in origin.paths for origin in origins)

        await until(answer, "all origins are asked")
        for origin in origins:
            origin.paths.clear()
        yield settings.inner_port


async def test_origins_that_are_busy_are_not_taken_for_dead(folder: Path) -> None:
    """They were, one after the other: what each was doing was asked of the other one, and neither came to an end."""
    origins = Busy(0.02), Busy(0.02)
    asked = [f"/v1/{number}" for number in range(600)]
    async with balanced(folder, *origins) as port:
        answers = await asyncio.gather(*(get(port, path) for path in asked))
    assert {answer.status for answer in answers} == {200}
    assert sorted(origins[0].paths + origins[1].paths) == sorted(asked), "each once"


async def test_streams_that_are_open_come_before_those_that_are_not(folder: Path) -> None:
    origin = Busy(0.02)
    async with balanced(folder, origin) as port:
        new = [asyncio.create_task(get(port, f"/v1/{number}")) for number in range(120)]
        await until(lambda: bool(origin.paths), "it is busy")
        await get(port, "/next/1")
        assert len(origin.paths) < 100, "not behind all others"
        await asyncio.gather(*new)

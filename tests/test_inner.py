"""The inner balancer, in the real HAProxy: what asks origins again and again does so over connections that are there."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

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

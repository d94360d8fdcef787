"""What the real HAProxy makes of a ticket in the query: a header, before anything behind it or a log could write it down."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from tests.servers import haproxy_server, http_server, platform_settings, until


class Behind:
    """Stands where the edge does: what reaches it."""

    def __init__(self) -> None:
        self.query = ""
        self.authorization: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        if scope["path"].startswith("/v1"):  # else it is HAProxy's check
            self.query = scope["query_string"].decode()
            self.authorization = [v.decode() for k, v in scope["headers"] if k == b"authorization"]
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("path", ["/v1/vehicles", "/v1/vehicles/car-1/events"])
async def test_a_ticket_leaves_the_query_and_nothing_else_does(folder: Path, path: str) -> None:
    settings, behind = platform_settings(folder, edges=1), Behind()
    async with (
        http_server(behind, settings.edge_port),
        haproxy_server(folder, settings, []) as haproxy,
        httpx2.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{settings.front_port}") as client,
    ):

        async def up() -> bool:
            return (await client.get("/v1/vehicles")).status_code == 200

        await until(up, "the edge is up")
        for query, left in (
            ("ticket=SECRET.a-b_c", ""),
            ("ticket=SECRET&view=all", "view=all"),
            ("view=all&ticket=SECRET", "view=all"),
            ("a=1&ticket=SECRET&last_event_id=ab12.c-1", "a=1&last_event_id=ab12.c-1"),
            ("ticket=SECRET&ticket=SECRET&a=1&ticket=SECRET", "a=1"),
            ("aticket=1&ticket=SECRET&tickets=2", "aticket=1&tickets=2"),
        ):
            answer = await client.get(f"{path}?{query}", headers={"Authorization": "Bearer client's"})
            assert answer.status_code == 200
            assert behind.query == left, query
            assert len(behind.authorization) == 1
            assert behind.authorization[0].startswith("Ticket SECRET")
        for query in ("", "a=1&b=%20x", "aticket=1"):
            await client.get(f"{path}?{query}", headers={"Authorization": "Bearer client's"})
            assert (behind.query, behind.authorization) == (query, ["Bearer client's"])
        assert "SECRET" not in haproxy.log.read_text()

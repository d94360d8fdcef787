"""What the real HAProxy does for a long-poll that the edge loses: it asks again when the answer is late, in the app's place."""

from __future__ import annotations

import time
from pathlib import Path

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tests.servers import haproxy_server, http_server, platform_settings, until

POLL = "/v1/vehicles/car-1/events?wait=1"


class ForgetfulEdge:
    """Loses the first poll, and asks the origin for the others, by way of the inner balancer."""

    def __init__(self, inner: int) -> None:
        self.inner = inner
        self.polls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if not request.url.path.endswith("/events"):  # it is HAProxy's check
            await Response()(scope, receive, send)
            return
        self.polls += 1
        if self.polls == 1:
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        async with httpx2.AsyncClient(trust_env=False) as client:
            url = f"http://127.0.0.1:{self.inner}{request.url.path}"
            answer = await client.get(url, headers={"Poll-Began": request.headers["poll-began"]})
        await Response(answer.content)(scope, receive, send)


async def test_a_poll_that_the_edge_lost_is_asked_again_and_has_waited_since_the_first_time(
    folder: Path,
) -> None:
    settings = platform_settings(folder, edges=1)
    waited: list[str] = []

    async def events(request: Request) -> Response:
        waited.append(request.headers["poll-waited"])
        return Response("told")

    origin = Starlette(
        routes=[Route("/live", lambda _: Response()), Route("/v1/vehicles/car-1/events", events)]
    )
    edge = ForgetfulEdge(settings.inner_port)
    async with (
        http_server(edge, settings.edge_port),
        http_server(origin, settings.origin_port),
        haproxy_server(folder, settings, [(f"127.0.0.1:{settings.origin_port}", settings.origin_port)]),
        httpx2.AsyncClient(
            trust_env=False, base_url=f"http://127.0.0.1:{settings.front_port}", timeout=20
        ) as app,
    ):

        async def up() -> bool:
            urls = [f"http://127.0.0.1:{port}/live" for port in (settings.front_port, settings.inner_port)]
            return all([(await app.get(url)).status_code == 200 for url in urls])

        await until(up, "edge and origin are up")
        began = time.monotonic()
        # What an app says of it does not count.
        answer = await app.get(POLL, headers={"Poll-Began": "1", "Poll-Waited": "99"})
        assert answer.text == "told"
        assert edge.polls == 2
        assert 6_000 <= int(waited[0]) <= 12_000
        assert time.monotonic() - began < 20

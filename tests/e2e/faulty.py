"""A front door that breaks one promise: a proxy between the conformance suite and a real platform.

It passes on all that it gets, but for what its `fault` changes: the request before it is asked, an answer before it is given,
a stream event by event. A fault is a subclass of `Fault`; without one nothing is changed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import parse_qsl

import httpx2
import websockets
from starlette.types import Receive, Scope, Send

from tests.servers import free_ports, http_server

Pass = Callable[["Block"], list["Block"]]
_OWN = {b"connection", b"transfer-encoding", b"content-length", b"host", b"date", b"server"}


class Asked:
    """A request, to be changed: `path` as it was sent, with its query."""

    def __init__(self, method: str, path: str, headers: dict[bytes, bytes]) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = b""
        self.last = headers.get(b"last-event-id", b"").decode("latin-1")
        self.asked = dict(parse_qsl(path.partition("?")[2], keep_blank_values=True))
        self.query = self.asked.get("last_event_id", "")

    @property
    def is_stream(self) -> bool:
        return self.path.partition("?")[0].endswith("/events")


class Answered:
    """An answer, to be changed; of a stream `body` is empty."""

    def __init__(self, status: int, headers: dict[bytes, bytes], body: bytes = b"") -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Block:
    """An event or a comment of a stream: its lines, and what is in them."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")

    def field(self, name: str) -> str | None:
        return next((one.partition(": ")[2] for one in self.lines if one.startswith(f"{name}: ")), None)

    @property
    def name(self) -> str:
        return self.field("event") or ""

    @property
    def data(self) -> Any:
        return json.loads(self.field("data") or "null")

    def changed(self, **fields: str | None) -> Block:
        """With other fields; None takes one away."""
        lines = [one for one in self.lines if one.partition(":")[0] not in fields]
        return Block(
            "\n".join([f"{name}: {text}" for name, text in fields.items() if text is not None] + lines)
        )

    def with_data(self, **members: Any) -> Block:
        """With other members of its data; None takes one away."""
        kept = {name: value for name, value in (self.data | members).items() if value is not None}
        return self.changed(data=json.dumps(kept, separators=(",", ":")))

    def encoded(self) -> bytes:
        return ("\n".join(self.lines) + "\n\n").encode()


def nothing(block: Block) -> list[Block]:
    """The event as it is."""
    return [block]


class Fault:
    """Breaks nothing. `token` lets see everything."""

    token = ""

    def asked(self, asked: Asked) -> Answered | None:
        """Changes what is asked, or answers itself."""
        return None

    def answered(self, asked: Asked, answer: Answered) -> None:
        """Changes an answer."""

    def stream(self, asked: Asked) -> Pass:
        """What becomes of each block of this stream."""
        return nothing

    def said(self, text: str) -> str:
        """What becomes of an app's message on a WebSocket."""
        return text

    def told(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """What becomes of the platform's; None: it is lost."""
        return message


class Door:
    """The proxy."""

    def __init__(self, front: str, client: httpx2.AsyncClient) -> None:
        self.fault = Fault()
        self._front = front
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            path += "?" + scope["query_string"].decode("latin-1")
        if scope["type"] == "websocket":
            await self._socket(path, scope, receive, send)
            return
        asked = Asked(scope["method"], path, {k: v for k, v in scope["headers"] if k not in _OWN})
        asked.body = await _body(receive)
        own = self.fault.asked(asked)
        if own is not None:
            await _give(send, own)
            return
        passing = asyncio.create_task(self._pass(asked, send))
        gone = asyncio.create_task(_gone(receive))
        await asyncio.wait({passing, gone}, return_when=asyncio.FIRST_COMPLETED)
        for task in (passing, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, httpx2.HTTPError):
                await task

    async def _socket(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket, message by message; one that is refused with its status."""
        shown = {"authorization", "cookie"}
        headers = [(k.decode(), v.decode()) for k, v in scope["headers"] if k.decode() in shown]
        url = self._front.replace("http", "ws", 1) + path
        await receive()  # that it is opened
        try:
            async with websockets.connect(
                url, proxy=None, max_size=None, additional_headers=headers
            ) as there:
                await send({"type": "websocket.accept"})

                async def back() -> None:
                    async for text in there:
                        message = self.fault.told(json.loads(text))
                        if message is not None:
                            await send({"type": "websocket.send", "text": json.dumps(message)})

                async def forth() -> None:
                    while (message := await receive())["type"] == "websocket.receive":
                        await there.send(self.fault.said(message["text"]))

                ways = [asyncio.create_task(way()) for way in (back, forth)]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except websockets.InvalidStatus as why:
            status = why.response.status_code
            await send({"type": "websocket.http.response.start", "status": status, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b""})

    async def _pass(self, asked: Asked, send: Send) -> None:
        request = self._client.build_request(
            asked.method,
            self._front + asked.path,
            headers=list(asked.headers.items()),
            content=asked.body or None,
        )
        answer = await self._client.send(request, stream=True)
        try:
            headers = {k.lower(): v for k, v in answer.headers.raw if k.lower() not in _OWN}
            given = Answered(answer.status_code, headers)
            streams = b"event-stream" in headers.get(b"content-type", b"") and asked.method == "GET"
            if not streams:
                given.body = await answer.aread()
            self.fault.answered(asked, given)
            if not streams:
                await _give(send, given, head=asked.method == "HEAD")
                return
            await _start(send, given)
            through = self.fault.stream(asked)
            rest = b""
            async for part in answer.aiter_raw():
                *whole, rest = (rest + part).split(b"\n\n")
                blocks = [block for text in whole for block in through(Block(text.decode()))]
                if blocks:
                    body = b"".join(block.encoded() for block in blocks)
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await answer.aclose()


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _start(send: Send, given: Answered) -> None:
    await send(
        {"type": "http.response.start", "status": given.status, "headers": list(given.headers.items())}
    )


async def _give(send: Send, given: Answered, *, head: bool = False) -> None:
    if not head:
        given.headers[b"content-length"] = str(len(given.body)).encode()
    await _start(send, given)
    await send({"type": "http.response.body", "body": b"" if head else given.body})


@asynccontextmanager
async def door(front: str) -> AsyncIterator[tuple[Door, str]]:
    """(the proxy, its address) before this front door."""
    (port,) = free_ports(1)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx2.AsyncClient(
        trust_env=False,
        limits=limits,
        timeout=httpx2.Timeout(30.0, read=None),
        cookies=CookieJar(
            DefaultCookiePolicy(allowed_domains=[])
        ),  # it passes on what is shown, and keeps nothing
    ) as client:
        proxy = Door(front, client)
        async with http_server(proxy, port, ws="websockets-sansio"):
            yield proxy, f"http://127.0.0.1:{port}"

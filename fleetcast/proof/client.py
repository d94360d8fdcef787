"""HTTP as cars and phones of a proof speak it: one connection each, as bytes, so that a thousand cost little.

The platform and the simulator use a full client; here one would take more of the machine than what is being proved.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

import httptools


class Answer:
    """What came back, as far as it came: fed with bytes by `feed`."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.begun = False
        self.complete = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Raises OSError for what is not HTTP."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise OSError(f"not HTTP: {error}") from error

    def take(self) -> bytes:
        """The body that came since the last call."""
        taken = bytes(self.body)
        self.body.clear()
        return taken

    # What the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.begun = True

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


class Line:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, receive: int = 0) -> Line:
        """To loopback; `receive` makes the kernel's buffer small, so that who reads slowly is felt. Raises OSError."""
        sock = socket.socket()
        sock.settimeout(0)
        if receive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        try:
            async with asyncio.timeout(5):
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            return cls(*await asyncio.open_connection(sock=sock, limit=receive or 65_536))
        except BaseException:
            sock.close()
            raise

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Writes a request."""
        lines = [f"{method} {path} HTTP/1.1", "Host: proof", *(f"{k}: {v}" for k, v in headers.items())]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def answer(self) -> Answer:
        """The whole answer. Raises OSError."""
        answer = Answer()
        while not answer.complete:
            data = await self.reader.read(65_536)
            if not data:
                raise OSError("the connection ended")
            answer.feed(data)
        return answer

    def close(self) -> None:
        """At once."""
        self.writer.transport.abort()


async def get(port: int, path: str) -> Answer:
    """One request on a connection of its own. Raises OSError."""
    line = await Line.open(port)
    try:
        line.ask("GET", path, {"Accept": "application/json"})
        async with asyncio.timeout(10):
            return await line.answer()
    finally:
        line.close()

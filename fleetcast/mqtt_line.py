"""MQTT 3.1.1 as simulated cars and those of a proof speak it: one connection each, one QoS 1 publish at a time, as bytes.

Not by a full client: one sends again by itself, while here whoever sends must know of each try whether it was acknowledged.
(aiomqtt 2.5 also waits out its time when a connection ends, and then registers the closed socket for writing, by a number that
another connection may have by then.) It takes a tenth of the work, too, which is the machine's that is being measured.
"""

from __future__ import annotations

import asyncio
import ssl
import struct

_CONNECT, _CONNACK, _PUBLISH_QOS_1, _PUBACK = 0x10, 0x20, 0x32, 0x40
_CLEAN_SESSION, _USER_AND_PASSWORD = 0x02, 0xC0
_REFUSED = {
    2: "client id rejected",
    3: "server unavailable",
    4: "bad user name or password",
    5: "not authorized",
}


class MqttLine:
    """One connection, with a clean session and no keep-alive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._number = 0

    @classmethod
    async def open(
        cls,
        port: int,
        client: str,
        host: str = "127.0.0.1",
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> MqttLine:
        """Under this client id; with a password it is the user name too. Raises OSError."""
        line = cls(*await asyncio.open_connection(host, port, ssl=tls))
        try:
            line._writer.write(connect_packet(client, password))
            kind, answer = await line._read()
            if kind != _CONNACK or answer[1] != 0:
                why = _REFUSED.get(answer[1], f"code {answer[1]}") if kind == _CONNACK else f"{kind:#x}"
                raise OSError(f"connection refused: {why}")
        except BaseException:
            line.close()
            raise
        return line

    async def publish(self, topic: str, body: bytes) -> None:
        """Returns when it is acknowledged. Raises OSError: then it may or may not be stored."""
        self._number = self._number % 65535 + 1
        self._writer.write(publish_packet(topic, self._number, body))
        kind, answer = await self._read()
        if (kind, answer) != (_PUBACK, struct.pack("!H", self._number)):
            raise OSError(f"MQTT: {kind:#x} {answer.hex()} instead of PUBACK {self._number}")

    async def _read(self) -> tuple[int, bytes]:
        try:
            kind, length = await self._reader.readexactly(2)  # all that is answered here is short
            return kind, await self._reader.readexactly(length)
        except asyncio.IncompleteReadError:
            raise OSError("the connection ended") from None

    def close(self) -> None:
        """At once."""
        self._writer.transport.abort()


def connect_packet(client: str, password: str | None = None) -> bytes:
    """CONNECT under this client id, with a clean session and no keep-alive; with a password it is the user name too."""
    flags, shown = _CLEAN_SESSION, b""
    if password is not None:
        flags, shown = flags | _USER_AND_PASSWORD, _text(client) + _text(password)
    return _packet(_CONNECT, _text("MQTT") + struct.pack("!BBH", 4, flags, 0) + _text(client) + shown)


def publish_packet(topic: str, number: int, body: bytes) -> bytes:
    """PUBLISH with QoS 1; `number` (1 to 65,535) stands in its PUBACK."""
    return _packet(_PUBLISH_QOS_1, _text(topic) + struct.pack("!H", number) + body)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("!H", len(data)) + data


def _packet(kind: int, content: bytes) -> bytes:
    """With its length in front: seven bits a byte, the lowest first."""
    length, digits = len(content), bytearray()
    while True:
        length, digit = divmod(length, 128)
        digits.append(digit | (0x80 if length else 0))
        if not length:
            return bytes([kind]) + bytes(digits) + content

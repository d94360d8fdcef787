"""Load: the phones of `phones.py` over HTTP/2, many streams a connection, as browsers and proxies have them.

HTTP/2 in clear, with prior knowledge. A stream that is cut is asked for again on its connection, which stays. Run as a process,
as `bench.phones` is; its options, and how many streams a connection has.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import h2.connection
import h2.errors
import h2.events
import msgspec
from h2.config import H2Configuration
from h2.exceptions import ProtocolError

from bench import phones
from bench.cars import vehicle

_WINDOW = 1 << 20  # bytes a connection may send before we say that we took them


class Options(phones.Options, frozen=True):
    """`streams` a connection; the connections go to the ports by turns."""

    streams: int = 50


class _Connection(asyncio.Protocol):
    """One connection, and the phones that have a stream on it."""

    def __init__(self) -> None:
        self.http = h2.connection.H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.phones: dict[int, Phone] = {}
        self.usable = True
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.http.initiate_connection()
        self.http.increment_flow_control_window(_WINDOW)
        self.flush()

    def flush(self) -> None:
        if self.transport is not None and (data := self.http.data_to_send()):
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        try:
            events = self.http.receive_data(data)
        except ProtocolError:
            assert self.transport is not None
            self.transport.abort()
            return
        for event in events:
            self._happened(event)
        self.flush()

    def _happened(self, event: h2.events.Event) -> None:
        phone = self.phones.get(getattr(event, "stream_id", None) or 0)
        match event:
            case h2.events.ResponseReceived():
                if phone is not None:
                    status = dict(event.headers)[b":status"]
                    phone.answered(status == b"200", status)
            case h2.events.DataReceived():
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if phone is not None:
                    phone.read(event.data)
            case h2.events.StreamEnded() | h2.events.StreamReset():
                if phone is not None:
                    del self.phones[event.stream_id]
                    phone.lost()
            case h2.events.ConnectionTerminated():
                self.usable = False
            case _:
                pass

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable, self.transport = False, None
        lost, self.phones = self.phones, {}
        for phone in lost.values():
            phone.lost()


class _Line:
    """What the phones of one connection have in common: the connection of now."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    async def connection(self) -> _Connection:
        """It, or a new one. Raises OSError."""
        async with self._connecting:
            if self._connection is None or not self._connection.usable:
                loop = asyncio.get_running_loop()
                _, self._connection = await loop.create_connection(_Connection, "127.0.0.1", self.port)
            return self._connection


class Phone(phones.Phone):
    """One, on a stream of its line."""

    def __init__(self, all_phones: phones.Phones, number: int, line: _Line) -> None:
        super().__init__(all_phones, number)
        self.line = line
        self.on: _Connection | None = None
        self.stream = 0

    async def ask(self) -> None:
        self.on = on = await self.line.connection()
        path = self.phones.options.path.format(vehicle(self.vehicle, self.phones.options.prefix))
        headers = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":authority", b"bench"),
            (b":path", path.encode()),
            (b"accept", b"text/event-stream"),
        ]
        headers += [(b"last-event-id", self.last)] if self.last else []
        try:
            self.stream = on.http.get_next_available_stream_id()
            on.http.send_headers(self.stream, headers, end_stream=True)
        except ProtocolError as error:
            raise OSError(str(error)) from error
        on.phones[self.stream] = self
        on.flush()

    def close(self) -> None:
        if self.on is None or self.on.phones.pop(self.stream, None) is None:
            return
        try:
            self.on.http.reset_stream(self.stream, h2.errors.ErrorCodes.CANCEL)
        except ProtocolError:
            pass  # it ended in this moment
        else:
            self.on.flush()
        self.lost()


async def main(options: Options, records: Path) -> None:
    """The process."""
    count = -(-options.count // options.streams)
    lines = [_Line(options.ports[number % len(options.ports)]) for number in range(count)]
    made = phones.Phones(options, lambda all_phones, n: Phone(all_phones, n, lines[n // options.streams]))
    await phones.main(made, records)


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Options), Path(sys.argv[2])))

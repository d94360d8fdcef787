"""WebSockets as a phone of a proof has them: nothing recovers for it, so it resumes, whenever the protocol says that it must.

Of the messages it takes those that follow what it has. One that came already is left out; at one that does not follow it asks
for what is missing. So what the oracle gets to see is what an app would show.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from fleetcast.proof.client import Line
from fleetcast.proof.shown import Chain
from fleetcast.proof.transports import Asks, Told, Transport

_SOON = 1.0
_ANSWERED = 15.0
_PAUSE = 0.6  # seconds between two resumes: two a second are let through


class _Data(msgspec.Struct):
    version: int = -1
    prev: int = -1


class _Message(msgspec.Struct):
    event: str
    id: str = ""
    after: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")


_MESSAGE = msgspec.json.Decoder(_Message)
_DATA = msgspec.json.Decoder(_Data)


class Socket(Transport):
    """One WebSocket. It resumes when it opens, a second after that was answered, when something is missing, and every `wait`
    seconds; never before the one before is answered.
    """

    def __init__(self, line: Line, chains: Sequence[Chain], asks: Asks) -> None:
        super().__init__(line, chains, asks)
        self._text = b""
        self._version = -1  # what was told so far leads to this
        self._resumed = 0.0
        self._asking = self._again = False

    def ask(self) -> None:
        """Opens it."""
        self._version = self.chain.version
        path = self.address("ws")
        self._protocol = ClientProtocol(parse_uri(f"ws://proof{path}"))
        self._protocol.send_request(self._protocol.connect())
        self._send()

    def feed(self, data: bytes) -> list[Told]:
        """See the base."""
        self._protocol.receive_data(data)
        told = list[Told]()
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._answered(event)
            elif isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.CONT):
                self._text += event.data
                if event.fin:
                    text, self._text = self._text, b""
                    told += self._said(_MESSAGE.decode(text))
            elif isinstance(event, Frame) and event.opcode is Opcode.CLOSE:
                self.over = True
        self._send()
        return told

    def tick(self) -> None:
        """Resumes. If the last one was not answered, the line is dead."""
        if self._asking:
            self.over = True
            return
        self._asking = True
        self._resumed = time.monotonic()
        self.due = self._resumed + _ANSWERED
        resume = {"type": "resume"} | ({"last_event_id": self._last} if self._last else {})
        self._protocol.send_text(msgspec.json.encode(resume))
        self._send()

    def _answered(self, answer: Response) -> None:
        self.open = answer.status_code == 101
        self.refused = self.over = not self.open
        if self.open:
            self._last = self.chain.last
            self.tick()

    def _said(self, message: _Message) -> list[Told]:
        data, name = bytes(message.data), message.event
        if name in ("resumed", "more", "unavailable", "fetch"):
            self._asking = False
            # A second after the first one: what was published in between fell between an answer and its hold.
            self.due = time.monotonic() + (self.asks.wait if self._again else _SOON)
            self._again = True
            if name != "resumed":
                self._soon()
        if name not in ("snapshot", "update", "status", "reset"):
            return []
        found = _DATA.decode(data)
        strange = message.after not in ("", self._last)
        if name in ("update", "status") and (found.prev != self._version or strange):
            if found.version > self._version:
                self._soon()
            return []
        if name != "reset":
            self._version, self._last = found.version, message.id
        return [Told(self.chain, name, message.id, data)]

    def _soon(self) -> None:
        if self._asking:  # that is asked for already
            return
        self.due = min(self.due, max(time.monotonic(), self._resumed + _PAUSE))

    def _send(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self.line.writer.write(data)
        if self._protocol.handshake_exc is not None and not self.refused:
            raise OSError(f"no WebSocket: {self._protocol.handshake_exc}")

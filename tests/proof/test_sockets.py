"""A phone of a proof by WebSocket: it asks for what follows, shows only what follows, and asks again for what is missing."""

from __future__ import annotations

import time

import msgspec
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from fleetcast.proof.client import Line
from fleetcast.proof.shown import Chain
from fleetcast.proof.sockets import Socket
from fleetcast.proof.transports import Asks


class Wire:
    """What is written to a platform, which is played by a test."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


class Played:
    """The two ends, without a network."""

    def __init__(self, last: str = "", version: int = -1) -> None:
        self.wire = Wire()
        self.chain = Chain(1, "c", "rare")
        self.chain.last, self.chain.version = last, version
        self.socket = Socket(Line(None, self.wire), [self.chain], Asks("rare", 5, 9))  # type: ignore[arg-type]
        self.server = ServerProtocol()
        self.path = ""
        self.shown: list[str] = []

    def heard(self) -> list[dict[str, str]]:
        """What the phone said."""
        data, self.wire.written = self.wire.written, b""
        self.server.receive_data(data)
        said = []
        for event in self.server.events_received():
            if isinstance(event, Request):
                self.path = event.path
                self.server.send_response(self.server.accept(event))
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                said.append(msgspec.json.decode(event.data))
        return said

    def answer(self) -> None:
        for data in self.server.data_to_send():
            for told in self.socket.feed(data):
                self.chain.take(told.event, told.id, told.data, 0.0)
                self.shown.append(f"{told.event} {self.chain.version}")

    def say(self, event: str, version: int, prev: int = 0, after: str = "") -> None:
        data = {"version": version, "prev": prev, "signals": {}}
        message = {"event": event, "id": f"e-{version}", "data": data} | ({"after": after} if after else {})
        self.server.send_text(msgspec.json.encode(message))
        self.answer()

    def open(self) -> list[dict[str, str]]:
        self.socket.ask()
        assert self.heard() == []
        before = self.socket.open
        self.answer()
        assert (before, self.socket.open) == (False, True)
        return self.heard()


def test_it_begins_with_what_there_is_and_shows_only_what_follows() -> None:
    played = Played()
    assert played.open() == [{"type": "resume"}]
    assert played.path == "/v1/vehicles/c/ws?view=rare&every=5s"
    played.say("snapshot", 3)
    for event, version, prev in (
        ("update", 4, 3),
        ("update", 4, 3),
        ("status", 5, 4),
        ("update", 7, 6),
        ("update", 8, 7),
    ):
        played.say(event, version, prev)
    assert played.shown == ["snapshot 3", "update 4", "status 5"]
    assert played.chain.last == "e-5"
    assert played.socket.due > time.monotonic() + 5  # what does not follow is asked for already
    played.say("resumed", 5)
    assert played.socket.due > time.monotonic() + 0.5  # once more, a second after
    played.say("update", 8, 7)
    assert played.socket.due < time.monotonic() + 0.7  # for the one that is missing
    played.socket.tick()
    assert played.heard() == [{"type": "resume", "last_event_id": "e-5"}]
    played.say("resumed", 5)
    assert played.socket.due > time.monotonic() + 8  # and then when it is time


def test_it_asks_for_one_thing_at_a_time() -> None:
    """Asked for twice without an id, on a slow machine, there were two snapshots, the second older than what had come since."""
    played = Played()
    assert played.open() == [{"type": "resume"}]
    played.socket.tick()  # it was not answered in its time
    assert played.heard() == []
    assert played.socket.over


def test_what_follows_by_its_version_and_not_by_its_id_is_of_another_history() -> None:
    played = Played("e-5", 5)
    played.open()
    played.say("resumed", 5)
    played.say("update", 6, 5, "f-5")
    assert played.shown == []
    assert played.socket.due < time.monotonic() + 0.7
    played.say("update", 6, 5, "e-5")
    assert played.shown == ["update 6"]


def test_it_comes_back_with_its_id_and_resumes_a_second_later() -> None:
    played = Played("e-5", 5)
    assert played.open() == [{"type": "resume", "last_event_id": "e-5"}]
    played.say("resumed", 5)
    assert time.monotonic() < played.socket.due <= time.monotonic() + 1
    played.say("update", 6, 5)
    assert played.shown == ["update 6"]


def test_one_that_is_refused_is_over() -> None:
    played = Played()
    played.socket.ask()
    assert played.socket.feed(b"HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n") == []
    assert (played.socket.refused, played.socket.over, played.socket.open) == (True, True, False)


def test_one_that_is_closed_is_over() -> None:
    played = Played()
    played.open()
    played.server.send_close(1012, "elsewhere")
    played.answer()
    assert played.socket.over

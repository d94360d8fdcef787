"""The ways in which a phone of a proof gets events: each over one connection, from what it asks to its end.

In: a connection, and the chains that the phone follows, which know where they are. `ask` asks for what follows; `feed` takes
what came on the connection and gives what was told, in order. All tell the same events; how each comes back is its own matter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import msgspec

from fleetcast import sse
from fleetcast.proof.client import Answer, Line
from fleetcast.proof.shown import Chain

SILENCE = 60.0
"""Seconds without a byte after which a line is dead: keep-alives come every 25."""
_PATIENCE = 10.0  # beyond a poll's own wait


class Told(NamedTuple):
    """An event as it came. Without a name: from here on `id` is what to come back with. Without an id it has none."""

    event: str
    id: str
    data: bytes


class Transport(ABC):
    """One connection of a phone."""

    silence = SILENCE

    def __init__(self, line: Line, chain: Chain, path: str, wait: int) -> None:
        self.line = line
        self.chain = chain
        self.path = path
        self.wait = wait
        self.open = False
        """Whether it is held, as far as a phone can know."""
        self.over = False
        """Nothing more comes by it."""
        self.refused = False
        """It is over, since the platform said so by a status."""
        self.retry: int | None = None

    @abstractmethod
    def ask(self) -> None:
        """For what follows what the chain has."""

    @abstractmethod
    def feed(self, data: bytes) -> list[Told]:
        """What these bytes complete. Raises OSError for what is not the protocol."""


class Stream(Transport):
    """Server-Sent Events: one answer that does not end."""

    def ask(self) -> None:
        """With the id, if there is one."""
        self._answer = Answer()
        self._parser = sse.Parser(self.chain.last)
        headers = {"Accept": sse.MEDIA_TYPE} | _last(self.chain)
        self.line.ask("GET", self.path, headers)

    def feed(self, data: bytes) -> list[Told]:
        """See the base."""
        self._answer.feed(data)
        if not self._answer.begun:
            return []
        self.refused = self._answer.status != 200
        self.open = not self.refused
        self.over = self.refused or self._answer.complete
        if self.refused:
            return []
        events = [
            Told(one.event, one.id, one.data.encode()) for one in self._parser.feed(self._answer.take())
        ]
        self.retry = self._parser.retry
        return [*events, Told("", self._parser.last_id, b"")]


class _Polled(msgspec.Struct):
    event: str
    data: msgspec.Raw
    id: str = ""


class _Answer(msgspec.Struct):
    events: list[_Polled]
    last_event_id: str


_ANSWER = msgspec.json.Decoder(_Answer)


class Poll(Transport):
    """Long-polls, one after the other, each with the id that the one before gave."""

    def __init__(self, line: Line, chain: Chain, path: str, wait: int) -> None:
        super().__init__(line, chain, f"{path}{'&' if '?' in path else '?'}wait={wait}", wait)
        self.silence = wait + _PATIENCE

    def ask(self) -> None:
        """With the id, if there is one. That it is answered late is what it is for."""
        self._ask(_last(self.chain))

    def _ask(self, headers: dict[str, str]) -> None:
        self._answer = Answer()
        self.line.ask("GET", self.path, {"Accept": "application/json"} | headers)
        self.open = True

    def feed(self, data: bytes) -> list[Told]:
        """See the base."""
        self._answer.feed(data)
        if not self._answer.complete:
            return []
        if self._answer.status != 200:
            self.refused, self.over, self.open = True, True, False
            return []
        told = _ANSWER.decode(self._answer.take())
        if self._answer.headers.get("connection") == "close":
            self.over, self.open = True, False  # nothing is cut: it was answered
        else:
            self._ask({"Last-Event-ID": told.last_event_id})
        events = [Told(one.event, one.id, bytes(one.data)) for one in told.events]
        return [*events, Told("", told.last_event_id, b"")]


def _last(chain: Chain) -> dict[str, str]:
    return {"Last-Event-ID": chain.last} if chain.last else {}


TRANSPORTS: dict[str, type[Transport]] = {"stream": Stream, "poll": Poll}

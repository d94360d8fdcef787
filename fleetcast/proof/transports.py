"""The ways in which a phone of a proof gets events: each over one connection, from what it asks to its end.

In: a connection, and the chains that the phone follows, which know where they are. `ask` asks for what follows; `feed` takes
what came on the connection and gives what was told, in order. All tell the same events; how each comes back is its own matter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import msgspec

from fleetcast import sse
from fleetcast.proof.client import Answer, Line
from fleetcast.proof.shown import Chain

SILENCE = 60.0
"""Seconds without a byte after which a line is dead: keep-alives come every 25."""
_PATIENCE = 10.0  # beyond a poll's own wait


class Told(NamedTuple):
    """An event of a chain as it came; `id` is empty if it has none. Without a name: `id` is what to come back with now."""

    chain: Chain
    event: str
    id: str
    data: bytes


class Asks(msgspec.Struct, frozen=True):
    """What a phone asks for: `wait` and `every` are seconds, the latter 0 for what is not calm."""

    view: str = ""
    every: int = 0
    wait: int = 0

    def query(self, *more: str) -> str:
        """As an address has it."""
        parts = (
            [f"view={self.view}"] * bool(self.view) + [f"every={self.every}s"] * bool(self.every) + [*more]
        )
        return "?" + "&".join(parts) if parts else ""


class Transport(ABC):
    """One connection of a phone. But for those that say so, it follows one chain."""

    silence = SILENCE

    def __init__(self, line: Line, chains: Sequence[Chain], asks: Asks) -> None:
        self.line = line
        self.chains = chains
        self.asks = asks
        self.open = False
        """Whether it is held, as far as a phone can know."""
        self.over = False
        """Nothing more comes by it."""
        self.refused = False
        """It is over, since the platform said so by a status."""
        self.retry: int | None = None
        self.due = inf
        """When `tick` is to be called, by the monotonic clock."""

    @property
    def chain(self) -> Chain:
        """Of those that follow one, that one."""
        return self.chains[0]

    def address(self, what: str, *more: str) -> str:
        """Of the one chain's events, in this form."""
        return f"/v1/vehicles/{self.chain.vehicle}/{what}{self.asks.query(*more)}"

    @abstractmethod
    def ask(self) -> None:
        """For what follows what the chain has."""

    @abstractmethod
    def feed(self, data: bytes) -> list[Told]:
        """What these bytes complete. Raises OSError for what is not the protocol."""

    def tick(self) -> None:
        """It is due to say something: those that do so by themselves. The others are never due."""
        raise AssertionError("it is never due")


class Stream(Transport):
    """Server-Sent Events: one answer that does not end."""

    def ask(self) -> None:
        """With the id, if there is one."""
        self._follow(self.address("events"), self.chain.last)

    def _follow(self, path: str, last: str) -> None:
        self._answer = Answer()
        self._parser = sse.Parser(last)
        self.line.ask("GET", path, {"Accept": sse.MEDIA_TYPE} | _last(last))

    def feed(self, data: bytes) -> list[Told]:
        """See the base."""
        events = self._events(data)
        told = [Told(self.chain, one.event, one.id, one.data.encode()) for one in events]
        return [*told, Told(self.chain, "", self._parser.last_id, b"")]

    def _events(self, data: bytes) -> list[sse.Event]:
        self._answer.feed(data)
        if not self._answer.begun:
            return []
        self.refused = self._answer.status != 200
        # What is held has no length. What has one is a word that it cannot be held now.
        self.open = not self.refused and "content-length" not in self._answer.headers
        self.over = self.refused or self._answer.complete
        events = [] if self.refused else self._parser.feed(self._answer.take())
        self.retry = self._parser.retry
        return events


class _Url(msgspec.Struct):
    url: str


class _Vehicle(msgspec.Struct):
    vehicle: str = ""  # `unavailable` is of none


_URL = msgspec.json.Decoder(_Url)
_VEHICLE = msgspec.json.Decoder(_Vehicle)


class Many(Stream):
    """A stream of many vehicles: asked for with what each chain is at, then opened by the address that this gives."""

    def ask(self) -> None:
        """With the ids that there are."""
        wanted = {
            "vehicles": [chain.vehicle for chain in self.chains],
            "versions": {chain.vehicle: chain.last for chain in self.chains if chain.last},
        } | ({"view": self.asks.view} if self.asks.view else {})
        if self.asks.every:
            wanted["every"] = f"{self.asks.every}s"
        self._made: Answer | None = Answer()
        self.line.ask(
            "POST", "/v1/streams", {"Content-Type": "application/json"}, msgspec.json.encode(wanted)
        )

    def feed(self, data: bytes) -> list[Told]:
        """See the base."""
        if self._made is not None:
            self._made.feed(data)
            if not self._made.complete:
                return []
            if self._made.status != 201:
                self.refused = self.over = True
                return []
            self._follow(_URL.decode(self._made.take()).url, "")
            self._made = None
            return []
        # An event without an id on the stream has the one before it, which is another vehicle's.
        of = {chain.vehicle: chain for chain in self.chains}
        return [
            Told(chain, one.event, "" if one.event == "reset" else one.id, one.data.encode())
            for one in self._events(data)
            if (chain := of.get(_VEHICLE.decode(one.data).vehicle)) is not None
        ]


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

    def ask(self) -> None:
        """With the id, if there is one. That it is answered late is what it is for."""
        self.silence = self.asks.wait + _PATIENCE
        self._ask(self.chain.last)

    def _ask(self, last: str) -> None:
        self._answer = Answer()
        path = self.address("events", f"wait={self.asks.wait}")
        self.line.ask("GET", path, {"Accept": "application/json"} | _last(last))
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
            self._ask(told.last_event_id)
        events = [Told(self.chain, one.event, one.id, bytes(one.data)) for one in told.events]
        return [*events, Told(self.chain, "", told.last_event_id, b"")]


def _last(last: str) -> dict[str, str]:
    return {"Last-Event-ID": last} if last else {}

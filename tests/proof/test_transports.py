"""A phone of a proof tells the same events whichever way they come and are cut into pieces, and comes back with its id."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast import sse
from fleetcast.proof.client import Line
from fleetcast.proof.shown import Chain
from fleetcast.proof.transports import TRANSPORTS, Told, Transport

SNAPSHOT = Told("snapshot", "e.1-1", b'{"vehicle":"c","version":1,"signals":{"A":{"value":1,"at":"t"}}}')
UPDATE = Told(
    "update", "e.1-2", '{"version":2,"prev":1,"signals":{"A":null,"B":{"value":"ö","at":"t"}}}'.encode()
)
RESET = Told("reset", "", b'{"reason":"expired","from":"e.1-2","to":"e.1-9"}')


class Asked(Line):
    """A connection that nobody is at the end of."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []

    def ask(self, method: str, path: str, headers: object, body: bytes = b"") -> None:
        assert isinstance(headers, dict)
        self.asked.append((path, headers))


def opened(by: str, last: str = "") -> tuple[Transport, Asked]:
    line, chain = Asked(), Chain(1, "c", "")
    chain.last = last
    transport = TRANSPORTS[by](line, chain, "/v1/vehicles/c/events?view=rare", 7)
    transport.ask()
    return transport, line


def written(by: str, *events: Told) -> bytes:
    """The answer that has these events."""
    if by == "stream":
        body = b"".join(sse.event(one.event, one.data, one.id or None) for one in events)
        return b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + sse.comment() + body
    told = [
        {"event": one.event, "data": msgspec.Raw(one.data)} | ({"id": one.id} if one.id else {})
        for one in events
    ]
    body = msgspec.json.encode({"events": told, "last_event_id": [one.id for one in events if one.id][-1]})
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("by", TRANSPORTS)
@given(size=st.integers(1, 400))
def test_events_are_told_as_they_came_in_whatever_pieces(by: str, size: int) -> None:
    transport, _ = opened(by)
    data = written(by, SNAPSHOT, UPDATE)
    told = [
        one for at in range(0, len(data), size) for one in transport.feed(data[at : at + size]) if one.event
    ]
    assert told == [SNAPSHOT, UPDATE]
    assert transport.open
    assert not transport.over


@pytest.mark.parametrize("by", TRANSPORTS)
def test_a_chain_comes_back_with_the_id_that_it_is_at(by: str) -> None:
    transport, line = opened(by)
    assert "Last-Event-ID" not in line.asked[-1][1]
    for one in transport.feed(written(by, SNAPSHOT, UPDATE)):
        transport.chain.take(one.event, one.id, one.data, 0.0)
    assert (transport.chain.version, transport.chain.signals) == (2, {"B": {"value": "ö", "at": "t"}})
    transport.ask()
    assert line.asked[-1][1]["Last-Event-ID"] == "e.1-2"
    for one in transport.feed(written(by, RESET, SNAPSHOT)):
        transport.chain.take(one.event, one.id, one.data, 0.0)
    assert (transport.chain.version, transport.chain.last) == (1, "e.1-1")


def test_a_poll_that_is_answered_asks_again_at_once_and_is_over_only_if_its_line_is() -> None:
    transport, line = opened("poll", "e.1-1")
    data = written("poll", UPDATE)
    transport.feed(data)
    assert line.asked == [
        (
            "/v1/vehicles/c/events?view=rare&wait=7",
            {"Accept": "application/json", "Last-Event-ID": f"e.1-{n}"},
        )
        for n in (1, 2)
    ]
    transport.feed(data.replace(b"200 OK\r\n", b"200 OK\r\nConnection: close\r\n"))
    assert transport.over
    assert not transport.open
    assert len(line.asked) == 2


@pytest.mark.parametrize("by", TRANSPORTS)
def test_what_is_refused_is_over_and_was_never_open(by: str) -> None:
    transport, _ = opened(by)
    assert transport.feed(b"HTTP/1.1 503 Away\r\nContent-Length: 2\r\n\r\n{}") == []
    assert (transport.refused, transport.over, transport.open) == (True, True, False)

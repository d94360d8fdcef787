"""A phone of a proof tells the same events whichever way they come and are cut into pieces, and comes back with its id."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast import sse
from fleetcast.proof.client import Line
from fleetcast.proof.shown import Chain
from fleetcast.proof.transports import Asks, Many, Poll, Stream, Transport

SNAPSHOT = ("snapshot", "e.1-1", b'{"vehicle":"c","version":1,"signals":{"A":{"value":1,"at":"t"}}}')
UPDATE = (
    "update",
    "e.1-2",
    '{"vehicle":"c","version":2,"prev":1,"signals":{"A":null,"B":{"value":"ö","at":"t"}}}'.encode(),
)
RESET = ("reset", "", b'{"vehicle":"c","reason":"expired","from":"e.1-2","to":"e.1-9"}')
TRANSPORTS: dict[str, type[Transport]] = {"stream": Stream, "poll": Poll, "many": Many}
SINGLE = ("stream", "poll")

_Said = tuple[str, str, bytes]


class Asked(Line):
    """A connection that nobody is at the end of."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.body = b""

    def ask(self, method: str, path: str, headers: object, body: bytes = b"") -> None:
        assert isinstance(headers, dict)
        self.asked.append((path, headers))
        self.body = body


def opened(by: str, last: str = "") -> tuple[Transport, Asked]:
    line, chain = Asked(), Chain(1, "c", "rare")
    chain.last = last
    transport = TRANSPORTS[by](line, [chain], Asks("rare", 0, 7))
    transport.ask()
    return transport, line


def heard(transport: Transport, data: bytes, size: int = 100_000) -> list[_Said]:
    """What is told, and taken, of bytes that come in such pieces."""
    found = []
    for at in range(0, len(data), size):
        for one in transport.feed(data[at : at + size]):
            one.chain.take(one.event, one.id, one.data, 0.0)
            if one.event:
                found.append((one.event, one.id, one.data))
    return found


def written(by: str, *events: _Said) -> bytes:
    """The answer that has these events."""
    if by == "poll":
        told = [
            {"event": name, "data": msgspec.Raw(data)} | ({"id": at} if at else {})
            for name, at, data in events
        ]
        body = msgspec.json.encode({"events": told, "last_event_id": [at for _, at, _ in events if at][-1]})
        return answer(200, body)
    body = b"".join(sse.event(name, data, at or None) for name, at, data in events)
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + sse.comment() + body


def answer(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


@pytest.mark.parametrize("by", SINGLE)
@given(size=st.integers(1, 400))
def test_events_are_told_as_they_came_in_whatever_pieces(by: str, size: int) -> None:
    transport, _ = opened(by)
    assert heard(transport, written(by, SNAPSHOT, UPDATE), size) == [SNAPSHOT, UPDATE]
    assert transport.open
    assert not transport.over


@pytest.mark.parametrize("by", SINGLE)
def test_a_chain_comes_back_with_the_id_that_it_is_at(by: str) -> None:
    transport, line = opened(by)
    assert "Last-Event-ID" not in line.asked[-1][1]
    heard(transport, written(by, SNAPSHOT, UPDATE))
    assert (transport.chain.version, transport.chain.signals) == (2, {"B": {"value": "ö", "at": "t"}})
    transport.ask()
    assert line.asked[-1][1]["Last-Event-ID"] == "e.1-2"
    heard(transport, written(by, RESET, SNAPSHOT))
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
    transport.feed(data.replace(b"200 -\r\n", b"200 -\r\nConnection: close\r\n"))
    assert transport.over
    assert not transport.open
    assert len(line.asked) == 2


def test_one_that_follows_many_asks_with_all_ids_and_gives_each_its_own() -> None:
    line, chains = Asked(), [Chain(n, vehicle) for n, vehicle in enumerate("cd")]
    chains[1].last = "e.2-7"
    transport = TRANSPORTS["many"](line, chains, Asks())
    transport.ask()
    assert line.asked[-1][0] == "/v1/streams"
    assert msgspec.json.decode(line.body) == {"vehicles": ["c", "d"], "versions": {"d": "e.2-7"}}
    assert heard(transport, answer(201, b'{"url":"/v1/streams/abc"}')) == []
    assert line.asked[-1] == ("/v1/streams/abc", {"Accept": sse.MEDIA_TYPE})
    other = ("update", "e.2-9", b'{"vehicle":"d","version":9,"prev":7,"signals":{}}')
    reset = (RESET[0], RESET[1], RESET[2].replace(b'"c"', b'"d"'))
    assert heard(transport, written("many", other, SNAPSHOT, UPDATE, reset), 9) == [
        other,
        SNAPSHOT,
        UPDATE,
        reset,
    ]
    assert [(one.last, one.version) for one in chains] == [("e.1-2", 2), ("e.2-9", 9)]


def test_a_stream_of_many_that_is_unavailable_for_now_tells_that_of_none() -> None:
    transport, _ = opened("many")
    assert heard(transport, answer(201, b'{"url":"/v1/streams/abc"}')) == []
    assert heard(transport, answer(200, sse.event("unavailable", b'{"reason":"edge"}'))) == []
    assert (transport.over, transport.refused, transport.open) == (True, False, False)


def test_a_stream_that_is_told_to_come_back_later_was_never_held() -> None:
    transport, _ = opened("stream")
    assert heard(transport, answer(200, b"retry: 900\n\n" + sse.event("unavailable", b'{"reason":"edge"}')))
    assert (transport.over, transport.refused, transport.open) == (True, False, False)
    assert transport.retry == 900


@pytest.mark.parametrize("by", TRANSPORTS)
def test_what_is_refused_is_over_and_was_never_open(by: str) -> None:
    transport, _ = opened(by)
    assert heard(transport, answer(503, b"{}")) == []
    assert (transport.refused, transport.over, transport.open) == (True, True, False)

"""The words of WebSockets: what the edge posts and reads, what an app says and is told, and what is none of it."""

from __future__ import annotations

import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fleetcast import sse, wsevents
from fleetcast.errors import Refuse
from fleetcast.events import unavailable
from fleetcast.wsevents import LONGEST, Budget, Event, Wrong

JSON = st.none() | st.booleans() | st.integers(-5, 5) | st.text() | st.just("resume") | st.lists(st.text())
OBJECTS = st.dictionaries(st.sampled_from(["type", "last_event_id", "x"]), JSON)
KINDS = st.sampled_from(["OPEN", "TEXT", "BINARY", "PING", "PONG", "CLOSE", "DISCONNECT"])


@given(st.lists(st.builds(Event, KINDS, st.binary(max_size=40) | st.just(b"\r\n") | st.just(b"TEXT 2\r\n"))))
def test_what_is_encoded_reads_back(events: list[Event]) -> None:
    assert wsevents.parse(wsevents.encode(events)) == events


@given(st.binary() | st.text("TEXT 0123456789abcdefABCDEF\r\n").map(str.encode))
@example(b"TEXT 5\r\nab\r\n")
@example(b"TEXT -1\r\n\r\n")
@example(b"TEXT fffffff\r\n")
def test_anything_else_is_refused_and_nothing_raises(body: bytes) -> None:
    with suppress(Refuse):
        assert sum(len(one.content) for one in wsevents.parse(body)) <= len(body)


def test_what_an_edge_posts() -> None:
    body = b'OPEN\r\nTEXT 5\r\nhello\r\nTEXT 0\r\n\r\nPING\r\nTEXT D\r\n{"a":"\xc3\xa4 \r\n"}\r\nCLOSE 2\r\n\x03\xe8\r\n'
    assert wsevents.parse(body) == [
        Event("OPEN"),
        Event("TEXT", b"hello"),
        Event("TEXT"),
        Event("PING"),
        Event("TEXT", b'{"a":"\xc3\xa4 \r\n"}'),
        Event("CLOSE", b"\x03\xe8"),
    ]


# What an app says


def said(text: str | bytes) -> Event:
    return Event("TEXT", text.encode() if isinstance(text, str) else text)


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ('{"type":"resume"}', ""),
        ('{"type":"resume","last_event_id":null}', ""),
        ('{"type":"resume","last_event_id":"ab12-7"}', "ab12-7"),
        ('{"type":"resume","last_event_id":"ab12-7","later":[1]}', "ab12-7"),
        ('{"type":"resume","last_event_id":"' + "x" * 3000 + '"}', "x" * 256),
    ],
)
def test_a_resume(text: str, last: str) -> None:
    assert wsevents.resumed(said(text)) == last


@pytest.mark.parametrize(
    ("event", "reason", "code"),
    [
        (said(""), "not JSON", 0),
        (said("resume"), "not JSON", 0),
        (said(b"\xff"), "not JSON", 0),
        (said('{"x":' + "[" * (LONGEST - 5)), "not JSON", 0),
        (said("[]"), "not understood", 0),
        (said("{}"), "not understood", 0),
        (said('{"type":"subscribe"}'), "not understood", 0),
        (said('{"type":"resume","last_event_id":7}'), "not understood", 0),
        (said('{"type":"resume"}' + " " * LONGEST), "too large", 1009),
        (Event("BINARY", b'{"type":"resume"}'), "not JSON", 0),
    ],
)
def test_what_is_none_is_told_so(event: Event, reason: str, code: int) -> None:
    with pytest.raises(Wrong) as why:
        wsevents.resumed(event)
    assert (why.value.reason, why.value.code) == (reason, code)
    told = json.loads(wsevents.error(why.value.reason, str(why.value)))
    assert told["event"] == "error"
    assert told["data"]["reason"] == reason


@given(st.binary() | st.text().map(str.encode) | OBJECTS.map(msgspec.json.encode))
def test_whatever_an_app_says_is_a_resume_or_wrong(text: bytes) -> None:
    try:
        assert len(wsevents.resumed(said(text))) <= 256
    except Wrong as why:
        msgspec.json.decode(wsevents.error(why.reason, str(why)))


# What an app is told


def stream(*sizes: int) -> bytes:
    return b"".join(
        sse.event("update", msgspec.json.encode({"n": number, "x": "x" * size}), f"ab-{number}")
        for number, size in enumerate(sizes)
    )


@given(st.lists(st.text(), max_size=5))
def test_messages_are_the_streams_events(texts: list[str]) -> None:
    events = [
        sse.event("update", msgspec.json.encode({"x": text}), f"ab-{n}") for n, text in enumerate(texts)
    ]
    told = [json.loads(one.message) for one in wsevents.told(sse.comment() + b"".join(events))]
    assert told == [{"event": "update", "id": f"ab-{n}", "data": {"x": text}} for n, text in enumerate(texts)]
    pushed = [json.loads(one.message) for one in wsevents.told(b"".join(events), "ab-x")]
    assert pushed == [one | {"after": "ab-x"} for one in told]


def test_an_event_without_an_id_has_none_and_unavailable_says_when_to_come_back() -> None:
    (reset,) = wsevents.told(sse.event("reset", b'{"reason":"foreign"}'))
    assert reset.message == b'{"event":"reset","data":{"reason":"foreign"}}'
    (away,) = wsevents.told(unavailable("live state"))
    told = json.loads(away.message)
    assert 1000 <= told.pop("retry") <= 4000
    assert told == {"event": "unavailable", "data": {"reason": "live state"}}


@given(st.lists(st.integers(0, 20_000), max_size=40))
def test_no_answer_is_larger_than_an_edge_takes(sizes: list[int]) -> None:
    told = wsevents.told(stream(*sizes))
    fit = wsevents.fitting(told)
    assert list(fit) == told[: len(fit)]
    body = wsevents.encode(wsevents.messages(one.message for one in fit))
    assert len(body) < 2 * wsevents.LARGEST
    assert all(len(content) <= 16_384 for _, content in wsevents.parse(body))
    if told and not fit:
        assert sizes[0] > 16_000
    if sizes and max(sizes) < 2000:
        assert len(fit) == len(told) or sum(sizes[: len(fit) + 1]) > 50_000


def test_a_reset_never_comes_without_its_snapshot() -> None:
    small = sse.event("reset", b"{}") + sse.event("snapshot", b'{"x":1}', "ab-1")
    assert len(wsevents.fitting(wsevents.told(small))) == 2
    large = sse.event("reset", b"{}") + sse.event(
        "snapshot", msgspec.json.encode({"x": "x" * 20_000}), "ab-1"
    )
    assert wsevents.fitting(wsevents.told(large)) == ()


@given(st.integers(1, 60), st.floats(0, 1000))
def test_a_budget_is_a_burst_and_then_a_pace(messages: int, seconds: float) -> None:
    full = Budget(wsevents.MOST, 0.0)
    left = full.after(messages, 0.0)
    assert (left.left < 0) == (messages > wsevents.MOST)
    later = left.after(0, seconds)
    assert later.left == pytest.approx(min(wsevents.MOST, wsevents.MOST - messages + wsevents.PACE * seconds))
    assert later.after(0, 0.0).left == later.left  # another origin's clock may be behind

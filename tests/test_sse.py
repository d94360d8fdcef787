"""What is written is what is read, however it is cut; and nothing that a vehicle says can become an event of its own."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.packet import Signal
from fleetcast.sse import KEEP_ALIVE, Event, Parser, comment, event, retry
from fleetcast.update import Update

CUTS = st.lists(st.integers(0, 400), max_size=12)


def chunked(stream: bytes, cuts: list[int]) -> list[bytes]:
    """The stream cut at these places (modulo its length); equal places make empty chunks."""
    places = sorted([0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)])
    return [stream[low:high] for low, high in pairwise(places)]


def read(stream: bytes, cuts: list[int], last_id: str = "") -> tuple[list[Event], str, int | None]:
    parser = Parser(last_id)
    events = [found for chunk in chunked(stream, cuts) for found in parser.feed(chunk)]
    return events, parser.last_id, parser.retry


def by_the_standard(stream: bytes, last_id: str = "") -> tuple[list[tuple[str, str, str]], str, int | None]:
    """HTML, 9.2.6, on the whole stream at once: [(type, data, last event id)], the id to come back with, and the time to."""
    text = stream.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    *lines, _ = re.split(r"\r\n|\n|\r", text)
    events: list[tuple[str, str, str]] = []
    data, kind, buffer, last, wait = "", "", last_id, last_id, None
    for line in lines:
        if line == "":
            last = buffer
            if data:
                events.append((kind or "message", data.removesuffix("\n"), last))
            data, kind = "", ""
            continue
        if line.startswith(":"):
            continue
        match = re.fullmatch(r"([^:]*)(?:: ?(.*))?", line, re.DOTALL)
        assert match
        name, value = match[1], match[2] or ""
        if name == "event":
            kind = value
        elif name == "data":
            data += value + "\n"
        elif name == "id" and "\0" not in value:
            buffer = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            wait = int(value)
    return events, last, wait


FIELDS = [b"data", b"event", b"id", b"retry", b":", b": ", b" ", b"12", b"007", b"x", b"{}", b"data: y\n\n"]
BREAKS = [b"\r", b"\n", b"\r\n", b"\n\n", b"\0", "\u2028\x85\x0b".encode()]
LETTERS = [b"\xef\xbb\xbf", "é€😀".encode(), b"\xff", b"\xe2\x82"]
PIECES = st.sampled_from([*FIELDS, *BREAKS, *LETTERS])
STREAMS = st.lists(PIECES, max_size=40).map(b"".join) | st.binary(max_size=60)


@settings(deadline=None, max_examples=500)
@given(STREAMS, CUTS, st.sampled_from(["", "before"]))
def test_reads_any_stream_as_the_standard_says(stream: bytes, cuts: list[int], last_id: str) -> None:
    expected, last, wait = by_the_standard(stream, last_id)
    events, found_last, found_wait = read(stream, cuts, last_id)
    assert [(found.event, found.data, found.id) for found in events] == expected
    assert found_last == last
    assert found_wait == wait


@settings(deadline=None)
@given(STREAMS)
def test_one_byte_at_a_time(stream: bytes) -> None:
    assert read(stream, list(range(len(stream)))) == read(stream, [])


@pytest.mark.parametrize("ending", ["\n", "\r", "\r\n"])
def test_each_line_ending_cut_anywhere(ending: str) -> None:
    stream = ("\ufeff" + ending.join(["id: 7", "event: a", "data: é", "data", "", "data:x", "", ""])).encode()
    for cut in range(len(stream) + 1):
        events, last, _ = read(stream, [cut])
        assert events == [Event("a", "é\n", "7"), Event("message", "x", "7")]
        assert last == "7"


def test_an_unfinished_event_is_dropped() -> None:
    events, last, _ = read(b"id: 1\ndata: a\n\nid: 2\ndata: b\n", [])
    assert [found.data for found in events] == ["a"]
    assert last == "1"  # what is sent on coming back: b was not seen


def test_a_reconnection_time_longer_than_any_number() -> None:
    """A stream must not be able to break its reader."""
    parser = Parser()
    events = parser.feed(b"retry: " + b"9" * 5000 + b"\ndata: x\n\n")
    assert [found.data for found in events] == ["x"]


# Written and read


LINES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"))
NAMES = LINES.filter(bool)
ITEMS = st.tuples(
    NAMES,
    st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=6),
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(ITEMS, st.none() | LINES, st.sampled_from([b"", KEEP_ALIVE, b": \n"])), max_size=8),
    CUTS,
)
def test_events_read_back(items: list[tuple[tuple[str, Any], str | None, bytes]], cuts: list[int]) -> None:
    stream, expected, last = b"", [], ""
    for (name, value), id_, between in items:
        data = msgspec.json.encode(value)
        stream += event(name, data, id_) + between
        last = last if id_ is None else id_
        expected.append(Event(name, data.decode(), last))
    events, found_last, _ = read(stream, cuts)
    assert events == expected
    assert found_last == last


@settings(deadline=None)
@given(st.integers(0, 10**9), LINES, CUTS)
def test_comments_and_times_are_no_events(milliseconds: int, text: str, cuts: list[int]) -> None:
    stream = comment() + retry(milliseconds) + comment(text) + KEEP_ALIVE
    assert read(stream, cuts) == ([], "", milliseconds)


@settings(deadline=None)
@given(st.lists(st.sampled_from([KEEP_ALIVE, comment("x"), event("a", b"{}"), b": a\r:\r"])), CUTS)
def test_comments_are_counted(pieces: list[bytes], cuts: list[int]) -> None:
    parser = Parser()
    for chunk in chunked(b"".join(pieces), cuts):
        parser.feed(chunk)
    assert parser.comments == sum(1 + (b"\r" in one) for one in pieces if one.startswith(b":"))


def test_the_bytes_of_an_event() -> None:
    assert event("update", b'{"a":1}', "ab-7") == b'id: ab-7\nevent: update\ndata: {"a":1}\n\n'
    assert event("unavailable", b"{}") == b"event: unavailable\ndata: {}\n\n"
    assert comment() == KEEP_ALIVE == b":\n\n"


# Injection


@settings(deadline=None, max_examples=300)
@given(
    st.text() | st.text("\r\n\0: aevntdi"),
    st.binary() | st.text("\r\n\0: aevntdi").map(str.encode),
    st.none() | st.text() | st.text("\r\n\0: aevntdi"),
)
def test_no_name_id_or_data_makes_another_event(name: str, data: bytes, id_: str | None) -> None:
    try:
        stream = event(name, data, id_)
    except ValueError:
        breaks = re.compile(r"[\r\n\0]")
        assert breaks.search(name) or breaks.search(id_ or "") or re.search(rb"[\r\n\0]", data)
        return
    events, last, wait = by_the_standard(stream + event("after", b"x"))
    assert events == [
        (name or "message", data.decode("utf-8", "replace"), id_ or ""),
        ("after", "x", id_ or ""),
    ]
    assert last == (id_ or "")
    assert wait is None


@settings(deadline=None, max_examples=300)
@given(st.text() | st.text('\r\n\0\u2028\x85: data{}"'), st.lists(st.text("\r\n\0: data")))
def test_no_value_in_a_packet_makes_another_event(path: str, values: list[str]) -> None:
    update = Update("car", 2, 1, path, {path: Signal(list(values), path), "x": Signal(path, "t")})
    data = msgspec.json.encode(update)
    events, _, _ = by_the_standard(event("update", data, "ab-2"))
    assert [(kind, id_) for kind, _, id_ in events] == [("update", "ab-2")]
    assert msgspec.json.decode(events[0][1], type=Update) == update


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", "a\r\nb", "a\n\ndata: forged\n\n"])
def test_line_breaks_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        event(bad, b"{}")
    with pytest.raises(ValueError, match="line break"):
        event("a", b"{}", bad)
    with pytest.raises(ValueError, match="line break"):
        comment(bad)
    if bad != "\0":  # in data it means nothing, and JSON has none
        with pytest.raises(ValueError, match="line break"):
            event("a", bad.encode(), "1")

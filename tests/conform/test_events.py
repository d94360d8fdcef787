"""The suite's own reader of streams: held against the platform's, which shares no line with it, and cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast import sse
from fleetcast.conform.events import Event, Reader

_PIECES = st.sampled_from(
    [
        "id",
        "event",
        "data",
        "retry",
        "x",
        ":",
        ": ",
        " ",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        "1",
        "ä",
        "\ufeff",
        "\0",
        "𝄞",
    ]
)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    ends = sorted({min(one, len(data)) for one in at} | {len(data)})
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def read(data: bytes, at: list[int]) -> tuple[list[Event], Reader]:
    reader = Reader("first")
    return [event for part in cut(data, at) for event in reader.feed(part)], reader


@given(st.lists(_PIECES, max_size=60).map("".join), st.lists(st.integers(0, 200), max_size=8))
def test_it_reads_what_the_platforms_parser_reads(text: str, at: list[int]) -> None:
    data = text.encode()
    events, reader = read(data, at)
    parser = sse.Parser("first")
    other = parser.feed(data)
    assert [(e.name, e.text, e.last_id) for e in events] == [(e.event, e.data, e.id) for e in other]
    # Of a line at the end whose CR may be half of a line break each knows as much as it wants to.
    if not data.endswith(b"\r"):
        assert (reader.last_id, reader.retry) == (parser.last_id, parser.retry)


@given(st.lists(_PIECES, max_size=60).map("".join), st.lists(st.integers(0, 200), max_size=8))
def test_it_does_not_matter_where_the_bytes_are_cut(text: str, at: list[int]) -> None:
    whole, together = read(text.encode(), [])
    parts, apart = read(text.encode(), at)
    assert whole == parts
    assert (together.comments, together.last_id) == (apart.comments, apart.last_id)


def test_an_event_says_whether_the_id_was_its_own() -> None:
    events, reader = read(b"id: 1\ndata: a\n\n:\n\ndata: b\n\nid\nretry: 20\ndata: c\n\n", [])
    assert events == [
        Event("message", "a", "1", "1"),
        Event("message", "b", "1", None),
        Event("message", "c", "", "", 20),
    ]
    assert (reader.comments, reader.retry, reader.last_id) == (1, 20, "")


@pytest.mark.timeout(20)
def test_a_long_line_in_many_pieces_takes_no_longer_than_it_must() -> None:
    reader = Reader()
    for _ in range(2000):
        assert reader.feed(b"x" * 1000) == []
    assert reader.feed(b"\n\n") == []

"""Bytes come out as they went in, or are refused with the reason; never more of them than was asked for."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import msgspec
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.errors import Reject, TooLarge
from fleetcast.inflate import ENCODINGS, Body, bound_size, declared_size, inflate, sniffed

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
}


@settings(deadline=None)
@given(text=st.binary(max_size=500), encoding=st.sampled_from(ENCODINGS), limit=st.integers(0, 600))
def test_inflate_keeps_to_its_limit(text: bytes, encoding: str, limit: int) -> None:
    body = COMPRESS[encoding](text)
    if len(text) > limit:
        with pytest.raises(Reject):
            inflate(body, encoding, limit)
    else:
        assert inflate(body, encoding, limit) == text


STREAMED = zstd.ZstdCompressor()
FAR = b"1" * 2000


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("identity", FAR),
        ("gzip", gzip.compress(FAR)),
        ("gzip", gzip.compress(FAR[:1000]) * 2),
        ("zstd", zstd.compress(FAR)),
        ("zstd", zstd.compress(FAR[:1000]) * 2),
        ("zstd", STREAMED.compress(FAR) + STREAMED.flush()),
        ("zstd", zstd.compress(FAR[:1000]) + STREAMED.compress(FAR[:1000]) + STREAMED.flush()),
    ],
    ids=[
        "plain",
        "gzip",
        "two gzips",
        "zstd",
        "two zstds",
        "streamed zstd",
        "both zstds",
    ],  # gzip's bytes have the time in them
)
def test_the_inflated_size_is_bounded_however_it_is_framed(encoding: str, body: bytes) -> None:
    bound_size(body, encoding, 2000)
    with pytest.raises(TooLarge, match="more than 1999 bytes when inflated"):
        bound_size(body, encoding, 1999)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_is_damaged_is_not_said_to_be_too_large(encoding: str) -> None:
    bound_size(b"no such thing", encoding, 2000)


def test_declared_size() -> None:
    assert declared_size(b"12345", "identity") == 5
    assert declared_size(zstd.compress(b"1" * 5000), "zstd") == 5000
    assert declared_size(zstd.compress(b"1" * 5000) * 3, "zstd") == 15000
    assert declared_size(zstd.compress(b"1" * 5000) + b"?", "zstd") is None
    assert declared_size(gzip.compress(b"1" * 5000), "gzip") is None
    streamed = zstd.ZstdCompressor()
    assert declared_size(streamed.compress(b"1" * 5000) + streamed.flush(), "zstd") is None
    for nonsense in (b"", b"{", zstd.compress(b"12345")[:3]):
        assert declared_size(nonsense, "zstd") is None


# What lies behind the last frame


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("trailing", [b"\0", b"garbage", b"\0" * 600, b"{}"])
def test_bytes_behind_the_last_frame_are_damage(encoding: str, trailing: bytes) -> None:
    with pytest.raises(Reject, match=f"(damaged|truncated) {encoding}"):
        inflate(COMPRESS[encoding](b"text") + trailing, encoding, 1000)


@pytest.mark.parametrize(
    ("said", "sent"), [("gzip", "zstd"), ("zstd", "gzip"), ("gzip", "identity"), ("zstd", "identity")]
)
def test_another_encoding_than_it_says(said: str, sent: str) -> None:
    with pytest.raises(Reject, match=f"damaged {said}"):
        inflate(COMPRESS[sent](b'{"a": 1}' * 100), said, 10_000)


# As far as it is asked


@settings(deadline=None)
@given(
    lines=st.lists(
        st.text(max_size=30).map(lambda text: text.replace("\n", "").encode()), min_size=1, max_size=4
    ),
    ending=st.text(" \t\r\n", max_size=4).map(str.encode),
    frames=st.integers(1, 4),
    encoding=st.sampled_from(ENCODINGS),
)
def test_a_body_gives_its_lines_and_all_of_it(
    lines: list[bytes], ending: bytes, frames: int, encoding: str
) -> None:
    text = b"\n".join(lines) + ending
    cut = max(1, len(text) // frames)
    parts = (
        [text[start : start + cut] for start in range(0, len(text), cut)]
        if encoding != "identity"
        else [text]
    )
    sent = b"".join(map(COMPRESS[encoding], parts or [b""]))
    body = Body(sent, encoding, len(text))
    assert body.first_line() == text.partition(b"\n")[0]
    assert body.whole() == text
    assert Body(sent, encoding, len(text)).whole() == text


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_first_line_without_an_end_is_bounded(encoding: str) -> None:
    for ask in (Body.first_line, Body.whole):
        with pytest.raises(TooLarge, match="more than 100000 bytes when inflated"):
            ask(Body(COMPRESS[encoding](b"x" * 10_000_000), encoding, 100_000))


# Telling what it is


@given(text=st.binary(max_size=300))
def test_what_is_compressed_is_recognised(text: bytes) -> None:
    assert sniffed(zstd.compress(text)) == "zstd"
    assert sniffed(gzip.compress(text)) == "gzip"
    skippable = b"\x5a\x2a\x4d\x18" + len(text).to_bytes(4, "little") + text
    assert sniffed(skippable + zstd.compress(text)) == "zstd"
    assert inflate(skippable + zstd.compress(text), "zstd", 300) == text


@given(
    document=st.dictionaries(st.text(max_size=3), st.integers() | st.none(), max_size=20),
    margin=st.text(" \t\r\n", max_size=3).map(str.encode),
)
def test_no_packet_that_is_not_compressed_is_taken_for_one_that_is(
    document: dict[str, object], margin: bytes
) -> None:
    assert sniffed(margin + msgspec.json.encode(document)) == "identity"
    small = dict.fromkeys(document, 1)
    assert sniffed(msgspec.msgpack.encode(small)) == "identity"


def test_no_map_of_messagepack_begins_as_a_frame_does() -> None:
    for count in (0, 15, 16, 65_535, 65_536):
        assert sniffed(msgspec.msgpack.encode(dict.fromkeys(map(str, range(count))))) == "identity"
    for first in (*range(0x80, 0x90), 0xDE, 0xDF):
        for rest in (b"\xb5\x2f\xfd", b"\x8b\x08", b"\x2a\x4d\x18", b""):
            assert sniffed(bytes([first]) + rest) == "identity"
    assert sniffed(b"") == "identity"

"""What a vehicle may send comes out as it went in; anything else is a Reject with a reason, and never anything else."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast import packet
from fleetcast.errors import Reject, TooLarge
from fleetcast.packet import (
    ENCODINGS,
    FORMS,
    JSON,
    NDJSON,
    Packet,
    Signal,
    bound_size,
    declared_size,
    decode,
    inflate,
)

LIMIT = 1_048_576

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
}
INFLATABLE = ("gzip", "zstd")

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIMES = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=ZONES)  # noqa: DTZ001 - hypothesis wants naive bounds
SCALARS = (
    st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
VALUES = SCALARS | st.lists(SCALARS, max_size=4)
READINGS = st.tuples(VALUES, st.none() | TIMES)
JSON_VALUES = st.recursive(
    st.none() | SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
VEHICLES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A valid packet, its samples apart, times still as datetimes."""
    return {
        "vehicle": draw(VEHICLES),
        "boot": draw(st.integers(0, 2**53 - 1)),
        "seq": draw(st.integers(1, 2**53 - 1)),
        "sent_at": draw(TIMES),
        "signals": draw(st.dictionaries(st.text(min_size=1, max_size=40), READINGS, max_size=5)),
    }


def millis(moment: datetime) -> str:
    """The one text form of a time, made without the code under test."""
    utc = moment.astimezone(UTC)
    return utc.strftime("%Y-%m-%dT%H:%M:%S.") + f"{utc.microsecond // 1000:03d}Z"


def head(document: dict[str, Any]) -> dict[str, Any]:
    signals = {
        path: {"value": value} if at is None else {"value": value, "at": at.isoformat()}
        for path, (value, at) in document["signals"].items()
    }
    return {**document, "sent_at": document["sent_at"].isoformat(), "signals": signals}


def text_of(document: dict[str, Any], form: str, samples: list[Any], *, ascii_only: bool = True) -> bytes:
    def dumped(value: Any) -> bytes:
        return json.dumps(value, ensure_ascii=ascii_only).encode()

    if form == JSON:
        return dumped({**head(document), "samples": samples})
    return b"\n".join([dumped(head(document)), *map(dumped, samples)])


def a_packet(**changes: Any) -> bytes:
    """A small valid packet as JSON text, with these members in place of its own."""
    document = {
        "vehicle": "car-1",
        "boot": 1,
        "seq": 2,
        "sent_at": "2026-11-23T10:00:00Z",
        "signals": {"Vehicle.Speed": {"value": 50.5}},
    }
    return json.dumps(document | changes).encode()


def exact(value: Any) -> Any:
    """For comparing: 1, 1.0 and true are not the same."""
    return [exact(item) for item in value] if isinstance(value, list) else (type(value), value)


# What is valid


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("form", FORMS)
@settings(deadline=None, max_examples=50)
@given(document=documents(), samples=st.lists(JSON_VALUES, max_size=4), ascii_only=st.booleans())
def test_comes_out_as_it_went_in(
    form: str, encoding: str, document: dict[str, Any], samples: list[Any], ascii_only: bool
) -> None:
    body = COMPRESS[encoding](text_of(document, form, samples, ascii_only=ascii_only))
    found = decode(body, form, encoding, LIMIT)
    assert (found.vehicle, found.boot, found.seq) == (document["vehicle"], document["boot"], document["seq"])
    assert found.id == f"{document['vehicle']}/{document['boot']}/{document['seq']}"
    assert found.sent_at == millis(document["sent_at"])
    assert found.signals.keys() == document["signals"].keys()
    for path, (value, at) in document["signals"].items():
        assert exact(found.signals[path].value) == exact(value)
        assert found.signals[path].at == millis(document["sent_at"] if at is None else at)
    assert found.samples() == samples


@pytest.mark.parametrize("encoding", INFLATABLE)
@settings(deadline=None, max_examples=40)
@given(document=documents(), cuts=st.lists(st.integers(0, 2000), max_size=5), form=st.sampled_from(FORMS))
def test_several_frames_are_one_text(
    encoding: str, document: dict[str, Any], cuts: list[int], form: str
) -> None:
    text = text_of(document, form, [1, "two"])
    places = sorted({0, len(text), *(cut % len(text) for cut in cuts)})
    parts = [text[low:high] for low, high in pairwise(places)]
    body = b"".join(COMPRESS[encoding](part) for part in [*parts, b""])
    found = decode(body, form, encoding, LIMIT)
    assert found.signals == decode(text, form, "identity", LIMIT).signals
    assert found.samples() == [1, "two"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\n\n"])
def test_a_head_alone_is_a_packet(encoding: str, ending: bytes) -> None:
    found = decode(COMPRESS[encoding](a_packet() + ending), NDJSON, encoding, LIMIT)
    assert found.signals == {"Vehicle.Speed": Signal(50.5, "2026-11-23T10:00:00.000Z")}
    assert found.samples() == []


def test_without_samples_there_are_none() -> None:
    assert not decode(a_packet(), JSON, "identity", LIMIT).samples()
    assert Packet("a", 0, 1, "", {}).samples() == []


def test_unknown_members_are_left_to_the_future() -> None:
    found = decode(a_packet(firmware={"version": [1, 2]}), JSON, "identity", LIMIT)
    assert found.vehicle == "car-1"


# Only the head


def bulky(encoding: str) -> tuple[bytes, bytes]:
    """An x-ndjson packet whose samples do not compress: (its text, the body)."""
    noise = random.Random(1)
    lines = [json.dumps({"n": n, "noise": noise.randbytes(600).hex()}).encode() for n in range(500)]
    text = b"\n".join([a_packet(), *lines])
    return text, COMPRESS[encoding](text)


@pytest.mark.parametrize("encoding", INFLATABLE)
def test_the_head_is_read_without_the_bulk(encoding: str) -> None:
    """Shown by a bulk that cannot be read: the head is there all the same, and only asking for the samples fails."""
    _, body = bulky(encoding)
    middle = len(body) // 2
    for tail in (b"", b"\xff" * 1000):
        found = decode(body[:middle] + tail, NDJSON, encoding, LIMIT)
        assert found.signals["Vehicle.Speed"].value == 50.5
        with pytest.raises(Reject, match=f"(truncated|damaged) {encoding}"):
            found.samples()


@pytest.mark.parametrize("encoding", INFLATABLE)
def test_the_same_damage_rejects_a_packet_of_one_object(encoding: str) -> None:
    samples = [random.Random(1).randbytes(600).hex() for _ in range(500)]
    body = COMPRESS[encoding](a_packet(samples=samples))
    with pytest.raises(Reject, match=f"(truncated|damaged) {encoding}"):
        decode(body[: len(body) // 2] + b"\xff" * 1000, JSON, encoding, LIMIT)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_bulk_comes_when_it_is_asked_for(encoding: str) -> None:
    text, body = bulky(encoding)
    samples = decode(body, NDJSON, encoding, LIMIT).samples()
    assert samples == [json.loads(line) for line in text.split(b"\n")[1:]]


@pytest.mark.parametrize("encoding", INFLATABLE)
def test_a_bomb_behind_the_head_stays_where_it_is(encoding: str) -> None:
    body = COMPRESS[encoding](a_packet() + b"\n" + b" " * (8 * LIMIT))
    found = decode(body, NDJSON, encoding, LIMIT)
    with pytest.raises(Reject, match=f"more than {LIMIT} bytes when inflated"):
        found.samples()


# Limits


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_limit_itself_passes(encoding: str, form: str) -> None:
    text = a_packet()
    limit = len(text) + 100
    fits = text + b" " * 100
    assert decode(COMPRESS[encoding](fits), form, encoding, limit).vehicle == "car-1"
    with pytest.raises(Reject, match=f"more than {limit} bytes when inflated"):
        decode(COMPRESS[encoding](fits + b" "), form, encoding, limit)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", INFLATABLE)
def test_a_bomb_is_refused_without_inflating_all_of_it(encoding: str, form: str) -> None:
    body = COMPRESS[encoding](b" " * (32 * LIMIT))
    assert len(body) < LIMIT // 16
    cut = body[:-8]  # whoever reads on to the end finds it truncated, and says that instead
    tracemalloc.start()
    try:
        with pytest.raises(Reject, match=f"more than {LIMIT} bytes when inflated"):
            decode(cut, form, encoding, LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * LIMIT


@pytest.mark.parametrize(
    ("encoding", "inflater"), [("zstd", "zstd.ZstdDecompressor"), ("gzip", "zlib.decompressobj")]
)
def test_a_body_of_nothing_but_empty_frames_is_given_up(
    encoding: str, inflater: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte of them is a hundred thousand: each costs an inflater, and a copy of all that follow it."""
    module, _, name = inflater.partition(".")
    made = 0
    original = getattr(getattr(packet, module), name)

    def counted(*args: Any, **named: Any) -> Any:
        nonlocal made
        made += 1
        return original(*args, **named)

    monkeypatch.setattr(getattr(packet, module), name, counted)
    with pytest.raises(Reject):
        decode(COMPRESS[encoding](b"") * 5000, NDJSON, encoding, LIMIT)
    assert made <= 1000


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


# What is not valid


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_cut_anywhere_it_is_rejected(encoding: str, form: str) -> None:
    body = COMPRESS[encoding](a_packet())
    for end in range(len(body)):
        with pytest.raises(Reject):
            decode(body[:end], form, encoding, LIMIT)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damaged_bytes_are_a_packet_or_a_reject(data: st.DataObject) -> None:
    form, encoding = data.draw(st.sampled_from(FORMS)), data.draw(st.sampled_from(ENCODINGS))
    body = bytearray(COMPRESS[encoding](a_packet(samples=[{"a": [1, "é", None]}] * 3)))
    for place, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), min_size=1, max_size=4)
    ):
        body[place] = byte
    _packet_or_reject(bytes(body), form, encoding)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200), st.sampled_from(FORMS), st.sampled_from(ENCODINGS))
def test_any_bytes_are_a_packet_or_a_reject(body: bytes, form: str, encoding: str) -> None:
    _packet_or_reject(body, form, encoding)


@settings(deadline=None, max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from(["vehicle", "boot", "seq", "sent_at", "signals", "samples"]),
        JSON_VALUES
        | st.dictionaries(
            st.text(max_size=3), st.fixed_dictionaries({"value": JSON_VALUES, "at": JSON_VALUES})
        ),
        min_size=1,
    ),
    st.sampled_from(FORMS),
)
def test_any_json_is_a_packet_or_a_reject(changes: dict[str, Any], form: str) -> None:
    _packet_or_reject(a_packet(**changes), form, "identity")


def _packet_or_reject(body: bytes, form: str, encoding: str) -> None:
    why = "a packet"
    try:
        decode(body, form, encoding, LIMIT).samples()
    except Reject as rejected:
        why = str(rejected)
    assert why
    assert "\n" not in why


def signal(value: str) -> bytes:
    return a_packet(signals={"x": {"value": "VALUE"}}).replace(b'"VALUE"', value.encode())


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "truncated"),
        (b"[]", "object"),
        (b"null", "object"),
        (a_packet() + b"{}", "malformed"),
        (a_packet(vehicle="a/b"), "vehicle"),
        (a_packet(vehicle="a\n"), "vehicle"),
        (a_packet(vehicle=""), "vehicle"),
        (a_packet(vehicle="a" * 65), "vehicle"),
        (a_packet(vehicle=7), "vehicle"),
        (a_packet(boot=-1), "boot"),
        (a_packet(boot=2**53), "boot"),
        (a_packet(boot=True), "boot"),
        (a_packet(boot=1.5), "boot"),
        (a_packet(seq=0), "seq"),
        (a_packet(seq=2**53), "seq"),
        (a_packet(seq=10**400), "seq"),
        (a_packet(seq=None), "seq"),
        (a_packet(sent_at="2026-11-23T10:00:00"), "sent_at"),
        (a_packet(sent_at="2026-02-30T10:00:00Z"), "sent_at"),
        (a_packet(sent_at="yesterday"), "sent_at"),
        (a_packet(sent_at=1), "sent_at"),
        (a_packet(signals=[]), "signals"),
        (a_packet(signals={"": {"value": 1}}), "signals"),
        (a_packet(signals={"x" * 257: {"value": 1}}), "signals"),
        (a_packet(signals={"x": 1}), "signals"),
        (a_packet(signals={"x": {}}), "value"),
        (a_packet(signals={"x": {"value": 1, "at": "2026"}}), "at"),
        (signal("null"), "null"),
        (signal("{}"), "object"),
        (signal('{"a":1}'), "object"),
        (signal("[null]"), "null"),
        (signal("[[1]]"), "array"),
        (signal("[{}]"), "object"),
        (signal("NaN"), "malformed"),
        (signal("Infinity"), "malformed"),
        (signal("1e999"), "out of range"),
        (signal("1" * 5000), "out of range"),
        (signal("01"), "malformed"),
        (signal(r'"\ud800"'), "not a packet"),
        (signal(r'"\udc00"'), "not a packet"),
        (signal('"TEXT"').replace(b"TEXT", b"\xff"), "UTF-8"),
        (signal('"TEXT"').replace(b"TEXT", b"\xed\xa0\x80"), "UTF-8"),
        (b"\xef\xbb\xbf" + a_packet(), "malformed"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_says_what_is_wrong(form: str, body: bytes, named: str) -> None:
    with pytest.raises(Reject, match=named):
        decode(body, form, "identity", LIMIT)


@pytest.mark.parametrize("member", ["vehicle", "boot", "seq", "sent_at", "signals"])
def test_says_what_is_missing(member: str) -> None:
    document = json.loads(a_packet())
    del document[member]
    with pytest.raises(Reject, match=member):
        decode(json.dumps(document).encode(), JSON, "identity", LIMIT)


@pytest.mark.parametrize("where", ["sent_at", "at"])
@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_that_is_none_in_utc_is_rejected(where: str, moment: str) -> None:
    changes = {"sent_at": moment} if where == "sent_at" else {"signals": {"x": {"value": 1, "at": moment}}}
    with pytest.raises(Reject):
        decode(a_packet(**changes), JSON, "identity", LIMIT)


@pytest.mark.parametrize("depth", [500, 5_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("member", ["samples", "signals", "unknown"])
def test_deep_nesting_is_a_packet_or_a_reject(member: str, opening: str, closing: str, depth: int) -> None:
    nested = (opening * depth + "1" + closing * depth).encode()
    text = a_packet(**{member: "NESTED"}).replace(b'"NESTED"', nested)
    _packet_or_reject(text, JSON, "identity")
    _packet_or_reject(a_packet() + b"\n" + nested, NDJSON, "identity")


def test_a_form_or_encoding_that_is_none_of_ours() -> None:
    with pytest.raises(Reject, match="text/plain"):
        decode(a_packet(), "text/plain", "identity", LIMIT)
    with pytest.raises(Reject, match="'br'"):
        decode(a_packet(), JSON, "br", LIMIT)

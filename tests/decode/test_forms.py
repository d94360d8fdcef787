"""What a vehicle may send comes out as it went in, in each form; anything else is a Reject with a reason, and nothing else."""

from __future__ import annotations

import gzip
import json
import math
import random
import struct
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from backports import zstd
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fleetcast import inflate
from fleetcast.decode import load
from fleetcast.errors import Reject, TooLarge
from fleetcast.inflate import ENCODINGS
from fleetcast.packet import JSON, MSGPACK, NDJSON, Packet, Signal
from fleetcast.settings import Settings

LIMIT = 1_048_576
AUTO = ""  # nothing says it: JSON or x-ndjson
TEXTS = (JSON, NDJSON, AUTO)
FORMS = (*TEXTS, MSGPACK)
WAYS = [
    (JSON, JSON),
    (NDJSON, NDJSON),
    (MSGPACK, MSGPACK),
    (JSON, AUTO),
    (NDJSON, AUTO),
]  # as it is written, as it is called

decode = load(Settings().decoders).decode

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
    | st.integers(-(2**63), 2**64 - 1)
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


def head(document: dict[str, Any], *, stamps: bool = False) -> dict[str, Any]:
    def written(moment: datetime) -> Any:
        return moment if stamps else moment.isoformat()

    signals = {
        path: {"value": value} if at is None else {"value": value, "at": written(at)}
        for path, (value, at) in document["signals"].items()
    }
    return {**document, "sent_at": written(document["sent_at"]), "signals": signals}


def text_of(
    document: dict[str, Any], form: str, samples: list[Any], *, ascii_only: bool = True, stamps: bool = False
) -> bytes:
    """The document as it is sent; `stamps`: times as MessagePack's own, if it is that."""

    def dumped(value: Any) -> bytes:
        return json.dumps(value, ensure_ascii=ascii_only).encode()

    if form == MSGPACK:
        whole = {**head(document, stamps=stamps), "samples": samples}
        try:
            return msgspec.msgpack.encode(whole)
        except OverflowError:  # of JSON's integers it has only those of 64 bits
            assume(condition=False)
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


def sent(text: bytes, form: str) -> bytes:
    """What this JSON says, in that form."""
    return msgspec.msgpack.encode(json.loads(text)) if form == MSGPACK else text


def exact(value: Any) -> Any:
    """For comparing: 1, 1.0 and true are not the same."""
    return [exact(item) for item in value] if isinstance(value, list) else (type(value), value)


# What is valid


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("written", "form"), WAYS)
@settings(deadline=None, max_examples=30)
@given(
    document=documents(),
    samples=st.lists(JSON_VALUES, max_size=4),
    ascii_only=st.booleans(),
    stamps=st.booleans(),
)
def test_comes_out_as_it_went_in(
    written: str,
    form: str,
    encoding: str,
    document: dict[str, Any],
    samples: list[Any],
    ascii_only: bool,
    stamps: bool,
) -> None:
    body = COMPRESS[encoding](text_of(document, written, samples, ascii_only=ascii_only, stamps=stamps))
    found = decode(body, form, encoding, LIMIT)
    assert (found.vehicle, found.boot, found.seq) == (document["vehicle"], document["boot"], document["seq"])
    assert found.id == f"{document['vehicle']}/{document['boot']}/{document['seq']}"
    assert found.sent_at == millis(document["sent_at"])
    assert found.signals.keys() == document["signals"].keys()
    for path, (value, at) in document["signals"].items():
        assert exact(found.signals[path].value) == exact(value)
        assert found.signals[path].at == millis(document["sent_at"] if at is None else at)
    assert (found.samples() or []) == samples
    assert (found.samples() or []) == samples


@pytest.mark.parametrize("encoding", INFLATABLE)
@settings(deadline=None, max_examples=40)
@given(document=documents(), cuts=st.lists(st.integers(0, 2000), max_size=5), way=st.sampled_from(WAYS))
def test_several_frames_are_one_text(
    encoding: str, document: dict[str, Any], cuts: list[int], way: tuple[str, str]
) -> None:
    written, form = way
    text = text_of(document, written, [1, "two"])
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
    fits, exceeds = (sent(a_packet(samples="x" * size), form) for size in (100, 101))
    limit = len(fits)
    assert decode(COMPRESS[encoding](fits), form, encoding, limit).vehicle == "car-1"
    with pytest.raises(TooLarge, match=f"more than {limit} bytes when inflated"):
        decode(COMPRESS[encoding](exceeds), form, encoding, limit)


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
    original = getattr(getattr(inflate, module), name)

    def counted(*args: Any, **named: Any) -> Any:
        nonlocal made
        made += 1
        return original(*args, **named)

    monkeypatch.setattr(getattr(inflate, module), name, counted)
    with pytest.raises(Reject):
        decode(COMPRESS[encoding](b"") * 5000, NDJSON, encoding, LIMIT)
    assert made <= 1000


# What is not valid


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_cut_anywhere_it_is_rejected(encoding: str, form: str) -> None:
    body = COMPRESS[encoding](sent(a_packet(), form))
    for end in range(len(body)):
        with pytest.raises(Reject):
            decode(body[:end], form, encoding, LIMIT)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damaged_bytes_are_a_packet_or_a_reject(data: st.DataObject) -> None:
    form, encoding = data.draw(st.sampled_from(FORMS)), data.draw(st.sampled_from(ENCODINGS))
    body = bytearray(COMPRESS[encoding](sent(a_packet(samples=[{"a": [1, "é", None]}] * 3), form)))
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
    try:
        body = sent(a_packet(**changes), form)
    except OverflowError:
        assume(condition=False)
    _packet_or_reject(body, form, "identity")


def _packet_or_reject(body: bytes, form: str, encoding: str) -> None:
    why = "a packet"
    try:
        decode(body, form, encoding, LIMIT).samples()
    except Reject as rejected:
        why = str(rejected)
    assert why
    assert "\n" not in why
    assert " raised " not in why  # nothing but Reject left the decoder, so nothing had to be made one


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
@pytest.mark.parametrize("form", TEXTS)
def test_says_what_is_wrong(form: str, body: bytes, named: str) -> None:
    with pytest.raises(Reject, match=named):
        decode(body, form, "identity", LIMIT)


@pytest.mark.parametrize("member", ["vehicle", "boot", "seq", "sent_at", "signals"])
@pytest.mark.parametrize("form", FORMS)
def test_says_what_is_missing(form: str, member: str) -> None:
    document = json.loads(a_packet())
    del document[member]
    with pytest.raises(Reject, match=f"missing required field `{member}`"):
        decode(sent(json.dumps(document).encode(), form), form, "identity", LIMIT)


@pytest.mark.parametrize("where", ["sent_at", "at"])
@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
@pytest.mark.parametrize("form", FORMS)
def test_a_time_that_is_none_in_utc_is_rejected(form: str, where: str, moment: str) -> None:
    changes = {"sent_at": moment} if where == "sent_at" else {"signals": {"x": {"value": 1, "at": moment}}}
    with pytest.raises(Reject, match="out of range"):
        decode(sent(a_packet(**changes), form), form, "identity", LIMIT)


@pytest.mark.parametrize("depth", [500, 5_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("member", ["samples", "signals", "unknown"])
def test_deep_nesting_is_a_packet_or_a_reject(member: str, opening: str, closing: str, depth: int) -> None:
    nested = (opening * depth + "1" + closing * depth).encode()
    text = a_packet(**{member: "NESTED"}).replace(b'"NESTED"', nested)
    for form in (JSON, AUTO):
        _packet_or_reject(text, form, "identity")
    for form in (NDJSON, AUTO):
        _packet_or_reject(a_packet() + b"\n" + nested, form, "identity")


def test_a_form_or_encoding_that_is_none_of_ours() -> None:
    with pytest.raises(Reject, match="text/plain"):
        decode(a_packet(), "text/plain", "identity", LIMIT)
    with pytest.raises(Reject, match="'br'"):
        decode(a_packet(), JSON, "br", LIMIT)


@pytest.mark.parametrize("form", TEXTS)
def test_of_a_member_that_is_there_twice_the_last_holds(form: str) -> None:
    text = a_packet().replace(b'"seq": 2', b'"seq": 2, "seq": 3')
    assert decode(text, form, "identity", LIMIT).seq == 3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [257, 100_000])
def test_a_huge_name_is_rejected_and_not_repeated(form: str, size: int) -> None:
    with pytest.raises(Reject, match="length <= 256") as why:
        decode(sent(a_packet(signals={"x" * size: {"value": 1}}), form), form, "identity", LIMIT)
    assert len(str(why.value)) < 200
    unknown = sent(a_packet(**{"x" * size: 1}), form)
    assert decode(unknown, form, "identity", LIMIT).vehicle == "car-1"


# MessagePack, where it is not JSON


def packed(**changes: Any) -> bytes:
    return msgspec.msgpack.encode(json.loads(a_packet()) | changes)


def reading(value: bytes) -> bytes:
    """A packet whose one signal has this, packed, as its value."""
    return packed(signals={"x": {"value": "VALUE"}}).replace(b"\xa5VALUE", value)


MOMENT = struct.pack(">I", 1_000)


@pytest.mark.parametrize(
    "form", ["application/msgpack", "application/vnd.msgpack", "application/x-msgpack", "msgpack"]
)
def test_messagepack_by_each_of_its_names(form: str) -> None:
    assert decode(packed(), form, "identity", LIMIT).signals["Vehicle.Speed"].value == 50.5


WRONG_PACKED = [
    (b"", "truncated"),
    (b"\x80", "vehicle"),
    (b"\x90", "array"),
    (b"\xc0", "got `None`"),
    (b"\xc1", "malformed"),
    (packed() + b"\x80", "trailing"),
    (packed() + b"\n", "trailing"),
    (packed(vehicle="a/b"), "vehicle"),
    (packed(vehicle=b"car-1"), "vehicle"),
    (packed(boot=2**53), "boot"),
    (packed(boot=2**64 - 1), "boot"),
    (packed(boot=True), "boot"),
    (packed(boot=1.0), "boot"),
    (packed(seq=0), "seq"),
    (packed(seq=-(2**63)), "seq"),
    (packed(sent_at=1_700_000_000), "sent_at"),
    (packed(sent_at="2026-11-23T10:00:00"), "sent_at"),
    (packed(sent_at=msgspec.msgpack.Ext(5, MOMENT)), "sent_at"),
    (packed(sent_at=msgspec.msgpack.Ext(-1, b"12345")), "timestamp"),
    (packed(sent_at=msgspec.msgpack.Ext(-1, struct.pack(">Iq", 0, 2**62))), "out of range"),
    (packed(sent_at=msgspec.msgpack.Ext(-1, struct.pack(">Iq", 10**9, 0))), "nanoseconds out of range"),
    (packed(signals={"x": 1}), "signals"),
    (packed(signals={7: {"value": 1}}), "`str`, got `int`"),
    (packed(signals={b"x": {"value": 1}}), "`str`, got `bytes`"),
    (packed(signals={"x": {}}), "value"),
    (msgspec.msgpack.encode({**json.loads(a_packet()), 7: 1}), "`str`, got `int`"),
    (reading(b"\xcb" + struct.pack(">d", math.nan)), "signal 'x' is NaN or Infinity"),
    (reading(b"\xca" + struct.pack(">f", -math.inf)), "signal 'x' is NaN or Infinity"),
    (reading(b"\x92\x01\xcb" + struct.pack(">d", math.inf)), "signal 'x' is NaN or Infinity"),
    (reading(b"\xc0"), "got `None`"),
    (reading(b"\x80"), "object"),
    (reading(b"\x91\x90"), "array"),
    (reading(b"\xc4\x01a"), "bytes"),
    (reading(b"\xd6\xff" + MOMENT), "got `ext`"),
    (reading(b"\xd4\x05a"), "ext"),
    (reading(b"\xa1\xff"), "UTF-8"),
    (reading(b"\xa3\xed\xa0\x80"), "UTF-8"),
    (reading(b"\xdd\xff\xff\xff\xff"), "truncated"),
    (reading(b"\xdb\xff\xff\xff\xffa"), "truncated"),
    (b"\xdf\xff\xff\xff\xff\xa1x\x01", "truncated"),
    (b"\x82\xa1x\xdd\xff\xff\xff\xff\x01", "truncated"),
    (b"\x82\xa1x" + b"\x91" * 200_000 + b"\x01", "nested too deeply"),
]


@pytest.mark.parametrize(("body", "named"), WRONG_PACKED, ids=range(len(WRONG_PACKED)))
def test_says_what_is_wrong_with_messagepack(body: bytes, named: str) -> None:
    with pytest.raises(Reject, match=named) as why:
        decode(body, MSGPACK, "identity", LIMIT)
    assert "\n" not in str(why.value)


def test_in_samples_messagepack_may_hold_what_json_does_not() -> None:
    samples = [b"\xff", datetime(2026, 11, 23, tzinfo=UTC), {7: math.inf}]
    assert decode(packed(samples=samples), MSGPACK, "identity", LIMIT).samples() == samples


@pytest.mark.parametrize(
    "samples",
    [
        b"\x91" * 100_000 + b"\x01",
        b"\x81" * 100_000,
        b"\xa1\xff",
        b"\x81\x81\x01\x01\x02",
        b"\xd6\xff",
        b"\xc7\x02\xffab",
    ],
)
def test_samples_that_cannot_be_read_are_a_reject_for_whoever_asks(samples: bytes) -> None:
    body = packed(samples="BULK").replace(b"\xa4BULK", samples)
    with pytest.raises(Reject):
        decode(body, MSGPACK, "identity", LIMIT).samples()


@settings(deadline=None, max_examples=200)
@given(
    st.recursive(
        JSON_VALUES | st.binary(max_size=5) | st.floats() | TIMES,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(SCALARS | st.binary(max_size=3), inner, max_size=3)
        ),
    ),
    st.sampled_from(["vehicle", "boot", "seq", "sent_at", "signals", "samples", "x"]),
)
def test_whatever_is_packed_is_a_packet_or_a_reject(value: Any, member: str) -> None:
    try:
        body = packed(**{member: value})
    except (OverflowError, TypeError):
        assume(condition=False)
    _packet_or_reject(body, MSGPACK, "identity")
    try:
        found = decode(body, MSGPACK, "identity", LIMIT)
    except Reject:
        return
    # What was taken can go out to phones, and come back as it is.
    assert msgspec.json.decode(msgspec.json.encode(found.signals), type=dict[str, Signal]) == found.signals


# Nothing says what it is


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b" \n\n \t"])
def test_an_object_on_one_line_keeps_its_samples(encoding: str, ending: bytes) -> None:
    body = COMPRESS[encoding](a_packet(samples=[1, {"t": 2}]) + ending)
    assert decode(body, AUTO, encoding, LIMIT).samples() == [1, {"t": 2}]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_object_over_many_lines_is_one(encoding: str) -> None:
    text = json.dumps(json.loads(a_packet(samples=[1, 2])), indent=2).encode()
    assert decode(COMPRESS[encoding](text), AUTO, encoding, LIMIT).samples() == [1, 2]
    assert decode(COMPRESS[encoding](b"\n\n" + text), AUTO, encoding, LIMIT).samples() == [1, 2]


@pytest.mark.parametrize("encoding", INFLATABLE)
def test_of_lines_only_the_head_is_read_though_nothing_says_so(encoding: str) -> None:
    text, body = bulky(encoding)
    found = decode(body[: len(body) // 2], AUTO, encoding, LIMIT)
    assert found.signals["Vehicle.Speed"].value == 50.5
    with pytest.raises(Reject, match=f"truncated {encoding}"):
        found.samples()
    whole = decode(body, AUTO, encoding, LIMIT)
    assert whole.samples() == [json.loads(line) for line in text.split(b"\n")[1:]]


def test_a_bad_head_is_named_though_samples_follow_it() -> None:
    for ending in (b"", b'\n{"t":1}'):
        with pytest.raises(Reject, match="seq"):
            decode(a_packet(seq=0) + ending, AUTO, "identity", LIMIT)


def test_messagepack_needs_to_be_named() -> None:
    with pytest.raises(Reject, match="malformed"):
        decode(packed(), AUTO, "identity", LIMIT)

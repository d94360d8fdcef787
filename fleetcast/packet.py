"""A packet as a vehicle sends it: what it must look like, and how much of it we read.

In: the stored bytes with their content type and encoding. Out: a `Packet` with its signals; the bulk samples stay
undecoded until somebody calls `packet.samples()`. As `application/x-ndjson` the first line is the head and only the
head is inflated and parsed, which is what makes a packet of 1 MB cost what one of 5 kB does. As `application/json` the
whole is inflated, and the samples skipped.

Bad bytes raise `Reject` with a reason for a person; every inflation is bounded, so no bomb passes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, TypeVar, cast

import msgspec
from backports import zstd

from fleetcast.clock import rfc3339
from fleetcast.errors import Reject, TooLarge
from fleetcast.subjects import is_vehicle

JSON = "application/json"
NDJSON = "application/x-ndjson"
FORMS = (JSON, NDJSON)
ENCODINGS = ("identity", "gzip", "zstd")

Scalar = bool | int | float | str
Value = Scalar | list[Scalar]
"""A signal's value: never null (a merge patch could not tell it from removed), never an object (it would be merged)."""

T = TypeVar("T")

_STEP = 65536
_WINDOW: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}  # 8 MB: RFC 9659
_FRAMES = 256  # of one body; each costs an inflater, whatever it holds
_LIMIT_OF_INT = 2**53 - 1  # what every JSON reader holds exactly, JavaScript's included


class Signal(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A value and when it was observed (RFC 3339 UTC, ms). The same shape goes out to phones."""

    value: Value
    at: str
    skewed: bool | None = False
    """The vehicle's clock was not to be believed: `at` is when the packet was stored. None (null) stands in updates only,
    where a merge patch takes the mark away."""


def same(one: Signal | None, other: Signal | None) -> bool:
    """Whether a phone could not tell them apart: to Python True, 1 and 1.0 are equal, in JSON they are not."""
    if one is other or one is None or other is None:
        return one is other
    return one == other and _kinds(one.value) == _kinds(other.value)


def _kinds(value: Value) -> list[type]:
    return [type(part) for part in value] if isinstance(value, list) else [type(value)]


class Packet(msgspec.Struct, frozen=True):
    """One packet: (vehicle, boot, seq) identifies it; `boot` rises with each restart of the sender, `seq` within it."""

    vehicle: str
    boot: int
    seq: int
    sent_at: str
    signals: dict[str, Signal]
    samples: Callable[[], Any] = list
    """Inflates and decodes the bulk, on demand: the list of sample lines, or the `samples` member. May raise Reject."""
    skewed: bool = False
    """Its `sent_at` was not to be believed, and is when it was stored (`skew.believed`)."""

    @property
    def id(self) -> str:
        """`<vehicle>/<boot>/<seq>`: what the queue dedupes by, and what logs carry."""
        return f"{self.vehicle}/{self.boot}/{self.seq}"


class _Reading(msgspec.Struct, gc=False):
    value: Value
    at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class _Head(msgspec.Struct, gc=False):
    vehicle: str
    boot: Annotated[int, msgspec.Meta(ge=0, le=_LIMIT_OF_INT)]
    seq: Annotated[int, msgspec.Meta(ge=1, le=_LIMIT_OF_INT)]
    sent_at: Annotated[datetime, msgspec.Meta(tz=True)]
    signals: dict[Annotated[str, msgspec.Meta(min_length=1, max_length=256)], _Reading]


class _Bulk(msgspec.Struct):
    samples: Any = None


_HEAD = msgspec.json.Decoder(_Head)
_BULK = msgspec.json.Decoder(_Bulk)
_LINES = msgspec.json.Decoder()


def decode(body: bytes, form: str, encoding: str, limit: int) -> Packet:
    """The packet in these bytes. `limit` bounds the inflated size in bytes. Raises Reject."""
    form = {"": JSON, "json": JSON, "ndjson": NDJSON}.get(form, form)
    if form == NDJSON:
        text = _first_line(body, encoding, limit)
        return _packet(text, lambda: _sample_lines(body, encoding, limit))
    if form == JSON:
        text = inflate(body, encoding, limit)
        return _packet(text, lambda: _decoded(_BULK.decode, text).samples)
    raise Reject(f"content type {form!r} is not one of {', '.join(FORMS)}")


def sniffed(body: bytes) -> str:
    """The content encoding of a body that came without one (by MQTT): by its magic number, which no packet begins with."""
    if body.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd"
    return "gzip" if body.startswith(b"\x1f\x8b") else "identity"


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """The whole text. Raises Reject if it is truncated, damaged, or longer than `limit` bytes."""
    parts: list[bytes] = []
    size = 0
    # In one step, which takes half the time of many; what the frames declare bounds nothing, they may lie.
    for part in _chunks(body, encoding, limit + 1):
        size += len(part)
        if size > limit:
            raise TooLarge(f"more than {limit} bytes when inflated")
        parts.append(part)
    return b"".join(parts)


def declared_size(body: bytes, encoding: str) -> int | None:
    """What its frames together say that they inflate to; None if one does not say, or is damaged."""
    if encoding != "zstd":
        return len(body) if encoding == "identity" else None
    size, rest = 0, body
    try:
        for _ in range(_FRAMES):
            declared = cast("int | None", zstd.get_frame_info(rest).decompressed_size)  # its type says int
            if declared is None:
                return None
            size += declared
            rest = rest[zstd.get_frame_size(rest) :]
            if not rest:
                return size
    except zstd.ZstdError:
        pass
    return None


def bound_size(body: bytes, encoding: str, limit: int) -> None:
    """Raises TooLarge if the body inflates to more than `limit` bytes: by what its frames declare, else by inflating it,
    keeping nothing. Whether it is damaged is not asked here.
    """
    size = declared_size(body, encoding)
    if size is None:
        size = 0
        with suppress(Reject):
            for part in _chunks(body, encoding):
                size += len(part)
                if size > limit:
                    break
    if size > limit:
        raise TooLarge(f"more than {limit} bytes when inflated")


def _first_line(body: bytes, encoding: str, limit: int) -> bytes:
    head = b""
    for part in _chunks(body, encoding):
        end = part.find(b"\n")
        head += part if end < 0 else part[:end]
        if len(head) > limit:
            raise TooLarge(f"more than {limit} bytes when inflated")
        if end >= 0:
            break
    return head


def _sample_lines(body: bytes, encoding: str, limit: int) -> list[Any]:
    text = inflate(body, encoding, limit)
    lines: list[Any] = _decoded(_LINES.decode_lines, text)
    return lines[1:]


def _packet(text: bytes, samples: Callable[[], Any]) -> Packet:
    head = _decoded(_HEAD.decode, text)
    if not is_vehicle(head.vehicle):
        raise Reject("vehicle: not 1 to 64 of A-Z a-z 0-9 - _")
    try:
        sent_at = rfc3339(head.sent_at)
        signals = {
            path: Signal(reading.value, sent_at if reading.at is None else rfc3339(reading.at))
            for path, reading in head.signals.items()
        }
    except OverflowError:  # the first and last hours of the calendar, in another time zone
        raise Reject("not a packet: a time out of range") from None
    return Packet(head.vehicle, head.boot, head.seq, sent_at, signals, samples)


def _decoded(decoder: Callable[[bytes], T], text: bytes) -> T:
    try:
        return decoder(text)
    except msgspec.MsgspecError as error:
        raise Reject(f"not a packet: {error}") from None
    except UnicodeDecodeError:
        raise Reject("not a packet: not UTF-8") from None
    except OverflowError:
        raise Reject("not a packet: a time or number out of range") from None
    except RecursionError:  # msgspec raises it, not its own error, for a deep nesting in a key that it skips
        raise Reject("not a packet: nested too deeply") from None


def _chunks(body: bytes, encoding: str, step: int = _STEP) -> Iterator[bytes]:
    """The inflated text in pieces of at most `step` bytes: a reader may stop early. Empty, truncated or damaged: Reject."""
    if encoding == "identity":
        yield body
    elif encoding == "zstd":
        yield from _zstd(body, step)
    elif encoding == "gzip":
        yield from _gzip(body, step)
    else:
        raise Reject(f"content encoding {encoding!r} is not one of {', '.join(ENCODINGS)}")


def _zstd(body: bytes, step: int) -> Iterator[bytes]:
    try:
        for _ in range(_FRAMES):  # a body may be several frames one after another
            inflater = zstd.ZstdDecompressor(options=_WINDOW)
            part = inflater.decompress(body, step)
            yield part
            while not inflater.eof:
                if inflater.needs_input:
                    raise Reject("truncated zstd")
                yield inflater.decompress(b"", step)
            body = inflater.unused_data
            if not body:
                return
        raise Reject(f"more than {_FRAMES} zstd frames")
    except zstd.ZstdError as error:
        raise Reject(f"damaged zstd: {error}") from None


def _gzip(body: bytes, step: int) -> Iterator[bytes]:
    try:
        for _ in range(_FRAMES):  # a body may be several members one after another
            inflater = zlib.decompressobj(wbits=31)
            rest = body
            while not inflater.eof:
                part = inflater.decompress(rest, step)
                if not part and not inflater.eof:
                    raise Reject("truncated gzip")
                rest = inflater.unconsumed_tail
                yield part
            body = inflater.unused_data
            if not body:
                return
        raise Reject(f"more than {_FRAMES} gzip members")
    except zlib.error as error:
        raise Reject(f"damaged gzip: {error}") from None

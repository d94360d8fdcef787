"""A packet as a vehicle sends it: what it must look like, whatever form it is sent in.

In: what a decoder (`fleetcast/decode/`) found: a head, and how to get at the samples. Out: a `Packet` with its signals; the
bulk samples stay undecoded until somebody calls `packet.samples()`. What is not a packet raises `Reject` with a reason
for a person.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec

from fleetcast.clock import rfc3339
from fleetcast.errors import Reject
from fleetcast.subjects import is_vehicle

JSON = "application/json"
NDJSON = "application/x-ndjson"
MSGPACK = "application/msgpack"

Scalar = bool | int | float | str
Value = Scalar | list[Scalar]
"""A signal's value: never null (a merge patch could not tell it from removed), never an object (it would be merged)."""

S = TypeVar("S")
T = TypeVar("T")

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


class Reading(msgspec.Struct, gc=False):
    """A signal as it is sent; without `at`, the packet's `sent_at` holds."""

    value: Value
    at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class Head(msgspec.Struct, gc=False):
    """All of a packet but its samples: a type for msgspec's decoders, which skip what it does not name."""

    vehicle: str
    boot: Annotated[int, msgspec.Meta(ge=0, le=_LIMIT_OF_INT)]
    seq: Annotated[int, msgspec.Meta(ge=1, le=_LIMIT_OF_INT)]
    sent_at: Annotated[datetime, msgspec.Meta(tz=True)]
    signals: dict[Annotated[str, msgspec.Meta(min_length=1, max_length=256)], Reading]


class Bulk(msgspec.Struct):
    """The samples of a packet that holds them as a member."""

    samples: Any = None


def packet_of(head: Head, samples: Callable[[], Any]) -> Packet:
    """The packet of this head. Raises Reject."""
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


def packet_from(document: Mapping[str, Any], samples: Callable[[], Any] = list) -> Packet:
    """The packet that Python's own objects describe, for decoders whose library gives those. Raises Reject.

    The members are those of JSON; times are RFC 3339 texts or datetimes with a time zone.
    """
    return packet_of(finite(decoded(_converted, document)), samples)


def finite(head: Head) -> Head:
    """Itself, unless a value is NaN or Infinity, which JSON, and so a phone, does not have. Raises Reject."""
    for path, reading in head.signals.items():
        value = reading.value
        if not (all(map(_is_finite, value)) if isinstance(value, list) else _is_finite(value)):
            raise Reject(f"not a packet: signal {path!r} is NaN or Infinity")
    return head


def _is_finite(value: Scalar) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def decoded(decoder: Callable[[S], T], source: S) -> T:
    """What one of msgspec's decoders makes of it; whatever it raises becomes a Reject."""
    try:
        return decoder(source)
    except msgspec.MsgspecError as error:
        raise Reject(f"not a packet: {error}") from None
    except UnicodeDecodeError:
        raise Reject("not a packet: not UTF-8") from None
    except OverflowError:
        raise Reject("not a packet: a time or number out of range") from None
    except RecursionError:  # msgspec raises it, not its own error, for a deep nesting in a key that it skips
        raise Reject("not a packet: nested too deeply") from None


def _converted(document: Mapping[str, Any]) -> Head:
    return msgspec.convert(document, Head)

"""What the cars of a proof send: packet number n of a vehicle, from a seed alone.

Cars make the packets to send them, the oracle makes them again to know what must come of them; nothing is kept. Every
packet differs from the one before, and names itself, so that an update tells which packet it came from. One in a hundred is
poison: ingest takes it, and `rules` rejects it. Some are sent while the car has lost its clock, and some carry a value that
was observed before one that was sent before it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import msgspec
from backports import zstd

NAME = "Proof.Packet"
POISON = "Proof.Poison"
BOOT_AFTER = 500  # packets: then the car restarts, and counts from one again
POISON_EVERY = 100

DEFINED = ("some: Proof.Flag *.List **.Number3", "rare: Proof.Text Proof.Rules *.Alarm")
VIEWS = {
    "some": {"Proof.Flag", "Proof.List", "Proof.Number3"},
    "rare": {"Proof.Text", "Proof.Rules", "Proof.Alarm"},
}
"""The views of a proof's platform beside `all`: as its settings define them, and the paths that this means."""
URGENT = "Proof.Alarm"
"""What calm streams do not hold back, if its value changes. Every second time it is sent it does not."""

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_LARGE_EVERY = 1000
_LARGE_BYTES = 500_000
_AS_MSGPACK = 6  # of each eight; never a poison, which an operator's eye is to read
_EARLIER = timedelta(seconds=3)
_STEP = timedelta(milliseconds=100)
_LOST = datetime(1970, 1, 1, 0, 0, 7, tzinfo=UTC)
"""What a clock says that was lost. (All other times are near enough, whenever the proof is run: `ports.platform_settings`.)"""


class Sent(msgspec.Struct, frozen=True):
    """A packet: `signals` is path -> (value, when it was observed)."""

    boot: int
    seq: int
    sent_at: str
    signals: dict[str, tuple[Any, str]]
    poison: bool
    lost: bool
    """Its `sent_at`, and what was observed then, is of a clock that cannot be believed."""

    @property
    def name(self) -> str:
        """What it calls itself."""
        return f"{self.boot}/{self.seq}"


def is_poison(n: int) -> bool:
    """Whether packet n (from 0) is one that can never be applied."""
    return n % POISON_EVERY == POISON_EVERY - 1


def good_before(n: int) -> int:
    """How many of the packets 0 to n - 1 can be applied."""
    return n - n // POISON_EVERY


def packet(seed: int, vehicle: str, n: int) -> Sent:
    """Packet n of this vehicle."""
    dice = crc32(f"{seed}/{vehicle}/{n}".encode())
    boot, seq = 1 + n // BOOT_AFTER, n % BOOT_AFTER + 1
    moment = _BEGIN + n * _STEP
    lost = dice % 17 == 0
    sent_at = _text(_LOST if lost else moment)
    signals: dict[str, tuple[Any, str]] = {
        NAME: (f"{boot}/{seq}", sent_at),
        f"Proof.Number{dice % 7}": (dice, sent_at),
    }
    if dice % 3 == 0:
        signals["Proof.Flag"] = (bool(dice & 64), _text(moment - _EARLIER))
    if dice % 2 == 0:
        signals["Proof.Wander"] = (dice % 19, _text(moment - (dice % 4) * _STEP))
    if dice % 5 == 0:
        signals["Proof.List"] = ([dice % 10, dice % 4], sent_at)
    if dice % 11 == 0:
        signals["Proof.Text"] = (f"{dice % 13} öl\n", sent_at)
    if dice % 41 == 0:
        signals[URGENT] = (dice % 82 == 0, sent_at)
    if poison := is_poison(n):
        signals[POISON] = (True, sent_at)
    return Sent(boot, seq, sent_at, signals, poison, lost)


def body(seed: int, vehicle: str, n: int) -> tuple[bytes, str, str]:
    """(bytes, content type, content encoding) of its POST: most are small, each way of sending is used."""
    sent = packet(seed, vehicle, n)
    document = {
        "vehicle": vehicle,
        "boot": sent.boot,
        "seq": sent.seq,
        "sent_at": sent.sent_at,
        "signals": {path: {"value": value, "at": at} for path, (value, at) in sent.signals.items()},
    }
    if n % 8 == _AS_MSGPACK:
        return msgspec.msgpack.encode(document), "application/msgpack", "identity"
    head = msgspec.json.encode(document)
    if n % _LARGE_EVERY == _LARGE_EVERY // 2:
        return zstd.compress(_bulk(head, _LARGE_BYTES, n), 1), "application/x-ndjson", "zstd"
    if n % 4 == 1:
        return zstd.compress(_bulk(head, 4_000, n), 1), "application/x-ndjson", "zstd"
    return head, "application/json", "identity"


def _bulk(head: bytes, size: int, n: int) -> bytes:
    line = b'{"sensor":"proof","values":[%d,%d,%d]}\n' % (n, n * 7 % 1000, n * 13 % 1000)
    return head + b"\n" + line * (size // len(line))


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""A vehicle's view after its first packets, with code of the proof's own: what the platform's must be. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from fleetcast.proof.packets import URGENT, Sent, is_poison, packet

RULES = "Proof.Rules"
LIVE, QUIET, OFFLINE = "live", "quiet", "offline"

_ROUNDED = 0.002  # seconds: times are in milliseconds

_canonical = msgspec.json.Encoder(order="sorted")


def digest(value: object) -> int:
    """The same for equal JSON, whatever the order of its keys."""
    return crc32(_canonical.encode(value))


def shown(signals: dict[str, Any], status: str, since: str) -> int:
    """The digest of all that a phone shows of a vehicle."""
    return digest((signals, status, since))


class Silence(NamedTuple):
    """After how many seconds without a packet a vehicle is quiet, and offline."""

    quiet: float
    offline: float


class Fold:
    """A vehicle's view after its first packets: what the platform's must be."""

    def __init__(self, seed: int, vehicle: str) -> None:
        self.seed = seed
        self.vehicle = vehicle
        self.signals: dict[str, dict[str, Any]] = {}
        self.version = 0
        self.next = 0  # the packet that is due
        self.chain = 0
        self.count = 0
        self.urgent = False  # whether the last packet brought another value of what is
        self.status = ""
        self.since = ""
        self.heard = 0.0  # when its last packet was stored
        self.silent = 0.0  # by when it had not sent, as was said since
        self.statuses = 0  # versions that are no packets

    @property
    def packets(self) -> int:
        """How many are folded."""
        return self.version - self.statuses

    def copy(self) -> Fold:
        """As it is now."""
        other = Fold(self.seed, self.vehicle)
        other.__dict__ |= self.__dict__ | {"signals": dict(self.signals)}
        return other

    def advance(self, later: bool, stored: str) -> tuple[str, dict[str, Any]]:
        """Folds the next packet that is not poison; its name, and what it changes. `later`: with the second deploy's rule.

        `stored`: when the queue took it, which is the time of what a lost clock says. Each packet is newer than those before,
        so of two values of a path the one observed earlier loses, if both times are the car's.
        """
        while is_poison(self.next):
            self.next += 1
        sent = packet(self.seed, self.vehicle, self.next)
        self.next += 1
        self.version += 1
        self.count += 1
        self.chain = crc32(f"{self.chain} {sent.name}".encode())
        carried: dict[str, dict[str, Any]] = {}
        for path, (value, at) in sent.signals.items():
            known, signal = self.signals.get(path), _at(value, at, sent, stored)
            if known is None or {*known, *signal} > {"value", "at"} or at >= known["at"]:
                carried[path] = signal
        derived: dict[str, Any] = {"Proof.Chain": self.chain, "Proof.Count": self.count}
        if later:
            derived[RULES] = 2
        for path, value in derived.items():
            known = self.signals.get(path)
            if known is None or known["value"] != value:
                carried[path] = _at(value, sent.sent_at, sent, stored)
        changed = {path: signal for path, signal in carried.items() if self.signals.get(path) != signal}
        self.urgent = URGENT in changed and changed[URGENT]["value"] != self.signals.get(URGENT, {}).get(
            "value"
        )
        # As a merge patch, which names what is gone.
        marked = {path for path in changed if "skewed" in self.signals.get(path, {})}
        patch = {path: ({"skewed": None} if path in marked else {}) | one for path, one in changed.items()}
        self.signals |= changed
        if stored:
            self.heard, self.silent = seconds(stored), 0.0
            if not self.status:  # the first one says so by coming
                self.status, self.since = LIVE, stored
        return sent.name, patch

    def turn(self, status: str, since: str, stored: float, silence: Silence) -> str:
        """Folds a change of status, which LIVE took then; what is wrong with it, if anything."""
        before, self.status, self.since = self.status, status, since
        self.version += 1
        self.statuses += 1
        self.urgent = True
        if status == LIVE:  # whether the packet came that it is of, the next update tells
            return "" if before in (QUIET, OFFLINE) else f"live again after {before}"
        if status not in (QUIET, OFFLINE) or (before, status) not in (
            (LIVE, QUIET),
            (LIVE, OFFLINE),
            (QUIET, OFFLINE),
        ):
            return f"{status} after {before}"
        due = self.heard + (silence.quiet if status == QUIET else silence.offline)
        self.silent = due - _ROUNDED
        if abs(seconds(since) - due) > _ROUNDED:
            return f"{status} since {since}, and not since {_text(due)}"
        return f"{status} {due - stored:.3f} s before it was" if stored < due - _ROUNDED else ""


def seconds(text: str) -> float:
    """Since 1970, of a time as the protocol has it."""
    return datetime.fromisoformat(text).timestamp()


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _at(value: Any, at: str, sent: Sent, stored: str) -> dict[str, Any]:
    """The signal as phones must see it."""
    if sent.lost and at == sent.sent_at:
        return {"value": value, "at": stored, "skewed": True}
    return {"value": value, "at": at}

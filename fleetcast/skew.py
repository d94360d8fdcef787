"""Which of a vehicle's times to believe. Pure.

In: a packet, and when the queue stored it (the platform's clock). Out: the packet with each time that cannot be true
replaced by the time of its storing, and marked. A time cannot be true if it is ahead of the storing, or far behind it: a
packet out of a tunnel or a garage is rightly old, a clock of 1970 is not. Nothing but the time of the storing decides, so a
packet that is delivered again comes to the same.
"""

from __future__ import annotations

import msgspec

from fleetcast.clock import rfc3339
from fleetcast.packet import Packet, Signal

_FIRST, _LAST = "0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"


def believed(packet: Packet, stored: float, ahead: float, behind: float) -> Packet:
    """The packet with times to go by; the same object if all are believed.

    `stored` is in seconds since 1970; `ahead` of it and `behind` it, in seconds, a time is believed.
    """
    earliest, latest = _text(stored - behind, _FIRST), _text(stored + ahead, _LAST)
    # As texts, which compare as the times do; most packets pass here.
    doubted = [path for path, signal in packet.signals.items() if not earliest <= signal.at <= latest]
    skewed = not earliest <= packet.sent_at <= latest
    if not doubted and not skewed:
        return packet
    instead = rfc3339(stored)
    signals = {**packet.signals, **{path: _marked(packet.signals[path], instead) for path in doubted}}
    sent_at = instead if skewed else packet.sent_at
    return msgspec.structs.replace(packet, sent_at=sent_at, signals=signals, skewed=skewed)


def _marked(signal: Signal, at: str) -> Signal:
    return Signal(signal.value, at, skewed=True)


def _text(moment: float, otherwise: str) -> str:
    """As RFC 3339; `otherwise` for what the calendar does not have."""
    try:
        return rfc3339(moment)
    except (ValueError, OverflowError, OSError):
        return otherwise

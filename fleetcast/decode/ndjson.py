"""`application/x-ndjson`: the first line is the head, each further one a sample; no more than the head is inflated and parsed.

That is what makes a packet of 1 MB cost what one of 5 kB does. What is wrong behind the head is found by whoever asks for
the samples.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fleetcast.decode import Decoder
from fleetcast.decode.json import HEAD
from fleetcast.inflate import Body
from fleetcast.packet import NDJSON, Packet, decoded, packet_of

_LINES = msgspec.json.Decoder()


def decode(body: Body) -> Packet:
    """See the module's text."""
    return packet_of(decoded(HEAD.decode, body.first_line()), lambda: lines(body.whole().partition(b"\n")[2]))


def lines(text: bytes) -> list[Any]:
    """Each line's value; empty lines are none. Raises Reject."""
    return decoded(_LINES.decode_lines, text)


DECODER = Decoder((NDJSON,), "ndjson", decode)

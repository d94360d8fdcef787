"""`application/json`: a packet is one object, its samples a member of it, which the parser skips."""

from __future__ import annotations

import msgspec

from fleetcast.decode import Decoder
from fleetcast.inflate import Body
from fleetcast.packet import JSON, Bulk, Head, Packet, decoded, packet_of

HEAD = msgspec.json.Decoder(Head)
BULK = msgspec.json.Decoder(Bulk)


def decode(body: Body) -> Packet:
    """See the module's text."""
    text = body.whole()
    return packet_of(decoded(HEAD.decode, text), lambda: decoded(BULK.decode, text).samples)


DECODER = Decoder((JSON,), "json", decode)

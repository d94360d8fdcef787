"""`application/msgpack`: the map that the JSON object is, smaller and quicker to read; the samples are skipped.

A time is an RFC 3339 text, as in JSON, or MessagePack's own timestamp. What JSON does not have is refused in a head: bytes,
extensions, NaN, keys that are no texts. In samples it may be: only enrichers see those.
"""

from __future__ import annotations

import msgspec

from fleetcast.decode import Decoder
from fleetcast.inflate import Body
from fleetcast.packet import MSGPACK, Bulk, Head, Packet, decoded, finite, packet_of

_HEAD = msgspec.msgpack.Decoder(Head)
_BULK = msgspec.msgpack.Decoder(Bulk)


def decode(body: Body) -> Packet:
    """See the module's text."""
    packed = body.whole()
    return packet_of(finite(decoded(_HEAD.decode, packed)), lambda: decoded(_BULK.decode, packed).samples)


DECODER = Decoder((MSGPACK, "application/vnd.msgpack", "application/x-msgpack"), "msgpack", decode)

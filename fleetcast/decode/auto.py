"""JSON or x-ndjson, told apart by looking: for MQTT's topic without a suffix, where nothing names the form.

If the first line is a whole head, and something follows it, the packet is x-ndjson, else the whole text is one object. What
follows is looked at when somebody asks for the samples, so of x-ndjson still only the head is inflated.
"""

from __future__ import annotations

from typing import Any

from fleetcast.decode import Decoder, json, ndjson
from fleetcast.errors import Reject
from fleetcast.inflate import Body
from fleetcast.packet import Packet, decoded, packet_of


def decode(body: Body) -> Packet:
    """See the module's text."""
    line = body.first_line()
    try:
        head = decoded(json.HEAD.decode, line)
    except Reject:  # an object over several lines; if it is neither, JSON's reason is as good
        return json.decode(body)
    return packet_of(head, lambda: _samples(body))


def _samples(body: Body) -> Any:
    line, _, rest = body.whole().partition(b"\n")
    return ndjson.lines(rest) if rest.strip() else decoded(json.BULK.decode, line).samples


DECODER = Decoder((), "", decode)

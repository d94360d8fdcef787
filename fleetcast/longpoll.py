"""Long-polling: an app asks again and again, and each question waits until there is something to answer. Pure.

An answer holds the same events as a stream, as one JSON object:
`{"events":[{"event":"update","id":"…","data":{…}},…],"last_event_id":"…"}`. An event without an id on the stream has none here.
`last_event_id` is what to ask with next; no events means that nothing happened in the time.
"""

from __future__ import annotations

import msgspec

from fleetcast import sse
from fleetcast.errors import Refuse

MEDIA_TYPE = "application/json"
LONGEST = 60  # seconds; HAProxy's patience with those who wait is a little longer
WAITED = "Poll-Waited"
"""The front's header: for how many milliseconds a question has waited already. The edge asks the origin again whenever its
channel may have had something, and what it is told to wait then begins anew."""


class _Event(msgspec.Struct, kw_only=True, omit_defaults=True):
    event: str
    id: str = ""
    data: msgspec.Raw


class _Answer(msgspec.Struct):
    events: list[_Event]
    last_event_id: str


def wait_of(text: str) -> int:
    """How long this question may wait, in seconds. Raises Refuse."""
    if not text.isascii() or not text.isdigit() or len(text) > 2 or not 1 <= int(text) <= LONGEST:
        raise Refuse(400, "Bad wait", f"wait is 1 to {LONGEST}, in seconds")
    return int(text)


def left(wait: int, waited: str | None) -> int:
    """How many of `wait` seconds, begun ones too, are left by the front's word, which may be missing; 0: none."""
    try:
        return min(max(wait - int(waited or 0) // 1000, 0), wait)
    except ValueError:
        return wait


def answer(stream: bytes, last: str) -> bytes:
    """The events of this piece of a stream, after which the app is at the id `last`."""
    events = [
        _Event(event=one.event, id=one.id, data=msgspec.Raw(one.data.encode()))
        for one in sse.Parser().feed(stream)
    ]
    return msgspec.json.encode(_Answer(events, last))

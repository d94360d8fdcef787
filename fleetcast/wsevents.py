"""WebSockets as words: how the edge hands them over (WebSocket-over-HTTP, GRIP), and what is said on them. Pure.

The edge posts what a socket's app did as events, each a line `TYPE`, or `TYPE <length in hex>` and then the content, all ended
by CR LF, and does what the events of the answer say. In it a text after `c:` is for the edge, one after `m:` for the app.

What the app gets is what a stream has, one message an event: `{"event":"update","id":"…","data":{…}}`. An event without an id
on the stream has none here. What the app says is one thing: `{"type":"resume","last_event_id":"…"}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from fleetcast import sse
from fleetcast.errors import Refuse

MEDIA_TYPE = "application/websocket-events"
LONGEST = 4096
"""Bytes of a message of an app. An id has 50; the rest is room for what is not known yet."""
LARGEST = 100_000
"""Bytes of what is told at once. The edge gives a socket up whose app has not taken a message after 8 s."""
KEEP_ALIVE = b'{"event":"keep-alive"}'

_FRAME = 16_384  # bytes of a control message: the edge passes over one that is longer

# Why a socket is closed: of RFC 6455, or, from 4000 on, an HTTP status and 4000.
TOO_LARGE, REPLACED, TRY_AGAIN = 1009, 1012, 1013
NOT_IDENTIFIED, TOO_MANY = 4401, 4429

MOST = 20.0  # messages at once
PACE = 2.0  # messages a second, after that

_HEAD = re.compile(rb"([A-Z]{1,16})(?: ([0-9A-Fa-f]{1,7}))?\r\n")
_LONGEST_ID = 256  # as the front cuts the header: none of ours is longer


class Event(NamedTuple):
    """Of a socket. TEXT, BINARY, PING, PONG and CLOSE have a content; OPEN and DISCONNECT none."""

    kind: str
    content: bytes = b""


class Wrong(Exception):
    """An app said what is not understood: `reason` is for its code, the text for people."""

    def __init__(self, reason: str, detail: str, code: int = 0) -> None:
        super().__init__(detail)
        self.reason = reason
        self.code = code
        """What its socket is closed with; 0 if it may stay."""


class _Said(msgspec.Struct):
    type: str = ""
    last_event_id: str | None = None


class Told(NamedTuple):
    """A message for the app, and what it is."""

    event: str
    id: str
    message: bytes


class _Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    event: str
    id: str = ""
    after: str = ""
    retry: int | None = None
    data: msgspec.Raw


# With the edge


def parse(body: bytes) -> list[Event]:
    """The events that an edge posted. Raises Refuse."""
    found, at = list[Event](), 0
    while at < len(body):
        if (head := _HEAD.match(body, at)) is None:
            raise Refuse(400, "Bad request", "not the events of a WebSocket")
        at, content = head.end(), b""
        if head[2] is not None:
            end = at + int(head[2], 16)
            content = body[at:end]
            if body[end : end + 2] != b"\r\n":
                raise Refuse(400, "Bad request", "not the events of a WebSocket")
            at = end + 2
        found.append(Event(head[1].decode(), content))
    return found


def encode(events: Iterable[Event]) -> bytes:
    """As the edge reads them."""
    return b"".join(
        b"%s %x\r\n%s\r\n" % (kind.encode(), len(content), content) if content else b"%s\r\n" % kind.encode()
        for kind, content in events
    )


def control(kind: str, **more: Any) -> Event:
    """For the edge: `subscribe` to a channel, `keep-alive`."""
    return Event("TEXT", b"c:" + msgspec.json.encode({"type": kind, **more}))


def message(content: bytes) -> Event:
    """For the app, if it is short, and nothing but an end comes after it."""
    return Event("TEXT", b"m:" + content)


def messages(contents: Iterable[bytes]) -> Iterator[Event]:
    """For the app, in order, each short enough (`fitting`).

    Not by `message`: Pushpin 1.36 gets stuck in an answer that is larger than what a connection takes at once, some 8 kB, and
    if that is within a message for good. What is to be sent later it sends by another way, and later may be now.
    """
    for content in contents:
        yield _sent(content)
    yield control("flush-delayed")


def _sent(content: bytes) -> Event:
    return control("send-delayed", content=content.decode())


def close(code: int, reason: str) -> Event:
    """The end, and why; the reason has at most 123 bytes."""
    return Event("CLOSE", code.to_bytes(2, "big") + reason.encode()[:123])


# With the app


def told(stream: bytes, after: str = "") -> list[Told]:
    """A piece of a stream as messages. When to come back, in ms, stands in `unavailable`.

    `after`, of what is told without being asked: the id that it follows. Versions alone do not tell one history from another.
    """
    parser = sse.Parser()
    events = parser.feed(stream)
    return [
        Told(
            one.event,
            one.id,
            msgspec.json.encode(
                _Message(
                    event=one.event,
                    id=one.id,
                    after=after,
                    retry=parser.retry if one.event == "unavailable" else None,
                    data=msgspec.Raw(one.data.encode()),
                )
            ),
        )
        for one in events
    ]


def error(reason: str, detail: str) -> bytes:
    """A message that says that something was not understood or not done."""
    return msgspec.json.encode({"event": "error", "data": {"reason": reason, "detail": detail}})


def fetch(url: str) -> bytes:
    """A message that what follows is too large for a message: the app is to get the latest state, and resume from its ETag."""
    return msgspec.json.encode({"event": "fetch", "data": {"url": url}})


def at(event: str, last: str) -> bytes:
    """What an answer ends with. `resumed`: the app has everything up to this id; `more`: it is to resume from it at once."""
    return msgspec.json.encode({"event": event, "id": last})


def resumed(said: Event) -> str:
    """The id that an app resumes from, or "" for the beginning. Raises Wrong."""
    if said.kind != "TEXT":
        raise Wrong("not JSON", "say it as text")
    if len(said.content) > LONGEST:
        raise Wrong("too large", f"a message has at most {LONGEST} bytes", TOO_LARGE)
    try:
        found = msgspec.json.decode(said.content, type=_Said)
    except msgspec.ValidationError as why:
        raise Wrong("not understood", f'not {{"type":"resume","last_event_id":"…"}}: {why}') from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as why:
        raise Wrong("not JSON", f"not JSON: {why}"[:200]) from None
    if found.type != "resume":
        raise Wrong("not understood", "type is resume")
    return (found.last_event_id or "")[:_LONGEST_ID]


def fitting(messages: Sequence[Told]) -> Sequence[Told]:
    """The first of them, as many as are told at once; none if the first, or what belongs to it, is too large to be told."""
    room, count = LARGEST, 0
    for one in messages:
        size = len(_sent(one.message).content)
        room -= size
        if size > _FRAME or (room < 0 and count):
            break
        count += 1
    if 0 < count < len(messages) and not messages[count - 1].id:
        return ()  # a reset without its snapshot
    return messages[:count]


class Budget(NamedTuple):
    """How much an app may still say on its socket: `left` messages at `since`, in seconds since 1970."""

    left: float
    since: float

    def after(self, messages: int, now: float) -> Budget:
        """When it has said so many. Less than nothing left is too many."""
        filled = min(MOST, self.left + PACE * max(0.0, now - self.since))
        return Budget(filled - messages, now)

"""Server-Sent Events as text: what goes down a phone's stream, and how it is read back.

`event()` makes one event, `comment()` a keep-alive, `retry()` the reconnection time. Data is JSON bytes from msgspec, which
escapes every control character, so data can hold no line break; `event()` refuses one all the same, because a line
break in a name, an id or data would let a vehicle write events of its own into a phone's stream.

`Parser` reads a stream as the HTML standard says (https://html.spec.whatwg.org/multipage/server-sent-events.html):
chunks may end anywhere, lines end in LF, CR or CRLF, an unfinished event at the end of the stream is dropped.
"""

from __future__ import annotations

import codecs

import msgspec

MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE = b":\n\n"

_DATA_BREAKS = (b"\r", b"\n", b"\0")
_DIGITS = 12  # of a reconnection time in ms; a longer one is nonsense
_BREAKS = frozenset("\r\n\0")


class Event(msgspec.Struct, frozen=True):
    """One event as a client gets it: `id` is the last event id then in force, `retry` in ms if the block named one."""

    event: str
    data: str
    id: str = ""
    retry: int | None = None


def event(name: str, data: bytes, id: str | None = None) -> bytes:  # noqa: A002 - the field's name in the standard
    """One event; `data` is one line of UTF-8 text. Raises ValueError if any part holds a line break or NUL."""
    if _BREAKS & set(name) or (id is not None and _BREAKS & set(id)) or any(b in data for b in _DATA_BREAKS):
        raise ValueError("a line break or NUL in an event's name, id or data")
    head = f"id: {id}\nevent: {name}\n" if id is not None else f"event: {name}\n"
    return b"%sdata: %s\n\n" % (head.encode(), data)


def comment(text: str = "") -> bytes:
    """A comment, which clients ignore. Raises ValueError on a line break."""
    if _BREAKS & set(text):
        raise ValueError("a line break or NUL in a comment")
    return f":{' ' if text else ''}{text}\n\n".encode()


def retry(milliseconds: int) -> bytes:
    """The time a client is to wait before it comes back."""
    return b"retry: %d\n\n" % milliseconds


class Parser:
    """An incremental reader of one stream. Feed chunks in order; `last_id` is what to send as `Last-Event-ID`.

    `retry` is the last reconnection time the stream named, in ms, or None; `comments` counts those seen.
    """

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry: int | None = None
        self.comments = 0
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._rest = ""
        self._after_cr = False
        self._name = ""
        self._data: list[str] = []
        self._id = last_id
        self._retry: int | None = None

    def feed(self, chunk: bytes) -> list[Event]:
        """The events completed by this chunk."""
        text = self._decoder.decode(chunk)
        # A CR at the end of one chunk and an LF at the start of the next are one line break.
        if self._after_cr and text:
            text = text.removeprefix("\n")
            self._after_cr = False
        if text.endswith("\r"):
            self._after_cr = True
        events: list[Event] = []
        lines = (self._rest + text.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
        self._rest = lines.pop()
        for line in lines:
            if line:
                self._field(line)
            elif (done := self._dispatch()) is not None:
                events.append(done)
        return events

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._name = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit() and len(value) <= _DIGITS:
            self.retry = self._retry = int(value)
        elif not name:
            self.comments += 1

    def _dispatch(self) -> Event | None:
        name, data, retry_ = self._name, self._data, self._retry
        self._name, self._data, self._retry = "", [], None
        self.last_id = self._id
        if not data:
            return None
        return Event(event=name or "message", data="\n".join(data), id=self._id, retry=retry_)

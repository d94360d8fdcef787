"""Server-Sent Events, read as https://html.spec.whatwg.org/multipage/server-sent-events.html says. Pure.

Beside what the standard dispatches an `Event` says whether it had an id of its own, since a stream's last id outlives the event
that named it; and `Reader` counts comments, which the standard ignores: they are this protocol's keep-alive.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

import msgspec

_END = re.compile(r"\r\n|\n|\r(?!\Z)")  # of a line; a CR at the end of what came waits: an LF may follow


class Event(msgspec.Struct, frozen=True):
    """One event. `last_id` is what to come back with after it, `id` what itself named, or None; `retry` in ms."""

    name: str
    text: str
    last_id: str = ""
    id: str | None = None
    retry: int | None = None


class Reader:
    """Feed it a stream's bytes as they come."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.comments = 0
        self.retry: int | None = None
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._text = ""
        self._searched = 0  # so far it holds no line's end
        self._fields: list[tuple[str, str]] = []

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now."""
        self._text += self._decode.decode(data)
        return list(self._events())

    def _events(self) -> Iterator[Event]:
        at = 0
        for end in _END.finditer(self._text, self._searched):
            line, at = self._text[at : end.start()], end.end()
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(":")
                self._fields.append((name, value[1:] if value[:1] == " " else value))
            else:
                fields, self._fields = self._fields, []
                if (event := self._event(fields)) is not None:
                    yield event
        self._text = self._text[at:]
        self._searched = max(0, len(self._text) - 1)

    def _event(self, fields: list[tuple[str, str]]) -> Event | None:
        name, own, retry, data = "", None, None, list[str]()
        for field, value in fields:
            if field == "event":
                name = value
            elif field == "data":
                data.append(value)
            elif field == "id" and "\0" not in value:
                own = value
            elif field == "retry" and re.fullmatch("[0-9]{1,9}", value):
                retry = self.retry = int(value)
        if own is not None:
            self.last_id = own
        return Event(name or "message", "\n".join(data), self.last_id, own, retry) if data else None

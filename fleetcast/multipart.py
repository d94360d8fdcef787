"""Many packets in one request: the parts of a `multipart/mixed` body (RFC 2046), in their order.

In: the body in pieces, and its boundary. Out: each part's headers and bytes, when the whole has been read: nothing is known
of a batch before its end is. What is malformed, or not ended by its last boundary, raises Refuse 400, too many parts 413.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from fleetcast.errors import Refuse

MIXED = "multipart/mixed"
PARTS = 100
"""Parts of a batch at most."""

_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]\Z")

# What the parser says of each malformed request is said to its sender: it must not fill the log.
logging.getLogger("python_multipart").addHandler(logging.NullHandler())


class Part(msgspec.Struct):
    """One part; names of headers are in small letters."""

    headers: dict[str, str] = {}
    body: bytes = b""


def boundary_of(content_type: str) -> bytes | None:
    """The boundary that this header names, None if it is of no `multipart/mixed`. Raises Refuse."""
    if content_type.partition(";")[0].strip().lower() != MIXED:
        return None
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not _BOUNDARY.match(boundary):
        raise Refuse(400, "Bad batch", "multipart/mixed without a boundary of 1 to 70 allowed characters")
    return boundary


async def read_parts(pieces: AsyncIterator[bytes], boundary: bytes) -> list[Part]:
    """All parts. Raises Refuse."""
    reading = _Reading(boundary)
    async for piece in pieces:
        reading.feed(piece)
    return reading.parts()


class _Reading:
    """The parser calls back with pieces of names, values and bodies; here they become parts."""

    def __init__(self, boundary: bytes) -> None:
        self._parts: list[Part] = []
        self._ended = False
        self._name: list[bytes] = []
        self._value: list[bytes] = []
        self._body: list[bytes] = []
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._name.append(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.append(data[start:end]),
                "on_header_end": self._header,
                "on_part_data": lambda data, start, end: self._body.append(data[start:end]),
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )

    def feed(self, piece: bytes) -> None:
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise Refuse(400, "Bad batch", f"not multipart/mixed: {error}") from None

    def parts(self) -> list[Part]:
        if not self._ended:
            raise Refuse(400, "Bad batch", "not multipart/mixed: it ends before its last boundary")
        if not self._parts:
            raise Refuse(400, "Bad batch", "no parts")
        return self._parts

    def _begin(self) -> None:
        if len(self._parts) == PARTS:
            raise Refuse(413, "Batch too large", f"more than {PARTS} parts")
        self._parts.append(Part())

    def _header(self) -> None:
        name, value = (b"".join(pieces).decode("latin-1") for pieces in (self._name, self._value))
        self._parts[-1].headers[name.strip().lower()] = value.strip()
        self._name.clear()
        self._value.clear()

    def _end(self) -> None:
        self._parts[-1].body = b"".join(self._body)
        self._body.clear()

    def _finish(self) -> None:
        self._ended = True

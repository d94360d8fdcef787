"""Compressed bytes, inflated as far as somebody asks, and never without a bound: no bomb passes.

In: a body as it was sent, with its content encoding. Out: its whole text, or only its first line, which is what makes a
packet of 1 MB with its head first cost what one of 5 kB does. Damaged or truncated bytes raise `Reject` with a reason for
a person, too many of them `TooLarge`; nothing else is raised.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import cast

from backports import zstd

from fleetcast.errors import Reject, TooLarge

ENCODINGS = ("identity", "gzip", "zstd")

_STEP = 65536
_WINDOW: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}  # 8 MB: RFC 9659
_FRAMES = 256  # of one body; each costs an inflater, whatever it holds


class Body:
    """A packet's bytes as they were sent; `limit` bounds its text in bytes. Each method inflates anew, and raises Reject."""

    def __init__(self, sent: bytes, encoding: str, limit: int) -> None:
        self._sent = sent
        self._encoding = encoding
        self._limit = limit

    def whole(self) -> bytes:
        """All of the text."""
        return inflate(self._sent, self._encoding, self._limit)

    def first_line(self) -> bytes:
        """The text up to its first line break, or its end; what comes after is not looked at, damaged or not."""
        parts: list[bytes] = []
        size = 0
        for part in _chunks(self._sent, self._encoding):
            end = part.find(b"\n")
            line = part if end < 0 else part[:end]
            size += len(line)
            if size > self._limit:
                raise TooLarge(f"more than {self._limit} bytes when inflated")
            parts.append(line)
            if end >= 0:
                break
        return b"".join(parts)


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """The whole text. Raises Reject if it is truncated, damaged, or longer than `limit` bytes."""
    parts: list[bytes] = []
    size = 0
    # In one step, which takes half the time of many; what the frames declare bounds nothing, they may lie.
    for part in _chunks(body, encoding, limit + 1):
        size += len(part)
        if size > limit:
            raise TooLarge(f"more than {limit} bytes when inflated")
        parts.append(part)
    return b"".join(parts)


def declared_size(body: bytes, encoding: str) -> int | None:
    """What its frames together say that they inflate to; None if one does not say, or is damaged."""
    if encoding != "zstd":
        return len(body) if encoding == "identity" else None
    size, rest = 0, body
    try:
        for _ in range(_FRAMES):
            declared = cast("int | None", zstd.get_frame_info(rest).decompressed_size)  # its type says int
            if declared is None:
                return None
            size += declared
            rest = rest[zstd.get_frame_size(rest) :]
            if not rest:
                return size
    except zstd.ZstdError:
        pass
    return None


def bound_size(body: bytes, encoding: str, limit: int) -> None:
    """Raises TooLarge if the body inflates to more than `limit` bytes: by what its frames declare, else by inflating it,
    keeping nothing. Whether it is damaged is not asked here.
    """
    size = declared_size(body, encoding)
    if size is None:
        size = 0
        with suppress(Reject):
            for part in _chunks(body, encoding):
                size += len(part)
                if size > limit:
                    break
    if size > limit:
        raise TooLarge(f"more than {limit} bytes when inflated")


def sniffed(body: bytes) -> str:
    """The content encoding that the first bytes tell, for whoever is not told it: zstd, gzip or identity.

    No packet that is not compressed begins so: a JSON object begins with `{` or white space, a MessagePack map with 0x80 to
    0x8f, 0xde or 0xdf.
    """
    if body[:4] == b"\x28\xb5\x2f\xfd" or (
        body[1:4] == b"\x2a\x4d\x18" and body[0] >> 4 == 5
    ):  # a skippable frame
        return "zstd"
    return "gzip" if body[:2] == b"\x1f\x8b" else "identity"


def _chunks(body: bytes, encoding: str, step: int = _STEP) -> Iterator[bytes]:
    """The inflated text in pieces of at most `step` bytes: a reader may stop early. Empty, truncated or damaged: Reject."""
    if encoding == "identity":
        yield body
    elif encoding == "zstd":
        yield from _zstd(body, step)
    elif encoding == "gzip":
        yield from _gzip(body, step)
    else:
        raise Reject(f"content encoding {encoding!r} is not one of {', '.join(ENCODINGS)}")


def _zstd(body: bytes, step: int) -> Iterator[bytes]:
    try:
        for _ in range(_FRAMES):  # a body may be several frames one after another
            inflater = zstd.ZstdDecompressor(options=_WINDOW)
            part = inflater.decompress(body, step)
            yield part
            while not inflater.eof:
                if inflater.needs_input:
                    raise Reject("truncated zstd")
                yield inflater.decompress(b"", step)
            body = inflater.unused_data
            if not body:
                return
        raise Reject(f"more than {_FRAMES} zstd frames")
    except zstd.ZstdError as error:
        raise Reject(f"damaged zstd: {error}") from None


def _gzip(body: bytes, step: int) -> Iterator[bytes]:
    try:
        for _ in range(_FRAMES):  # a body may be several members one after another
            inflater = zlib.decompressobj(wbits=31)
            rest = body
            while not inflater.eof:
                part = inflater.decompress(rest, step)
                if not part and not inflater.eof:
                    raise Reject("truncated gzip")
                rest = inflater.unconsumed_tail
                yield part
            body = inflater.unused_data
            if not body:
                return
        raise Reject(f"more than {_FRAMES} gzip members")
    except zlib.error as error:
        raise Reject(f"damaged gzip: {error}") from None

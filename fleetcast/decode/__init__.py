"""The forms that packets come in, one file each: from a body to a `Packet`; named in the setting `decoders`.

A form is known by its content type (HTTP), or by the last level of the MQTT topic, `vehicles/{vehicle}/packets/{suffix}`; the
decoder whose suffix is empty takes the topic without one, and must see for itself. A decoder inflates no more than it
needs (`body.first_line`, `body.whole`) and leaves the samples for later. What is wrong raises `Reject` with a reason for a
person; ingest answers 400 for it, consume puts the packet into REJECTED.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable

import msgspec

from fleetcast.errors import Reject, Unusable
from fleetcast.inflate import Body
from fleetcast.inflate import sniffed as sniffed
from fleetcast.packet import Packet

_CONTENT_TYPE = re.compile(r"[a-z0-9.+-]+/[a-z0-9.+-]+\Z")
_SUFFIX = re.compile(r"([a-z0-9-]{1,32})?\Z")


class Decoder(msgspec.Struct, frozen=True):
    """One form: how it is named, and `decode`, which is pure and raises Reject (TooLarge), nothing else."""

    content_types: tuple[str, ...]
    """In small letters, without parameters; none if it has no name by HTTP."""
    suffix: str | None
    """The last level of its MQTT topic; empty: the topic without one; None: not by MQTT."""
    decode: Callable[[Body], Packet]


class Decoders:
    """Those of the settings, by the names that packets call them."""

    def __init__(self, named: Iterable[tuple[str, Decoder]]) -> None:
        self._by_form: dict[str, tuple[str, Decoder]] = {}
        for name, decoder in named:
            suffix = () if decoder.suffix is None else (decoder.suffix,)
            for form in (*decoder.content_types, *suffix):
                if (other := self._by_form.setdefault(form, (name, decoder))[0]) != name:
                    raise Unusable(f"decoders: {other} and {name} both take {form!r}")
        self.content_types = tuple(form for form in self._by_form if "/" in form)
        self.suffixes = tuple(form for form in self._by_form if form and "/" not in form)

    def decode(self, body: bytes, form: str, encoding: str, limit: int) -> Packet:
        """The packet in these bytes. `form` is a content type, a topic's suffix, or empty; `limit` bounds the inflated size
        in bytes. Raises Reject, or TooLarge, and nothing else.
        """
        if form not in self._by_form:
            raise Reject(f"form {form!r} is not one of {', '.join((*self.content_types, *self.suffixes))}")
        name, decoder = self._by_form[form]
        try:
            packet = decoder.decode(Body(body, encoding, limit))
        except Reject:
            raise
        except Exception as error:
            raise Reject(
                f"decoder {name} raised {type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
        if not isinstance(packet, Packet):
            raise Reject(f"decoder {name} returned {type(packet).__name__}, not a Packet")
        return packet


def load(names: Iterable[str]) -> Decoders:
    """`module` (its `DECODER`) or `module:NAME`, … -> the decoders. Raises Unusable."""
    decoders = Decoders([(name, _one(name)) for name in names])
    if not decoders.content_types:
        raise Unusable("decoders: none that takes a content type, so no packet could be sent")
    return decoders


def _one(name: str) -> Decoder:
    module, _, constant = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), constant or "DECODER")
    except Exception as error:  # noqa: BLE001 - a plugin's module may raise anything when it is imported
        raise Unusable(f"decoders: {name} cannot be loaded: {error}") from None
    if not isinstance(found, Decoder):
        raise Unusable(f"decoders: {name} is not a fleetcast.decode.Decoder")
    for form in found.content_types:
        if not _CONTENT_TYPE.match(form):
            raise Unusable(f"decoders: {name} takes {form!r}, which is not a content type in small letters")
    if found.suffix is not None and not _SUFFIX.match(found.suffix):
        raise Unusable(
            f"decoders: {name} has the suffix {found.suffix!r}, which is not up to 32 of a-z 0-9 -"
        )
    return found

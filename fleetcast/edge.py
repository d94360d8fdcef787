"""The seam of the edge: publishing to the replicas that hold phones' streams. `pushpin` has the adapters.

An item carries its event's id and the id before it on its channel, so that a replica notices a gap and asks the origin to
fill it. Publishing therefore may lose an item, never reorder or invent one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

FITS_NOBODY = "none"
"""As `prev`: an item that brings nothing, and only makes the edge ask the origin for what each listener may lack."""


class Item(msgspec.Struct, frozen=True, gc=False):
    """One event on a channel: its id, the id before it there, and the bytes for the stream."""

    channel: str
    id: str
    prev: str
    content: bytes


class Edge(Protocol):
    """See the module's text."""

    async def ready(self) -> None:
        """Returns once it is known who listens (or a replica has had its time to say so)."""

    def listeners(self, channel: str) -> int:
        """How many replicas have a listener of this channel; an adapter that cannot know says: all."""

    def replicas(self, channel: str) -> Sequence[str]:
        """Their names."""

    def channels(self) -> Sequence[str]:
        """The channels with listeners, as far as known."""

    async def publish(self, items: Sequence[Item]) -> None:
        """Sends each item to the replicas that listen to its channel, in order within a channel. Never raises for a
        replica that does not take it: the chain heals that.
        """

    async def close(self) -> None:
        """Sends what is on its way, within a bound."""

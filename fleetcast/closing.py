"""Closes the streams whose credential ended or was revoked, at every edge replica. Each consume process does it, and it does no
harm that several do: a close that finds no stream is nothing.

No stream has a timer. The second in which a credential ends is the name of a channel, so the clock says which channels to
close, and the edge's subscriptions whether there are any. A phone that was closed comes back, and an origin tells it 401.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from fleetcast import metrics
from fleetcast.clock import Clock
from fleetcast.revoked import USER, Revocation
from fleetcast.subjects import expiry_channel, token_channel, user_channel

TICK = 0.2
_AGAIN = 3.0
"""Seconds in which a revocation is published again: a stream that was being opened meanwhile may not be held yet."""
_BACK = 120
"""Seconds for which a credential's end is looked back at, for replicas and processes that were away. What is older is ended by
the next link."""
_RECENT = 60.0
"""Of revocations that a process finds when it starts, those that are not older are published."""


class Closer(Protocol):
    """What is needed of the edge."""

    def listeners(self, channel: str) -> int:
        """How many replicas have a listener of this channel."""

    async def end(self, channels: Sequence[str]) -> None:
        """Closes the streams that these channels hold, at each replica that listens to them."""


class Closing:
    """`hears`: whether the edge knows who listens; else what is due is sent once, to all."""

    def __init__(self, edge: Closer, clock: Clock, *, hears: bool) -> None:
        self._edge = edge
        self._clock = clock
        self._back = _BACK if hears else 0
        self._upto = int(clock.now()) - 1
        self._revoked: dict[str, float] = {}

    def take(self, entries: Sequence[Revocation]) -> None:
        """Revocations; those of long ago are passed over."""
        now = self._clock.now()
        for one in entries:
            if now - one.at < _RECENT:
                name = (user_channel if one.kind == USER else token_channel)(one.digest)
                self._revoked.setdefault(name, now + _AGAIN)

    async def tick(self) -> None:
        """Closes what is due now."""
        now = self._clock.now()
        first = min(self._upto + 1, int(now) + 1 - self._back)
        expired = [
            name
            for second in range(first, int(now) + 1)
            if self._edge.listeners(name := expiry_channel(second))
        ]
        self._upto = int(now)
        revoked = [name for name in self._revoked if self._edge.listeners(name)]
        for name in [name for name, until in self._revoked.items() if until <= now]:
            del self._revoked[name]
        metrics.CLOSED.labels("expired").inc(len(expired))
        metrics.CLOSED.labels("revoked").inc(len(revoked))
        if expired or revoked:
            await self._edge.end([*expired, *revoked])

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.tick()
            await asyncio.sleep(TICK)

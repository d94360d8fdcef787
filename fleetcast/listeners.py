"""Who listens to what, as the edge's replicas tell it, so that it can be asked for many channels with each packet. Pure.

A channel is listened to if it or a sibling of it is: those who long-poll and those by WebSocket listen to names of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fleetcast.subjects import sibling_of

_NOBODY: dict[str, int] = {}


class Listeners:
    """Of all replicas, by their names."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}
        """By replica what it listens to."""
        self._replicas: dict[str, dict[str, int]] = {}
        """By channel the replicas, each with how many names of that channel it listens to."""

    def add(self, replica: str, name: str) -> None:
        """It listens to this name now, if it did not."""
        names = self._names.setdefault(replica, set())
        if name not in names:
            names.add(name)
            counts = self._replicas.setdefault(sibling_of(name), {})
            counts[replica] = counts.get(replica, 0) + 1

    def discard(self, replica: str, name: str) -> None:
        """It does no longer, if it did."""
        names = self._names.get(replica, set())
        if name in names:
            names.remove(name)
            channel = sibling_of(name)
            counts = self._replicas[channel]
            counts[replica] -= 1
            if not counts[replica]:
                del counts[replica]
            if not counts:
                del self._replicas[channel]

    def gone(self, replica: str) -> None:
        """It listens to nothing any more."""
        for name in list(self._names.get(replica, ())):
            self.discard(replica, name)
        self._names.pop(replica, None)

    def hears(self, replica: str, name: str) -> bool:
        """Whether it listens to exactly this name."""
        return name in self._names.get(replica, ())

    def of(self, channel: str) -> Collection[str]:
        """The replicas that listen to it."""
        return self._replicas.get(channel, _NOBODY).keys()

    def channels(self) -> Sequence[str]:
        """Those that somebody listens to, in order."""
        return sorted(self._replicas)

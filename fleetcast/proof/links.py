"""What LIVE took of a vehicle, as phones of one view must see it. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from math import isfinite
from typing import Any
from zlib import crc32

import msgspec

from fleetcast.proof.fold import seconds, shown

_CALM_COMES = 2.5  # seconds after the end of a bucket, in which what came in it must be with all phones
_CALM_LATE = 1.0  # and with most of them
_CALM_CLOSE = 0.5  # before it: what is committed then may go with the next

WAITS, URGENT, STATUS = 0, 1, 2
"""What calm streams do with it: a change of status they do not hold back either, but it stays an update of its own."""


class Links:
    """By each version that touched the view, and 0, the empty one."""

    def __init__(self) -> None:
        self.versions = array("L", [0])
        self.updates = array("L", [0])  # the checksum of the update as phones get it
        self.views = array("L", [shown({}, "", "")])  # of the view it makes
        self.mute = array(
            "L", [shown({}, "", "")]
        )  # of the same for who was never told a status, if none was to be told yet
        self.stored = array("d", [0.0])  # when, seconds since 1970
        self.times = array("d", [0.0])  # of the packet, which is what buckets go by
        self.kinds = array("b", [WAITS])

    def add(
        self, version: int, update: dict[str, Any], view: int, mute: int, stored: float, kind: int
    ) -> None:
        """The next one. `update` has the signals of this view alone, and another `prev`. `view` and `mute` are digests."""
        data = msgspec.json.encode(update | {"prev": self.versions[-1]})
        self.versions.append(version)
        self.updates.append(crc32(data))
        self.views.append(view)
        self.mute.append(mute)
        self.stored.append(stored)
        self.times.append(seconds(update["updated_at"]))
        self.kinds.append(kind)

    def at(self, version: int) -> int | None:
        """Where this version is."""
        at = bisect_left(self.versions, version)
        return at if at < len(self.versions) and self.versions[at] == version else None

    def upto(self, version: int) -> int:
        """Where the last one that is not after this version is."""
        return bisect_right(self.versions, version) - 1

    def cut(self, version: int) -> None:
        """What is after this version is gone."""
        end = self.upto(version) + 1
        for column in (
            self.versions,
            self.updates,
            self.views,
            self.mute,
            self.stored,
            self.times,
            self.kinds,
        ):
            del column[end:]

    def due(self, version: int, every: int, now: float) -> int:
        """The version that a phone must have when `version` is due, on a calm stream if `every`."""
        at = self.upto(version)
        if every:
            over = (now - _CALM_COMES) // every * every if isfinite(now) else now
            while at and self.stored[at] >= over and self.kinds[at] == WAITS:
                at -= 1
        return self.versions[at]

    def early(self, version: int, every: int) -> bool:
        """Whether this had to wait for the one after it, which came in the same bucket, and well before its end."""
        at = self.at(version)
        if (
            at is None
            or self.kinds[at] != WAITS
            or at + 1 == len(self.versions)
            or self.kinds[at + 1] == STATUS
        ):
            return False
        bucket = self.times[at] // every
        end = (bucket + 1) * every - _CALM_CLOSE
        return self.times[at + 1] // every == bucket and self.stored[at + 1] < end

    def held(self, prev: int, version: int) -> bool | None:
        """Whether something in it that was not to wait did, for the last of it; None if there is nothing such in it."""
        first, last = self.upto(prev) + 1, self.upto(version)
        hasty = [at for at in range(first, last + 1) if self.kinds[at] != WAITS]
        return hasty[0] < last if hasty else None

    def late(self, prev: int, version: int, every: int, when: float) -> bool | None:
        """Whether the first of it, and with it all, waited for longer than its bucket; None if the last did not wait."""
        first, last = self.upto(prev) + 1, self.at(version)
        if last is None or self.kinds[last] != WAITS or first > last:
            return None
        return when > (self.stored[first] // every + 1) * every + _CALM_LATE

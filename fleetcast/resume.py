"""What a phone that comes back must get: one pure function, used for `Last-Event-ID` and for the edge's next link alike.

An event id is `<epoch>-<version>`. The epoch is random, made with LIVE and renewed by a restore, so ids of another
platform, or from before a restore, are told from ours instead of being taken for versions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from fleetcast.state import State
from fleetcast.update import Update

_ID = re.compile(r"([0-9a-f]{1,32})-(0|[1-9][0-9]{0,15})\Z", re.ASCII)

EXPIRED = "expired"
FOREIGN = "foreign"


class Replay(msgspec.Struct, frozen=True):
    """These updates, in order; none if nothing was missed. `upto` is the version the phone is at afterwards."""

    updates: Sequence[Update]
    upto: int


class Reset(msgspec.Struct, frozen=True):
    """Something was lost, or never ours: say so in band, then send the snapshot of version `to`."""

    reason: str
    last: str
    to: int


class Ahead(msgspec.Struct, frozen=True):
    """The phone is ahead of what was read: the replica read from is stale. Ask the leader."""


def event_id(epoch: str, version: int) -> str:
    """The id of the event that leads to this version."""
    return f"{epoch}-{version}"


def version_of(epoch: str, last: str) -> int | None:
    """The version in an event id of this epoch, or None: another epoch's, or not an id of ours at all."""
    match = _ID.match(last)
    return int(match[2]) if match and match[1] == epoch else None


def resume(
    epoch: str, last: str, state: State, window: Sequence[Update], *, leader: bool
) -> Replay | Reset | Ahead:
    """What follows `last`, given a state and the updates retained, both as read in one go.

    `leader` says that they were read from the leader, so that whoever is ahead of them cannot be ours.
    """
    version = version_of(epoch, last)
    if version is None:
        return Reset(FOREIGN, last, state.version)
    if version > state.version:
        return Reset(FOREIGN, last, state.version) if leader else Ahead()
    missed = [update for update in window if version < update.version <= state.version]
    upto = version
    for update in missed:
        if update.prev != upto:
            return Reset(EXPIRED, last, state.version)
        upto = update.version
    return Replay(missed, upto) if upto == state.version else Reset(EXPIRED, last, state.version)

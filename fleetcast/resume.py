"""What a phone that comes back must get: one pure function, used for `Last-Event-ID` and for the edge's next link alike.

An event id is `<epoch>.<life>-<version>`. The epoch is random, made with LIVE and renewed by a restore, so ids of another
platform, or from before a restore, are told from ours instead of being taken for versions. The life is the vehicle's: a
vehicle that was forgotten and sends again begins at version 1, and is another one to whoever has ids of before. Version 0 is
nobody's life, and states of before there were lives have none: `<epoch>-<version>`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from fleetcast.state import State
from fleetcast.update import Update

_ID = re.compile(r"([0-9a-f]{1,32})(?:\.([0-9a-f]{8}))?-(0|[1-9][0-9]{0,15})\Z", re.ASCII)

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
    """The phone is ahead of what was read, or of another life: the replica read from may be stale. Ask the leader."""


def event_id(epoch: str, version: int, life: str = "") -> str:
    """The id of the event that leads to this version in this life."""
    return f"{epoch}.{life}-{version}" if life and version else f"{epoch}-{version}"


def version_of(epoch: str, last: str) -> int | None:
    """The version in an event id of this epoch, of whichever life, or None: another epoch's, or not an id of ours at all."""
    match = _ID.match(last)
    return int(match[3]) if match and match[1] == epoch else None


def resume(
    epoch: str, last: str, state: State, window: Sequence[Update], *, leader: bool
) -> Replay | Reset | Ahead:
    """What follows `last`, given a state and the updates retained, both as read in one go.

    `leader` says that they were read from the leader, so that whoever is ahead of them cannot be ours.
    """
    version = version_of(epoch, last)
    if version is None:
        return Reset(FOREIGN, last, state.version)
    if version > state.version or last != event_id(epoch, version, state.life):
        return Reset(FOREIGN, last, state.version) if leader else Ahead()
    missed = [update for update in window if version < update.version <= state.version]
    upto = version
    for update in missed:
        if update.prev != upto:
            return Reset(EXPIRED, last, state.version)
        upto = update.version
    return Replay(missed, upto) if upto == state.version else Reset(EXPIRED, last, state.version)

"""What a phone that comes back must get: one pure function, used for `Last-Event-ID` and for the edge's next link alike.

An event id is `<epoch>.<life>-<version>`, of a view but `all` `<epoch>.<life>.<key>-<version>`. The epoch is random, made with
LIVE and renewed by a restore, so ids of another platform, or from before a restore, are told from ours instead of being taken
for versions. The life is the vehicle's: a vehicle that was forgotten and sends again begins at version 1, and is another one
to whoever has ids of before. Version 0 is nobody's life, and states of before there were lives have none: `<epoch>-<version>`.
The key is the view's (`views`): to a stream of one view the ids of another are foreign, and so are those of the same name when
it was defined otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from fleetcast.state import State
from fleetcast.update import Update
from fleetcast.views import EVERYTHING, View

_ID = re.compile(
    r"([0-9a-f]{1,32})(?:\.([0-9a-f]{8}))?(?:\.([a-z]{1,20}_[0-9a-f]{8}))?-(0|[1-9][0-9]{0,15})\Z", re.ASCII
)

EXPIRED = "expired"
FOREIGN = "foreign"


class Replay(msgspec.Struct, frozen=True):
    """These updates of the view, in order; none if nothing was missed. `upto` is the version the phone is at afterwards."""

    updates: Sequence[Update]
    upto: int


class Reset(msgspec.Struct, frozen=True):
    """Something was lost, or never ours: say so in band, then send the snapshot of version `to`."""

    reason: str
    last: str
    to: int


class Ahead(msgspec.Struct, frozen=True):
    """The phone is ahead of what was read, or of another life: the replica read from may be stale. Ask the leader."""


def event_id(epoch: str, version: int, life: str = "", key: str = "") -> str:
    """The id of the event that leads to this version, in this life, of the view with this key."""
    name = f"{epoch}.{life}" if life and version else epoch
    return f"{name}.{key}-{version}" if key else f"{name}-{version}"


def version_of(epoch: str, last: str, key: str = "") -> int | None:
    """The version in an event id of this epoch and view, of whichever life, or None: another's, or not an id of ours at all."""
    match = _ID.match(last)
    return int(match[4]) if match and (match[1], match[3] or "") == (epoch, key) else None


def resume(
    epoch: str,
    last: str,
    state: State,
    window: Sequence[Update],
    *,
    leader: bool,
    view: View = EVERYTHING,
) -> Replay | Reset | Ahead:
    """What follows `last` on a view, given a state and the updates retained, both as read in one go.

    `leader` says that they were read from the leader, so that whoever is ahead of them cannot be ours.
    """
    version, now = version_of(epoch, last, view.key), view.version(state)
    if version is None:
        return Reset(FOREIGN, last, now)
    if version > now or last != event_id(epoch, version, state.life, view.key):
        return Reset(FOREIGN, last, now) if leader else Ahead()
    chain = [update for one in window if (update := view.of(one)) is not None]
    missed = [update for update in chain if version < update.version <= now]
    upto = version
    for update in missed:
        if update.prev != upto:
            return Reset(EXPIRED, last, now)
        upto = update.version
    return Replay(missed, upto) if upto == now else Reset(EXPIRED, last, now)

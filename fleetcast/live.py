"""The seam of the live state: the latest state of each vehicle, and the window of updates that led to it.

`commit` is atomic and durable, and fenced: it succeeds only if each state's revision is still the one it was read at, so of
two processes that both believe that they own a vehicle only one gets through. `nats_live` is the one adapter yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from fleetcast.errors import FleetcastError
from fleetcast.state import State
from fleetcast.update import Update
from fleetcast.views import EVERYTHING, View


class Held(msgspec.Struct, frozen=True, gc=False):
    """A state and its revision, which rises with each commit; 0 if the vehicle never sent."""

    state: State
    revision: int


class Change(msgspec.Struct, frozen=True, gc=False):
    """One vehicle's part of a commit: the state after, the revision it was based on, each update that led there."""

    state: State
    revision: int
    updates: Sequence[Update]


class Fenced(FleetcastError):
    """The commit was refused whole, or its answer did not come: what we believe of these vehicles may be wrong."""


class Refused(FleetcastError):
    """The commit was refused whole for what is in it, and will be again: find the vehicle and reject its packet."""


class Live(Protocol):
    """See the module's text."""

    async def epoch(self) -> str:
        """The platform's epoch: random hex, new with each restore. Raises Unavailable."""

    async def latest(self, vehicle: str, *, leader: bool = False) -> Held:
        """The latest state, the empty one for a vehicle that never sent; from the leader if it must not be stale."""

    async def vehicles(self) -> Sequence[str]:
        """All vehicles that ever sent, in order of their ids."""

    async def latest_of(self, vehicles: Sequence[str]) -> Sequence[State]:
        """The latest states of these that ever sent, not stale, in any order: for many at once, cheaper than `latest`."""

    async def since(
        self, vehicle: str, version: int, *, leader: bool = False, view: View = EVERYTHING
    ) -> tuple[State, Sequence[Update]]:
        """The latest state, and the retained updates after `version` up to it, in order, as far back as there is no hole.

        Of a view: up to its last one, those that are not of it among them. A `version` of -1 asks for the state alone.
        """

    async def commit(self, changes: Sequence[Change], epoch: str = "") -> Sequence[int]:
        """All of it or nothing; the new revisions. Raises Fenced, Refused or Unavailable; then the caller reloads.

        With an `epoch` only if it is still the platform's: revisions of before a restore may fit by chance.
        """

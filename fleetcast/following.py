"""What follows: the events that a phone, or the edge for its phones, must get after an id on a view of a vehicle.

In: a vehicle, a view, the id that the phone is at, if any. Out: (events as the stream's bytes, the id it is at after them),
from one reading of the live state. `resume` decides; here is what it needs read, and the leader asked where a copy may lag.
"""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from fleetcast import metrics
from fleetcast.calm import conflated
from fleetcast.clock import Clock
from fleetcast.events import reset_event, snapshot_event, update_event
from fleetcast.live import Live
from fleetcast.resume import FOREIGN, Ahead, Replay, Reset, event_id, resume, version_of
from fleetcast.state import State
from fleetcast.views import View

log = structlog.get_logger()

_EPOCH_SECONDS = 1.0
_DEPOSED = 1.2
"""Seconds in which a leader that was replaced while it hung learns of it: more than a heartbeat of its successor."""


class Following:
    """Over the live seam. Every method raises Unavailable."""

    def __init__(self, live: Live, clock: Clock) -> None:
        self._live = live
        self._clock = clock
        self._epoch = ("", -_EPOCH_SECONDS)

    async def epoch(self) -> str:
        """Asked again every second: a restore renews it. A phone served with an old one is told `foreign` soon after."""
        epoch, when = self._epoch
        now = self._clock.monotonic()
        if now - when >= _EPOCH_SECONDS:
            epoch = await self._live.epoch()
            self._epoch = (epoch, now)
        return epoch

    async def begun(self, vehicle: str, view: View) -> tuple[bytes, str]:
        """For a phone that has nothing yet: the snapshot."""
        epoch = await self.epoch()
        state = (await self._live.latest(vehicle)).state
        metrics.SNAPSHOTS.inc()
        at = id_of(epoch, state, view)
        return snapshot_event(view.snapshot(state), at), at

    async def since(self, vehicle: str, view: View, last: str, by: str, every: int = 0) -> tuple[bytes, str]:
        """For one that is at `last`: the updates since, none if there are none, or a reset and the snapshot.

        `by` is who asks, `phone` or `edge`: for the metrics. `every`: on a calm stream of this class, what does not wait.
        """
        epoch = await self.epoch()
        version = version_of(epoch, last, view.key)
        read = partial(self._live.since, vehicle, -1 if version is None else version, view=view)
        what_follows = partial(resume, epoch, last, view=view)
        state, window = await read()
        found = what_follows(state, window, leader=False)
        if isinstance(found, Ahead):  # a stale replica was read
            state, window = await read(leader=True)
            found = what_follows(state, window, leader=True)
            if isinstance(found, Reset) and found.reason == FOREIGN:
                # Not known to the leader either: not an id of ours. Or that was a leader that others have replaced already, and
                # that did not know it yet: by now it does, or says that it hears no others.
                await asyncio.sleep(_DEPOSED)
                state, window = await read(leader=True)
                await self._live.epoch()
                found = what_follows(state, window, leader=True)
        name = partial(event_id, epoch, life=state.life, key=view.key)
        if isinstance(found, Replay):
            metrics.REPLAYS.labels(by).inc()
            updates = conflated(found.updates, self._clock.now(), every) if every else found.updates
            metrics.REPLAYED.labels(by).inc(len(updates))
            if not updates:  # nothing was missed, or all of it waits: it is where it was
                return b"", last
            parts = [update_event(update, name(update.version)) for update in updates]
            return b"".join(parts), name(updates[-1].version)
        assert isinstance(found, Reset)
        metrics.RESETS.labels(found.reason, by).inc()
        log.warning(
            "reset", vehicle=vehicle, view=view.name, reason=found.reason, last=last[:80], to=found.to, by=by
        )
        at = name(found.to)
        return reset_event(found.reason, last, at, vehicle) + snapshot_event(view.snapshot(state), at), at


def id_of(epoch: str, state: State, view: View) -> str:
    """The id of the event that led to the view as it is in this state."""
    return event_id(epoch, view.version(state), state.life, view.key)

"""Calm streams: at most one update a bucket, made of all that came in it. Pure.

A class is a number of seconds. Its buckets are of the wall clock, the same everywhere: each begins at a multiple of these
seconds since 1970. An update is of the bucket in which its packet was stored (`updated_at`). What a phone on a calm stream
gets is the chain of its view, some links of it made one: so ids are the view's own, and who has one can go on with any class,
or with none. Two rules say what is made one, for what is published (`Calm`) and for what is replayed (`conflated`) alike:

- An update waits for the end of its bucket, and with it what waits before it in the chain.
- One that is urgent or says a status does not wait, nor does what waits before it. A status stays an event of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fleetcast.clock import rfc3339, seconds
from fleetcast.errors import Refuse
from fleetcast.update import Update, merged
from fleetcast.views import View

CLASSES = (5, 30, 60)
GRACE = 0.25
"""Seconds after its end in which a bucket's last updates may still be committed. One that comes later goes with the next."""
_MOST = 100_000
"""Channels with something waiting. An edge that cannot say who listens must not cost all memory: the next link heals those."""


def every_of(text: str, classes: Sequence[int] = CLASSES) -> int:
    """The class of `?every=`; 0 if it is left out. Raises Refuse."""
    if not text:
        return 0
    named = {f"{every}s": every for every in classes}
    if text not in named:
        raise Refuse(400, "No such class", f"every is one of {', '.join(named)}, or left out")
    return named[text]


def at_once(update: Update) -> bool:
    """Whether it does not wait."""
    return bool(update.urgent or update.status)


def ended(now: float, every: int) -> str:
    """When the last bucket that is over ended, in the form of `updated_at`: what is before it waits no more."""
    return rfc3339(now // every * every)


def conflated(updates: Sequence[Update], now: float, every: int) -> list[Update]:
    """What a phone on a calm stream gets of these, which follow each other. What still waits is left out."""
    if not updates:
        return []
    # The platform's clock is the one that stamps packets: what is stored after a bucket shows that it is over.
    end = ended(max(now, seconds(updates[-1].updated_at)), every)
    ripe = max((n for n, one in enumerate(updates, 1) if at_once(one) or one.updated_at < end), default=0)
    runs: list[list[Update]] = []
    for one in updates[:ripe]:
        if runs and not one.status and not runs[-1][-1].status:
            runs[-1].append(one)
        else:
            runs.append([one])
    return [merged(run) for run in runs]


class Ripe(NamedTuple):
    """What is to be published on the channel of a view's class."""

    view: View
    every: int
    life: str
    update: Update


class _Waiting(NamedTuple):
    view: View
    life: str
    parts: list[tuple[int, Update]]
    """By bucket, each later than the one before, what was merged of it."""


class Calm:
    """What waits to be published, of all channels that somebody listens to."""

    def __init__(self, classes: Sequence[int] = CLASSES, most: int = _MOST) -> None:
        self.classes = tuple(classes)
        self._most = most
        self._waiting: dict[int, dict[tuple[str, str], _Waiting]] = {every: {} for every in classes}
        self._ended = dict.fromkeys(classes, -1)

    def put(self, view: View, every: int, life: str, update: Update) -> list[Ripe]:
        """The next update of a view; what does not wait. One that was put already is passed over.

        If it does not follow what waits, another process had the vehicle in between: then what waits is in the window, and the
        item that this leads to fits no phone, so that the edge asks.
        """
        waiting, key = self._waiting[every], (update.vehicle, view.name)
        held = waiting.pop(key, None)
        if held is not None and held.life == life:
            last = held.parts[-1][1].version
            if update.version <= last:
                waiting[key] = held
                return []
            if update.prev != last:
                held = None
        else:
            held = None
        parts = [] if held is None else held.parts
        if at_once(update):
            before = [one for _, one in parts]
            runs = [before, [update]] if update.status else [[*before, update]]
            return [Ripe(view, every, life, merged(run)) for run in runs if run]
        bucket = int(seconds(update.updated_at) // every)
        while parts and parts[-1][0] >= bucket:
            update = merged([parts.pop()[1], update])
        parts.append((bucket, update))
        waiting[key] = _Waiting(view, life, parts)
        if len(waiting) > self._most:
            del waiting[next(iter(waiting))]
        return []

    def ripe(self, now: float, grace: float = GRACE) -> list[Ripe]:
        """What waits no more, of the classes of which a bucket ended since this was asked last."""
        found: list[Ripe] = []
        for every in self.classes:
            end = int((now - grace) // every)
            if end != self._ended[every]:
                self._ended[every] = end
                found += self._of(every, end)
        return found

    def _of(self, every: int, end: int) -> Iterable[Ripe]:
        waiting = self._waiting[every]
        for key, held in list(waiting.items()):
            over = [one for bucket, one in held.parts if bucket < end]
            if over:
                yield Ripe(held.view, every, held.life, merged(over))
                if rest := held.parts[len(over) :]:
                    waiting[key] = held._replace(parts=rest)
                else:
                    del waiting[key]

    def pause(self, now: float) -> float:
        """Seconds until `ripe` has something to look for."""
        least = min(self.classes)
        return max(0.0, ((now - GRACE) // least + 1) * least + GRACE - now)

    def forget(self, vehicle: str) -> None:
        """It was erased."""
        for waiting in self._waiting.values():
            for key in [key for key in waiting if key[0] == vehicle]:
                del waiting[key]

    def clear(self) -> None:
        """All of it is of a history that is no more."""
        for waiting in self._waiting.values():
            waiting.clear()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

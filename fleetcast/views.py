"""Views: named sets of signals. Which updates touch a view, the chain of those that do, and what its phones get. Pure.

In: definitions such as `tyres: Vehicle.Chassis.Axle.*.Wheel.*.Tire.* Fleetcast.Tyres.*`. A glob is a dotted path, in which
`*` stands for one level and `**` for any number of them, none too. `all` is always there: every signal.

A view is known by its key, of its name and its definition: one that is defined otherwise is another view, with a chain of its
own, so that nobody goes on with a set of signals that is not meant any more. A state keeps, for each view of the consume
process that wrote it, the last update that touched it; where it does not, the last of all may have, and a chain begins there.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence

import msgspec

from fleetcast.errors import Unusable
from fleetcast.packet import Signal, same
from fleetcast.state import State, Touched
from fleetcast.subjects import ALL
from fleetcast.update import Snapshot, Update

PRECISE = "Vehicle.CurrentLocation"
"""Where the car is: no wildcard leads there, a view has to name it."""

_NAME = re.compile(r"[a-z]{1,20}\Z")
_LEVEL = re.compile(r"[^.*\s]+\Z")
_REMEMBERED = 100_000
"""Paths whose views are kept. Vehicles choose the paths that they send (256 characters at most)."""


class _Covered(dict[str, bool]):
    """By path whether some globs cover it, each matched once."""

    def __init__(self, globs: Sequence[str]) -> None:
        super().__init__()
        self._globs = [glob.split(".") for glob in globs]

    def __missing__(self, path: str) -> bool:
        if len(self) >= _REMEMBERED:
            self.clear()
        levels = path.split(".")
        found = self[path] = any(_matches(glob, levels, path) for glob in self._globs)
        return found


class View:
    """One view. `key` is empty for `all`; see the module's text."""

    def __init__(self, name: str, globs: Sequence[str]) -> None:
        self.name = name
        self.globs = tuple(sorted(set(globs)))
        text = f"{name}: {' '.join(self.globs)}"
        self.key = "" if name == ALL else f"{name}_{zlib.crc32(text.encode()):08x}"
        self._covered = _Covered(self.globs)

    def covers(self, path: str) -> bool:
        """Whether the signal is in it."""
        return not self.key or self._covered[path]

    def touched(self, state: State) -> Touched:
        """The last update that touched it. If the state does not know: the last of all, which nobody has by this view's ids."""
        known = state.views.get(self.key) if self.key else None
        return Touched(state.version, state.updated_at) if known is None else known

    def version(self, state: State) -> int:
        """The view's own."""
        return self.touched(state).version

    def snapshot(self, state: State) -> Snapshot:
        """All of it, of this state."""
        at = self.touched(state)
        signals = state.signals
        if self.key:
            signals = {path: signal for path, signal in signals.items() if self._covered[path]}
        # Before its first update a view has no status: whoever has nothing yet takes that first one as live.
        status, since = (state.status, state.since) if at.version else ("", "")
        return Snapshot(state.vehicle, at.version, at.updated_at, signals, status, since)

    def of(self, update: Update) -> Update | None:
        """What its phones get of an update; None if it does not touch the view, or nobody knows its place in the chain."""
        if not self.key:
            return msgspec.structs.replace(update, prevs={}) if update.prevs else update
        prev = update.prevs.get(self.key)
        if prev is None:
            return None
        signals = {path: signal for path, signal in update.signals.items() if self._covered[path]}
        urgent = tuple(path for path in update.urgent if self._covered[path]) if update.urgent else ()
        return msgspec.structs.replace(update, prev=prev, signals=signals, prevs={}, urgent=urgent)


EVERYTHING = View(ALL, ("**",))
"""The view `all`."""


class Views:
    """All views of a process. `named` has them by name, `all` first."""

    def __init__(self, definitions: Iterable[str], urgent: Sequence[str] = ()) -> None:
        """`urgent`: globs of the signals that are. Raises Unusable with a line that names the definition."""
        self.named: dict[str, View] = {ALL: EVERYTHING}
        for text in definitions:
            view = _parsed(text)
            if view.name in self.named:
                why = "is every signal, always" if view.name == ALL else "is there twice"
                raise Unusable(f"views: {view.name} {why}")
            self.named[view.name] = view
        self._own = [view for view in self.named.values() if view.key]
        _check("urgent", urgent)
        self._urgent = View("urgent", urgent)
        self._masks = _Masks([*self._own, self._urgent])
        self._keys: dict[int, tuple[str, ...]] = {}
        self._known = {view.key for view in self._own}

    def chained(self, before: State, after: State, update: Update) -> tuple[State, Update]:
        """The state after this update with the views that it touched, and the update with their chains (`prevs`) and with
        what is urgent in it.
        """
        mask = 0
        for one in set(map(self._masks.__getitem__, update.signals)):
            mask |= one
        urgent = 1 << len(self._own)
        if mask & urgent:
            mask -= urgent
            update = msgspec.structs.replace(update, urgent=self._changed(before, after, update))
        views = self._before(before)
        if mask:
            keys = self._keys.get(mask)
            if keys is None:
                keys = self._keys[mask] = tuple(v.key for n, v in enumerate(self._own) if mask >> n & 1)
            update = msgspec.structs.replace(update, prevs={key: views[key].version for key in keys})
            views = {**views, **dict.fromkeys(keys, Touched(after.version, after.updated_at))}
        if views is not after.views:
            after = msgspec.structs.replace(after, views=views)
        return after, update

    def _changed(self, before: State, after: State, update: Update) -> tuple[str, ...]:
        """The urgent signals that are another value: one that is sent again as it was is not urgent for being newer."""
        return tuple(
            path
            for path in update.signals
            if self._urgent.covers(path) and not _alike(before.signals.get(path), after.signals.get(path))
        )

    def all_chained(self, before: State, after: State, update: Update) -> tuple[State, Update]:
        """The same for an update that touches every view, whatever its signals: a change of status."""
        views = self._before(before)
        prevs = {key: touched.version for key, touched in views.items()}
        update = msgspec.structs.replace(update, prevs=prevs)
        now = dict.fromkeys(views, Touched(after.version, after.updated_at))
        return msgspec.structs.replace(after, views=now), update

    def _before(self, state: State) -> dict[str, Touched]:
        """By key each view's last update. A process with other views may have written it, or one of before there were any."""
        if state.views.keys() == self._known:
            return state.views
        return {view.key: view.touched(state) for view in self._own}

    def touched(self, updates: Iterable[Update]) -> list[View]:
        """The views that any of these updates touches: `all`, and those that it says."""
        keys = {key for update in updates for key in update.prevs}
        return [EVERYTHING, *(view for view in self._own if view.key in keys)]


class _Masks(dict[str, int]):
    """By path its views, as bits."""

    def __init__(self, views: Sequence[View]) -> None:
        super().__init__()
        self._views = views

    def __missing__(self, path: str) -> int:
        if len(self) >= _REMEMBERED:
            self.clear()
        mask = self[path] = sum(view.covers(path) << number for number, view in enumerate(self._views))
        return mask


def _parsed(text: str) -> View:
    name, colon, rest = text.partition(":")
    name, globs = name.strip(), rest.split()
    if not colon or not _NAME.match(name):
        raise Unusable(
            f"views: {text!r} is not `name: glob glob …`, such as `tyres: Vehicle.Chassis.**`, with a name of a-z"
        )
    if not globs:
        raise Unusable(f"views: {name} has no signals; name some, such as `{name}: Vehicle.Speed`")
    _check(f"views: {name}", globs)
    return View(name, globs)


def _check(what: str, globs: Iterable[str]) -> None:
    for glob in globs:
        if not all(level in ("*", "**") or _LEVEL.match(level) for level in glob.split(".")):
            raise Unusable(
                f"{what}: {glob} is not a dotted path in which `*` is one level, `**` any number of them"
            )


def _alike(one: Signal | None, other: Signal | None) -> bool:
    return one is other or (
        one is not None and other is not None and same(Signal(one.value, ""), Signal(other.value, ""))
    )


def _matches(glob: Sequence[str], levels: Sequence[str], path: str) -> bool:
    """Whether the path's levels are those of the glob; for where the car is only if the glob names it.

    Without recursion or a regular expression: paths come from vehicles. At a mismatch only the last `**` takes one more level.
    """
    if path == PRECISE or path.startswith(f"{PRECISE}."):
        named = PRECISE.split(".")
        if list(glob[: len(named)]) != named:
            return False
    at = level = 0
    wide, taken = -1, 0
    while level < len(levels):
        if at < len(glob) and glob[at] == "**":
            wide, taken = at, level
            at += 1
        elif at < len(glob) and glob[at] in ("*", levels[level]):
            at, level = at + 1, level + 1
        elif wide >= 0:
            taken += 1
            at, level = wide + 1, taken
        else:
            return False
    return all(rest == "**" for rest in glob[at:])

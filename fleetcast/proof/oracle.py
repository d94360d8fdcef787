"""The oracle: what must be true, from the acknowledgements alone.

In: what cars were acknowledged, what LIVE took (its updates, in its order, from before the first packet), what phones saw.
Out: counts and sentences of every breach, on the row of the fault that was being tried. It folds packets with code of its
own: it knows nothing of how the platform keeps a state, makes an update or decides what a phone gets. Pure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from math import inf, isfinite
from typing import Any, NamedTuple

import msgspec

from fleetcast.proof import links
from fleetcast.proof.fold import LIVE, OFFLINE, RULES, Fold, Silence, seconds, shown
from fleetcast.proof.links import Links
from fleetcast.proof.packets import NAME, URGENT, VIEWS, good_before, is_poison, packet
from fleetcast.proof.rows import Row

MOST_NOTES = 40
_CLOCKS = 0.001  # seconds: two processes of one machine read the same clock
_NOT_CALM = 0.4  # the share of what came by calm streams that may break their rule
_TOLD = 1.0  # seconds in which phones must have a change of status that LIVE has


class Shown(NamedTuple):
    """All of a vehicle, or of a view of it, at a version."""

    version: int
    signals: dict[str, Any]
    status: str
    since: str


def _within(view: str, signals: dict[str, Any]) -> dict[str, Any]:
    """Those of a view."""
    return {path: one for path, one in signals.items() if path in VIEWS[view]} if view else signals


class _Vehicle:
    def __init__(self, seed: int, vehicle: str) -> None:
        self.fold = Fold(seed, vehicle)
        self.acked = 0  # packets 0 to acked - 1 are acknowledged
        self.gone: list[range] = []  # packets that a restore lost
        self.base = 0  # good packets that no version counts: a restore lost them
        self.chains = {view: Links() for view in ("", *VIEWS)}
        self.statuses: list[int] = []  # the versions that are changes of status
        self.waiting: list[tuple[int, int, int, float]] = []
        """(phone, version, checksum, when) seen before we read LIVE so far."""

    @property
    def due(self) -> int:
        """How many packets of all that were acknowledged must be applied."""
        return good_before(self.acked) - self.base

    def version(self, packets: int, now: float) -> int:
        """That of so many packets applied, with the changes of status right after it that phones must have by now."""
        version, before = packets, -1
        while (count := bisect_right(self.statuses, version)) != before:
            version, before = packets + count, count
        chain = self.chains[""]
        for status in self.statuses[count:]:
            at = chain.at(status)
            if status != version + 1 or at is None or chain.stored[at] > now - _TOLD:
                break
            version = status
        return version


class _Phone:
    def __init__(self, vehicle: str, view: str, every: int) -> None:
        self.vehicle = vehicle
        self.view = view
        self.every = every
        self.epoch = ""
        self.version = -1
        self.snapshot_due = True
        self.awake = False
        self.back = False  # it came back, and got nothing yet


class Mood(msgspec.Struct, frozen=True, array_like=True):
    """A phone opened its stream (`awake`), or does not want one now; `again`: with its last event id, `anew`: without.

    `view`: empty for all signals; `every`: seconds, 0 if it is not calm. A phone stays with both. One that follows many
    vehicles is as many here.
    """

    phone: int
    vehicle: str
    awake: bool
    again: bool = False
    anew: bool = False
    view: str = ""
    every: int = 0


class Event(msgspec.Struct, frozen=True, array_like=True):
    """What a phone saw: `checksum` is of an update as it came, or less than 0: of the view that it led to, by `digest`."""

    phone: int
    name: str
    epoch: str
    version: int
    prev: int
    checksum: int
    when: float
    reason: str = ""
    last: str = ""


class Oracle:
    """Holds everything against everything. `row` is where findings go now."""

    def __init__(self, seed: int, vehicles: Iterable[str], window: float, silence: Silence) -> None:
        self.seed = seed
        self.window = window
        self.silence = silence
        self.epoch = ""
        self.stage = "before"  # of the deploy of the second rule: before, during, after
        self.rows: dict[str, Row] = {}
        self.returns = 0
        self.resets = 0
        self.restored = 0
        self.statuses = 0
        self._vehicles = {vehicle: _Vehicle(seed, vehicle) for vehicle in vehicles}
        self._phones: dict[int, _Phone] = {}
        self._mark: dict[str, tuple[Fold, int]] = {}
        self._epochs: set[str] = set()  # those before a restore
        self._calm: list[tuple[_Phone, int, int, float]] = []
        """(prev, version, when) that came by calm streams; when is 0 of what a phone missed."""
        self.row = self.turn("before the first fault")

    def turn(self, fault: str) -> Row:
        """From now on findings go to this fault's row."""
        self.row = self.rows.setdefault(fault, Row(fault))
        return self.row

    # Cars

    def acked(self, vehicle: str, n: int) -> None:
        """Packet n was acknowledged; cars send one after the other."""
        one = self._vehicles[vehicle]
        if n != one.acked:
            self.row.lost += 1
            self._say(f"{vehicle}: packet {n} acknowledged where {one.acked} was due: the cars are wrong")
        one.acked = n + 1
        self.row.acked += 1

    # LIVE

    def committed(self, vehicle: str, data: bytes, stored: float) -> None:
        """An update that LIVE took, the next in its order."""
        one = self._vehicles[vehicle]
        update = msgspec.json.decode(data)
        version, prev, signals = update["version"], update["prev"], update["signals"]
        name = (signals.get(NAME) or {}).get("value", "?")
        fold = one.fold
        if version <= fold.version:
            self.row.twice += 1
            self._say(f"{vehicle}: version {version} (packet {name}) committed again, after {fold.version}")
            return
        if version != fold.version + 1 or prev != fold.version:
            self.row.lost += max(1, version - fold.version - 1)
            self._say(f"{vehicle}: version {prev}->{version} in LIVE where {fold.version + 1} was due")
        if status := update.get("status"):
            one.statuses.append(version)
            self.statuses += 1
            wrong = fold.turn(status, update["since"], stored, self.silence)
            if wrong or signals:
                self.row.lost += 1
                self._say(f"{vehicle}: version {version} says what is not so: {wrong or signals}")
        else:
            self._packet(one, vehicle, update)
        # The platform's own record of the chains, and of what is urgent: phones do not get it, nor is it believed here.
        for own in ("prevs", "urgent"):
            update.pop(own, None)
        for view, chain in one.chains.items():
            mine = _within(view, signals)
            if mine or status or not view:
                urgent = fold.urgent and URGENT in mine
                kind = links.STATUS if status else links.URGENT if urgent else links.WAITS
                whole = _within(view, fold.signals)
                at = shown(whole, fold.status, fold.since)
                # That the first packet made it live is no event: who was there before is told when that changes.
                mute = at if fold.statuses else shown(whole, "", "")
                chain.add(version, update | {"signals": mine}, at, mute, stored, kind)
        fold.version = version
        if one.waiting:
            waiting, one.waiting = one.waiting, []
            for phone, seen, checksum, when in waiting:
                self._same(one, phone, seen, checksum, when)

    def _packet(self, one: _Vehicle, vehicle: str, update: dict[str, Any]) -> None:
        """The next version is of a packet."""
        version, signals, fold = update["version"], update["signals"], one.fold
        name = (signals.get(NAME) or {}).get("value", "?")
        taken = update["updated_at"]
        if fold.status not in ("", LIVE) or (one.statuses[-1:] == [version - 1] and fold.since != taken):
            self.row.lost += 1
            self._say(f"{vehicle}: {fold.status} since {fold.since}, when version {version} is of {taken}")
        elif fold.silent and seconds(taken) < fold.silent:
            self.row.lost += 1
            self._say(
                f"{vehicle}: was said to be silent, and had sent {fold.silent - seconds(taken):.3f} s before"
            )
        due, patch = fold.advance(RULES in signals or RULES in fold.signals, taken)
        if RULES in signals and self.stage == "before":
            self.row.lost += 1
            self._say(f"{vehicle}: version {version} has a rule that is not deployed yet")
        if name != due:
            self._misplaced(one, vehicle, name, due)
        elif signals != patch:
            self.row.lost += 1
            wrong = sorted(p for p in {*patch, *signals} if patch.get(p) != signals.get(p))
            self._say(f"{vehicle}: version {version} (packet {name}) changes {wrong} otherwise than it must")

    def _misplaced(self, one: _Vehicle, vehicle: str, name: str, due: str) -> None:
        boot, _, seq = name.partition("/")
        there = tuple(map(int, (boot, seq))) if boot.isdigit() and seq.isdigit() else (0, 0)
        wanted = tuple(map(int, due.split("/")))
        if there < wanted:
            self.row.twice += 1
            self._say(f"{vehicle}: packet {name} applied again, or late, where {due} was due")
        else:
            self.row.lost += 1
            self._say(f"{vehicle}: packet {name} applied where {due} was due")
            while (
                one.fold.next < one.acked + 2 and packet(self.seed, vehicle, one.fold.next - 1).name != name
            ):
                one.fold.next += 1  # so that one hole is said once

    # Phones

    def listens(self, mood: Mood) -> None:
        """A phone opened its stream, or does not want one now."""
        one = self._phones.setdefault(mood.phone, _Phone(mood.vehicle, mood.view, mood.every))
        one.awake = mood.awake
        one.back |= mood.again or mood.anew
        one.snapshot_due |= mood.anew
        self.returns += mood.again

    def event(self, event: Event) -> None:
        """Something that a phone saw."""
        one = self._phones[event.phone]
        vehicle = self._vehicles[one.vehicle]
        self.row.events += 1
        who = f"phone {event.phone} of {one.vehicle}" + (f", {one.view}" if one.view else "")
        if event.name == "reset":
            self._reset(event, one, vehicle, who)
        elif event.name == "snapshot":
            self._snapshot(event, one, vehicle, who)
        elif event.name in ("update", "status"):
            self._update(event, one, vehicle, who)

    def _reset(self, event: Event, one: _Phone, vehicle: _Vehicle, who: str) -> None:
        one.snapshot_due = True
        name, _, text = event.last.rpartition("-")
        epoch = name.partition(".")[0]
        self.restored += epoch in self._epochs
        self.resets += epoch not in self._epochs
        if event.reason == "foreign":
            true = epoch != self.epoch
        else:
            chain = vehicle.chains[one.view]
            follows = chain.upto(int(text)) + 1
            # A second of grace: the stream's own clock decides when an update has gone by.
            true = follows < len(chain.stored) and chain.stored[follows] + self.window - 1 < event.when
        if not true:
            self.row.false_resets += 1
            self._say(
                f"{who} got a reset ({event.reason}) from {event.last}, which was not true; it had {one.version}"
            )

    def _snapshot(self, event: Event, one: _Phone, vehicle: _Vehicle, who: str) -> None:
        if not one.snapshot_due:
            self.row.false_resets += 1
            self._say(
                f"{who} got a snapshot of {event.version} without a reset; it had {one.epoch}-{one.version}"
            )
        one.snapshot_due = False
        one.epoch, one.version = event.epoch, event.version
        if event.epoch == self.epoch:
            self._same(vehicle, event.phone, event.version, event.checksum, event.when)

    def _update(self, event: Event, one: _Phone, vehicle: _Vehicle, who: str) -> None:
        at = f"{event.prev}->{event.version}"
        if one.snapshot_due:
            self.row.reordered += 1
            self._say(f"{who} got {at} before a snapshot")
        elif event.epoch != one.epoch:
            self.row.lost += 1
            self._say(f"{who} got {at} of epoch {event.epoch} after one of {one.epoch}, without a reset")
        elif event.version <= one.version:
            self.row.twice += 1
            self._say(f"{who} got {at} again, after {one.version}")
            return
        elif event.prev > one.version:
            self.row.lost += event.prev - one.version
            self._say(f"{who} got {at} after {one.version}: a gap")
        elif event.prev < one.version:
            self.row.reordered += 1
            self._say(f"{who} got {at} after {one.version}")
        one.version, one.epoch = event.version, event.epoch
        # What was still on its way before a restore is judged by its order alone.
        if event.epoch == self.epoch:
            if one.every:
                self._calm.append(
                    (one, event.prev, event.version, event.when if one.awake and not one.back else 0.0)
                )
            self._same(vehicle, event.phone, event.version, event.checksum, event.when)
        one.back = False

    def _same(self, vehicle: _Vehicle, phone: int, version: int, checksum: int, when: float) -> None:
        """What a phone saw is what LIVE took, and took before."""
        if version > vehicle.fold.version:
            vehicle.waiting.append((phone, version, checksum, when))
            return
        view = self._phones[phone].view
        chain = vehicle.chains[view]
        at = chain.at(version)
        if at is not None and checksum not in (chain.updates[at], -chain.views[at], -chain.mute[at]):
            self.row.lost += 1
            self._say(f"phone {phone}: version {version} is not what LIVE took")
        elif at is None:
            self.row.lost += 1
            self._say(f"phone {phone}: version {version} is none of {view or 'all'}")
        elif when < chain.stored[at] - _CLOCKS:
            self.row.reordered += 1
            early = chain.stored[at] - when
            self._say(f"phone {phone} saw version {version} {early:.3f} s before LIVE took it")

    # How far

    def sent(self, vehicle: str) -> int:
        """How many of its packets were acknowledged."""
        return self._vehicles[vehicle].acked

    @property
    def all_acked(self) -> int:
        """Packets acknowledged so far."""
        return sum(row.acked for row in self.rows.values())

    def due(self) -> dict[str, int]:
        """By vehicle how many packets must be applied of all that are acknowledged by now."""
        return {name: one.due for name, one in self._vehicles.items()}

    def behind(self, due: Mapping[str, int], now: float = inf) -> list[int]:
        """The phones that listen and have not got so far yet. `now`: of calm ones, as far as they must have by then."""
        return [
            number
            for number, one in self._phones.items()
            if one.awake
            and (
                one.snapshot_due
                or one.epoch != self.epoch
                or one.version < self._due(one, due[one.vehicle], now)
            )
        ]

    def _due(self, phone: _Phone, packets: int, now: float) -> int:
        """The version that it must have when so many are due. (But for `all` that is known once LIVE was read so far.)"""
        vehicle = self._vehicles[phone.vehicle]
        version = vehicle.version(packets, now)
        if not phone.view and not (phone.every and isfinite(now)):
            return version
        return vehicle.chains[phone.view].due(version, phone.every, now)

    @property
    def asleep(self) -> int:
        """How many phones do not listen now."""
        return sum(not one.awake for one in self._phones.values())

    def lags(self, due: Mapping[str, int]) -> bool:
        """Whether LIVE or a phone has not got so far."""
        return bool(self.uncommitted(due) or self.behind(due))

    def uncommitted(self, due: Mapping[str, int]) -> int:
        """Packets that LIVE has not got yet."""
        return sum(max(0, upto - self._vehicles[name].fold.packets) for name, upto in due.items())

    @property
    def heard(self) -> list[str]:
        """The vehicles that are not offline."""
        return [name for name, one in self._vehicles.items() if one.fold.status not in ("", OFFLINE)]

    # Restore

    def mark(self) -> None:
        """A backup is made of this: all that is acknowledged is applied."""
        self._mark = {name: (one.fold.copy(), one.acked) for name, one in self._vehicles.items()}

    def rewind(self, epoch: str, *, rejected: bool) -> None:
        """The backup is restored under a new epoch: what came since is gone, and the next packet is the one due now.

        `rejected`: with the rejected packets of then, too.
        """
        self._epochs.add(self.epoch)
        self.epoch = epoch
        for name, one in self._vehicles.items():
            marked, acked = self._mark[name]
            fold = marked.copy()
            if rejected:
                one.gone.append(range(acked, one.acked))
            one.waiting.clear()
            self._calm.clear()
            fold.next = one.acked
            one.base = good_before(one.acked) - fold.packets
            del one.statuses[bisect_right(one.statuses, fold.version) :]
            one.fold = fold
            for chain in one.chains.values():
                chain.cut(fold.version)

    # The end

    def view(self, vehicle: str, view: str = "") -> Shown:
        """What it must be."""
        one = self._vehicles[vehicle]
        version = one.chains[view].versions[-1] if view else one.fold.version
        return Shown(version, _within(view, one.fold.signals), one.fold.status, one.fold.since)

    def begin(self, epoch: str) -> None:
        """Before the first packet: version 0 of everything is the empty view."""
        self.epoch = epoch

    def finish(self, stored: Mapping[str, Shown], rejected: Mapping[str, list[str]]) -> None:
        """The last look: states as the store has them, names of rejected packets by vehicle."""
        for name, one in self._vehicles.items():
            if one.fold.packets != one.due:
                self.row.lost += abs(one.due - one.fold.packets)
                self._say(f"{name}: {one.due} packets are to be applied, LIVE took {one.fold.packets}")
            if stored.get(name) != self.view(name):
                self.row.lost += 1
                self._say(f"{name}: the state in the store is not what its packets come to")
            if self.stage == "after" and one.fold.signals and RULES not in one.fold.signals:
                self.row.lost += 1
                self._say(f"{name}: the rules that were deployed never ran")
            gone = {n for lost in one.gone for n in lost}
            poison = [
                packet(self.seed, name, n).name for n in range(one.acked) if is_poison(n) and n not in gone
            ]
            found = rejected.get(name, [])
            self.row.lost += len(set(poison) - set(found))
            self.row.twice += len(
                set(found) - set(poison)
            )  # applied as well, or the fold has counted it as lost
            if set(poison) != set(found):
                self._say(f"{name}: rejected are {sorted(found)}, and should be {poison}")
            if one.waiting:
                self.row.lost += len(one.waiting)
                self._say(f"{name}: phones saw {len(one.waiting)} updates that LIVE never took")

        self._rule()

    def _rule(self) -> None:
        """Whether calm streams kept theirs: not to each update, as clocks jump, and what was held up comes as one."""
        told: dict[str, list[tuple[bool, str]]] = {
            "early": [],
            "with something that was not to wait": [],
            "late": [],
        }
        for phone, prev, version, when in self._calm:
            chain, such = (
                self._vehicles[phone.vehicle].chains[phone.view],
                f"{prev}->{version} of {phone.vehicle}",
            )
            for how, found in (
                ("early", chain.early(version, phone.every)),
                ("with something that was not to wait", chain.held(prev, version)),
                ("late", chain.late(prev, version, phone.every, when) if when else None),
            ):
                if found is not None:
                    told[how].append((found, such))
        for how, all_of in told.items():
            wrong = [such for found, such in all_of if found]
            if len(wrong) > 2 + _NOT_CALM * len(all_of):
                self.row.calm += len(wrong)
                self._say(
                    f"{len(wrong)} of {len(all_of)} updates of calm streams came {how}, such as {wrong[0]}"
                )

    def level(self, phone: int, version: int, checksum: int) -> None:
        """What a phone shows in the end, all of it."""
        one = self._phones[phone]
        chain = self._vehicles[one.vehicle].chains[one.view]
        due = chain.versions[-1]
        if version != due or checksum not in (chain.views[-1], chain.mute[-1]):
            self.row.lost += 1
            named = f"version {version} of {one.view or 'all'}"
            self._say(f"phone {phone} of {one.vehicle} shows {named}, not what {due} comes to")

    def _say(self, note: str) -> None:
        if len(self.row.notes) < MOST_NOTES:
            self.row.notes.append(note)

"""A platform that keeps every promise, small and in memory, and what it shows the oracle: for the oracle's own tests.

It folds with the product's `apply` and `diff`, so the oracle's fold is held against them as well. Packets are stored, acked,
committed and read by the follower in any order that a test likes; phones come, go and come back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from zlib import crc32

import msgspec

from fleetcast.calm import conflated
from fleetcast.clock import rfc3339, seconds
from fleetcast.decode import load
from fleetcast.proof import rules
from fleetcast.proof.fold import LIVE, OFFLINE, QUIET, Silence, shown
from fleetcast.proof.oracle import Event, Mood, Oracle, Shown
from fleetcast.proof.packets import DEFINED, URGENT, body, is_poison, packet
from fleetcast.proof.shown import patched
from fleetcast.settings import Settings
from fleetcast.skew import believed
from fleetcast.state import Named, State, apply
from fleetcast.update import Update, diff, turned
from fleetcast.views import EVERYTHING, View, Views

decode = load(Settings().decoders).decode

SEED, WINDOW, EPOCH, EVERY = 7, 60.0, "e", 5
SILENCE = Silence(10, 40)
_CLOCK = 1e8
_RULES = [Named("proof", rules.enrich)]
VIEWS = Views(DEFINED, (URGENT,))


@dataclass
class Car:
    """A vehicle on the platform: all it has been, by version."""

    name: str
    states: list[State]
    updates: list[Update] = field(default_factory=list)
    stored: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    """When each packet was stored."""
    acked: int = 0
    handled: int = 0
    read: int = 0
    rejected: list[str] = field(default_factory=list)


@dataclass
class Phone:
    """A stream: what it shows."""

    number: int
    car: Car
    view: View = EVERYTHING
    every: int = 0
    last: str = ""
    version: int = -1
    signals: dict[str, object] = field(default_factory=dict)
    status: str = ""
    since: str = ""

    @property
    def digest(self) -> int:
        return shown(self.signals, self.status, self.since)


class Platform:
    """Tells `oracle` all that happens, as `world.World` does."""

    def __init__(self, cars: int = 1, phones: int = 1) -> None:
        names = [f"car-{number}" for number in range(cars)]
        self.now = 1_767_225_600.0
        self.oracle = Oracle(SEED, names, WINDOW, SILENCE)
        self.oracle.begin(EPOCH)
        self.cars = [Car(name, [State(name)]) for name in names]
        # With views by turns; the first one is on all. Of each car those beyond the third are calm.
        kinds = list(VIEWS.named.values())
        self.phones = [
            Phone(
                number,
                self.cars[number % cars],
                kinds[number // cars % len(kinds)],
                EVERY if number >= cars * len(kinds) else 0,
            )
            for number in range(phones)
        ]
        for phone in self.phones:
            self.comes(phone)

    # Cars

    def send(self, car: Car) -> None:
        """The next packet is stored. Cars send one after the other, so the one before is acked by now."""
        self.ack(car)
        self.now += 0.01
        car.sent.append(self.now)

    def ack(self, car: Car) -> None:
        while car.acked < len(car.sent):
            self.oracle.acked(car.name, car.acked)
            car.acked += 1

    def commit(self, car: Car) -> None:
        """All that is stored."""
        while car.handled < len(car.sent):
            n, before = car.handled, car.states[-1]
            car.handled += 1
            if is_poison(n):
                car.rejected.append(packet(SEED, car.name, n).name)
                continue
            sent = decode(*body(SEED, car.name, n), 1_000_000)
            stored = car.sent[n]
            if before.status in (QUIET, OFFLINE):
                self.turn(car, LIVE, rfc3339(stored), rfc3339(stored))
                before = car.states[-1]
            timed = believed(sent, stored, _CLOCK, _CLOCK)
            after = apply(before, timed, "i", n + 1, rfc3339(stored), _RULES)
            self.now += 0.01
            if not after.status:
                after = msgspec.structs.replace(after, status=LIVE, since=rfc3339(stored))
            self._took(car, *VIEWS.chained(before, after, diff(before, after)))

    def tell(self, car: Car) -> None:
        """That it is silent, if it is, and nothing of it is on its way."""
        state = car.states[-1]
        if car.handled < len(car.sent) or not state.version:
            return
        heard = seconds(state.updated_at)
        for status, after in ((OFFLINE, SILENCE.offline), (QUIET, SILENCE.quiet)):
            if self.now >= heard + after:
                if state.status not in (status, OFFLINE):
                    self.turn(car, status, rfc3339(heard + after))
                return

    def turn(self, car: Car, status: str, since: str, heard: str = "") -> None:
        self._took(car, *VIEWS.all_chained(car.states[-1], *turned(car.states[-1], status, since, heard)))

    def _took(self, car: Car, after: State, update: Update) -> None:
        self.now += 0.01
        car.states.append(after)
        car.updates.append(update)
        car.stored.append(self.now)

    def read(self, car: Car) -> None:
        """The follower reads what is new."""
        while car.read < len(car.updates):
            data = msgspec.json.encode(car.updates[car.read])
            self.oracle.committed(car.name, data, car.stored[car.read])
            car.read += 1

    def drive(self, car: Car, packets: int = 1) -> None:
        """So many packets, all the way to phones."""
        for _ in range(packets):
            self.send(car)
            self.ack(car)
            self.commit(car)
            self.read(car)
            for phone in self.phones:
                self.deliver(phone)

    # Phones

    def comes(self, phone: Phone, *, anew: bool = False) -> None:
        """Opens its stream."""
        if anew:
            phone.last = ""
        again = bool(phone.last)
        self._listens(phone, awake=True, again=again, anew=not again)
        self.now += 0.01
        missed = [update.version for update in self.chain(phone) if update.version > phone.version]
        if not again:
            self.snapshot(phone)
        elif missed and phone.car.stored[missed[0] - 1] + WINDOW < self.now:
            self.event(phone, "reset", reason="expired", last=phone.last)
            self.snapshot(phone)
        self.deliver(phone)

    def goes(self, phone: Phone) -> None:
        self._listens(phone, awake=False, again=False)

    def _listens(self, phone: Phone, *, awake: bool, again: bool, anew: bool = False) -> None:
        view = phone.view.name if phone.view.key else ""
        self.oracle.listens(Mood(phone.number, phone.car.name, awake, again, anew, view, phone.every))

    def chain(self, phone: Phone) -> list[Update]:
        """All updates of its view."""
        return [one for update in phone.car.updates if (one := phone.view.of(update)) is not None]

    def snapshot(self, phone: Phone) -> None:
        view = phone.view.snapshot(phone.car.states[-1])
        phone.signals = msgspec.to_builtins(view.signals)
        phone.status, phone.since = view.status, view.since
        self.event(phone, "snapshot", version=view.version, checksum=-phone.digest)

    def deliver(self, phone: Phone) -> None:
        """All that it has not got."""
        missed = [update for update in self.chain(phone) if update.version > phone.version]
        for update in conflated(missed, self.now, phone.every) if phone.every else missed:
            self.update(phone, update)

    def update(self, phone: Phone, update: Update) -> None:
        """Of its view; what only LIVE has of it is left out."""
        update = msgspec.structs.replace(update, prevs={}, urgent=())
        phone.signals = patched(phone.signals, msgspec.to_builtins(update.signals))
        if update.status:
            phone.status, phone.since = update.status, update.since
        self.event(
            phone,
            "status" if update.status else "update",
            version=update.version,
            prev=update.prev,
            checksum=-phone.digest if phone.every else crc32(msgspec.json.encode(update)),
        )

    def event(
        self,
        phone: Phone,
        name: str,
        *,
        version: int = 0,
        prev: int = 0,
        checksum: int = 0,
        reason: str = "",
        last: str = "",
    ) -> None:
        """One event as a phone reports it."""
        self.now += 0.01
        if name != "reset":
            phone.version, phone.last = version, f"{EPOCH}-{version}"
        self.oracle.event(Event(phone.number, name, EPOCH, version, prev, checksum, self.now, reason, last))

    # The end

    def settle(self) -> None:
        """Everything comes everywhere, all cars are silent for long, and the last looks."""
        for car in self.cars:
            self.ack(car)
            self.commit(car)
        self.now += SILENCE.offline
        for car in self.cars:
            self.tell(car)
            self.read(car)
        self.now += 2 * EVERY  # what is calm is told by then
        for phone in self.phones:
            self.comes(phone)
        self.look()

    def look(self) -> None:
        """The last looks at what there is now."""
        for phone in self.phones:
            self.oracle.level(phone.number, phone.version, phone.digest)
        self.oracle.finish(
            {
                car.name: Shown(
                    (state := car.states[-1]).version,
                    msgspec.to_builtins(state.signals),
                    state.status,
                    state.since,
                )
                for car in self.cars
            },
            {car.name: car.rejected for car in self.cars},
        )

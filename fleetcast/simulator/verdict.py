"""The verdict on a run: were the promises kept between the cars' acknowledgements and what the phones saw?

In: which packets were acknowledged (told by the cars), which came to which phone (told by the phones), and the version
of each vehicle's state before and after. Out: live figures for the table, at the end a `Summary` and one sentence for
each promise that was broken. It does no I/O.

States are joined by counts: a state's version must rise by as many as its vehicle has distinct packets (boot, seq)
acknowledged, however often each was stored or acknowledged. Which packets these were, the phones tell.

A phone is expected to see each acknowledged packet of its vehicle, either as an update or within a snapshot that it
was given rightfully: its first one, or one announced by a reset. A snapshot names the newest packet it includes, and
stands for all packets up to that one. A packet that its car sent after a newer one (late) turns nothing back, so its update
need not name it: such packets are matched by their number, and by the chain of versions, which tells a gap for each that is
missing. What is not claimed: which of several late packets a phone missed, and that a late packet's values were right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from fleetcast.simulator.journeys import Journeys
from fleetcast.simulator.phone import Packet
from fleetcast.simulator.runs import Runs

EXAMPLES = 3  # named in a sentence
FOREVER = 1 << 62  # above every sequence number
# What the phones tell in each line, cumulative: shown live, and all of it.
SHOWN = ("updates", "lost", "twice", "reordered", "resets", "streams_closed")
TOLD = (*SHOWN, "foreign", "malformed")


class Summary(msgspec.Struct, frozen=True):
    """A run in one line. `seen` is how many of `updates`, which the phones should see, they saw; `doors` tells `acked` by
    door.
    """

    seconds: float
    cars: int
    phones: int
    acked: int
    applied: int
    updates: int
    seen: int
    skipped: int
    lost: int
    twice: int
    reordered: int
    resets: int
    streams_closed: int
    p50_ms: float | None
    p99_ms: float | None
    doors: dict[str, int] = {}


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A run so far: cumulative but for the gauge `connected` and the latencies, which are of the last ten seconds."""

    at: float
    cars: int
    phones: int
    connected: int = 0
    acked: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0
    updates: int = 0
    published: int = 0
    skipped: int = 0
    lost: int = 0
    twice: int = 0
    reordered: int = 0
    resets: int = 0
    streams_closed: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    doors: dict[str, int] = {}


class _Car:
    """What is known of one vehicle; packets by boot."""

    def __init__(self) -> None:
        self.acked: dict[int, Runs] = {}
        self.late: dict[
            int, Runs
        ] = {}  # of the acknowledged ones: those that were acknowledged after a newer one
        self.live: dict[int, Runs] = {}  # seen by any phone as an update
        self.applied: int | None = None
        self._newest = Packet(0, 0)

    def acknowledge(self, packet: Packet) -> bool:
        """Whether that is new."""
        if not self.acked.setdefault(packet.boot, Runs()).add(packet.seq):
            return False
        if packet < self._newest:
            self.late.setdefault(packet.boot, Runs()).add(packet.seq)
        self._newest = max(self._newest, packet)
        return True

    def acknowledged(self) -> int:
        return sum(runs.count() for runs in self.acked.values())

    def unconfirmed(self) -> int:
        """Packets that phones saw though their cars got no answer: it was lost, or the car stopped before it."""
        runs = (run for boot, live in self.live.items() for run in live.minus(self.acked.get(boot, Runs())))
        return sum(high - low + 1 for low, high in runs)


class _Watcher:
    """One phone as the verdict knows it: what it was given, packets by boot."""

    def __init__(self, vehicle: str) -> None:
        self.vehicle = vehicle
        self.given: dict[int, Runs] = {}
        self.boots = Runs()  # given in whole, by a snapshot
        self.newest: Packet | None = None
        self.lost = 0  # gaps that the phone itself found
        self.unnamed = 0  # updates that did not say of which packet they are

    def cover(self, packet: Packet) -> None:
        """A snapshot stands for all after the newest packet given before, up to and with `packet`."""
        since = self.newest or Packet(0, 0)
        self.newest = max(since, packet)
        if packet <= since:
            return
        if self.newest.boot == since.boot:
            self._give(packet.boot, since.seq + 1, packet.seq)
            return
        self._give(since.boot, since.seq + 1, FOREVER)
        self.boots.add(since.boot + 1, packet.boot - 1)
        self._give(packet.boot, 0, packet.seq)

    def see(self, packet: Packet) -> None:
        self._give(packet.boot, packet.seq, packet.seq)
        self.newest = max(self.newest or packet, packet)

    def missed(self, acked: Mapping[int, Runs]) -> Iterator[tuple[int, int, int]]:
        """Runs (boot, low, high) of acknowledged packets that were not given."""
        for boot, runs in acked.items():
            if boot not in self.boots:
                yield from ((boot, low, high) for low, high in runs.minus(self.given.get(boot, Runs())))

    def _give(self, boot: int, low: int, high: int) -> None:
        self.given.setdefault(boot, Runs()).add(low, high)


class _Missed(NamedTuple):
    """What one phone should have got and did not."""

    packets: int  # acknowledged ones
    gaps: int  # versions it found missing in its chain beyond those: of packets without an answer
    example: str


class Verdict:
    """Gathers a run of `cars` cars and `phones` phones. Times are seconds of time.monotonic()."""

    def __init__(self, cars: int, phones: int) -> None:
        self.cars, self.phones = cars, phones
        self.published = self.skipped = self.raw_bytes = self.wire_bytes = 0
        self.unanswered = 0  # packets whose cars stopped before an answer: they may be in the states, or not
        self.refused = 0  # packets that were refused for good
        self._vehicles: dict[str, _Car] = {}
        self._watchers: dict[int, _Watcher] = {}
        self._watched: set[str] = set()
        self._told = dict.fromkeys((*TOLD, "connected"), 0)
        self._report: Mapping[str, Any] | None = None
        self._journeys = Journeys()
        self._acked = 0
        self._doors: dict[str, int] = {}
        self._first: float | None = None
        self._last = 0.0

    def acked(self, vehicle: str, boot: int, seq: int, when: float, door: str = "http") -> None:
        """A packet was acknowledged to its car; of several times the first one counts. A car's are told in their order."""
        if not self._car(vehicle).acknowledge(Packet(boot, seq)):
            return
        self._acked += 1
        self._doors[door] = self._doors.get(door, 0) + 1
        self._first = when if self._first is None else min(self._first, when)
        self._last = max(self._last, when)
        # Until all phones are known any car may be watched; then only those of watched ones matter.
        if vehicle in self._watched or len(self._watchers) < self.phones:
            self._journeys.acked((vehicle, boot, seq), when)

    def cars_line(self, line: Mapping[str, Any]) -> None:
        """Any JSON line of `simulate cars --json`, decoded."""
        if line.get("done"):
            self.unanswered, self.refused = line["unanswered"], line["errors"]
            return
        for vehicle, boot, seq, when, _duplicate, door in line["acked"]:
            self.acked(vehicle, boot, seq, when, door)
        self.traffic(line["raw"], line["wire"])

    def seen(self, vehicle: str, phone: int, boot: int, seq: int, when: float, version: int) -> None:
        """A packet came to a phone as an update."""
        self._watcher(vehicle, phone).see(Packet(boot, seq))
        self._car(vehicle).live.setdefault(boot, Runs()).add(seq)
        self._journeys.seen((vehicle, boot, seq), when, version)

    def snapshot(self, vehicle: str, phone: int, boot: int, seq: int, version: int) -> None:
        """A phone was rightfully given a snapshot that includes packets up to (boot, seq); (0, 0): none."""
        self._watcher(vehicle, phone).cover(Packet(boot, seq))

    def phones_line(self, line: Mapping[str, Any]) -> None:
        """Any JSON line of `simulate phones --json`, decoded; the last one is the report."""
        if line.get("done"):
            self.phones_report(line)
            return
        # Snapshots first: the packets of the same line came after them.
        for vehicle, phone, boot, seq, version in line["snapshots"]:
            self.snapshot(vehicle, phone, boot, seq, version)
        for vehicle, phone, boot, seq, when, version in line["seen"]:
            self.seen(vehicle, phone, boot, seq, when, version)
        self._told.update((name, line[name]) for name in self._told)

    def phones_report(self, report: Mapping[str, Any]) -> None:
        """The phones' last word: counters and faults of each, how many are level with the latest state."""
        self._report = report
        for name in TOLD:
            self._told[name] = sum(phone[name] for phone in report["phones"])
        for phone in report["phones"]:
            watcher = self._watcher(phone["vehicle"], phone["phone"])
            watcher.lost, watcher.unnamed = phone["lost"], phone["unnamed"]

    def versions(self, vehicle: str, before: int, after: int) -> None:
        """The version of a vehicle's state before the run and after it; 0 when it never sent."""
        self._car(vehicle).applied = after - before

    def counters(self, published: int, skipped: int) -> None:
        """Cumulative counts of the consume processes: items published, and skipped for want of a listener."""
        self.published, self.skipped = published, skipped

    def traffic(self, raw_bytes: int, wire_bytes: int) -> None:
        """Bytes before and after compression of the packets acknowledged since the last call."""
        self.raw_bytes += raw_bytes
        self.wire_bytes += wire_bytes

    def acked_of(self, vehicle: str) -> int:
        """How many distinct packets were acknowledged to a vehicle: the versions its state is to rise by."""
        return self._vehicles[vehicle].acknowledged() if vehicle in self._vehicles else 0

    def figures(self, now: float) -> Figures:
        """The run so far. What is on its way is not lost here: `lost` is what the phones found missing in a chain."""
        p50_ms, p99_ms = self._journeys.latency(now)
        told = {name: self._told[name] for name in (*SHOWN, "connected")}
        return Figures(
            at=now,
            cars=self.cars,
            phones=self.phones,
            acked=self._acked,
            raw_bytes=self.raw_bytes,
            wire_bytes=self.wire_bytes,
            published=self.published,
            skipped=self.skipped,
            p50_ms=p50_ms,
            p99_ms=p99_ms,
            doors=dict(self._doors),
            **told,
        )

    def summary(self, seconds: float | None = None) -> Summary:
        """The run as a whole, when all has been told; `seconds` is from first to last acknowledgement by default.

        One cause can count more than once: a packet that no state includes is missed by each of its phones, too.
        """
        p50_ms, p99_ms = self._journeys.latency()
        updates = sum(self.acked_of(watcher.vehicle) for watcher in self._watchers.values())
        missed = [self._missed(number) for number in self._watchers]
        unseen = sum(one.packets for one in missed)
        if seconds is None:
            seconds = 0.0 if self._first is None else self._last - self._first
        return Summary(
            seconds=round(seconds, 1),
            cars=self.cars,
            phones=self.phones,
            acked=self._acked,
            applied=sum(car.applied or 0 for car in self._vehicles.values()),
            updates=updates,
            seen=updates - unseen,
            skipped=self.skipped,
            lost=unseen + sum(one.gaps for one in missed) + sum(self._unapplied().values()),
            twice=self._told["twice"] + sum(self._overapplied().values()),
            reordered=self._told["reordered"] + len(self._journeys.forked),
            resets=self._told["resets"],
            streams_closed=self._told["streams_closed"],
            p50_ms=p50_ms,
            p99_ms=p99_ms,
            doors=dict(sorted(self._doors.items())),
        )

    def broken(self) -> list[str]:
        """One sentence for each promise that was broken; none: the run was good.

        Streams that closed are not among them: an edge may die, what counts is what its phones see then.
        """
        said: list[str] = []
        if not self._acked:
            said.append("Nothing was acknowledged, so nothing was proved.")
        if self.refused:
            said.append(f"{self.refused} good packets were refused.")
        if unapplied := self._unapplied():
            said.append(
                f"{sum(unapplied.values())} acknowledged packets are in no state: {self._balance(unapplied)}."
            )
        missed = [self._missed(number) for number in self._watchers]
        if count := sum(one.packets for one in missed):
            examples = _listed(one.example for one in missed if one.packets)
            said.append(f"{count} updates did not reach their phones: {examples}.")
        if gaps := sum(one.gaps for one in missed):
            said.append(
                f"{gaps} versions were missing in the chains that phones got{self._examples('lost')}."
            )
        if overapplied := self._overapplied():
            said.append(
                f"{sum(overapplied.values())} packets were applied twice: {self._balance(overapplied)}."
            )
        for name, sentence in (
            ("twice", "updates came twice"),
            ("reordered", "updates came out of order"),
            ("resets", "resets were sent though nothing had expired"),
            ("foreign", "events went to phones of another vehicle"),
            ("malformed", "events could not be read"),
        ):
            if self._told[name]:
                said.append(f"{self._told[name]} {sentence}{self._examples(name)}.")
        if self._journeys.forked:
            said.append(
                f"{len(self._journeys.forked)} packets were seen at two versions: {_listed(self._journeys.forked)}."
            )
        if self.phones and self._report is None:
            said.append("The phones gave no report, so what they missed is not known.")
        elif self._report is not None and (there := len(self._report["phones"])) != self.phones:
            said.append(f"{self.phones - there} of {self.phones} phones are missing from the report.")
        if self._report is not None and self._report["unlevel"]:
            said.append(
                f"{self._report['unlevel']} phones do not show the latest state{self._examples('unlevel')}."
            )
        return said

    def _car(self, vehicle: str) -> _Car:
        return self._vehicles.setdefault(vehicle, _Car())

    def _watcher(self, vehicle: str, phone: int) -> _Watcher:
        if phone not in self._watchers:
            self._watchers[phone] = _Watcher(vehicle)
            self._watched.add(vehicle)
        return self._watchers[phone]

    def _missed(self, number: int) -> _Missed:
        watcher = self._watchers[number]
        car = self._car(watcher.vehicle)
        runs = list(watcher.missed(car.acked))
        packets = sum(high - low + 1 for _, low, high in runs)
        late = _common(runs, car.late)
        packets -= min(late, watcher.unnamed)
        example = f"phone {number} missed {watcher.vehicle} {runs[0][0]}/{runs[0][1]}" if packets else ""
        return _Missed(packets, max(0, watcher.lost - packets), example)

    def _unapplied(self) -> dict[str, int]:
        short = {name: car.acknowledged() - (car.applied or 0) for name, car in self._vehicles.items()}
        return {name: count for name, count in short.items() if count > 0}

    def _overapplied(self) -> dict[str, int]:
        """By vehicle the versions that no packet explains: neither acknowledged, nor seen, nor unanswered."""
        unconfirmed = {name: car.unconfirmed() for name, car in self._vehicles.items()}
        allowed = max(0, self.unanswered - sum(unconfirmed.values()))
        over: dict[str, int] = {}
        for name, car in self._vehicles.items():
            excess = max(0, (car.applied or 0) - car.acknowledged() - unconfirmed[name])
            explained = min(excess, allowed)
            allowed -= explained
            if excess > explained:
                over[name] = excess - explained
        return over

    def _balance(self, vehicles: Mapping[str, int]) -> str:
        applied = {name: self._vehicles[name].applied or 0 for name in vehicles}
        return _listed(
            f"{name} {self.acked_of(name)} acknowledged, {applied[name]} applied" for name in vehicles
        )

    def _examples(self, name: str) -> str:
        """What the phones that met this say, as the end of a sentence."""
        phones = self._report["phones"] if self._report is not None else []
        met = [p for p in phones if (not p["level"] if name == "unlevel" else p[name]) and p["faults"]]
        # The last fault of a phone that is not level says in what; of others the first is nearest to the cause.
        said = [
            f"phone {p['phone']} on {p['vehicle']}: {p['faults'][-1 if name == 'unlevel' else 0]}"
            for p in met
        ]
        return f": {_listed(said)}" if said else ""


def _common(runs: Iterable[tuple[int, int, int]], packets: Mapping[int, Runs]) -> int:
    """How many packets of the runs (boot, low, high) are among these."""
    count = 0
    for boot, low, high in runs:
        only = Runs()
        only.add(low, high)
        count += high - low + 1 - sum(b - a + 1 for a, b in only.minus(packets.get(boot, Runs())))
    return count


def _listed(said: Iterable[str]) -> str:
    items = list(said)
    more = f"; and {len(items) - EXAMPLES} more" if len(items) > EXAMPLES else ""
    return "; ".join(items[:EXAMPLES]) + more

"""One phone, without the network: the checker that every event of a watched vehicle goes through.

In: the events of a vehicle's stream, in the order they arrived, over as many connections as it took.
Out: the state a phone would show, and every breach of the protocol: gaps, repeats, disorder, resets.
It merges patches with code of its own and trusts nothing the platform says about itself, because it is the
witness in the demo's verdict. It does no I/O and keeps no more than the state, runs of sequence numbers and a
few sentences.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from fleetcast.simulator.runs import Runs

PACKET = "Simulator.Packet"  # the signal that says which packet an update came from: [boot, seq]
MAX_FAULTS = 20  # sentences kept for each phone; the counts go on


class Packet(NamedTuple):
    """A sender's packet. Packets compare in the order in which a car sends them."""

    boot: int
    seq: int


class Seen(NamedTuple):
    """A packet that came as an update: `when` in seconds of time.monotonic(), `version` of the state it made."""

    packet: Packet
    when: float
    version: int


class Covered(NamedTuple):
    """A snapshot that may stand for all packets up to and with `packet`; (0, 0) when it holds none."""

    packet: Packet
    version: int


class Counts(msgspec.Struct):
    """What a phone met. All but the first five are faults if the platform keeps its promises."""

    updates: int = 0
    statuses: int = 0
    unnamed: int = (
        0  # of these: of packets that changed nothing newer, so that they do not say which (late ones)
    )
    snapshots: int = 0
    unavailable: int = 0
    lost: int = 0  # versions in gaps of the chain that have not come late
    twice: int = 0
    reordered: int = 0
    resets: int = 0  # announced ones, and snapshots that came without one
    foreign: int = 0  # events of another vehicle
    malformed: int = 0


class View(msgspec.Struct):
    """A vehicle's state as an app gets it: `signals` is {path: {"value", "at"}}."""

    vehicle: str
    version: int
    signals: dict[str, Any]
    updated_at: str | None = None


class Update(View, kw_only=True):
    """A change of the state: `signals` is a JSON Merge Patch, `prev` the version of the event before."""

    prev: int


def merged(target: Any, patch: Any) -> Any:
    """`target` with a JSON Merge Patch (RFC 7396) applied; neither is changed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def packet_of(signals: dict[str, Any]) -> Packet | None:
    """The packet named by the simulator's own signal, or None where it is absent."""
    match signals.get(PACKET):
        case {"value": [int(boot), int(seq)]}:
            return Packet(boot, seq)
    return None


class Phone:
    """Watches one vehicle. Give it every event by `on_event`; read `counts`, `faults`, `signals` at any time."""

    def __init__(self, vehicle: str) -> None:
        self.vehicle = vehicle
        self.version: int | None = None  # None until the first snapshot
        self.signals: dict[str, Any] = {}
        self.last_event_id = ""  # what to send as Last-Event-ID; empty: none yet
        self.counts = Counts()
        self.faults: list[str] = []
        self._snapshot_due = True
        self._missing = Runs()  # versions in gaps, taken out again when they come late
        self._packets: dict[int, Runs] = {}  # by boot: sequence numbers that came as updates
        self._covered = Packet(0, 0)  # what the last rightful snapshot stands for
        self._newest = Packet(0, 0)
        self._seen: list[Seen] = []
        self._snapshots: list[Covered] = []

    def on_event(self, id: str, name: str, data: str, when: float = 0.0) -> None:  # noqa: A002 - the standard's name
        """Take one event; `id` is the last event id in force, `when` the time it arrived.

        Never raises: what cannot be read is counted as malformed. Events of unknown names are ignored, as the
        protocol may grow.
        """
        self.last_event_id = id
        try:
            if name in ("update", "status"):  # the second is a link of the chain that is no packet
                self._on_update(msgspec.json.decode(data, type=Update), when, status=name == "status")
            elif name == "snapshot":
                self._on_snapshot(msgspec.json.decode(data, type=View))
            elif name == "reset":
                self._on_reset(data)
            elif name == "unavailable":
                self.counts.unavailable += 1
        except msgspec.MsgspecError as error:
            self.counts.malformed += 1
            self._fault(f"{name} cannot be read: {error}")

    def take_seen(self) -> list[Seen]:
        """The packets that came as updates since the last call."""
        taken, self._seen = self._seen, []
        return taken

    def take_snapshots(self) -> list[Covered]:
        """The rightful snapshots (first, or announced by a reset) since the last call."""
        taken, self._snapshots = self._snapshots, []
        return taken

    def difference(self, latest: bytes | None) -> str:
        """How this phone's state differs from the latest document; "" when they are level.

        `latest` is the JSON that the platform answers, None where it answered that the vehicle never sent.
        """
        if latest is None:
            return f"the phone has version {self.version}, the platform has none" if self.version else ""
        try:
            view = msgspec.json.decode(latest, type=View)
        except msgspec.MsgspecError as error:
            return f"the latest state cannot be read: {error}"
        if view.vehicle != self.vehicle:
            return f"the latest state is of {view.vehicle}"
        if view.version != self.version:
            return f"the phone has version {self.version}, the latest is {view.version}"
        paths = sorted(
            p for p in {*view.signals, *self.signals} if view.signals.get(p) != self.signals.get(p)
        )
        return f"at version {self.version} {len(paths)} signals differ, first {paths[0]}" if paths else ""

    def level(self, latest: bytes | None) -> bool:
        """Whether snapshot + patches came to the latest state."""
        return not self.difference(latest)

    def report(self) -> dict[str, Any]:
        """All of this phone as plain JSON values."""
        return {
            "vehicle": self.vehicle,
            "version": self.version,
            **msgspec.structs.asdict(self.counts),
            "faults": self.faults,
        }

    def _on_snapshot(self, view: View) -> None:
        if self._is_foreign(view):
            return
        self.counts.snapshots += 1
        packet = packet_of(view.signals) or Packet(0, 0)
        if self._snapshot_due:
            self._covered = self._newest = packet
            self._snapshots.append(Covered(packet, view.version))
        else:
            # Nobody said that the chain was broken, so what the snapshot skips is lost in silence.
            self.counts.resets += 1
            self._fault(
                f"a snapshot of version {view.version} came without a reset, after version {self.version}"
            )
            if self.version is not None and view.version < self.version:
                self.counts.reordered += 1
            elif self.version is not None:
                self._gap(self.version + 1, view.version)
            self._newest = max(self._newest, packet)
        self._snapshot_due = False
        self.version, self.signals = view.version, view.signals

    def _on_update(self, update: Update, when: float, *, status: bool) -> None:
        if self._is_foreign(update):
            return
        self.counts.statuses += status
        self.counts.updates += not status
        packet = packet_of(update.signals)
        if self._snapshot_due or self.version is None:
            self.counts.reordered += 1
            self._fault(f"version {update.version} came before the snapshot it builds on")
            return
        if update.version <= self.version:
            if self._missing.discard(update.version):
                self.counts.lost -= 1
                self.counts.reordered += 1
                self._fault(f"version {update.version} came after version {self.version}")
                if not status:
                    self._saw(packet, when, update.version)
            else:
                self.counts.twice += 1
                self._fault(f"version {update.version} came again, after version {self.version}")
            return
        if update.prev > self.version:
            self._gap(self.version + 1, update.prev)
        elif update.prev < self.version:
            self.counts.reordered += 1
            self._fault(
                f"version {update.version} builds on {update.prev}, but {self.version} was the one before"
            )
        elif packet is not None:
            self._check_order(packet)
        self.version, self.signals = update.version, merged(self.signals, update.signals)
        if not status:
            self._saw(packet, when, update.version)

    def _on_reset(self, data: str) -> None:
        told = msgspec.json.decode(data, type=dict[str, Any])
        self.counts.resets += 1
        chain = f"from {told.get('from')} to {told.get('to')}"
        self._fault(f"reset ({told.get('reason')}) {chain}, at version {self.version}")
        # The old chain ends here: its gaps stay lost, and what a restored platform sends again is not a repeat.
        self._snapshot_due, self._missing, self._packets = True, Runs(), {}

    def _check_order(self, packet: Packet) -> None:
        # The versions are in order here, so what this finds was stored twice or in the wrong order.
        if packet <= self._covered or packet.seq in self._packets.get(packet.boot, Runs()):
            self.counts.twice += 1
            self._fault(f"packet {packet.boot}/{packet.seq} came again")
        elif packet < self._newest:
            self.counts.reordered += 1
            self._fault(
                f"packet {packet.boot}/{packet.seq} came after {self._newest.boot}/{self._newest.seq}"
            )

    def _saw(self, packet: Packet | None, when: float, version: int) -> None:
        if packet is None:
            self.counts.unnamed += 1
            return
        self._packets.setdefault(packet.boot, Runs()).add(packet.seq)
        self._newest = max(self._newest, packet)
        self._seen.append(Seen(packet, when, version))

    def _gap(self, low: int, high: int) -> None:
        if high >= low:
            self.counts.lost += self._missing.add(low, high)
            self._fault(
                f"versions {low} to {high} are missing" if high > low else f"version {low} is missing"
            )

    def _is_foreign(self, view: View) -> bool:
        if view.vehicle == self.vehicle:
            return False
        self.counts.foreign += 1
        self._fault(f"an event of {view.vehicle}")
        return True

    def _fault(self, text: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(text)

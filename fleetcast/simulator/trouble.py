"""What goes wrong around a car, as a script: pure, and the same for the same seed.

In: rates, a seed and a vehicle. Out, tick by tick, what the car does: packets to make, packets to send, in which order.
Real cars lose the network in tunnels and send what they kept when they are out, send several packets at once, send a
packet again that was acknowledged, send one late, restart, and have clocks that are wrong. Every packet that is made is
sent; and nothing is sent so late, or so late again, that the live state would have forgotten it (`state.State.seen`), so
each counts exactly once in its vehicle's version. A packet that is repeated after a reboot would not be recognised by the
state; a script does not do that.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fleetcast.simulator.phone import Packet

Rate = Annotated[float, Meta(ge=0, le=1)]
Clock = Literal["right", "ahead", "1970"]

HOUR = 3600.0
TUNNEL = (2, 5)  # ticks that a car is offline for
BURST = (2, 4)  # packets of one tick
LATE = (1, 3)  # packets that overtake a late one
AGAIN = (0, 5)  # packets that come between a packet and its repeat


class Trouble(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often; 0 is never. All but `skewed` are chances at each tick, which is each packet's where nothing is wrong."""

    tunnels: Rate = 0.0
    """The car is offline for 2 to 5 ticks, keeps its packets, and then sends them, the oldest first."""
    bursts: Rate = 0.0
    """2 to 4 packets at once."""
    duplicates: Rate = 0.0
    """An acknowledged packet is sent again, at once or up to 5 packets later."""
    late: Rate = 0.0
    """A packet is sent after 1 to 3 newer ones. Its times stay those at which it was made."""
    reboots: Rate = 0.0
    """The sender restarts: `boot` rises by 1, `seq` begins at 1."""
    skewed: Rate = 0.0
    """The share of cars whose clock is wrong: an hour ahead, or in 1970 when the sender starts."""


SOME = Trouble(tunnels=0.04, bursts=0.05, duplicates=0.05, late=0.05, reboots=0.02, skewed=0.1)
"""What `--trouble` stands for: more than a road has, so that some of each is met within a minute."""


class Make(msgspec.Struct, frozen=True):
    """The next packet, with the car as it is now."""

    packet: Packet


class Send(msgspec.Struct, frozen=True):
    """A packet that was made, until it is acknowledged. `again`: it was acknowledged before; `repeated`: it will be sent
    again, so its bytes are to be kept.
    """

    packet: Packet
    again: bool = False
    repeated: bool = False


class Backlog(msgspec.Struct, frozen=True):
    """The car is back: all that it kept, in this order."""

    sends: tuple[Send, ...]


class Vanish(msgspec.Struct, frozen=True):
    """The car is out of reach: its connection is gone, and nothing is sent until its backlog."""


Step = Make | Send | Backlog | Vanish


class Script:
    """One car's. `tick` is what it does next; `end`, once, what is left to be sent when it stops."""

    def __init__(self, trouble: Trouble, seed: int, vehicle: str, boot: int) -> None:
        self._trouble = trouble
        self._rng = random.Random(f"trouble/{seed}/{vehicle}")
        self.clock: Clock = self._rng.choice(("ahead", "1970")) if self._happens(trouble.skewed) else "right"
        self._boot, self._seq = boot, 0
        self._made = 0
        self._offline = 0  # ticks that are left of a tunnel
        self._kept: list[Packet] = []
        self._due: list[tuple[int, Send]] = []  # with how many packets must have been made

    def tick(self) -> Iterator[Step]:
        """What the car does at its next tick: at least one packet is made."""
        if not self._offline and self._made and self._happens(self._trouble.reboots):
            yield from self._held_back()
            self._boot, self._seq = self._boot + 1, 0
        if not self._offline and self._happens(self._trouble.tunnels):
            self._offline = self._rng.randint(*TUNNEL)
            yield Vanish()
        for _ in range(self._rng.randint(*BURST) if self._happens(self._trouble.bursts) else 1):
            yield from self._one()
        if self._offline:
            self._offline -= 1
            if not self._offline:
                yield from self._back()

    def end(self) -> Iterator[Step]:
        """What was kept or held back. Repeats are not among it."""
        yield from self._back()
        yield from self._held_back()

    def _one(self) -> Iterator[Step]:
        self._seq += 1
        self._made += 1
        packet = Packet(self._boot, self._seq)
        yield Make(packet)
        if self._offline:
            self._kept.append(packet)
            return
        if self._happens(self._trouble.late):
            self._due.append((self._made + self._rng.randint(*LATE), Send(packet)))
        else:
            yield self._send(packet)
        yield from self._fallen_due()

    def _send(self, packet: Packet) -> Send:
        repeated = self._happens(self._trouble.duplicates)
        if repeated:
            self._due.append((self._made + self._rng.randint(*AGAIN), Send(packet, again=True)))
        return Send(packet, repeated=repeated)

    def _fallen_due(self) -> Iterator[Step]:
        due = [send for when, send in self._due if when <= self._made]
        self._due = [(when, send) for when, send in self._due if when > self._made]
        for send in due:
            yield send if send.again else self._send(send.packet)

    def _back(self) -> Iterator[Step]:
        self._offline = 0
        kept, self._kept = self._kept, []
        if kept:
            yield Backlog(tuple(self._send(packet) for packet in kept))
        yield from self._fallen_due()

    def _held_back(self) -> Iterator[Step]:
        """All late ones now; what was to be repeated is forgotten, as it is in a real sender's memory."""
        due, self._due = self._due, []
        yield from (send for _, send in due if not send.again)

    def _happens(self, rate: float) -> bool:
        return self._rng.random() < rate


def told(clock: Clock, now: float, up: float) -> float:
    """What a car's clock says, in seconds since 1970; `now` is the true time, `up` the seconds since the sender started."""
    return {"right": now, "ahead": now + HOUR, "1970": up}[clock]

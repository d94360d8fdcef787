"""The phones of a proof, a process: streams through the front door, in every mood that a phone can be in.

    steady     stays, and comes back when it is cut
    restless   changes networks: drops its connection, or leaves it behind unread, and comes back at once
    sleepy     goes away for a while, most often for less than the window
    slow       reads 1 kB a second for a while, then catches up

Some are on a view, of some signals or of a rare one, the others on all; most have a stream, some long-poll, some have one of
many vehicles, some a WebSocket; some of each are calm. All come back with their last event id, or ids, unless told otherwise.
They check nothing: what they saw is reported, and the oracle judges.
In: {"drop": true} makes all come back at once; {"anew": true} the same, without their last event id; {"away": seconds} sends
every third, ten at most, away for so long; {"calm": true} ends all moods; {"final": true} asks what each shows.
Out: each tenth of a second {"events": […], "moods": [`oracle.Mood`, …], "connected", "closed",
"refused": how many}, and once asked "final": [[phone, version, checksum], …].
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from fleetcast.proof.client import Line
from fleetcast.proof.drivers import Driver
from fleetcast.proof.oracle import Event, Mood
from fleetcast.proof.shown import Chain
from fleetcast.proof.sockets import Socket
from fleetcast.proof.transports import Asks, Many, Poll, Stream, Told, Transport

_MOODS = ("steady",) * 12 + ("restless",) * 4 + ("sleepy",) * 3 + ("slow",)
_CALM = 5
_KINDS: tuple[tuple[type[Transport], str, int], ...] = (
    (Stream, "some", 0),
    (Stream, "rare", 0),
    (Stream, "", 0),
    (Poll, "", 0),
    (Stream, "", _CALM),
    (Stream, "", 0),
    (Stream, "some", _CALM),
    (Poll, "rare", 0),
    (Stream, "some", 0),
    (Many, "", 0),
    (Many, "some", _CALM),
    (Stream, "rare", 0),
    (Poll, "", _CALM),
    (Socket, "", 0),
    (Stream, "", 0),
    (Socket, "rare", 0),
    (Socket, "some", _CALM),
    (Stream, "", 0),
    (Stream, "", 0),
)
"""By turns: (transport, view, seconds that it is calm by, or 0). As many as have nothing in common with the moods, so that each
comes in each."""
_WAIT = (5, 20)  # seconds that a long-poll waits
_MANY = 1_000_000  # from here on the oracle numbers the chains of those who follow many vehicles
_OPENS = 15.0  # seconds without a byte while it is not open yet
_SLOW_BUFFER = 4096
_SLOW_BYTES = 250  # each quarter of a second
_AWAY = 10
_OVERSLEEPS = 0.004  # the share of sleeps that outlast the window


STREAMS: str = "streams"
"""Of `_KINDS` only those that have a stream of one vehicle."""


def _kinds(by: str) -> Sequence[tuple[type[Transport], str, int]]:
    return [kind for kind in _KINDS if kind[0] is Stream] if by == STREAMS else _KINDS


def name(number: int, by: str) -> str:
    """What a chain's number in the oracle stands for: the phone, and what it follows by; `by` is that of all of them."""
    phone, kinds = number if number < _MANY else (number - _MANY) // 1000, _kinds(by)
    transport, view, every = kinds[phone % len(kinds)]
    return " ".join(filter(None, (str(phone), transport.__name__, view, f"each {every} s" if every else "")))


class Phone:
    """One of them."""

    def __init__(self, number: int, vehicles: Sequence[str], mood: str, crowd: Phones) -> None:
        by, view, every = crowd.kinds[number % len(crowd.kinds)]
        self.number = number
        self.mood = mood
        self.crowd = crowd
        self.dice = random.Random(f"{crowd.seed}/phone/{number}")
        self.by = by
        self.asks = Asks(view, every, self.dice.randint(*_WAIT))
        first = number % len(vehicles)
        names = [(number, vehicles[first])]
        if self.by is Many:
            several = [*vehicles[first:], *vehicles[:first]][: crowd.many]
            names = [(_MANY + number * 1000 + n, vehicle) for n, vehicle in enumerate(several)]
        self.chains = [Chain(n, vehicle, view, self.asks.every) for n, vehicle in names]
        self.dropping = asyncio.Event()
        self.connected = False
        self.forgets = False
        self.away = 0.0

    async def follow(self) -> None:
        """Its life."""
        while True:
            retry = await self._connection()
            if self.away:
                seconds, self.away = self.away, 0.0
                self.crowd.said(self, awake=False)
                await self.crowd.calm_or(seconds)
            if self.forgets:
                self.forgets = False
                for chain in self.chains:
                    chain.forget()
            await asyncio.sleep((retry or 400) / 1000 * self.dice.uniform(0.5, 1.5))

    async def _connection(self) -> int | None:
        """One connection to its end; the `retry` that it named."""
        mood = "steady" if self.crowd.calm else self.mood
        self.crowd.said(self, awake=mood != "slow", opens=True)
        line: Line | None = None
        transport: Transport | None = None
        wanted = False  # whether the phone itself ended it
        try:
            line = await Line.open(self.crowd.port, _SLOW_BUFFER if mood == "slow" else 0)
            transport = self.by(line, self.chains, self.asks)
            transport.ask()
            wanted = await self._read(line, transport, mood)
        except (OSError, TimeoutError):
            pass
        finally:
            self.crowd.refused += transport is not None and transport.refused
            if transport is not None and transport.open and not wanted:
                self.crowd.closed[self.by.__name__] += 1
            self.connected = False
            if line is not None and not (wanted and self.crowd.leave_behind(line, self.dice)):
                line.close()
        if wanted and mood == "sleepy" and not self.crowd.calm:
            self.crowd.said(self, awake=False)
            window = self.crowd.window
            oversleeps = self.dice.random() < _OVERSLEEPS
            await self.crowd.calm_or(window + 5 if oversleeps else self.dice.uniform(0.5, window * 0.5))
        return transport.retry if transport is not None else None

    async def _read(self, line: Line, transport: Transport, mood: str) -> bool:
        """Until it ends: True if by our own will."""
        until = time.monotonic() + {
            "restless": self.dice.uniform(2, 15),
            "sleepy": self.dice.uniform(3, 20),
            "slow": self.dice.uniform(5, 15),
        }.get(mood, 1e9)
        self.dropping.clear()
        dropping = asyncio.create_task(self.dropping.wait())
        reading: asyncio.Task[bytes] | None = None
        heard = time.monotonic()
        try:
            while True:
                now = time.monotonic()
                if mood == "slow" and (self.crowd.calm or now > until):
                    mood = "steady"  # reads on, as fast as it can
                    self.crowd.said(self, awake=True)
                ends = now > until and mood in ("restless", "sleepy") and not self.crowd.calm
                if ends or dropping.done():
                    return True
                if transport.over:
                    return False
                self.connected = transport.open
                silence = transport.silence if transport.open else _OPENS
                if reading is None:
                    reading = asyncio.create_task(line.reader.read(_SLOW_BYTES if mood == "slow" else 65_536))
                await asyncio.wait(
                    {reading, dropping},
                    timeout=max(0.01, min(until, transport.due, heard + silence) - now),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if transport.due <= time.monotonic():
                    transport.tick()
                if reading.done():
                    data, reading = reading.result(), None
                    heard = time.monotonic()
                    if not data:
                        return False
                    self._take(transport.feed(data))
                    if mood == "slow":
                        await asyncio.sleep(0.25)
                elif time.monotonic() - heard >= silence:
                    return False
        finally:
            for task in (reading, dropping):
                if task is not None:
                    task.cancel()
            with suppress(OSError, asyncio.CancelledError):
                if reading is not None:
                    await reading

    def _take(self, told: list[Told]) -> None:
        now = time.time()
        for one in told:
            if (event := one.chain.take(one.event, one.id, one.data, now)) is not None:
                self.crowd.events.append(event)


class Phones(Driver):
    """All of them."""

    def __init__(
        self,
        port: int,
        seed: int,
        vehicles: Sequence[str],
        count: int,
        window: float,
        moods: str,
        many: int,
        by: str,
    ) -> None:
        super().__init__()
        self.kinds = _kinds(by)
        self.many = many
        self.port = port
        self.seed = seed
        self.window = window
        self.calm = False
        self.closed: Counter[str] = Counter()
        self.refused = 0
        self.events: list[Event] = []
        self.moods: list[Mood] = []
        self.phones = [
            Phone(
                n,
                vehicles,
                _MOODS[(n * 7) % len(_MOODS)] if moods == "mixed" else "steady",
                self,
            )
            for n in range(count)
        ]
        self._calmed = asyncio.Event()
        self._left: set[Line] = set()
        self._final = False

    def said(self, phone: Phone, *, awake: bool, opens: bool = False) -> None:
        """A phone wants to listen, or not; `opens`: with the last event ids that it has."""
        self.moods += [
            Mood(
                chain.number,
                chain.vehicle,
                awake,
                opens and bool(chain.last),
                opens and not chain.last,
                chain.view,
                chain.every,
            )
            for chain in phone.chains
        ]

    def leave_behind(self, line: Line, dice: random.Random) -> bool:
        """Half of those that change networks cannot close: the old connection stays for a while, unread."""
        if self.calm or dice.random() < 0.5 or len(self._left) > 50:
            return False
        self._left.add(line)

        def close() -> None:
            self._left.discard(line)
            line.close()

        asyncio.get_running_loop().call_later(5, close)
        return True

    async def calm_or(self, seconds: float) -> None:
        """Sleeps, until all must be calm."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._calmed.wait()

    def on_command(self, command: dict[str, object]) -> None:
        """See the module's text."""
        if "calm" in command:
            self.calm = bool(command["calm"])
            (self._calmed.set if self.calm else self._calmed.clear)()
        if command.get("anew"):
            for phone in self.phones:
                phone.forgets = True
        if "away" in command:
            for phone in self.phones[::3][:_AWAY]:
                phone.away = float(str(command["away"]))
                phone.dropping.set()
        if command.get("drop") or command.get("anew"):
            for phone in self.phones:
                phone.dropping.set()
        if command.get("final"):
            self._final = True

    def report(self) -> dict[str, object]:
        """What is new."""
        events, self.events = self.events, []
        moods, self.moods = self.moods, []
        said: dict[str, object] = {
            "events": events,
            "moods": moods,
            "connected": sum(phone.connected for phone in self.phones),
            "closed": self.closed,
            "refused": self.refused,
        }
        if self._final:
            self._final = False
            said["final"] = [
                (chain.number, chain.version, chain.digest) for phone in self.phones for chain in phone.chains
            ]
        return said

    async def live(self) -> None:
        """All of them, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for phone in self.phones:
                tasks.create_task(phone.follow())
                await asyncio.sleep(0.003)


def main() -> int:
    """`python -m fleetcast.proof.phones`: see the module's text."""
    parser = argparse.ArgumentParser(prog="fleetcast.proof.phones", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="the front door's")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--vehicles", required=True, help="their ids, in a JSON list")
    parser.add_argument("--phones", type=int, required=True, help="how many, spread over the vehicles")
    parser.add_argument("--moods", choices=("mixed", "steady"), default="mixed")
    parser.add_argument("--by", choices=("all", STREAMS), default="all", help="their transports")
    parser.add_argument("--many", type=int, required=True, help="vehicles of one that follows many")
    parser.add_argument("--window", type=float, required=True, help="seconds, as the platform has it")
    given = parser.parse_args()
    vehicles = msgspec.json.decode(given.vehicles, type=list[str])
    asyncio.run(
        Phones(
            given.port, given.seed, vehicles, given.phones, given.window, given.moods, given.many, given.by
        ).run()
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

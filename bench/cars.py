"""Load: vehicles that send packets to ingest at an even rate, over a number of kept connections, as a balancer before it would.

An open loop: each packet has a time at which it is due, whatever happened to those before it. A packet that is refused or gets
no answer is sent again until it is acknowledged. Run as a process: options as JSON, then the file for its records, one row a
packet: (vehicle, seq, acknowledged, due) in ns of the machine's monotonic clock.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import httptools
import msgspec
from backports import zstd

from bench.stats import Records
from fleetcast.clock import rfc3339
from fleetcast.simulator.car import Car
from fleetcast.simulator.drives import find_drives
from fleetcast.simulator.samples import LEVEL, Samples, content_type

_TAILS = 24
_SAY_EVERY = 0.5
_AGAIN = 0.2
_LATE = 0.0005  # a tick is slept for only if it is further away than this


class Options(msgspec.Struct, frozen=True):
    """`rate` packets a second of `cars` vehicles in turn, numbered from `first`.

    `shuffled`: each turn of all vehicles in a random order of its own.
    `size` is the packet's size inflated, in bytes; 0: the head alone. `seq` is the first sequence number.
    """

    port: int
    cars: int
    rate: float
    first: int = 0
    size: int = 500_000
    form: Literal["ndjson", "json"] = "ndjson"
    connections: int = 64
    boot: int = 2
    seq: int = 1
    prefix: str = "car-"
    noun: str = "vehicles"
    seed: int = 1
    shuffled: bool = False
    seconds: float = 1e9
    patience: int = 1_000_000
    """It gives in when so many packets wait: the open loop would fill the memory with them."""


def vehicle(number: int, prefix: str = "car-") -> str:
    """The id of a vehicle of the benchmark."""
    return f"{prefix}{number:06d}"


def turn(count: int, rng: random.Random | None) -> Iterator[int]:
    """0 to `count` - 1, for ever; each time around in another order, if there is chance to draw it by."""
    order = list(range(count))
    while True:
        if rng is not None:
            rng.shuffle(order)
        yield from order


class Bodies:
    """Makes packets cheaply: the bulk is compressed once, a few times over; only the head is made for each packet."""

    def __init__(self, options: Options) -> None:
        rng = random.Random(options.seed)
        car = Car("template", find_drives(None)[0], options.seed, 600.0)
        car.advance(60.0)
        skip = ("Vehicle.Speed", "Vehicle.TraveledDistance")
        shaped = {path: {"value": value} for path, value in car.signals().items() if path not in skip}
        self._signals = msgspec.json.encode(shaped)[1:-1].decode()
        self._prefix = options.prefix
        self._boot = options.boot
        self._stamp, self._stamped = "", 0.0
        self.headers = f"Content-Type: {content_type(options.form)}\r\n"
        self._tails: list[bytes] = []
        self._form = options.form
        if options.size:
            self.headers += "Content-Encoding: zstd\r\n"
            samples = Samples(options.seed)
            room = options.size - len(self._head(0, 1))
            self._tails = [_tail(samples, room, rng, options.form) for _ in range(_TAILS)]

    def body(self, number: int, seq: int) -> bytes:
        """The packet, as sent."""
        head = self._head(number, seq)
        if not self._tails:
            return head.encode()
        opening = head + "\n" if self._form == "ndjson" else head[:-1] + ',"samples":['
        return zstd.compress(opening.encode(), 1) + self._tails[(number + seq) % _TAILS]

    def _head(self, number: int, seq: int) -> str:
        now = time.time()
        if now - self._stamped > 0.01:
            self._stamp, self._stamped = rfc3339(now), now
        return (
            f'{{"vehicle":"{vehicle(number, self._prefix)}","boot":{self._boot},"seq":{seq},'
            f'"sent_at":"{self._stamp}","signals":{{'
            f'"Vehicle.Speed":{{"value":{20 + (number * 7 + seq) % 100}.5}},'
            f'"Vehicle.TraveledDistance":{{"value":{12_000 + seq}.1}},{self._signals}}}}}'
        )


def _tail(samples: Samples, room: int, rng: random.Random, form: str) -> bytes:
    numbers, last = samples.fill(room, rng)
    if form == "ndjson":
        return zstd.compress(b"\n".join([*samples.lines(numbers), last, b""]), LEVEL)
    return zstd.compress(b",".join([*samples.lines(numbers), last]) + b"]}", LEVEL)


class _Connection(asyncio.Protocol):
    """One connection, with one packet in flight."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.transport: asyncio.Transport | None = None
        self.packet: tuple[int, int, int, bytes] | None = None
        self.status = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.parser = httptools.HttpResponseParser(self)
        self.fleet.idle(self)

    def send(self, packet: tuple[int, int, int, bytes]) -> None:
        self.packet = packet
        assert self.transport is not None
        self.transport.write(packet[3])

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        packet, self.packet = self.packet, None
        if packet is not None:
            if self.parser.get_status_code() == 202:
                self.fleet.acknowledged(packet)
            else:
                self.fleet.again(packet)
        self.fleet.idle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.packet is not None:
            self.fleet.again(self.packet)
        self.fleet.lost(self)


class Fleet:
    """All vehicles, and what is on its way."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.bodies = Bodies(options)
        self.records = Records()
        self.waiting: deque[tuple[int, int, int, bytes]] = deque()
        self.free: list[_Connection] = []
        self.retries = 0
        self.gave_in = 0
        self.made = 0
        self.bytes = 0
        self.stopping = asyncio.Event()
        self._seqs: dict[int, int] = {}

    async def run(self) -> None:
        """Until told to stop, or the time is over; then until everything is acknowledged, for a minute."""
        options = self.options
        for _ in range(options.connections):
            await self._connect()
        if options.rate > 0:
            await self._send(time.monotonic_ns())
        deadline = time.monotonic() + 60
        while len(self.records) < self.made and time.monotonic() < deadline:  # noqa: ASYNC110 - cheaper than an event each
            await asyncio.sleep(0.02)

    async def _send(self, began: int) -> None:
        options, count = self.options, 0
        interval = 1e9 / options.rate
        end = began + options.seconds * 1e9
        turns = turn(options.cars, random.Random(options.seed) if options.shuffled else None)
        while not self.stopping.is_set():
            due = began + int(count * interval)
            if due >= end:
                return
            if len(self.waiting) > options.patience:
                self.gave_in = 1
                return
            if (ahead := (due - time.monotonic_ns()) / 1e9) > _LATE:
                await asyncio.sleep(min(ahead, 0.1))
                continue
            self._make(options.first + next(turns), due)
            count += 1
            if not count % 16:
                await asyncio.sleep(0)

    def _make(self, number: int, due: int) -> None:
        seq = self._seqs[number] = self._seqs.get(number, self.options.seq - 1) + 1
        body = self.bodies.body(number, seq)
        path = f"/v1/{self.options.noun}/{vehicle(number, self.options.prefix)}/packets"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: bench\r\n{self.bodies.headers}Content-Length: {len(body)}\r\n\r\n"
        )
        self.made += 1
        self.bytes += len(body)
        self.waiting.append((number, seq, due, head.encode() + body))
        self._pump()

    def _pump(self) -> None:
        while self.waiting and self.free:
            self.free.pop().send(self.waiting.popleft())

    def idle(self, connection: _Connection) -> None:
        """It can take a packet."""
        self.free.append(connection)
        self._pump()

    def acknowledged(self, packet: tuple[int, int, int, bytes]) -> None:
        """It is stored."""
        number, seq, due, _ = packet
        self.records.add(number, seq, time.monotonic_ns(), due)

    def again(self, packet: tuple[int, int, int, bytes]) -> None:
        """It may not be."""
        self.retries += 1
        asyncio.get_running_loop().call_later(_AGAIN, self._return, packet)

    def _return(self, packet: tuple[int, int, int, bytes]) -> None:
        self.waiting.appendleft(packet)
        self._pump()

    def lost(self, connection: _Connection) -> None:
        """Connects anew."""
        if connection in self.free:
            self.free.remove(connection)
        asyncio.get_running_loop().call_later(_AGAIN, lambda: asyncio.ensure_future(self._connect()))

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), "127.0.0.1", self.options.port
            )
        except OSError:
            asyncio.get_running_loop().call_later(_AGAIN, lambda: asyncio.ensure_future(self._connect()))

    def line(self) -> dict[str, float]:
        """What is said each half second; `acked` last, for it is what others wait for."""
        return {
            "made": self.made,
            "waiting": len(self.waiting),
            "retries": self.retries,
            "gave_in": self.gave_in,
            "mb": round(self.bytes / 1e6, 1),
            "cpu": time.process_time(),
            "acked": len(self.records),
        }


async def main(options: Options, records: Path) -> None:
    """The process."""
    fleet = Fleet(options)
    say(fleet.line())
    telling = asyncio.create_task(listen({"stop": fleet.stopping.set}))
    saying = asyncio.create_task(keep_saying(fleet.line))
    await fleet.run()
    for task in (telling, saying):
        task.cancel()
    fleet.records.save(records)
    say(fleet.line() | {"done": 1})


def say(line: dict[str, float]) -> None:
    """A line for who started us; they may be gone."""
    try:
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
        sys.stdout.flush()
    except OSError:
        os._exit(1)


async def keep_saying(line: Callable[[], dict[str, float]]) -> None:
    """Each half second, for ever."""
    while True:
        say(line())
        await asyncio.sleep(_SAY_EVERY)


async def listen(words: Mapping[str, Callable[[], None]]) -> None:
    """Lines on standard input, each one of these words; its end is a `stop`."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        words[line.decode().strip()]()
    words["stop"]()


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Options), Path(sys.argv[2])))

"""Load: cars that hold a connection each to one of the doors, HTTP or MQTT, with one packet in flight each.

A closed loop: a car sends its next packet when its last one is acknowledged. Both doors get the same packets from the same
code, as bytes on a connection, so that what differs is the door. Run as a process: options as JSON, then the file for its
records. Words on standard input: `go N` (the first N cars send on and on), `halt`, `once` (each car sends one packet), `small`
(the same, the head alone), `hello` (over HTTP each says again what it said first, so that no connection is idle for too
long), `stop`. When all that was asked for is answered the records of it are written, one row a packet: (vehicle, seq, sent,
acknowledged) in ns of the machine's monotonic clock; then `finished` is one more. After a `hello` `greetings` is.
"""

from __future__ import annotations

import asyncio
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import httptools
import msgspec
from backports import zstd

from bench.cars import Bodies, keep_saying, listen, say, vehicle
from bench.cars import Options as Packets
from bench.stats import Records
from fleetcast.mqtt_line import connect_packet, publish_packet

Door = Literal["http", "mqtt"]

_HELLO = (
    b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"  # answered 404: a connection that is kept, and nothing is stored
)
_CONNACK = b"\x20\x02\x00\x00"


class Options(msgspec.Struct, frozen=True):
    """`cars` vehicles, numbered from `first`; `size` as in `cars`, and `plain`: sent as it is, not compressed.

    At most `opening` connections at a time are not answered yet, and at most `flight` packets.
    """

    door: Door
    port: int
    cars: int
    first: int = 0
    size: int = 0
    plain: bool = False
    boot: int = 2
    counts: list[int] = []
    """Each N of a `go N`."""
    opening: int = 64
    flight: int = 1_000_000
    source: str = "127.0.0.1"
    """The address to connect from: from one address the kernel finds a free port slowly when half of them are taken."""
    seed: int = 1


class Sender(asyncio.Protocol, ABC):
    """A car and its connection; a subclass a door."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self.fleet = fleet
        self.number = number
        self.left = 0.0  # packets that it still is to send
        self.seq = 0
        self.sent = 0
        self.ready = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.hello())

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.fleet.lost(self)

    def send(self, bodies: Bodies) -> None:
        """Its next packet."""
        assert self.transport is not None
        self.seq += 1
        body = bodies.body(self.number, self.seq)
        if self.fleet.options.plain and bodies is self.fleet.large:
            body = zstd.decompress(body)
        message = self.message(body, bodies)
        self.sent = time.monotonic_ns()
        self.transport.write(message)

    @abstractmethod
    def hello(self) -> bytes:
        """What is said first, and is answered."""

    @abstractmethod
    def message(self, body: bytes, bodies: Bodies) -> bytes:
        """A packet as it goes over the connection."""


class HttpSender(Sender):
    """By POST."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.greeted = 0  # hellos whose answers are still to come, before that of a packet
        super().connection_made(transport)

    def hello(self) -> bytes:
        return _HELLO

    def message(self, body: bytes, bodies: Bodies) -> bytes:
        headers = bodies.headers
        if self.fleet.options.plain:
            headers = headers.replace("Content-Encoding: zstd\r\n", "")
        path = f"/v1/vehicles/{vehicle(self.number)}/packets"
        head = f"POST {path} HTTP/1.1\r\nHost: bench\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        if not self.ready:
            self.fleet.opened(self)
        elif self.greeted:
            self.greeted -= 1
            self.fleet.heard()
        else:
            self.fleet.answered(self, "" if status == 202 else f"HTTP {status}")

    def greet(self) -> None:
        """It says its hello again, if it sends nothing now."""
        if self.ready and self not in self.fleet.flying and self.transport is not None:
            self.greeted += 1
            self.fleet.greeted += 1
            self.transport.write(_HELLO)


class MqttSender(Sender):
    """By PUBLISH with QoS 1."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.rest = b""
        super().connection_made(transport)

    def hello(self) -> bytes:
        return connect_packet(vehicle(self.number))

    def message(self, body: bytes, bodies: Bodies) -> bytes:
        topic = f"vehicles/{vehicle(self.number)}/packets"
        return publish_packet(topic, self._packet_id, body)

    @property
    def _packet_id(self) -> int:
        return (self.seq - 1) % 65_535 + 1

    def data_received(self, data: bytes) -> None:
        self.rest += data
        while len(self.rest) >= 4:  # CONNACK and PUBACK have four bytes
            answer, self.rest = self.rest[:4], self.rest[4:]
            if not self.ready and answer == _CONNACK:
                self.fleet.opened(self)
            else:
                well = answer == b"\x40\x02" + self._packet_id.to_bytes(2, "big")
                self.fleet.answered(self, "" if well else f"MQTT {answer.hex()}")


class Fleet:
    """All cars, and what is on its way."""

    def __init__(self, options: Options, file: Path) -> None:
        self.options = options
        self.file = file
        self.records = Records()
        self.cars: list[Sender] = []
        self.waiting: deque[Sender] = deque()
        self.large = self._bodies(options.size)
        self.small = self._bodies(0)
        self.bodies = self.small
        self.flying: set[Sender] = set()
        self.ordered = False
        self.open = self.closed = self.errors = self.finished = self.greeted = self.greetings = 0
        self.began = self.seconds = 0.0  # when the opening began, and what it took
        self.error = ""
        self.stopping = asyncio.Event()
        self._room = asyncio.Semaphore(options.opening)

    def _bodies(self, size: int) -> Bodies:
        form: Literal["ndjson", "json"] = "ndjson" if size else "json"
        options = self.options
        return Bodies(Packets(0, 1, 1, size=size, form=form, boot=options.boot, seed=options.seed))

    async def run(self) -> None:
        """Opens the connections, and holds them until told to stop."""
        options = self.options
        self.began = time.monotonic()
        kind = HttpSender if options.door == "http" else MqttSender
        loop = asyncio.get_running_loop()
        for number in range(options.cars):
            await self._room.acquire()
            if self.stopping.is_set():
                return
            car = kind(self, options.first + number)
            self.cars.append(car)
            try:
                await loop.create_connection(
                    partial(_itself, car), "127.0.0.1", options.port, local_addr=(options.source, 0)
                )
            except OSError as error:
                self.lost(car)
                self.error = str(error)
        await self.stopping.wait()

    def opened(self, car: Sender) -> None:
        """Its hello was answered."""
        car.ready = True
        self.open += 1
        self._room.release()
        if self.open == self.options.cars:
            self.seconds = time.monotonic() - self.began
            say(self.line())

    def lost(self, car: Sender) -> None:
        """It does not come back: a connection that is lost is a finding, not a load."""
        self.closed += 1
        if car.ready:
            self.open -= 1
            car.ready = False
        else:
            self._room.release()
        if car in self.flying:
            self.answered(car, "the connection was lost")

    # What it is told

    def order(self, bodies: str, packets: float, count: int | None = None) -> None:
        """So many packets of each of the first `count` cars."""
        self.bodies = self.large if bodies == "large" else self.small
        self.ordered = True
        for car in self.cars[:count]:
            car.left = packets
            self.waiting.append(car)
        self._pump()

    def hello(self) -> None:
        """Those that send nothing now are heard of again."""
        for car in self.cars:
            if isinstance(car, HttpSender):
                car.greet()

    def heard(self) -> None:
        """One of those hellos is answered."""
        self.greeted -= 1
        if not self.greeted:
            self.greetings += 1
            say(self.line())

    def halt(self) -> None:
        """Nothing more is sent."""
        for car in self.cars:
            car.left = 0
        self._pump()

    def _pump(self) -> None:
        while self.waiting and len(self.flying) < self.options.flight:
            car = self.waiting.popleft()
            if car.ready and car.left > 0:
                self.flying.add(car)
                car.send(self.bodies)
        if self.ordered and not self.flying:
            self.ordered = False
            self.records.save(self.file)
            self.records = Records()
            self.finished += 1
            say(self.line())

    def answered(self, car: Sender, why: str) -> None:
        """Its packet is stored; or it is not, for this reason: then the car sends no more."""
        if car not in self.flying:
            self.errors += 1
            self.error = f"an answer that was not asked for: {why}"
            return
        self.flying.discard(car)
        if why:
            self.errors += 1
            self.error = why
            car.left = 0
        else:
            self.records.add(car.number, car.seq, car.sent, time.monotonic_ns())
            car.left -= 1
            self.waiting.append(car)
        self._pump()

    def line(self) -> dict[str, Any]:
        """What is said each half second, and when something is finished; `error` is for people."""
        return {
            "closed": self.closed,
            "errors": self.errors,
            "error": self.error,
            "flying": len(self.flying),
            "acked": len(self.records),
            "seconds": self.seconds,
            "finished": self.finished,
            "greetings": self.greetings,
            "open": self.open,
        }


def _itself(car: Sender) -> Sender:
    return car


async def main(options: Options, records: Path) -> None:
    """The process."""
    fleet = Fleet(options, records)
    words: dict[str, Callable[[], None]] = {
        "stop": fleet.stopping.set,
        "halt": fleet.halt,
        "hello": fleet.hello,
        "once": partial(fleet.order, "large", 1),
        "small": partial(fleet.order, "small", 1),
        **{f"go {count}": partial(fleet.order, "large", float("inf"), count) for count in options.counts},
    }
    telling = asyncio.create_task(listen(words))
    saying = asyncio.create_task(keep_saying(fleet.line))
    await fleet.run()
    for task in (telling, saying):
        task.cancel()
    fleet.records.save(records)
    say(fleet.line())


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Options), Path(sys.argv[2])))

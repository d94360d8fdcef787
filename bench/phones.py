"""Load: phones that hold streams, one connection each, and note when they see a version; come back with their id when cut.

What they read are events whose data has a `"version":N`, as ours; so other servers can be measured with the same phones. Run
as a process: options as JSON, then the file for its records, one row a sight: (vehicle, version, seen, 0) in ns of the
machine's monotonic clock. Words on standard input: `stop`, `forget` (what was seen until now), `save` (and forget).
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.cars import keep_saying, listen, say, vehicle
from bench.stats import Records

_VERSION = re.compile(rb'"version":(\d+)')
_ID = re.compile(rb"^id: ?(\S+)", re.MULTILINE)
_KINDS = {b"event: reset": "resets", b"event: unavailable": "unavailable", b"event: snapshot": "snapshots"}
_PATIENCE = 15.0


class Options(msgspec.Struct, frozen=True):
    """`count` phones, the n-th on vehicle `first + n * stride`, by turns on these ports; `pace` new streams a second."""

    ports: list[int]
    count: int
    first: int = 0
    stride: int = 1
    path: str = "/v1/vehicles/{}/events"
    prefix: str = "car-"
    pace: float = 300.0
    opening: int = 1_000_000
    """At most so many of the first openings are unanswered at a time."""
    back: tuple[float, float] = (0.0, 1.0)
    """A phone that was cut comes back after between so many seconds."""
    wrap: int = 1_000_000_000
    """Vehicles are counted modulo this: several phones on one."""


class Phone(asyncio.Protocol):
    """One, over a connection of its own."""

    def __init__(self, phones: Phones, number: int) -> None:
        options = phones.options
        self.phones = phones
        self.number = number
        self.vehicle = (options.first + number * options.stride) % options.wrap
        self.port = options.ports[number % len(options.ports)]
        self.version = 0
        self.last = b""
        self.open = False
        self.rest = b""
        self.transport: asyncio.Transport | None = None
        self.patience: asyncio.TimerHandle | None = None

    async def connect(self) -> None:
        """It asks for its stream."""
        loop = asyncio.get_running_loop()
        self.phones.tries += 1
        self.phones.waiting.add(self.number)
        self.patience = loop.call_later(_PATIENCE, self._give_up)
        try:
            await self.ask()
        except OSError:
            self.phones.refused += 1
            self._come_back()

    async def ask(self) -> None:
        """Raises OSError if nobody listens."""
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self.port)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        path = self.phones.options.path.format(vehicle(self.vehicle, self.phones.options.prefix))
        last = b"Last-Event-ID: " + self.last + b"\r\n" if self.last else b""
        head = f"GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n".encode()
        transport.write(head + last + b"\r\n")

    def data_received(self, data: bytes) -> None:
        if not self.open:
            self.rest += data
            if b"\r\n\r\n" not in self.rest:
                return
            data, self.rest = self.rest, b""
            self.answered(data.startswith(b"HTTP/1.1 200"), data[:80])
        if self.open:
            self.read(data)

    def answered(self, well: bool, why: bytes) -> None:
        """The status is there."""
        phones = self.phones
        if not well:
            phones.errors += 1
            phones.error = why.decode("latin-1")
            self.close()
            return
        self.open = True
        phones.waiting.discard(self.number)
        phones.open += 1
        phones.opened += 1
        if phones.open == phones.options.count:
            phones.full = time.monotonic_ns()
        if self.patience is not None:
            self.patience.cancel()

    def read(self, data: bytes) -> None:
        """More of the stream."""
        now = time.monotonic_ns()
        phones = self.phones
        if self.rest:
            data, self.rest = self.rest + data, b""
        end = data.rfind(b"\n\n") + 2  # what is not a whole event yet waits
        if end < len(data) and end > 1:
            self.rest = data[end:] if b"event:" in data[end:] or b"id:" in data[end:] else b""
            data = data[:end]
        for found in _VERSION.finditer(data):
            version = int(found[1])
            if version > self.version:
                self.version = version
                phones.records.add(self.vehicle, version, now)
            else:
                phones.again += 1
        for found in _ID.finditer(data):
            self.last = found[1]
        if b"event: " in data:
            for word, kind in _KINDS.items():
                if word in data:
                    phones.kinds[kind] += data.count(word)
            if b"event: unavailable" in data:
                self.close()
        phones.bytes += len(data)

    def close(self) -> None:
        """It ends the stream itself."""
        if self.transport is not None:
            self.transport.abort()

    def _give_up(self) -> None:
        if not self.open:
            self.phones.gave_up += 1
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.lost()

    def lost(self) -> None:
        """The stream is gone, or never was: it comes back."""
        self.rest = b""
        if self.open:
            self.open = False
            self.phones.open -= 1
            self.phones.closed += 1
        self._come_back()

    def _come_back(self) -> None:
        if self.patience is not None:
            self.patience.cancel()
        if not self.phones.stopping.is_set():
            pause = random.uniform(*self.phones.options.back)
            asyncio.get_running_loop().call_later(pause, self.phones.start, self)


class Phones:
    """All of them."""

    def __init__(self, options: Options, make: Callable[[Phones, int], Phone] = Phone) -> None:
        self.options = options
        self.make = make
        self.records = Records()
        self.full = 0  # when all of them were open last, in ns
        self.open = self.opened = self.closed = self.tries = self.refused = self.errors = self.gave_up = 0
        self.again = self.bytes = self.saved = 0
        self.file = Path("seen")
        self.error = ""
        self.kinds = dict.fromkeys(_KINDS.values(), 0)
        self.stopping = asyncio.Event()
        self.waiting: set[int] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self, phone: Phone) -> None:
        """It connects."""
        if not self.stopping.is_set():
            task = asyncio.ensure_future(phone.connect())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def forget(self) -> None:
        """What was seen until now."""
        self.records = Records()

    def save(self) -> None:
        """The same, but it is written first."""
        self.records.save(self.file)
        self.records = Records()
        self.saved += 1

    async def run(self) -> None:
        """Until told to stop."""
        began = time.monotonic()
        for number in range(self.options.count):
            while (ahead := began + number / self.options.pace - time.monotonic()) > 0:  # noqa: ASYNC110 - a pace
                await asyncio.sleep(min(ahead, 0.02))
            while len(self.waiting) >= self.options.opening and not self.stopping.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            if self.stopping.is_set():
                return
            self.start(self.make(self, number))
        await self.stopping.wait()

    def line(self) -> dict[str, float]:
        """What is said each half second."""
        counts = (
            "opened",
            "closed",
            "tries",
            "refused",
            "errors",
            "gave_up",
            "again",
            "bytes",
            "error",
            "full",
        )
        return {
            **{name: getattr(self, name) for name in counts},
            **self.kinds,
            "seen": len(self.records),
            "saved": self.saved,
            "cpu": time.process_time(),
            "open": self.open,
        }


async def main(phones: Phones, records: Path) -> None:
    """The process."""
    phones.file = records
    words = {"stop": phones.stopping.set, "forget": phones.forget, "save": phones.save}
    telling = asyncio.create_task(listen(words))
    saying = asyncio.create_task(keep_saying(phones.line))
    await phones.run()
    for task in (telling, saying):
        task.cancel()
    say(phones.line())
    phones.records.save(records)


if __name__ == "__main__":
    asyncio.run(main(Phones(msgspec.json.decode(sys.argv[1], type=Options)), Path(sys.argv[2])))

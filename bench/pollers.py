"""Load: phones that ask for the latest state again and again, over a kept connection each, and note when they see a version.

As `phones.py`: options as JSON, then the file for its records, one row a first sight: (vehicle, version, seen, 0) in ns of the
machine's monotonic clock. Each asks at its own even pace, begun at a random moment, with the ETag that it has.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from pathlib import Path

import httptools
import msgspec

from bench.cars import keep_saying, listen, say, vehicle
from bench.stats import Records

_VERSION = re.compile(rb'"version":(\d+)')
_PATIENCE = 5.0


class Options(msgspec.Struct, frozen=True):
    """`count` phones, the n-th on vehicle `first + n`; each asks once in `every` seconds; `pace` begin a second."""

    port: int
    count: int
    first: int = 0
    path: str = "/v1/vehicles/{}"
    prefix: str = "car-"
    every: float = 1.0
    pace: float = 300.0
    seed: int = 1


class _Poller(asyncio.Protocol):
    def __init__(self, pollers: Pollers, number: int) -> None:
        options = pollers.options
        self.pollers = pollers
        self.vehicle = options.first + number
        path = options.path.format(vehicle(self.vehicle, options.prefix))
        self.head = f"GET {path} HTTP/1.1\r\nHost: bench\r\n".encode()
        self.version = 0
        self.tag = b""
        self.body: list[bytes] = []
        self.asked = 0.0  # 0: nothing is asked
        self.connecting = False
        self.transport: asyncio.Transport | None = None

    async def run(self) -> None:
        """Asks at its pace, until told to stop. Whoever waits for an answer asks no second time, for a while."""
        loop, options = asyncio.get_running_loop(), self.pollers.options
        due = loop.time() + self.pollers.rng.random() * options.every
        while not self.pollers.stopping.is_set():
            await asyncio.sleep(max(0.0, due - loop.time()))
            due += options.every
            if self.transport is None:
                if not self.connecting:
                    await self._connect()
            elif self.asked:
                self.pollers.late += 1
                if loop.time() - self.asked > _PATIENCE:
                    self.transport.abort()
            if self.transport is not None and not self.asked:
                self._ask(loop.time())

    async def _connect(self) -> None:
        self.connecting = True
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: self, "127.0.0.1", self.pollers.options.port
            )
        except OSError:
            self.pollers.refused += 1
        finally:
            self.connecting = False

    def _ask(self, now: float) -> None:
        assert self.transport is not None
        self.asked = now
        self.pollers.polls += 1
        tag = b"If-None-Match: " + self.tag + b"\r\n" if self.tag else b""
        self.transport.write(self.head + tag + b"\r\n")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.parser = httptools.HttpResponseParser(self)
        self.pollers.open += 1

    def data_received(self, data: bytes) -> None:
        self.pollers.bytes += len(data)
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"etag":
            self.tag = value

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        now = time.monotonic_ns()
        body, self.body, self.asked = b"".join(self.body), [], 0.0
        pollers, status = self.pollers, self.parser.get_status_code()
        if status == 200 and (found := _VERSION.search(body)) is not None:
            pollers.fresh += 1
            if (version := int(found[1])) > self.version:
                self.version = version
                pollers.records.add(self.vehicle, version, now)
        elif status == 304:
            pollers.same += 1
        elif status == 404:
            pollers.missing += 1
        else:
            pollers.errors += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.body = []
        self.pollers.open -= 1
        if self.asked:
            self.asked = 0.0
            self.pollers.errors += 1


class Pollers:
    """All of them."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.rng = random.Random(options.seed)
        self.records = Records()
        self.polls = self.fresh = self.same = self.missing = 0
        self.errors = self.refused = self.late = self.bytes = self.open = 0
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Until told to stop."""
        began = time.monotonic()
        tasks: list[asyncio.Task[None]] = []
        for number in range(self.options.count):
            while (ahead := began + number / self.options.pace - time.monotonic()) > 0:  # noqa: ASYNC110 - a pace
                await asyncio.sleep(min(ahead, 0.02))
            if self.stopping.is_set():
                return
            tasks.append(asyncio.create_task(_Poller(self, number).run()))
        await self.stopping.wait()

    def line(self) -> dict[str, float]:
        """What is said each half second."""
        counts = ("polls", "fresh", "same", "missing", "errors", "refused", "late", "bytes")
        return {
            **{name: getattr(self, name) for name in counts},
            "seen": len(self.records),
            "cpu": time.process_time(),
            "open": self.open,
        }


async def main(options: Options, records: Path) -> None:
    """The process."""
    pollers = Pollers(options)
    telling = asyncio.create_task(listen({"stop": pollers.stopping.set}))
    saying = asyncio.create_task(keep_saying(pollers.line))
    await pollers.run()
    for task in (telling, saying):
        task.cancel()
    say(pollers.line())
    pollers.records.save(records)


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Options), Path(sys.argv[2])))

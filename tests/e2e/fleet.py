"""A fleet in the test's own process: cars that send all the time, phones that watch them, and the verdict on both.

They know the platform by its two doors only. `Fleet.judged` ends the cars and says what the phones met: nothing may be lost,
twice, out of order or reset, every acknowledged packet is in its state once, and every phone shows the latest state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fleetcast.simulator.cars import run_cars
from fleetcast.simulator.options import Options, Totals
from fleetcast.simulator.phones import Phones
from fleetcast.simulator.verdict import Summary, Verdict
from tests.e2e.outside import Site
from tests.servers import until

_LEVEL = 60.0  # a lost last update waits for the poll of the next link


class Fleet:
    """Cars and phones under way."""

    def __init__(self, here: Site, cars: int, phones: int) -> None:
        self._here = here
        self._verdict = Verdict(cars, phones)
        self.phones = Phones(here.url, cars, phones)
        self.cars = Totals()
        self.options = Options(
            ingest=here.platform.ingest_url, cars=cars, per_minute=40, min_bytes=1000, max_bytes=4000
        )
        self.stop = asyncio.Event()
        self.before = 0
        self.tasks: list[asyncio.Task[object]] = []

    @property
    def connected(self) -> int:
        """Phones that have a stream now."""
        return sum(watch.connected for watch in self.phones.watches)

    @property
    def closed(self) -> int:
        """Streams that ended though their phones wanted more."""
        return sum(watch.streams_closed for watch in self.phones.watches)

    def turned_away(self) -> int:
        """Times that a phone could not connect, or was told `unavailable`."""
        return sum(watch.refused + watch.phone.counts.unavailable for watch in self.phones.watches)

    def seen(self) -> int:
        """Updates that phones got so far."""
        return sum(watch.phone.counts.updates for watch in self.phones.watches)

    async def start(self) -> None:
        """Until all phones have their streams, and updates flow."""
        self.tasks.append(asyncio.create_task(self.phones.watch()))
        await until(lambda: self.connected == len(self.phones.watches), "all phones have streams")
        acked = lambda one: self._verdict.acked(one.vehicle, one.boot, one.seq, one.acked)  # noqa: E731
        drive = run_cars(self.options, report=acked, stop=self.stop, totals=self.cars)
        self.tasks.append(asyncio.create_task(drive))
        await self.flows()

    async def flows(self) -> None:
        """Returns when every phone has got an update more."""
        before = [watch.phone.counts.updates for watch in self.phones.watches]

        def more() -> bool:
            now = [watch.phone.counts.updates for watch in self.phones.watches]
            return all(late > early for late, early in zip(now, before, strict=True))

        await until(more, "each phone gets an update", 60)

    async def judged(self) -> Summary:
        """The cars end, then the phones once they are level; asserts that every promise was kept."""
        self.stop.set()
        await self.tasks[1]
        assert self.cars.unacknowledged == 0
        report_due = time.monotonic() + _LEVEL
        vehicles = [self.options.vehicle(number) for number in range(self.options.cars)]
        for vehicle in vehicles:
            shown = await self._here.reaches(vehicle, self._verdict.acked_of(vehicle))
            self._verdict.versions(vehicle, 0, int(shown["version"]))
        report = await self.phones.settle(report_due - time.monotonic())
        self._verdict.phones_line(self.phones.progress())
        self._verdict.phones_line(report)
        summary = self._verdict.summary()
        print(summary)
        assert self._verdict.broken() == []
        assert summary.seen == summary.updates > 0
        return summary

    async def end(self) -> None:
        """Whatever still runs."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@asynccontextmanager
async def fleet(here: Site, cars: int = 25, phones: int = 100) -> AsyncIterator[Fleet]:
    """Phones that have their streams, of cars that send two packets in three seconds."""
    made = Fleet(here, cars, phones)
    try:
        await made.start()
        yield made
    finally:
        await made.end()

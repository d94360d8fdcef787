"""What does a calm stream save: bytes and events on a phone's connection, and the edge's work, against the full stream?

Simulated cars on their drives send a packet a second each, and each is watched by one phone of every class at once, of all
signals and of the view `summary`: so all of them see the same. Bytes are all that comes down the connection after the answer's
head, the keep-alives too, in whole minutes. Then a crowd watches the same cars, first all of it in full, then calmly: CPU time
of the edges, of consume and of the front.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from bench import phones
from bench.question import Answer, Bench, Cell, Table
from bench.world import Load, World, platform, since
from fleetcast.simulator.cars import run_cars
from fleetcast.simulator.options import Options

_CARS = 10
_CLASSES = ("", "5s", "30s", "60s")
_VIEWS = ("all", "summary")
_SETTLE = 15.0  # phones that came in the middle of a bucket are asked for once when it ends
_ROLES = ("edge", "haproxy", "consume")


@dataclass
class _Phone:
    """One stream, as bytes."""

    vehicle: str
    view: str
    every: str
    bytes: int = 0
    updates: int = 0
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, port: int) -> None:
        """Until it is cancelled."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        query = f"view={self.view}" + (f"&every={self.every}" if self.every else "")
        writer.write(
            f"GET /v1/vehicles/{self.vehicle}/events?{query} HTTP/1.1\r\nHost: bench\r\n"
            "Accept: text/event-stream\r\n\r\n".encode()
        )
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.opened.set()
            rest = b""
            while chunk := await reader.read(65536):
                self.bytes += len(chunk)
                self.updates += (rest + chunk).count(b"\nevent: update\n")
                rest = chunk[-len(b"\nevent: update\n") + 1 :]
        finally:
            writer.close()


async def run(bench: Bench) -> Answer:
    """See the module's text."""
    minutes, crowd, seconds = bench.size(2, 10), bench.size(300, 1000), bench.size(20.0, 60.0)
    stop, broken = asyncio.Event(), list[str]()
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(platform(bench))
        options = Options(
            ingest=world.platform.ingest_url,
            cars=_CARS,
            prefix="car-0",  # so numbered as `bench.cars` has it
            per_minute=60,
            min_bytes=1_000,
            max_bytes=4_000,
        )
        driving = asyncio.create_task(run_cars(options, report=lambda _: None, stop=stop))
        try:
            watching = await _watched(bench, world, options, minutes)
            spent = {"nobody watches": await _spent(bench, world, seconds)}
            for every in ("", "5s"):
                spent[every or "every update"] = await _crowd(bench, world, every, crowd, seconds, broken)
        finally:
            stop.set()
            await driving
    return Answer(
        [_bytes(watching, minutes), _work(spent, crowd)], figures=_figures(watching, minutes), broken=broken
    )


async def _watched(bench: Bench, world: World, options: Options, minutes: int) -> Sequence[_Phone]:
    crowd = [
        _Phone(options.vehicle(number), view, every)
        for number in range(_CARS)
        for view in _VIEWS
        for every in _CLASSES
    ]
    async with asyncio.TaskGroup() as tasks:
        reading = [tasks.create_task(phone.read(world.settings.front_port)) for phone in crowd]
        for phone in crowd:
            await phone.opened.wait()
        # A minute begins: then as many buckets of each class end as there are in it. The first snapshots are past.
        await asyncio.sleep(60 - time.time() % 60 + 1)
        for phone in crowd:
            phone.bytes = phone.updates = 0
        for minute in range(minutes):
            await asyncio.sleep(60)
            bench.say(f"{minute + 1} of {minutes} minutes")
        kept = [_Phone(one.vehicle, one.view, one.every, one.bytes, one.updates) for one in crowd]
        for task in reading:
            task.cancel()
    return kept


async def _crowd(
    bench: Bench, world: World, every: str, count: int, seconds: float, broken: list[str]
) -> dict[str, float]:
    path = "/v1/vehicles/{}/events" + (f"?every={every}" if every else "")
    options = phones.Options([world.settings.front_port], count, path=path, wrap=_CARS)
    async with Load("bench.phones", options, bench.folder / f"phones-{every or 'full'}") as load:
        await load.until("open", count, 60)
        await asyncio.sleep(_SETTLE)
        seen = load.last["seen"]
        found = await _spent(bench, world, seconds)
        if load.last["seen"] == seen:
            broken.append("the crowd saw nothing")
        if load.last["closed"]:
            broken.append(f"{load.last['closed']:,.0f} streams were closed")
    return found


async def _spent(bench: Bench, world: World, seconds: float) -> dict[str, float]:
    """CPU seconds in a minute, by role."""
    before = world.spent()
    await asyncio.sleep(seconds)
    spent = since(before, world.spent())
    bench.say(", ".join(f"{role} {spent[role]:.2f} s" for role in _ROLES))
    return {role: spent[role] / seconds * 60 for role in _ROLES}


def _of(watching: Sequence[_Phone], view: str, every: str, minutes: int) -> tuple[float, float]:
    """(events, bytes) a minute of a phone."""
    mine = [one for one in watching if (one.view, one.every) == (view, every)]
    return (
        sum(one.updates for one in mine) / len(mine) / minutes,
        sum(one.bytes for one in mine) / len(mine) / minutes,
    )


def _bytes(watching: Sequence[_Phone], minutes: int) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for view in _VIEWS:
        _, full = _of(watching, view, "", minutes)
        for every in _CLASSES:
            events, size = _of(watching, view, every, minutes)
            rows.append(
                (view, every or "every update", events, size / 1e3, f"{100 * (1 - size / full):.1f} % less")
            )
    columns = ("view", "class", "events / minute", "kB / minute", "bytes, against every update")
    return Table(f"A phone's connection; the car sends once a second ({_CARS} cars)", columns, rows)


def _work(spent: dict[str, dict[str, float]], crowd: int) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (what, *(found[role] for role in _ROLES)) for what, found in spent.items()
    ]
    columns = (f"{crowd:,} phones", *(f"{role}, CPU s / minute" for role in _ROLES))
    return Table(f"{_CARS} cars that send once a second", columns, rows)


def _figures(watching: Sequence[_Phone], minutes: int) -> dict[str, float]:
    return {
        f"{view}_{every or 'full'}_{name}": value
        for view in _VIEWS
        for every in _CLASSES
        for name, value in zip(("events", "bytes"), _of(watching, view, every, minutes), strict=True)
    }

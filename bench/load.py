"""Does the floor load run on this one machine, and what is the highest rate that holds?

50,000 distinct vehicles send one packet of 500 kB (inflated; the vehicle compresses it) a minute each, spread evenly: 833 a
second. 300,000 states with full windows are loaded beforehand, 5,000 phones watch distinct vehicles, and everything is on
this machine, the generator too. x-ndjson and plain JSON separately; once with 1 % more vehicles at 120 a minute, whose packets
are heads of 1 kB. A rate holds if nothing is lost, what waits does not grow, and p99 from acknowledged to seen is under a
second. The rate that holds is looked for by halving the interval, and then held for five minutes (plain JSON: for less).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal

import msgspec

from bench import cars, phones
from bench.machine import disk_text
from bench.preload import preload
from bench.question import Answer, Bench, Cell, Table
from bench.stats import Records, percentile, show
from bench.world import Failed, Load, World, platform, since, spent
from fleetcast.jetstream import connect, stream_info
from fleetcast.subjects import LIVE

Form = Literal["ndjson", "json"]

FLOOR = 50_000 / 60
BULK = 500_000
_LIGHT = 600.0  # packets of 1 kB a second: near what fits, as batches make them cheaper then
_LATE = 1.0  # seconds a packet may wait for its acknowledgement, at p99, in a rate that holds
_AGE = 1.0
_PATIENCE = 4_000  # packets that wait, after which a rate does not hold
_LESS = 0.9


class Sizes(msgspec.Struct, frozen=True):
    """Of everything but the rate."""

    vehicles: int
    states: int
    window: int
    hot: int
    hot_rate: float
    phones: int
    seconds: float
    search: float


class Run(msgspec.Struct):
    """What one rate came to."""

    form: Form
    rate: float
    hot: float = 0.0
    size: int = 0
    sent: int = 0
    acked: int = 0
    gave_in: int = 0
    wire: float = 0.0
    seconds: float = 0.0
    late: float = 0.0
    """p99, seconds from due to acknowledged."""
    p50: float = 0.0
    p99: float = 0.0
    """Seconds from acknowledged to seen."""
    due: int = 0
    seen: int = 0
    resets: int = 0
    spent: dict[str, float] = {}
    memory: dict[str, float] = {}
    opening: dict[str, float] = {}
    """CPU seconds while the phones' streams were opened, by role."""
    grown: dict[str, float] = {}
    """MB, by process, that the streams took."""
    bytes: float = 0.0
    """Read by phones, snapshots not counted."""
    level: float = 0.0

    @property
    def lost(self) -> int:
        """Updates of watched vehicles that their phones did not see."""
        return max(0, self.due - self.seen)

    def why_not(self) -> str:
        """Why this rate does not hold; empty if it does."""
        return self.overloaded() or (
            "" if self.p99 <= _AGE else f"acknowledged to seen p99 {show(self.p99)} s"
        )

    def overloaded(self) -> str:
        """Why this is more than the machine takes. The time from acknowledged to seen is judged in the long run alone: in a
        short one nats-server's writing of its index decides it, which comes once in two minutes.
        """
        if self.lost or self.resets:
            return f"{self.lost} lost, {self.resets} resets"
        if self.gave_in:
            return f"gave in: {_PATIENCE:,} packets waited to be sent"
        if self.sent > self.acked:
            return f"{self.sent - self.acked:,} packets were still not acknowledged a minute after the last was due"
        if self.late > _LATE:
            return f"packets wait {show(self.late)} s (p99) for their acknowledgement: more is sent than is taken"
        return ""


class Found(msgspec.Struct):
    """What one form came to."""

    floor: Run
    searched: list[Run]
    light: Run
    stored: dict[str, float]
    """kB on disk and in memory of a state, and of an update."""

    @property
    def runs(self) -> list[Run]:
        """All with packets of 500 kB."""
        return [self.floor, *self.searched]

    @property
    def best(self) -> Run | None:
        """The highest rate that held for long: the last one."""
        last = self.searched[-1]
        return None if last.overloaded() or last.hot else last


async def run(bench: Bench) -> Answer:
    """The question."""
    sizes = bench.size(
        Sizes(5_000, 30_000, 10, 50, 100.0, 1_000, 15.0, 12.0),
        Sizes(50_000, 300_000, 10, 500, 1_000.0, 5_000, 300.0, 20.0),
    )
    forms: tuple[Form, ...] = ("ndjson", "json")
    found = {form: await _form(bench, sizes, form) for form in forms}
    runs = [one for each in found.values() for one in each.runs]
    best = {form: each.best for form, each in found.items()}
    figures = {f"{form}_holds": one.rate for form, one in best.items() if one is not None}
    if (one := best["ndjson"]) is not None:
        figures |= _costs_of(one, found["ndjson"].light, found["ndjson"].stored, sizes.phones)
        figures |= _held(one) | {"states": float(sizes.states)}
        others = [
            run for run in found["ndjson"].searched if not run.overloaded() and not run.hot and run is not one
        ]
        figures |= _held(min(others, key=lambda run: run.rate), "other_") if others else {}
    broken = [
        f"{one.form}, {one.rate:.0f}/s: {one.lost} lost, {one.resets} resets"
        for one in runs
        if one.lost or one.resets
    ]
    if not best["ndjson"]:
        broken.append("no rate held")
    tables = [_rates(runs, bench), _costs([one for one in best.values() if one is not None])]
    return Answer(tables, figures=figures, broken=broken)


async def _form(bench: Bench, sizes: Sizes, form: Form) -> Found:
    async with platform(bench, edge_connections=max(3_000, sizes.phones // 2 + 500)) as world:
        bare = await _live(world)
        await preload(world, sizes.states - sizes.vehicles, start=sizes.vehicles)
        states = await _live(world)
        await preload(world, sizes.vehicles, sizes.vehicles, sizes.window)
        windows = await _live(world)
        state = [
            (after - before) / (sizes.states - sizes.vehicles)
            for before, after in zip(bare, states, strict=True)
        ]
        update = (windows[0] - states[0] - sizes.vehicles * state[0]) / (sizes.vehicles * sizes.window)
        async with _Loads(world, sizes, form).opened() as load:
            floor = await load.at(FLOOR, sizes.seconds)
            searched = [await load.at(FLOOR, sizes.search, sizes.hot_rate)]
            low, high = (FLOOR, 4 * FLOOR) if not floor.overloaded() else (0.0, FLOOR)
            for _ in range(bench.size(3, 4)):
                rate = (low + high) / 2
                searched.append(await load.at(rate, sizes.search))
                low, high = (low, rate) if searched[-1].overloaded() else (rate, high)
            holds = [one.rate for one in searched if not one.overloaded() and not one.hot]
            rate = max(holds, default=0.0)
            while rate > 1:  # for long enough to be believed
                long = await load.at(rate, sizes.seconds if form == "ndjson" else sizes.seconds / 5)
                searched.append(long)
                if not long.overloaded():
                    break
                rate *= _LESS
            light = await load.at(_LIGHT, sizes.search, size=0)
    return Found(
        floor, searched, light, {"state_disk": state[0], "state_memory": state[1], "update_disk": update}
    )


async def _live(world: World) -> tuple[float, float]:
    """kB that LIVE has on disk, and that nats-server has in memory."""
    connection = await connect(world.settings, "bench")
    info = await stream_info(connection, LIVE)
    await connection.close()
    assert info is not None
    return info["state"]["bytes"] / 1e3, world.memory()["nats-server"] * 1e3


def _costs_of(heavy: Run, light: Run, stored: dict[str, float], phones: int) -> dict[str, float]:
    """What `bench.costs` writes for the plan: CPU ms, kB."""
    figures = {f"{what}_kb": value for what, value in stored.items()}
    sizes = {"1kb": light, "500kb": heavy}
    for name, one in sizes.items():
        packets = one.acked
        figures |= {
            f"{role}_{name}_ms": 1e3 * one.spent[role] / packets
            for role in ("ingest", "consume", "nats-server")
        }
        figures[f"wire_{name}"] = 1e9 * one.wire / packets
    for role in ("edge", "haproxy"):
        figures[f"{role}_update_ms"] = 1e3 * light.spent[role] / light.seen
        figures[f"{role}_stream_kb"] = (
            1e3 * sum(mb for name, mb in heavy.grown.items() if name.startswith(role)) / phones
        )
    figures |= {
        f"{role}_open_ms": 1e3 * heavy.opening[role] / phones
        for role in ("edge", "origin", "nats-server", "haproxy")
    }
    figures["update_bytes"] = light.bytes / light.seen
    return figures


def _held(one: Run, name: str = "") -> dict[str, float]:
    """What the plan is compared with."""
    return {
        f"{name}busy_cores": sum(one.spent[role] for role in _SERVING) / one.seconds,
        f"{name}packets_s": one.acked / one.seconds,
        f"{name}seen_s": one.seen / one.seconds,
    }


_SERVING = ("ingest", "consume", "nats-server", "edge", "origin", "haproxy")


class _Loads:
    """Rates one after the other, on one platform; each begins where the last one's sequence numbers ended."""

    def __init__(self, world: World, sizes: Sizes, form: Form) -> None:
        self.world = world
        self.sizes = sizes
        self.form = form
        self.boot = 1
        self.saved = 0
        self.opening: dict[str, float] = {}
        self.grown: dict[str, float] = {}
        self.watching: Load

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[_Loads]:
        """With the phones' streams open."""
        world, sizes = self.world, self.sizes
        watch = phones.Options(
            ports=[world.settings.front_port],
            count=sizes.phones,
            stride=sizes.vehicles // sizes.phones,
            pace=200,
        )
        before, memory = world.spent(), world.memory()
        async with Load("bench.phones", watch, world.bench.folder / "seen") as self.watching:
            await self.watching.until("open", sizes.phones, 300)
            await asyncio.sleep(8)  # the edge asks for each new channel
            self.opening = since(before, world.spent())
            self.grown = {name: mb - memory.get(name, 0.0) for name, mb in world.memory().items()}
            self.watching.tell("forget")
            world.bench.say(f"{sizes.phones:,} phones have their streams")
            yield self

    async def at(self, rate: float, seconds: float, hot_rate: float = 0.0, size: int = BULK) -> Run:
        """One rate, with so many small packets a second besides."""
        world, sizes, settings = self.world, self.sizes, self.world.settings
        self.boot += 1
        one = Run(self.form, rate, hot_rate, size, opening=self.opening, grown=self.grown)
        bulk = cars.Options(
            port=settings.ingest_port,
            cars=sizes.vehicles,
            rate=rate,
            size=size,
            form=self.form if size else "json",
            seconds=seconds,
            boot=self.boot,
            connections=128,
            patience=_PATIENCE,
        )
        hot = msgspec.structs.replace(
            bulk,
            first=sizes.states - sizes.hot,
            cars=sizes.hot,
            rate=hot_rate,
            size=0,
            form="json",
            connections=32,
        )
        folder = world.bench.folder
        watching = self.watching
        began, before, read = time.monotonic(), self._spent(watching), float(watching.last["bytes"])
        async with (
            Load("bench.cars", bulk, folder / "bulk") as sending,
            Load("bench.cars", hot, folder / "hot") as more,
        ):
            await self._until_sent(sending, more, watching, one, seconds)
            one.seconds = time.monotonic() - began
            acks, others = await sending.end(), await more.end()
            one.gave_in = int(sending.last["gave_in"])
            one.sent = int(sending.last["made"]) + int(more.last["made"])
            one.acked = len(acks) + len(others)
            one.wire = sending.last["mb"] / 1e3
            after = self._spent(watching) | {"generator": sending.last["cpu"] + more.last["cpu"]}
        one.level = await world.level(120)
        one.memory = world.memory()
        one.spent = since(before, after)
        await self._all_seen(watching, acks, one, read)
        world.bench.say(
            f"{self.form} {rate:.0f}/s: taken {len(acks) / one.seconds:.0f}/s, p99 due to acknowledged {show(one.late)} s, "
            f"acknowledged to seen {show(one.p99)} s; {one.why_not() or 'holds'}"
        )
        return one

    def _spent(self, watching: Load) -> dict[str, float]:
        return self.world.spent() | spent({"phones": watching.pid})

    async def _until_sent(self, sending: Load, more: Load, watching: Load, one: Run, seconds: float) -> None:
        said = time.monotonic()
        while not (sending.last.get("done") and more.last.get("done")):
            await sending.news(1.0)
            if time.monotonic() - said > 10:
                said = time.monotonic()
                line = sending.last
                self.world.bench.say(
                    f"{one.form} {one.rate:.0f}/s: {line.get('acked', 0):,} acknowledged, {line.get('waiting', 0):,} wait, "
                    f"{watching.last.get('seen', 0):,} seen"
                )

    async def _all_seen(self, watching: Load, acks: Records, one: Run, read: float) -> None:
        """Each packet of a watched vehicle is one update; its version follows those before it."""
        stride, last = self.sizes.vehicles // self.sizes.phones, self.sizes.vehicles
        watched = [(v, seq, acked) for v, seq, acked, _ in acks if v < last and not v % stride]
        one.due = len(watched)
        with suppress(Failed):  # then the figures say it
            await watching.until("seen", one.due, 30)
        one.resets = int(watching.last["resets"])
        one.bytes = float(watching.last["bytes"]) - read
        watching.tell("save")
        self.saved += 1
        await watching.until("saved", self.saved, 30)
        seen = Records.load(watching.records)
        one.seen = len(seen)
        firsts: dict[int, int] = {}
        for v, version, _, _ in seen:
            firsts[v] = min(version, firsts.get(v, version))
        times = {(v, version - firsts[v] + 1): when for v, version, when, _ in seen}
        ages = [(times[v, seq] - acked) / 1e9 for v, seq, acked in watched if (v, seq) in times]
        one.p50, one.p99 = percentile(ages, 0.5), percentile(ages, 0.99)
        one.late = percentile([(acked - due) / 1e9 for _, _, acked, due in acks], 0.99)


def _each(one: Run) -> dict[str, float]:
    """CPU ms a packet of 500 kB by role. Those of 1 kB, which go beside it, are in it."""
    packets = one.rate * one.seconds
    return {role: 1e3 * value / packets for role, value in one.spent.items()}


def _rates(runs: Sequence[Run], bench: Bench) -> Table:
    rows = [
        (
            one.form,
            one.rate,
            one.hot,
            one.seconds,
            one.acked / one.seconds,
            1e3 * one.wire / one.seconds,
            1e3 * one.p50,
            1e3 * one.p99,
            1e3 * one.late,
            one.lost,
            one.resets,
            one.why_not() or "holds",
        )
        for one in runs
    ]
    columns = (
        "form", "500 kB/s", "1 kB/s", "for s", "taken/s", "MB/s compressed", "seen p50, ms", "p99, ms", "acknowledged p99, ms",
        "lost", "resets", "which",
    )  # fmt: skip
    return Table("Rates, the floor load first", columns, rows, disk_text(bench.folder))


def _costs(runs: Sequence[Run]) -> Table:
    roles = sorted({role for one in runs for role in one.spent})
    rows: list[tuple[Cell, ...]] = [
        (role, *(cell for one in runs for cell in (_each(one).get(role, 0.0), _memory(one, role))))
        for role in roles
    ]
    totals = [
        ("all", *(cell for one in runs for cell in (sum(_each(one).values()), sum(one.memory.values()))))
    ]
    columns = ["role"]
    for one in runs:
        columns += [f"{one.form} {one.rate:.0f}/s: CPU ms a packet", "memory, MB"]
    return Table("What the highest rate that holds takes", columns, [*rows, *totals])


def _memory(one: Run, role: str) -> float:
    return sum(mb for name, mb in one.memory.items() if name.rpartition("-")[0] == role or name == role)

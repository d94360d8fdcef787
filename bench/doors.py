"""MQTT against HTTP: what does a packet cost by each door, and a connection that is held?

Packets: the same ones, heads (1 kB in the other questions' words) and 500 kB inflated (x-ndjson, zstd), by HTTP through ingest
and by MQTT straight to nats-server, in turn in one run. So many cars have one packet in flight each; the others of each
door's 256 connections are idle meanwhile. Nothing else of the platform runs, consume neither: it takes the same CPU time
for either door's packets, and the two cores are few enough for load and queue. The queue is emptied after each turn, and
must hold then what was acknowledged.

Connections: idle ones in steps on a fresh platform, to MQTT (CONNECT answered) and to ingest (one request answered), memory by
a straight line through the steps. Then, on others and with fewer, each sends one packet of 500 kB (some 115 kB as sent) or of
1 MB as it is: memory at once, after a while, and after the next packet, a head.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median
from typing import NamedTuple

from bench import senders
from bench.machine import disk_text
from bench.question import Answer, Bench, Cell, Chart, Table
from bench.senders import Door
from bench.stats import Records, percentile, spread
from bench.world import Failed, Load, World, platform, spent
from fleetcast.jetstream import connect
from fleetcast.platform import Platform
from fleetcast.subjects import PACKETS

_DOORS: Sequence[Door] = ("http", "mqtt")
_NAMES = {"http": "HTTP", "mqtt": "MQTT"}
_SERVER = {"http": "ingest", "mqtt": "nats-server"}
_SIZES = {0: "1 kB", 500_000: "500 kB"}
_CARS = (1, 16, 64, 256)
_ROLES = ("nats-server", "ingest", "generator")
_SETTLE = 2.0
_CALM = 3.0  # until memory is given back, if it is; in the full size 50 times as long for Go, which collects each two minutes
_USED: Sequence[tuple[Door, int]] = (("http", 1_000_000), ("mqtt", 500_000), ("mqtt", 1_000_000))


@dataclass(frozen=True)
class Turn:
    """What one number of cars did by one door."""

    packets: int
    seconds: float
    p50: float
    p99: float
    """ms from sent to acknowledged."""
    cpu: Mapping[str, float]
    """ms a packet, by role."""

    @property
    def rate(self) -> float:
        """Packets a second."""
        return self.packets / self.seconds

    @property
    def platform(self) -> float:
        """ms of CPU a packet, the generator's apart."""
        return self.cpu["nats-server"] + self.cpu["ingest"]


@dataclass(frozen=True)
class Held:
    """So many connections to one door, and what they take of its server: MB, cores while nothing is sent."""

    connections: int
    memory: float
    cores: float = 0.0
    rate: float = 0.0
    """Openings a second, of the last ones."""
    opening: float = 0.0
    """ms of CPU of one opening."""


class Used(NamedTuple):
    """Connections that sent a packet of so many bytes each, inflated: kB that one of them keeps, at these times."""

    door: Door
    size: int
    connections: int
    at_once: float
    later: float
    next: float
    """After another packet, which was small, and as long again."""


Turns = dict[tuple[int, int, Door], list[Turn]]


async def run(bench: Bench) -> Answer:
    """See the module's text."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    turns: Turns = {}
    async with platform(bench, _Doors) as world:
        for size in _SIZES:
            await _packets(world, size, turns)
    disk = disk_text(bench.folder)
    held, room = await _idle(bench, files)
    used = await _used(bench)
    each = {door: slope(steps) for door, steps in held.items()}
    figures = {
        f"{door}_{size}_{cars}_{what}": value
        for (size, cars, door), found in turns.items()
        for what, value in {
            "rate": median(turn.rate for turn in found),
            "cpu_ms": median(turn.platform for turn in found),
            "p99_ms": median(turn.p99 for turn in found),
        }.items()
    }
    figures |= {f"{door}_idle_kb": value for door, value in each.items()}
    figures |= {f"{one.door}_{one.size}_kept_kb": one.later for one in used}
    return Answer(
        [_rates(turns, bench, disk), _costs(turns), _growth(held, room), _memory(bench, each, used)],
        _charts(turns, held),
        figures,
    )


class _Doors(Platform):
    """nats-server and ingest, and nothing else."""

    async def _start(self) -> None:
        await self.start_queue()
        self.supervisor.start(self.prepared("ingest"))
        await self.well("ingest")


def _load(
    world: World,
    door: Door,
    cars: int,
    first: int,
    size: int = 0,
    *,
    plain: bool = False,
    boot: int = 2,
    counts: Sequence[int] = (),
    flight: int = 1_000_000,
    source: str = "127.0.0.1",
) -> Load:
    settings = world.settings
    port = settings.ingest_port if door == "http" else settings.mqtt_port
    options = senders.Options(
        door,
        port,
        cars,
        first,
        size,
        plain,
        boot,
        list(counts),
        flight=flight,
        seed=world.bench.seed,
        source=source,
    )
    return Load("bench.senders", options, world.bench.folder / f"{door}-{first}")


def _well(*loads: Load) -> None:
    """Raises Failed if a packet was not taken, or a connection lost."""
    for load in loads:
        if load.last.get("errors") or load.last.get("closed"):
            raise Failed(f"{load.last['errors']} errors, {load.last['closed']} closed: {load.last['error']}")


# Packets


async def _packets(world: World, size: int, turns: Turns) -> None:
    bench = world.bench
    seconds, repeats = bench.size((1.0, 3), (4.0, 5))
    most, boot = max(_CARS), 2 + list(_SIZES).index(size)  # the same packet again would be a duplicate
    async with (
        _load(world, "http", most, 0, size, boot=boot, counts=_CARS) as http,
        _load(world, "mqtt", most, most, size, boot=boot, counts=_CARS) as mqtt,
    ):
        loads: dict[Door, Load] = {"http": http, "mqtt": mqtt}
        for load in loads.values():
            await load.until("open", most, 60)
            load.tell("once")  # what is done only once is done by then
            await load.until("finished", 1, 60)
        await _emptied(world)
        for number in range(repeats):
            for cars in _CARS:
                for door in _DOORS if number % 2 else reversed(_DOORS):
                    turn = await _turn(world, loads[door], cars, seconds)
                    turns.setdefault((size, cars, door), []).append(turn)
                    if (stored := await _emptied(world)) != turn.packets:
                        raise Failed(f"{turn.packets} packets were acknowledged, and {stored} stored")
                shown = ", ".join(
                    f"{_NAMES[door]} {last.rate:.0f}/s with {last.platform:.2f} ms of CPU"
                    for door in _DOORS
                    for last in turns[size, cars, door][-1:]
                )
                bench.say(f"{_SIZES[size]}, {cars} cars: {shown}")
        _well(http, mqtt)
        for load in loads.values():
            await load.end()


async def _turn(world: World, load: Load, cars: int, seconds: float) -> Turn:
    def now() -> dict[str, float]:
        return world.spent() | spent({"generator": load.pid})

    before, finished = now(), load.last["finished"]
    load.tell(f"go {cars}")
    await asyncio.sleep(seconds)
    load.tell("halt")
    await load.until("finished", finished + 1, 60)
    after = now()
    _well(load)
    return turn_of(Records.load(load.records), {role: after[role] - before[role] for role in _ROLES})


def turn_of(records: Records, cpu: Mapping[str, float]) -> Turn:
    """From rows (vehicle, seq, sent, acknowledged) in ns, and CPU seconds by role. Raises Failed if there are none."""
    rows = list(records)
    if not rows:
        raise Failed("no packet was acknowledged")
    took = [(acked - sent) / 1e6 for _, _, sent, acked in rows]
    seconds = (max(row[3] for row in rows) - min(row[2] for row in rows)) / 1e9
    each = {role: 1e3 * value / len(rows) for role, value in cpu.items()}
    return Turn(len(rows), seconds, percentile(took, 0.5), percentile(took, 0.99), each)


async def _emptied(world: World) -> int:
    """The queue holds nothing any more; packets that it held."""
    connection = await connect(world.settings, "bench")
    purged = await connection.api(f"STREAM.PURGE.{PACKETS}", timeout=30)
    await connection.close()
    return int(purged["purged"])


# Connections


async def _idle(bench: Bench, files: int) -> tuple[dict[Door, list[Held]], dict[Door, int]]:
    """Connections in steps; and how many more files a server may open, when it has none of them."""
    held: dict[Door, list[Held]] = {}
    room: dict[Door, int] = {}
    async with platform(bench, _Doors) as world:
        for door in _DOORS:
            room[door] = files - _open_files(world.leaders()[_SERVER[door]])
            first = await _step(world, door, 0)
            held[door] = [first]
            loads: list[Load] = []
            async with AsyncExitStack() as stack:
                for count in bench.size((2_000, 4_000, 6_000), (4_000, 8_000, 12_000, 16_000, 19_500)):
                    more = min(count, room[door]) - held[door][-1].connections
                    before = world.spent()[_SERVER[door]]
                    number = held[door][-1].connections
                    source = f"127.0.0.{2 + len(loads)}"
                    load = await stack.enter_async_context(_load(world, door, more, number, source=source))
                    loads.append(load)
                    await load.until("open", more, 120)
                    opening = 1e3 * (world.spent()[_SERVER[door]] - before) / more
                    for each in loads if door == "http" else ():
                        said = each.last.get("greetings", 0)
                        each.tell("hello")
                        await each.until("greetings", said + 1, 60)
                    step = await _step(world, door, number + more, more / load.last["seconds"], opening)
                    held[door].append(step)
                    bench.say(
                        f"{_NAMES[door]}: {step.connections:,} connections, {step.memory:.0f} MB,"
                        f" {step.rate:,.0f} opened a second"
                    )
                    _well(*loads)
    return held, room


async def _step(world: World, door: Door, connections: int, rate: float = 0.0, opening: float = 0.0) -> Held:
    await asyncio.sleep(0.5)  # what the opening left to do
    before = world.spent()[_SERVER[door]]
    await asyncio.sleep(_SETTLE)
    cores = (world.spent()[_SERVER[door]] - before) / _SETTLE
    return Held(connections, world.memory()[_SERVER[door]], cores, rate, opening)


def _open_files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def _used(bench: Bench) -> list[Used]:
    """The same, once each connection sent a large packet, and once it sent a small one after it."""
    return [await _after(bench, door, size) for door, size in _USED]


async def _after(bench: Bench, door: Door, size: int) -> Used:
    counts = bench.size((75, 150), (250, 500, 750, 1_000))
    async with platform(bench, _Doors) as world, AsyncExitStack() as stack:
        steps = [await _step(world, door, 0)]
        loads: list[Load] = []
        for count in counts:
            number = steps[-1].connections
            plain = size > max(_SIZES)
            more = _load(world, door, count - number, number, size, plain=plain, flight=2)
            load = await stack.enter_async_context(more)
            loads.append(load)
            await load.until("open", count - number, 60)
            load.tell("once")
            await load.until("finished", 1, 120)
            _well(load)
            steps.append(await _step(world, door, count))
        later = await _calm(world, door, steps[0], steps[-1].connections)
        await _emptied(world)
        for load in loads:
            load.tell("small")
            await load.until("finished", 2, 60)
            _well(load)
        after = await _calm(world, door, steps[0], steps[-1].connections)
        used = Used(door, size, steps[-1].connections, slope(steps), later, after)
    bench.say(
        f"{_NAMES[door]}, {used.connections:,} connections after a packet of {size // 1_000} kB each:"
        f" {used.at_once:,.0f} kB, later {used.later:,.0f} kB, after the next packet {used.next:,.0f} kB"
    )
    return used


async def _calm(world: World, door: Door, none: Held, connections: int) -> float:
    """kB a connection, after a while; Python gives back at once, and its server ends a connection that is idle for 75 s."""
    bench = world.bench
    for _ in range(bench.size(1, 50) if door == "mqtt" else 1):
        bench.say(f"{_NAMES[door]}: {world.memory()[_SERVER[door]]:.0f} MB, waiting until some is given back")
        await asyncio.sleep(_CALM)
    return 1e3 * (world.memory()[_SERVER[door]] - none.memory) / connections


def slope(steps: Sequence[Held]) -> float:
    """kB that one connection more takes."""
    return 1e3 * linear_regression([one.connections for one in steps], [one.memory for one in steps]).slope


# What it comes to


def _rates(turns: Turns, bench: Bench, disk: str) -> Table:
    rows: list[Sequence[Cell]] = []
    for size, name in _SIZES.items():
        for cars in _CARS:
            http, mqtt = turns[size, cars, "http"], turns[size, cars, "mqtt"]
            ratios = [ours.rate / other.rate for ours, other in zip(mqtt, http, strict=True)]
            rows.append(
                (
                    name,
                    f"{cars}",
                    *(spread([turn.rate for turn in each]) for each in (http, mqtt)),
                    spread(ratios),
                    *(spread([turn.p50 for turn in each]) for each in (http, mqtt)),
                    *(spread([turn.p99 for turn in each]) for each in (http, mqtt)),
                )
            )
    columns = (
        "size", "cars", "HTTP packets/s", "MQTT packets/s", "MQTT to HTTP", "HTTP p50 ms", "MQTT p50 ms", "HTTP p99 ms",
        "MQTT p99 ms",
    )  # fmt: skip
    count = bench.size(3, 5)
    note = (
        f"Median (lowest to highest) of {count} turns, in turn. p50 and p99 from sent to acknowledged. {disk}"
    )
    return Table("The same packets by each door, one in flight a car", columns, rows, note)


def _costs(turns: Turns) -> Table:
    rows: list[Sequence[Cell]] = []
    for size, name in _SIZES.items():
        for cars in _CARS:
            for door in _DOORS:
                found = turns[size, cars, door]
                each = [median(turn.cpu[role] for turn in found) for role in _ROLES]
                both = spread([turn.platform for turn in found])
                rows.append((name, f"{cars}", _NAMES[door], each[0], each[1], both, each[2]))
    columns = ("size", "cars", "door", "nats-server", "ingest", "both", "generator")
    return Table("CPU ms a packet", columns, rows, "The generator is the cars, and no part of the platform.")


def _growth(held: Mapping[Door, Sequence[Held]], room: Mapping[Door, int]) -> Table:
    rows: list[Sequence[Cell]] = [
        (
            _NAMES[door],
            step.connections,
            step.memory,
            step.cores,
            *((step.rate, step.opening) if step.connections else ("", "")),
        )
        for door in _DOORS
        for step in held[door]
    ]
    columns = ("door", "connections", "MB", "cores, idle", "opened/s", "CPU ms an opening")
    shown = ", ".join(f"{_SERVER[door]} {room[door]:,}" for door in _DOORS)
    note = (
        "Memory and CPU of nats-server for MQTT, of one ingest process for HTTP. By the open files that a process may have"
        f" here, there is room for: {shown}."
    )
    return Table("Idle connections", columns, rows, note)


def _memory(bench: Bench, idle: Mapping[Door, float], used: Sequence[Used]) -> Table:
    rows: list[Sequence[Cell]] = [
        (_NAMES[one.door], f"{one.size // 1_000} kB", idle[one.door], one.at_once, one.later, one.next)
        for one in used
    ]
    columns = ("door", "packet", "idle, nothing sent", "it sent one", "a while later", "after one of 1 kB")
    note = (
        f"Idle and at once by a straight line through the steps, up to {used[-1].connections:,} connections that sent; a while:"
        f" {bench.size(1, 50) * _CALM:.0f} s for MQTT, {_CALM:.0f} s for HTTP. 500 kB are some 115 kB as sent, 1000 kB are not"
        " compressed. What the server's runtime holds without need is in it, what the kernel takes is not."
    )
    return Table("Memory of one connection more, kB", columns, rows, note)


def _charts(turns: Turns, held: Mapping[Door, Sequence[Held]]) -> Sequence[Chart]:
    def line(size: int, door: Door, what: Callable[[Turn], float]) -> list[tuple[float, float]]:
        return [(cars, median(map(what, turns[size, cars, door]))) for cars in _CARS]

    def lines(what: Callable[[Turn], float]) -> Mapping[str, Sequence[tuple[float, float]]]:
        return {
            f"{_NAMES[door]}, {name}": line(size, door, what)
            for size, name in _SIZES.items()
            for door in _DOORS
        }

    return [
        Chart(
            "doors-rate",
            "Packets stored by each door, one in flight a car",
            "cars",
            "packets/s",
            lines(lambda turn: turn.rate),
            log_x=True,
        ),
        Chart(
            "doors-cpu",
            "CPU of nats-server and ingest",
            "cars",
            "ms a packet",
            lines(lambda turn: turn.platform),
            log_x=True,
        ),
        Chart(
            "doors-memory",
            "Memory of idle connections, nats-server (MQTT) and ingest (HTTP)",
            "connections",
            "MB",
            {_NAMES[door]: [(one.connections, one.memory) for one in held[door]] for door in _DOORS},
        ),
    ]

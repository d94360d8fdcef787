"""What does an idle stream take of a machine, and what would a million take?

Phones hold idle streams, each of a vehicle of its own, on several Pushpin replicas that are configured as the platform does it,
without front; all the time 200 updates a second go to vehicles drawn by chance among those that are watched. Streams are
begun by a bare origin of the benchmark, which feeds the replicas over ZeroMQ, too. They come in steps, and after each the
memory is read once it is quiet: of each program of Pushpin (proportional set size), of the kernel (slab, TCP's buffers, page
tables; half of it, for the other half is the phones' ends, which a real server does not have), and of the phones and the
feeder, which counts for nothing. Updates are timed from sent to seen in some seconds after each step, and for longer with all
streams open. Before that, settings of Pushpin are tried on one replica each.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from statistics import linear_regression
from typing import NamedTuple

from bench import peers, phones
from bench.question import Answer, Bench, Cell, Chart, Table
from bench.stats import Records, percentile
from bench.world import Failed, Load, memory, processes, spent

_RATE = 200.0
_SIZE = 700  # bytes of an update
_KEEP_ALIVE = (
    60  # seconds: 200,000 streams at the platform's 25 would be 8,000 comments a second for two cores
)
_RESERVE = 320  # a replica's files that are not streams
_PACE = 450.0  # new streams a second at most, over all replicas
_OPENING = 64  # unanswered at a time, as the front bounds it: beyond what two cores bear an edge answers fewer, not as many
_PATIENCE = 120.0
_QUIET = 5.0
_ROOM = 1_500.0  # MB that must stay available, or no more are opened
_MILLIONS = (1_000_000, 2_000_000)
_PROGRAMS = ("condure", "pushpin-handler", "pushpin-proxy", "zurl")


class Step(NamedTuple):
    """What is taken with so many streams: MB, and cores from `from_` to `to`."""

    streams: int
    programs: Mapping[str, float]
    clients: float
    kernel: float
    available: float
    from_: int
    to: int
    cores: float
    client_cores: float
    failed: int
    """Openings that failed until then; each was tried again."""

    @property
    def servers(self) -> float:
        """Of all programs of Pushpin."""
        return sum(self.programs.values())


class Try(NamedTuple):
    """A change of the configuration, or of its environment."""

    name: str
    change: Callable[[str], str] = str
    environment: Mapping[str, str] = {}


class Field:
    """Replicas, their feeder, and the phones that have come by now."""

    def __init__(self, bench: Bench, edge: peers.Pushpins, feeder: Load, stack: AsyncExitStack) -> None:
        self.bench = bench
        self.edge = edge
        self.feeder = feeder
        self.stack = stack
        self.crowds: list[Load] = []
        self.streams = 0

    async def more(self, count: int) -> None:
        """So many streams more, in turn on all replicas. Raises Failed."""
        options = phones.Options(self.edge.ports, count, self.streams, pace=_PACE, opening=_OPENING)
        file = self.bench.folder / f"seen-{len(self.crowds)}"
        crowd = await self.stack.enter_async_context(Load("bench.phones", options, file))
        self.crowds.append(crowd)
        due = asyncio.create_task(crowd.until("open", count, 4 * count / _PACE + _PATIENCE))
        while not due.done():
            await asyncio.wait({due}, timeout=10)
            is_open = self.streams + crowd.last.get("open", 0)
            self.bench.say(f"{is_open:,} streams, {_meminfo()['MemAvailable']:,.0f} MB available")
            if _meminfo()["MemAvailable"] < _ROOM:
                due.cancel()
                raise Failed(f"memory ran out at {is_open:,} streams")
        due.result()
        self.streams += count

    def total(self, key: str) -> int:
        """Of all phones."""
        return sum(int(crowd.last.get(key, 0)) for crowd in self.crowds)

    async def step(self, seconds: float) -> Step:
        """What is taken now and, for so long, CPU."""
        await asyncio.sleep(self.bench.size(2.0, 4.0))
        ours = {"feeder": self.feeder.pid} | {str(n): crowd.pid for n, crowd in enumerate(self.crowds)}
        from_, was, mine = time.monotonic_ns(), spent(self.edge.leaders()), spent(ours)
        while (ahead := from_ / 1e9 + seconds - time.monotonic()) > 0:
            self.bench.say(f"{self.streams:,} streams: measuring")
            await asyncio.sleep(min(ahead, 10))
        to, after, my = time.monotonic_ns(), spent(self.edge.leaders()), spent(ours)
        took = (to - from_) / 1e9
        now = _meminfo()
        return Step(
            self.streams,
            by_program(self.edge.leaders()),
            sum(memory(ours | {"bench": os.getsid(0)}).values()),
            sum(now[key] for key in ("Slab", "TCP", "PageTables")),
            now["MemAvailable"],
            from_,
            to,
            (sum(after.values()) - sum(was.values())) / took,
            (sum(my.values()) - sum(mine.values())) / took,
            sum(self.total(key) for key in ("errors", "refused", "gave_up", "closed")),
        )

    async def end(self) -> tuple[Records, Sequence[Records]]:
        """What was sent, and what each of the phones' processes has seen."""
        sent = await self.feeder.end()
        await asyncio.sleep(2)
        return sent, [await crowd.end(120) for crowd in self.crowds]


async def run(bench: Bench) -> Answer:
    """All of it."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    total, replicas, steps = bench.size((10_000, 2, 4), (200_000, 11, 11))
    tries = _tries()[: bench.size(3, 5)]
    tried = [(one, await _try(bench, one, bench.size(1_200, 8_000))) for one in tries]
    grown, sights, broken = await _grow(bench, total, replicas, steps, int((files - _RESERVE - 100) / 1.1))
    last = grown[-1]
    if len(grown) < 3:
        raise Failed("; ".join(broken))
    if last.streams < total:
        broken.append(f"{last.streams:,} streams were held, not {total:,}")
    each = _each(grown)
    tables = [
        _settings(tried),
        _growth(grown, sights),
        _shares(grown),
        _millions(grown, each, replicas),
    ]
    kernel = [_kernel(grown[0], step) for step in grown]
    lines = {
        "Pushpin and kernel": [step.servers + more for step, more in zip(grown, kernel, strict=True)],
        "Pushpin": [step.servers for step in grown],
        "kernel, the server's half": kernel,
    }
    chart = Chart(
        "streams",
        f"Memory of idle streams on {replicas} Pushpin replicas",
        "streams",
        "GB",
        {
            name: [(step.streams, mb / 1e3) for step, mb in zip(grown, line, strict=True)]
            for name, line in lines.items()
        },
    )
    p50, p99, *_ = sights[-1]
    figures = {
        "streams": float(last.streams),
        "kb_a_stream": each,
        "p50_ms": p50,
        "p99_ms": p99,
        "cores": last.cores,
    }
    return Answer(tables, [chart], figures, broken)


async def _field(
    bench: Bench, stack: AsyncExitStack, replicas: int, most: int, one: Try | None = None
) -> Field:
    one = one or Try("as it is")
    edge = await stack.enter_async_context(peers.pushpins(bench, replicas, most, one.change, one.environment))
    feed = peers.Feed(
        "pushpin", edge.inputs, 0, _RATE, _SIZE, origin=edge.origin, keep_alive=_KEEP_ALIVE, seed=bench.seed
    )
    feeder = await stack.enter_async_context(Load("bench.peers", feed, bench.folder / "sent"))
    await feeder.until("ready", 1, 15)
    feeder.tell("go")
    return Field(bench, edge, feeder, stack)


async def _grow(
    bench: Bench, total: int, replicas: int, steps: int, most: int
) -> tuple[Sequence[Step], Sequence[tuple[float, float, float, int]], list[str]]:
    """The steps, (p50, p99, slowest, not seen) of the updates after each, and what went wrong."""
    broken: list[str] = []
    async with AsyncExitStack() as stack:
        field = await _field(bench, stack, replicas, most)
        grown = [await field.step(1)]
        try:
            for number in range(steps):
                await field.more(total * (number + 1) // steps - field.streams)
                grown.append(await field.step(_QUIET if number < steps - 1 else bench.size(15.0, 60.0)))
        except Failed as why:
            broken.append(str(why))
        lost = field.total("closed")
        sent, seen = await field.end()
    if lost:
        broken.append(f"{lost} streams were closed")
    sights = [_delays(sent, seen, step) for step in grown]
    if unseen := sum(one[3] for one in sights):
        broken.append(f"{unseen} updates were not seen")
    return grown, sights, broken


def _delays(sent: Records, seen: Sequence[Records], step: Step) -> tuple[float, float, float, int]:
    due = {(vehicle, number): at for vehicle, number, at, _ in sent if step.from_ <= at < step.to}
    delays: dict[tuple[int, int], float] = {}
    for records in seen:
        for vehicle, number, at, _ in records:
            if (began := due.get((vehicle, number))) is not None:
                delays.setdefault((vehicle, number), (at - began) / 1e6)
    values = list(delays.values())
    slowest = max(values, default=math.nan)
    return percentile(values, 0.5), percentile(values, 0.99), slowest, len(due) - len(delays)


# Settings


def _tries() -> Sequence[Try]:
    def buffer(size: int) -> Callable[[str], str]:
        return lambda text: text.replace("client_buffer_size=8192", f"client_buffer_size={size}")

    def silent(text: str) -> str:
        return re.sub(r"stats_spec=.*\n", "", text)

    one_arena = {"MALLOC_ARENA_MAX": "1"}
    return [
        Try("as the platform has it"),
        Try("client_buffer_size 4096", buffer(4096)),
        Try("client_buffer_size 2048", buffer(2048)),
        Try("no stats socket", silent),
        Try("MALLOC_ARENA_MAX=1", environment=one_arena),
    ]


async def _try(bench: Bench, one: Try, count: int) -> Sequence[Step]:
    bench.say(f"trying: {one.name}")
    async with AsyncExitStack() as stack:
        field = await _field(bench, stack, 1, count, one)
        steps = [await field.step(0)]
        for _ in range(2):
            await field.more(count // 2)
            steps.append(await field.step(0))
        await field.end()
    return steps


def _settings(tried: Sequence[tuple[Try, Sequence[Step]]]) -> Table:
    rows: list[Sequence[Cell]] = []
    for one, (begun, half, full) in tried:
        streams = full.streams - half.streams
        grown = [
            1e3 * (full.programs.get(name, 0) - half.programs.get(name, 0)) / streams for name in _PROGRAMS
        ]
        rows.append((one.name, 1e3 * (full.servers - half.servers) / streams, *grown, begun.servers))
    streams = tried[0][1][-1].streams
    return Table(
        "Settings of Pushpin, memory of one stream more",
        ("setting", "kB a stream", *_PROGRAMS, "MB with none"),
        rows,
        f"One replica, from {streams // 2:,} to {streams:,} streams.",
    )


# What it comes to


def _meminfo() -> Mapping[str, float]:
    """MB by name, as /proc/meminfo has it; `TCP` is what the kernel's TCP holds in buffers."""
    text = Path("/proc/meminfo").read_text()
    found = {name: int(kb) / 1e3 for name, kb in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
    pages = re.search(r"^TCP: .* mem (\d+)$", Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    assert pages is not None
    return found | {"TCP": int(pages[1]) * resource.getpagesize() / 1e6}


def by_program(leaders: Mapping[str, int]) -> Mapping[str, float]:
    """MB by program, of all processes in these sessions."""
    sessions, found = set(leaders.values()), dict[str, float]()
    for entry, fields in processes():
        if int(fields[3]) in sessions:
            name = (entry / "comm").read_text().strip()
            pss = re.search(r"^Pss: +(\d+) kB", (entry / "smaps_rollup").read_text(), re.MULTILINE)
            if pss is not None:
                found[name] = found.get(name, 0.0) + int(pss[1]) / 1e3
    return found


def _kernel(none: Step, step: Step) -> float:
    """MB that the kernel has taken for the server's ends of the connections; the phones' ends take as much."""
    return (step.kernel - none.kernel) / 2


def _program(name: str, step: Step) -> float:
    return step.programs.get(name, 0.0)


def slope(grown: Sequence[Step], of: Callable[[Step], float]) -> float:
    """kB that one stream more takes."""
    return 1e3 * linear_regression([step.streams for step in grown], [of(step) for step in grown]).slope


def _each(grown: Sequence[Step]) -> float:
    return slope(grown, lambda step: step.servers + _kernel(grown[0], step))


def _growth(grown: Sequence[Step], sights: Sequence[tuple[float, float, float, int]]) -> Table:
    rows: list[Sequence[Cell]] = []
    for step, (p50, p99, slowest, unseen) in zip(grown, sights, strict=True):
        server = step.servers + _kernel(grown[0], step)
        rows.append(
            (step.streams, server / 1e3, step.clients / 1e3, step.cores, step.client_cores)
            + ((p50, p99, slowest, unseen, step.failed) if step.streams else ("", "", "", "", ""))
        )
    columns = (
        "streams",
        "servers and kernel, GB",
        "phones and feeder, GB",
        "servers, cores",
        "phones and feeder, cores",
        "p50 ms",
        "p99 ms",
        "slowest ms",
        "not seen",
        "openings tried again",
    )
    note = f"{_RATE:.0f} updates/s of {_SIZE} bytes among all streams; a comment each {_KEEP_ALIVE} s on each idle one."
    return Table("Idle streams, and updates among them", columns, rows, note)


def _shares(grown: Sequence[Step]) -> Table:
    none, last = grown[0], grown[-1]
    rows: list[Sequence[Cell]] = [
        (
            name,
            slope(grown, partial(_program, name)),
            none.programs.get(name, 0.0),
            last.programs.get(name, 0.0),
        )
        for name in sorted({*none.programs, *last.programs})
    ]
    half = _kernel(none, last)
    rows += [
        ("kernel, the server's half", slope(grown, partial(_kernel, none)), 0.0, half),
        ("servers and kernel", _each(grown), none.servers, last.servers + half),
        ("phones and feeder", slope(grown, lambda step: step.clients), none.clients, last.clients),
    ]
    all_ = (last.servers - none.servers) + 2 * half + (last.clients - none.clients)
    note = (
        f"By a straight line through all steps. All of it together, both ends, is {all_:,.0f} MB; what the kernel has available"
        f" went down by {none.available - last.available:,.0f} MB."
    )
    columns = ("what", "kB a stream", "MB with none", f"MB with {last.streams:,}")
    return Table("Where the memory is", columns, rows, note)


def _millions(grown: Sequence[Step], each: float, replicas: int) -> Table:
    last, none = grown[-1], grown[0]
    a_replica = last.streams / replicas
    memory_gb = _meminfo()["MemTotal"] / 1e3
    base = none.servers / replicas / 1e3
    rows: list[Sequence[Cell]] = []
    for streams in _MILLIONS:
        count = math.ceil(streams / a_replica)
        gigabytes = streams * each / 1e6 + count * base
        cores = slope(grown[1:], lambda step: step.cores) / 1e3 * streams
        rows.append((streams, gigabytes, count, math.ceil(gigabytes / (0.8 * memory_gb)), cores))
    columns = (
        "streams",
        "GB",
        "replicas",
        f"machines of {memory_gb:.0f} GB, a fifth kept free",
        "cores for comments alone",
    )
    note = (
        f"Calculated from the slopes, at {a_replica:,.0f} streams a replica. A comment each {_KEEP_ALIVE} s."
    )
    return Table("What a million would take", columns, rows, note)

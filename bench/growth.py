"""What do twice the packets, phones, vehicles or edges cost, and how long does a restart of nats-server take then?

One of them is doubled again and again while the others stay. At each step the CPU time of all of the platform's processes is
taken over the same spans, with the delay from a packet's acknowledgement to its sight on a phone, and the memory. The exponent
is the slope of CPU time over work where both axes are logarithmic: 1 is linear, and no more than 1.1 is called so. A part that
is always there makes it smaller; so the last doubling has an exponent of its own, where that part is smallest.

Then nats-server is killed with `kill -9` while packets come and a phone watches each vehicle that sends. It answers when it
greets a connection; the next moments are those at which a packet is acknowledged after that, and at which such a one is seen.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count, pairwise
from statistics import linear_regression, median
from typing import NamedTuple

from bench import cars, phones
from bench.preload import preload
from bench.question import Answer, Bench, Cell, Chart, Table
from bench.stats import Records, percentile, show, spread
from bench.world import Failed, Load, World, platform, since
from fleetcast import natsserver
from fleetcast.jetstream import connect
from fleetcast.subjects import LIVE, PACKETS

Row = tuple[int, int, int, int]
_ROLES = ("ingest", "consume", "nats-server", "edge", "haproxy", "origin")
_MEMORY = ("nats-server", "consume", "origin", "edge", "haproxy")
_WATCHED = 200  # vehicles, each with a phone
_RATE = 100.0  # packets a second where something else is doubled
_EACH = 100  # updates of a vehicle with a full window
_SMALL, _BIG = 1000, 500_000  # bytes a packet
_WARM = 1.0  # seconds before a span is measured
_HOLDS = 0.97  # share of the packets due that must be acknowledged in time
_LINEAR = 1.1
_boots = count(2)


class Step(NamedTuple):
    """One measured: how much of what is doubled, CPU seconds by role, MB by role, ms from acknowledged to seen."""

    work: float
    seconds: float
    packets: int
    cpu: Mapping[str, float]
    memory: Mapping[str, float]
    held: bool
    round: int
    delays: Sequence[float] = ()

    @property
    def total(self) -> float:
        """CPU seconds a second, all of the platform."""
        return sum(self.cpu.values()) / self.seconds


class Restart(NamedTuple):
    """Messages in LIVE and in the queue, MB of nats-server before, and seconds from the kill on."""

    messages: int
    memory: float
    killed: int
    round: int
    answers: float
    acknowledged: float = math.nan
    seen: float = math.nan


class Watch:
    """Phones, and the rounds of packets that they may see. What they saw is known once they have ended."""

    def __init__(self, world: World, version: int = 0) -> None:
        self.world = world
        self.loads: list[Load] = []
        self._version = version
        self._rounds: list[tuple[int, Records]] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def more(self, held: int, wrap: int) -> None:
        """So many phones more, on the first `wrap` vehicles."""
        options = phones.Options(ports=[self.world.settings.front_port], count=held, wrap=wrap, pace=300)
        records = self.world.bench.folder / f"phones{len(self.loads)}"
        load = await self._stack.enter_async_context(Load("bench.phones", options, records))
        self.loads.append(load)
        await load.until("open", held, 30 + held / 50)
        await asyncio.sleep(1.5)  # the edge asks each new channel's next link once

    async def span(self, rate: float, size: int, vehicles: int, seconds: float, first: int = 0) -> Step:
        """One round of packets, measured; its delays are not there yet."""
        world = self.world
        whole = _WARM + seconds + 1.0
        async with self._sending(rate, size, vehicles, first, whole) as fleet:
            await asyncio.sleep(_WARM)
            before, began = world.spent(), time.monotonic_ns()
            await asyncio.sleep(seconds)
            spent, ended = since(before, world.spent()), time.monotonic_ns()
            memory = since({}, world.memory())
            await fleet.until("done", 1, 60)
            acked = await fleet.end()
        await world.level(120)
        done = sum(began <= at < ended for _, _, at, _ in acked)
        took = (ended - began) / 1e9
        self._rounds.append((began, acked))
        return Step(rate, took, done, spent, memory, done >= _HOLDS * rate * took, len(self._rounds) - 1)

    async def restart(self, vehicles: int) -> Restart:
        """nats-server is killed; when something is acknowledged and seen is not there yet."""
        world = self.world
        messages = await _messages(world)
        memory = world.memory()["nats-server"]
        async with self._sending(50.0, _SMALL, vehicles, 0, 1e9) as fleet:
            await asyncio.sleep(2.0)
            killed = time.monotonic_ns()
            pid = world.platform.supervisor.pid("nats-server")
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            answers = await _answers(world, 120)
            await asyncio.sleep(5.0)
            acked = await fleet.end()
        await world.level(120)
        self._rounds.append((answers, acked))
        took = (answers - killed) / 1e9
        self.world.bench.say(f"nats-server killed with {messages:,} messages: it answers after {took:.1f} s")
        return Restart(messages, memory, killed, len(self._rounds) - 1, took)

    @asynccontextmanager
    async def _sending(
        self, rate: float, size: int, vehicles: int, first: int, seconds: float
    ) -> AsyncIterator[Load]:
        options = cars.Options(
            port=self.world.settings.ingest_port,
            cars=vehicles,
            rate=rate,
            size=size,
            first=first,
            boot=next(_boots),
            seconds=seconds,
        )
        async with Load("bench.cars", options, self.world.bench.folder / "cars") as fleet:
            await fleet.until("acked", 1, 20)
            yield fleet

    async def sights(self) -> list[list[tuple[int, int]]]:
        """Of each round, what `sights_of` says. The phones are gone after this."""
        seen = [row for load in self.loads for row in await load.end()]
        return sights_of(self._rounds, seen, self._version)


def sights_of(
    rounds: Sequence[tuple[int, Iterable[Row]]], seen: Iterable[Row], version: int
) -> list[list[tuple[int, int]]]:
    """(acknowledged, first seen) in ns, of what was acknowledged after each round's moment and seen.

    The n-th packet of a vehicle that was acknowledged makes the n-th version after `version`.
    """
    first: dict[tuple[int, int], int] = {}
    for vehicle, number, at, _ in seen:
        first[vehicle, number] = min(at, first.get((vehicle, number), at))
    last: defaultdict[int, int] = defaultdict(lambda: version)
    found: list[list[tuple[int, int]]] = []
    for began, acked in rounds:
        found.append([])
        for vehicle, _, at, _ in sorted(acked, key=lambda row: row[2]):
            last[vehicle] += 1
            if at >= began and (sight := first.get((vehicle, last[vehicle]))) is not None:
                found[-1].append((at, sight))
    return found


async def _messages(world: World) -> int:
    connection = await connect(world.settings, "fleetcast-bench")
    try:
        infos = [await connection.api(f"STREAM.INFO.{stream}") for stream in (LIVE, PACKETS)]
    finally:
        await connection.close()
    return sum(int(info["state"]["messages"]) for info in infos)


async def _answers(world: World, within: float) -> int:
    """When nats-server greets a connection, in ns. Raises Failed."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            reader, writer = await asyncio.open_connection(*natsserver.address(world.settings))
        except OSError:
            await asyncio.sleep(0.02)
            continue
        try:
            if (await reader.readline()).startswith(b"INFO"):
                return time.monotonic_ns()
        except OSError:
            continue
        finally:
            writer.close()
    raise Failed(f"nats-server does not answer {within:.0f} s after it was killed")


def _delayed(steps: Sequence[Step], sights: Sequence[Sequence[tuple[int, int]]]) -> list[Step]:
    return [s._replace(delays=[(seen - at) / 1e6 for at, seen in sights[s.round]]) for s in steps]


def _restarted(restarts: Sequence[Restart], sights: Sequence[Sequence[tuple[int, int]]]) -> list[Restart]:
    found = []
    for restart in restarts:
        if not (pairs := sights[restart.round]):
            raise Failed("nothing was seen after nats-server was killed")
        first = [(min(moments) - restart.killed) / 1e9 for moments in zip(*pairs, strict=True)]
        found.append(restart._replace(acknowledged=first[0], seen=first[1]))
    return found


async def _packets(
    bench: Bench, size: int, rates: Sequence[float], seconds: float, repeats: int
) -> list[Step]:
    steps: list[Step] = []
    async with platform(bench) as world, Watch(world) as watch:
        await watch.more(_WATCHED, _WATCHED)
        for rate in rates:
            steps += [await watch.span(rate, size, _WATCHED, seconds) for _ in range(repeats)]
            bench.say(f"{rate:,.0f} packets/s of {size // 1000} kB: {_cores(steps[-1])}")
            if not steps[-1].held:
                break
        return _delayed(steps, await watch.sights())


async def _phones(bench: Bench, counts: Sequence[int], seconds: float, repeats: int) -> list[Step]:
    """As many vehicles as there are phones at first; later there are more on each."""
    steps: list[Step] = []
    async with (
        platform(bench, edge_connections=max(3000, counts[-1] // 2 + 400)) as world,
        Watch(world) as watch,
    ):
        for before, now in pairwise((0, *counts)):
            await watch.more(now - before, counts[0])
            for _ in range(repeats):
                step = await watch.span(_RATE, _SMALL, counts[0], seconds)
                steps.append(step._replace(work=now))
            bench.say(f"{now:,} phones: {_cores(steps[-1])}")
        return _delayed(steps, await watch.sights())


async def _edges(bench: Bench, counts: Sequence[int], seconds: float, repeats: int) -> list[Step]:
    steps: list[Step] = []
    for edges in counts:
        async with platform(bench, edges=edges) as world, Watch(world) as watch:
            await watch.more(_WATCHED, _WATCHED)
            spans = [await watch.span(_RATE, _SMALL, _WATCHED, seconds) for _ in range(repeats)]
            bench.say(f"{edges} edges: {_cores(spans[-1])}")
            steps += [s._replace(work=edges) for s in _delayed(spans, await watch.sights())]
    return steps


async def _vehicles(
    bench: Bench, counts: Sequence[int], window: int, seconds: float, repeats: int
) -> tuple[list[Step], list[Step], list[Restart]]:
    """Packets of a few vehicles, packets of vehicles that were silent until then, and restarts, the last ones with a window."""
    known, silent, restarts = list[Step](), list[Step](), list[Restart]()
    async with platform(bench) as world, Watch(world, version=1) as watch:
        for before, now in pairwise((0, *counts)):
            await preload(world, now - before, start=before)
            if not before:
                await watch.more(_WATCHED, _WATCHED)
            first = before or _WATCHED
            step = await watch.span(_RATE, _SMALL, now - first, seconds, first)
            silent.append(step._replace(work=now))
            for _ in range(repeats):
                step = await watch.span(_RATE, _SMALL, _WATCHED, seconds)
                known.append(step._replace(work=now))
            bench.say(f"{now:,} states: {_cores(known[-1])}")
            restarts.append(await watch.restart(_WATCHED))
        await preload(world, window // _EACH, window // _EACH, _EACH, start=counts[-1])
        restarts += [await watch.restart(_WATCHED) for _ in range(repeats)]
        sights = await watch.sights()
    return _delayed(known, sights), silent, _restarted(restarts, sights)


def _cores(step: Step) -> str:
    return f"{step.total:.2f} cores" + ("" if step.held else ", and it does not hold")


# What came of it


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """The slope of y over x, both as logarithms; nan of fewer than two."""
    if len(points) < 2:
        return math.nan
    logs = [(math.log(x), math.log(y)) for x, y in points]
    return linear_regression([x for x, _ in logs], [y for _, y in logs]).slope


def _by_work(steps: Sequence[Step]) -> dict[float, list[Step]]:
    found: dict[float, list[Step]] = {}
    for step in steps:
        found.setdefault(step.work, []).append(step)
    return found


def _medians(steps: Sequence[Step], of: Callable[[Step], float]) -> list[tuple[float, float]]:
    """(work, median) of what held: what the processes do beyond that is not what the work takes."""
    return [
        (work, median(map(of, some)))
        for work, some in _by_work(steps).items()
        if all(step.held for step in some)
    ]


def _ms(step: Step, role: str | None = None) -> float:
    """CPU ms a packet."""
    spent = sum(step.cpu.values()) if role is None else step.cpu.get(role, 0.0)
    return 1e3 * spent / max(1, step.packets)


def _costs(title: str, what: str, steps: Sequence[Step], note: str = "") -> Table:
    rows: list[tuple[Cell, ...]] = []
    for work, some in _by_work(steps).items():
        delays = [step.delays for step in some if step.delays]
        rows.append(
            (
                f"{work:,.0f}" + ("" if all(step.held for step in some) else ", not held"),
                spread([step.packets / step.seconds for step in some]),
                *(show(median(_ms(step, role) for step in some)) for role in _ROLES),
                spread([_ms(step) for step in some]),
                spread([percentile(one, 0.5) for one in delays]),
                spread([percentile(one, 0.99) for one in delays]),
            )
        )
    columns = (what, "packets/s", *_ROLES, "CPU ms a packet", "p50 ms", "p99 ms")
    return Table(title, columns, rows, note)


def _memories(title: str, what: str, steps: Sequence[Step]) -> Table:
    rows = [
        (f"{work:,.0f}", *(show(median(step.memory[role] for step in some)) for role in _ROLES))
        for work, some in _by_work(steps).items()
    ]
    return Table(
        title, (what, *_ROLES), rows, "All processes of a role together, what is shared counted in parts."
    )


async def run(bench: Bench) -> Answer:
    """Everything, one after the other."""
    seconds, repeats = bench.size(3.0, 4.0), 1
    small = await _packets(bench, _SMALL, [100, 200, 400, 800, 1600], seconds, repeats)
    big = await _packets(bench, _BIG, [25, 50, 100, 200, 400], seconds, repeats)
    held = await _phones(bench, [250, 500, 1000, 2000, 4000], seconds, repeats)
    states = bench.size([1000, 3000, 10_000, 30_000], [1000, 3000, 10_000, 30_000, 100_000, 300_000])
    window = bench.size(50_000, 500_000)
    known, silent, restarts = await _vehicles(bench, states, window, seconds, repeats)
    edges = await _edges(bench, [1, 2, 4, 8], seconds, repeats)
    lines = {
        "packets of 1 kB": _medians(small, lambda step: step.total),
        "packets of 500 kB": _medians(big, lambda step: step.total),
        "phones": _medians(held, lambda step: step.total),
        "vehicles": _medians(known, lambda step: step.total),
        "edges": _medians(edges, lambda step: step.total),
    }
    stored = _medians(known, lambda step: step.memory["nats-server"])
    edge_memory = _medians(edges, lambda step: step.memory["edge"])
    rows: list[tuple[Cell, ...]] = []
    figures: dict[str, float] = {}
    broken: list[str] = []
    told = {f"CPU time over {name}": line for name, line in lines.items()}
    told |= {"nats-server's memory over vehicles": stored, "the edges' memory over edges": edge_memory}
    told["nats-server's restart over messages"] = [
        (some[0].messages, median(r.answers for r in some)) for some in _alike(restarts, repeats)
    ]
    for name, line in told.items():
        whole, end = exponent(line), exponent(line[-2:])
        if math.isnan(whole):
            broken.append(f"{name}: fewer than two steps held")
            continue
        linear = max(whole, end) <= _LINEAR
        rows.append(
            (name, f"{line[0][0]:,.0f} to {line[-1][0]:,.0f}", whole, end, "linear" if linear else "worse")
        )
        figures[f"{name.replace(' ', '_')}_exponent"] = whole
    full = restarts[-repeats:]
    figures["restart_answers_s"] = max(r.answers for r in full)
    figures["restart_seen_s"] = max(r.seen for r in full)
    return Answer(
        [
            Table(
                "What grows how",
                ("what over what", "from, to", "exponent", "of the last doubling", "no worse than"),
                rows,
                f"Of the medians of {repeats} spans of {seconds:.0f} s a step; steps that did not hold are left out.",
            ),
            _costs("Packets of 1 kB: 200 vehicles, a phone on each", "due a second", small),
            _costs("Packets of 500 kB: 200 vehicles, a phone on each", "due a second", big),
            _costs("Phones on 250 vehicles that send 100 packets/s of 1 kB", "phones", held),
            _costs(
                "Vehicles known; 200 of them send 100 packets/s of 1 kB, a phone on each", "vehicles", known
            ),
            _costs(
                "The same packets from vehicles that were silent until then, nobody watching",
                "vehicles",
                silent,
            ),
            _memories("MB by vehicles known", "vehicles", known),
            _costs("Edges; 200 vehicles send 100 packets/s of 1 kB, a phone on each", "edges", edges),
            _memories("MB by edges", "edges", edges),
            _restart_table(restarts, repeats),
        ],
        [
            Chart(
                "growth-cpu",
                "CPU of the whole platform over the work",
                "times the work of the first step",
                "cores",
                {
                    f"{name}, exponent {show(exponent(line))}": [(x / line[0][0], y) for x, y in line]
                    for name, line in lines.items()
                    if len(line) > 1
                },
                log_x=True,
                log_y=True,
            ),
            Chart(
                "growth-memory",
                "Memory of nats-server over the vehicles known",
                "vehicles",
                "MB",
                {"nats-server": stored},
                log_x=True,
            ),
            Chart(
                "growth-restart",
                "nats-server killed: seconds until it answers, until a packet is seen",
                "messages",
                "seconds",
                {
                    "it answers": sorted((r.messages, r.answers) for r in restarts),
                    "a packet is seen": sorted((r.messages, r.seen) for r in restarts),
                },
            ),
        ],
        figures,
        broken,
    )


def _alike(restarts: Sequence[Restart], repeats: int) -> list[Sequence[Restart]]:
    """One of each number of states, and those with the window, which are repeated."""
    return [*([restart] for restart in restarts[:-repeats]), restarts[-repeats:]]


def _restart_table(restarts: Sequence[Restart], repeats: int) -> Table:
    rows = [
        (
            f"{some[0].messages:,}",
            show(median(r.memory for r in some)),
            *(spread([getattr(r, name) for r in some]) for name in ("answers", "acknowledged", "seen")),
        )
        for some in _alike(restarts, repeats)
    ]
    return Table(
        "nats-server killed with kill -9: seconds until",
        ("messages", "its MB before", "it answers", "a packet is acknowledged", "a packet is seen"),
        rows,
        "Counted from the kill; the supervisor waits 0.2 s before it starts it again, more if it ran for less than 20 s.",
    )

"""What does a vehicle cost that nobody watches: published by ZeroMQ to who listens, against HTTP POST to every replica?

Vehicles send a packet a second each, its head alone (3.3 kB), and phones watch 0, 1, 10 and 100 % of them, spread over three
edge replicas. Both ways in turn, each on a platform of its own, with the same load. CPU time of consume and of the edges for
a thousand packets applied, and bytes between them for a packet, counted on the loopback interface in the same seconds:
headers included, both directions. The queue and LIVE are in memory, if there is some: see `stages.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench import cars, phones
from bench.question import Answer, Bench, Chart, Table
from bench.stages import STAGES, Running, Stage, in_memory, running, wire
from bench.stats import spread
from bench.world import Load, since

_SHARES = (0.0, 0.01, 0.1, 1.0)
_WAYS = {stage.publish: stage for stage in STAGES if stage.publish}
_SETTLE = 2.0
_NAMES = {"http": "HTTP POST to all", "zmq": "ZeroMQ to who listens"}


@dataclass(frozen=True)
class Cost:
    """For a thousand packets: CPU seconds of consume and the edges; bytes for one; items of updates for one."""

    consume: float
    edge: float
    wire: float
    items: float


async def run(bench: Bench) -> Answer:
    """See the module's text."""
    count, seconds = bench.size(400, 1000), bench.size(4.0, 10.0)
    found: dict[tuple[str, float], list[Cost]] = {}
    broken: list[str] = []
    with in_memory(bench) as fast:
        for number in range(bench.size(2, 3)):
            for way in sorted(_WAYS, reverse=bool(number % 2)):
                for share, cost in (await _costs(fast, _WAYS[way], count, seconds, broken)).items():
                    found.setdefault((way, share), []).append(cost)
    figures = {
        f"{way}_{100 * share:g}_{name}": median(getattr(cost, name) for cost in costs)
        for (way, share), costs in found.items()
        for name in ("consume", "edge", "wire")
    }
    return Answer([_table(found, count)], _charts(found), figures, broken)


async def _costs(
    bench: Bench, stage: Stage, count: int, seconds: float, broken: list[str]
) -> Mapping[float, Cost]:
    """One platform, the share rising while the same vehicles send."""
    costs: dict[float, Cost] = {}
    async with running(bench, stage) as one:
        settings = one.world.settings
        sending = cars.Options(settings.ingest_port, count, count, size=0, form="json")
        async with Load("bench.cars", sending, bench.folder / "cars") as fleet:
            await fleet.until("acked", count, 20)
            watched, crowds = 0, list[Load]()
            try:
                for share in _SHARES:
                    more = round(share * count) - watched
                    if more:
                        options = phones.Options([settings.front_port], more, watched)
                        crowd = Load("bench.phones", options, bench.folder / f"phones-{watched}")
                        crowds.append(await crowd.__aenter__())
                        await crowd.until("open", more, 20)
                        watched += more
                    await asyncio.sleep(_SETTLE)
                    costs[share] = cost = await _cost(one, seconds)
                    bench.say(
                        f"{_NAMES[stage.publish]}, {watched} of {count} watched, for a thousand packets: consume"
                        f" {cost.consume:.2f} s, edges {cost.edge:.2f} s, {cost.wire:,.0f} kB"
                    )
                if closed := sum(crowd.last["closed"] for crowd in crowds):
                    broken.append(f"{_NAMES[stage.publish]}: {closed:,.0f} streams were closed")
            finally:
                for crowd in crowds:
                    await crowd.__aexit__(None, None, None)
            await fleet.end()
    return costs


async def _cost(one: Running, seconds: float) -> Cost:
    world = one.world

    async def counts() -> tuple[float, float]:
        applied = await world.metric("consume", "fleetcast_applied_total")
        return applied, await world.metric("consume", "fleetcast_published_items_total")

    applied, items = await counts()
    before, loop = world.spent(), asyncio.get_running_loop()
    began = loop.time()
    sent = await wire(world.bench, {"updates": one.links["updates"]}, seconds)
    spent = since(before, world.spent())
    took = loop.time() - began
    applied_then, items_then = await counts()
    packets = applied_then - applied
    thousands = packets / 1e3
    return Cost(
        spent["consume"] / thousands,
        spent["edge"] / thousands,
        sent * took / packets,
        (items_then - items) / packets,
    )


def _table(found: Mapping[tuple[str, float], Sequence[Cost]], count: int) -> Table:
    rows = [
        (
            f"{100 * share:g} %",
            _NAMES[way],
            spread([cost.consume for cost in found[way, share]]),
            spread([cost.edge for cost in found[way, share]]),
            spread([cost.wire for cost in found[way, share]]),
            spread([cost.items for cost in found[way, share]]),
        )
        for share in _SHARES
        for way in _WAYS
    ]
    columns = (
        "watched",
        "published by",
        "consume, CPU s / 1,000 packets",
        "edges, CPU s / 1,000 packets",
        "bytes / packet, consume to edges",
        "items / packet",
    )
    return Table(f"{count:,} vehicles, one packet a second each, three edges", columns, rows)


def _charts(found: Mapping[tuple[str, float], Sequence[Cost]]) -> Sequence[Chart]:
    def line(way: str, what: Callable[[Cost], float]) -> list[tuple[float, float]]:
        return [(100 * share, median(map(what, found[way, share]))) for share in _SHARES]

    return [
        Chart(
            "interest-cpu",
            "CPU time of consume and edges for a thousand packets",
            "% of vehicles watched",
            "CPU seconds",
            {_NAMES[way]: line(way, lambda cost: cost.consume + cost.edge) for way in _WAYS},
        ),
        Chart(
            "interest-bytes",
            "From consume to three edges",
            "% of vehicles watched",
            "kB a packet",
            {_NAMES[way]: line(way, lambda cost: cost.wire / 1e3) for way in _WAYS},
        ),
    ]

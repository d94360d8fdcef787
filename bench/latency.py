"""How long does an acknowledged packet take to a phone among thousands of idle streams, and where does that time go?

Phones hold a stream each, of a vehicle of its own; 200 packets a second come from the vehicles in a random order, evenly,
whatever happened to those before. Ours is timed from the acknowledgement, which is after the fsync, to the event on the phone,
through the front door. Side by side with it, with the same phones, rate and size of events, from sent to seen: a Pushpin
without front that is fed directly over ZeroMQ, its streams begun by a bare origin of the benchmark (the floor: ours cannot be
faster than that); nginx with nchan, fed by POST over kept connections; sse-starlette in one process, fed by a line.

Where the time goes is told by the traces that consume keeps of each vehicle's last packet. Their times are the wall clock's,
those of phones and vehicles the monotonic clock's; the offset between the two is measured here. Besides: the same while idle
streams are polled all the time (`next_poll` 5) and never (600), and in the first five seconds after all phones came at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

import msgspec

from bench import cars, peers, phones
from bench.machine import disk_text
from bench.question import Answer, Bench, Cell, Chart, Table
from bench.stats import Records, percentile, spread
from bench.world import Load, World, platform, spent
from fleetcast.explain import Trace
from fleetcast.jetstream import connect
from fleetcast.nats_explain import Told
from fleetcast.proof.ports import free_ports
from fleetcast.subjects import EXPLAIN

_RATE = 200.0
_WARMING = 1000.0  # packets a second, one of each vehicle, before the phones come
_FIRST = 5.0  # seconds after all phones have come
_LAST = 2.0  # seconds for the last ones to be seen
_PACE = 300.0  # new streams a second of servers that have no front to pace them
_ALWAYS, _NEVER = 5, 600
_POINTS = (10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.9)
_DELAY, _RATIO = 3.0, 2.0  # the target: ms beside the floor at p50, times the floor at p99

_OURS, _FLOOR, _NCHAN, _STARLETTE = "ours", "Pushpin alone", "nginx, nchan", "sse-starlette"
_HOPS = (
    "due to stored (connection, ingest, NATS)",
    "stored to acknowledged (fsync, answer)",
    "acknowledged to pulled by consume",
    "pulled to committed (logic, fsync)",
    "committed to published, acks sent",
    "committed to seen (Pushpin, HAProxy)",
)


class Pass(msgspec.Struct):
    """One way, once. Times in ms."""

    way: str
    delays: Sequence[float]
    unseen: int
    cores: float
    first: Sequence[float] = ()
    event: int = 0
    packet: int = 0
    hops: Mapping[str, Sequence[float]] = {}
    broken: Sequence[str] = ()


async def run(bench: Bench) -> Answer:
    """All of it."""
    streams, seconds = bench.size(1500, 5000), bench.size(10.0, 25.0)
    passes: list[Pass] = []
    broken: list[str] = []
    size = 0
    disk = disk_text(bench.folder)
    for number in range(2):
        ours = await _ours(bench, streams, seconds)
        size = size or ours.event
        found = [ours, await _floor(bench, streams, seconds, size, number)]
        if peers.NCHAN.exists():
            found.append(await _nchan(bench, streams, seconds, size, number))
        found.append(await _starlette(bench, streams, seconds, size, number))
        passes += found
    polled = {_ALWAYS: list[Pass](), _NEVER: list[Pass]()}
    for _ in range(1):
        for poll, into in polled.items():
            into.append(await _ours(bench, streams, seconds, next_poll=poll))
    for one in [*passes, *polled[_ALWAYS], *polled[_NEVER]]:
        broken += [f"{one.way}: {why}" for why in one.broken]
        if one.unseen:
            broken.append(f"{one.way}: {one.unseen} updates were not seen")
    ways = {one.way: [other for other in passes if other.way == one.way] for one in passes}
    note = (
        f"{streams:,} idle streams, {_RATE:.0f} updates/s, packets of {passes[0].packet:,} and events of {size:,} bytes;"
        f" {_times(len(ways[_OURS]))}. {disk}"
    )
    tables = [
        Table(
            "From acknowledged (ours) or sent (the others) to seen on a phone",
            ("way", "p50 ms", "p99 ms", "slowest ms", "servers' CPU, cores", "not seen"),
            [_row(way, found) for way, found in ways.items()],
            note,
        ),
        _target(ways),
        _hops(ways[_OURS], ways[_FLOOR]),
        _disturbed(ways[_OURS], polled),
    ]
    if _NCHAN not in ways:
        broken.append("nginx with nchan is not installed, and was left out")
    chart = Chart(
        "latency",
        f"{streams:,} idle streams, {_RATE:.0f} updates/s",
        "percent of updates seen within",
        "ms",
        {way: [(p, _of_all(found, p / 100)) for p in _POINTS] for way, found in ways.items()},
        log_y=True,
    )
    return Answer(tables, [chart], _figures(ways, polled), broken)


# Ways


async def _ours(bench: Bench, streams: int, seconds: float, **changes: Any) -> Pass:
    poll = changes.get("next_poll", 25)
    bench.say(f"{_OURS}, next_poll {poll}: starting")
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(platform(bench, **changes))
        port, files = world.settings.ingest_port, bench.folder
        every = cars.Options(port, streams, _WARMING, size=0, form="json", seconds=streams / _WARMING)
        warming = await stack.enter_async_context(Load("bench.cars", every, files / "warming"))
        await warming.until("done", 1, 60)
        await world.level()
        random = cars.Options(port, streams, _RATE, size=0, form="json", seq=2, shuffled=True)
        fleet = await stack.enter_async_context(Load("bench.cars", random, files / "sent"))
        at_once = phones.Options([world.settings.front_port], streams, pace=1e9)
        crowd = await stack.enter_async_context(Load("bench.phones", at_once, files / "seen"))
        opened = time.monotonic_ns()
        await crowd.until("open", streams, 120)
        began, before = time.monotonic_ns(), int(crowd.last["closed"])
        bench.say(f"{_OURS}: {streams:,} phones came in {(began - opened) / 1e9:.1f} s")
        await asyncio.sleep(_FIRST)
        from_, to, cores, event = await _steadily(bench, seconds, crowd, world.spent)
        sent = await fleet.end()
        await asyncio.sleep(_LAST)
        packet = round(fleet.last["mb"] * 1e6 / fleet.last["made"])
        traces = await _traces(world, streams)
        closed = int(crowd.last["closed"]) - before
        seen = _sights(await crowd.end())
    delays, unseen = _delays(sent, seen, from_, to)
    first, lost = _delays(sent, seen, began, from_)
    return Pass(
        _OURS,
        delays,
        unseen + lost,
        cores,
        first,
        event,
        packet,
        ways_of(traces, sent, seen, from_, to, time.time_ns() - time.monotonic_ns()),
        [f"{closed} streams closed"] if closed else [],
    )


async def _floor(bench: Bench, streams: int, seconds: float, size: int, seed: int) -> Pass:
    async with peers.pushpins(bench, 1, streams) as edge:
        feed = peers.Feed("pushpin", edge.inputs, streams, _RATE, size, origin=edge.origin, seed=seed)
        return await _fed(bench, _FLOOR, feed, edge.ports, lambda: spent(edge.leaders()), seconds)


async def _nchan(bench: Bench, streams: int, seconds: float, size: int, seed: int) -> Pass:
    async with peers.nchan(bench, streams) as (leaders, port):
        feed = peers.Feed("nchan", [port], streams, _RATE, size, seed=seed)
        return await _fed(bench, _NCHAN, feed, [port], lambda: spent(leaders()), seconds)


async def _starlette(bench: Bench, streams: int, seconds: float, size: int, seed: int) -> Pass:
    port, line = free_ports(2)
    async with Load("bench.peers", peers.Serve(port, line), bench.folder / "served") as server:
        await server.until("ready", 1, 15)
        feed = peers.Feed("sse-starlette", [line], streams, _RATE, size, seed=seed)
        return await _fed(bench, _STARLETTE, feed, [port], lambda: spent({"server": server.pid}), seconds)


async def _fed(
    bench: Bench,
    way: str,
    options: peers.Feed,
    ports: list[int],
    cpu: Callable[[], Mapping[str, float]],
    seconds: float,
) -> Pass:
    files, streams = bench.folder, options.vehicles
    bench.say(f"{way}: starting")
    paced = phones.Options(ports, streams, pace=_PACE)
    async with (
        Load("bench.peers", options, files / "sent") as feeder,
        Load("bench.phones", paced, files / "seen") as crowd,
    ):
        await feeder.until("ready", 1, 15)
        await crowd.until("open", streams, 120)
        if options.kind == "pushpin":
            await feeder.until("listened", streams, 15)
        await asyncio.sleep(_FIRST)  # a Pushpin asks once more for each new channel
        feeder.tell("go")
        await asyncio.sleep(1)
        from_, to, cores, event = await _steadily(bench, seconds, crowd, cpu)
        sent = await feeder.end()
        await asyncio.sleep(_LAST)
        closed = int(crowd.last["closed"])
        seen = _sights(await crowd.end())
    delays, unseen = _delays(sent, seen, from_, to)
    return Pass(
        way, delays, unseen, cores, event=event, broken=[f"{closed} streams closed"] if closed else []
    )


async def _steadily(
    bench: Bench, seconds: float, crowd: Load, cpu: Callable[[], Mapping[str, float]]
) -> tuple[int, int, float, int]:
    """Waits: (from, to, cores that the servers took, bytes of an event)."""
    from_, before, was = time.monotonic_ns(), cpu(), crowd.last
    while (ahead := from_ / 1e9 + seconds - time.monotonic()) > 0:
        bench.say(f"measuring, {crowd.last['seen']:,} seen")
        await asyncio.sleep(min(ahead, 10))
    to, after, now = time.monotonic_ns(), cpu(), crowd.last
    cores = (sum(after.values()) - sum(before.values())) / ((to - from_) / 1e9)
    events = now["seen"] - was["seen"]
    return from_, to, cores, round((now["bytes"] - was["bytes"]) / events) if events else 0


async def _traces(world: World, vehicles: int) -> Sequence[Trace]:
    """The newest trace of each vehicle, of whichever consume process has it."""
    newest: dict[str, Trace] = {}
    decoder = msgspec.json.Decoder(Told)
    connection = await connect(world.settings, "fleetcast-bench")
    client = connection.client
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox, pending_msgs_limit=-1)
    for number in range(vehicles):
        await client.publish(EXPLAIN, cars.vehicle(number).encode(), reply=inbox)
    try:
        async with asyncio.timeout(10):
            while len(newest) < vehicles:
                trace = decoder.decode((await answers.next_msg(timeout=2)).data).trace
                if trace and (trace.vehicle not in newest or newest[trace.vehicle].version < trace.version):
                    newest[trace.vehicle] = trace
    except TimeoutError:
        pass  # what came is a sample, too
    await connection.close()
    return list(newest.values())


# What came of it


Sights = Mapping[tuple[int, int], int]
"""(vehicle, version) -> first seen, ns."""


def _sights(seen: Records) -> Sights:
    sights: dict[tuple[int, int], int] = {}
    for vehicle, version, at, _ in seen:
        sights.setdefault((vehicle, version), at)
    return sights


def _delays(sent: Records, seen: Sights, from_: int, to: int) -> tuple[Sequence[float], int]:
    """ms of what was sent in this time, and how many of that were never seen."""
    when = [(at, seen.get((vehicle, number))) for vehicle, number, at, _ in sent if from_ <= at < to]
    delays = [(found - at) / 1e6 for at, found in when if found is not None]
    return delays, len(when) - len(delays)


def ways_of(
    traces: Sequence[Trace], sent: Records, seen: Sights, from_: int, to: int, offset: int
) -> Mapping[str, Sequence[float]]:
    """ms of each hop, of the packets that were acknowledged in this time; `offset`: wall clock less monotonic one."""
    acked = {(vehicle, number): (at, due) for vehicle, number, at, due in sent if from_ <= at < to}
    hops: dict[str, list[float]] = {name: [] for name in _HOPS}
    for trace in traces:
        key = (int(trace.vehicle.rpartition("-")[2]), trace.version)
        if key not in acked or key not in seen:
            continue
        at, due = ((ns + offset) / 1e6 for ns in acked[key])
        sight = (seen[key] + offset) / 1e6
        stored, handled, committed, published = (
            1e3 * seconds for seconds in (trace.stored, trace.handled, trace.committed, trace.published)
        )
        times = (
            stored - due,
            at - stored,
            handled - at,
            committed - handled,
            published - committed,
            sight - committed,
        )
        for name, value in zip(_HOPS, times, strict=True):
            hops[name].append(value)
    return hops


def _of_all(passes: Sequence[Pass], share: float) -> float:
    return median(percentile(one.delays, share) for one in passes)


def _times(count: int) -> str:
    return f"each {count} times in turn: median, lowest and highest" if count > 1 else "once"


def _row(way: str, passes: Sequence[Pass]) -> Sequence[Cell]:
    return (
        way,
        spread([percentile(one.delays, 0.5) for one in passes]),
        spread([percentile(one.delays, 0.99) for one in passes]),
        spread([max(one.delays, default=float("nan")) for one in passes]),
        spread([one.cores for one in passes]),
        sum(one.unseen for one in passes),
    )


def _target(ways: Mapping[str, Sequence[Pass]]) -> Table:
    ours, floor = ways[_OURS], ways[_FLOOR]
    delay = _of_all(ours, 0.5) - _of_all(floor, 0.5)
    ratio = _of_all(ours, 0.99) / _of_all(floor, 0.99)
    return Table(
        "Ours against its floor, with fsync",
        ("what", "target", "is", "kept"),
        [
            ("more than Pushpin alone at p50, ms", f"at most {_DELAY:g}", delay, _kept(delay <= _DELAY)),
            ("times Pushpin alone at p99", f"at most {_RATIO:g}", ratio, _kept(ratio <= _RATIO)),
        ],
    )


def _kept(yes: bool) -> str:
    return "yes" if yes else "no"


def _hops(ours: Sequence[Pass], floor: Sequence[Pass]) -> Table:
    rows: list[Sequence[Cell]] = []
    for name in _HOPS:
        values = [value for one in ours for value in one.hops[name]]
        rows.append((name, *(percentile(values, share) for share in (0.1, 0.5, 0.9, 0.99))))
    values = [value for one in floor for value in one.delays]
    rows.append(
        ("Pushpin alone, sent to seen", *(percentile(values, share) for share in (0.1, 0.5, 0.9, 0.99)))
    )
    count = sum(len(one.hops[_HOPS[0]]) for one in ours)
    note = (
        f"Of {count:,} packets, the last ones of their vehicles. Less than nothing: it was there before the vehicle had"
        " read its acknowledgement. A packet may be seen before consume has noted it as published."
    )
    return Table("Where the time goes, ms", ("hop", "p10", "p50", "p90", "p99"), rows, note)


def _disturbed(ours: Sequence[Pass], polled: Mapping[int, Sequence[Pass]]) -> Table:
    rows: list[Sequence[Cell]] = [
        (f"{name}, next_poll {poll}", *_row("", passes)[1:4])
        for name, poll, passes in (
            ("steady", 25, ours),
            ("steady, idle streams polled all the time", _ALWAYS, polled[_ALWAYS]),
            ("steady, never polled", _NEVER, polled[_NEVER]),
        )
    ]
    early = [one.first for one in ours]
    rows.append(
        (
            f"the first {_FIRST:.0f} s after all phones came at once",
            spread([percentile(one, 0.5) for one in early]),
            spread([percentile(one, 0.99) for one in early]),
            spread([max(one, default=float("nan")) for one in early]),
        )
    )
    return Table("Ours when it is disturbed", ("when", "p50 ms", "p99 ms", "slowest ms"), rows)


def _figures(ways: Mapping[str, Sequence[Pass]], polled: Mapping[int, Sequence[Pass]]) -> Mapping[str, float]:
    figures: dict[str, float] = {}
    names = {_OURS: "ours", _FLOOR: "floor", _NCHAN: "nchan", _STARLETTE: "starlette"}
    for way, passes in ways.items():
        figures |= {f"{names[way]}_p50": _of_all(passes, 0.5), f"{names[way]}_p99": _of_all(passes, 0.99)}
    for poll, passes in polled.items():
        figures |= {f"poll_{poll}_p99": _of_all(passes, 0.99)}
    figures["first_p99"] = median(percentile(one.first, 0.99) for one in ways[_OURS])
    return figures

"""Ten thousand phones lose their edge at once: how long are they away, and what does their return cost?

Each phone watches a vehicle of its own, and each vehicle sends a packet in five minutes, before, meanwhile and after. Both
edges are killed with `kill -9` in the same moment, so every stream ends; the supervisor starts them again. A phone comes back
within a second, with its last id, and gives up after 15 s without an answer, to come again. It is back when it has its stream.
All are level once nothing that was acknowledged since the kill, or just before, is still to be seen.

HAProxy needs two files a stream, so the phones are spread over two fronts, with the configuration that the platform renders.
Each front has half of the bounds, so that together they let in what one does. The same with bounds so high that nothing is
paced; each over HTTP/1.1 and over HTTP/2, 50 streams a connection. What the platform took for the packets alone, measured
before, is subtracted from the CPU time.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import msgspec

from bench import cars, h2phones, phones
from bench.preload import preload
from bench.question import Answer, Bench, Cell, Chart, Table
from bench.stats import Records, spread
from bench.world import Failed, Load, World, platform, since
from fleetcast import haproxy, machine, probes
from fleetcast.platform import Platform
from fleetcast.proof.ports import free_ports
from fleetcast.settings import Settings

_FRONTS = 2
_UNBOUNDED = 1_000_000
_ROOM = 200  # connections that a front has besides its phones' share
_OPENING = 400.0  # phones a second that come in the beginning
_AFTER = 3.0  # seconds that belong to a return: the edge asks each new channel's next link one second after
_LATE = 1_000_000_000  # ns from acknowledged to seen; what took longer was not seen live
_ROLES = ("edge", "origin", "nats-server", "front", "haproxy", "consume")
Row = tuple[Cell, ...]
_FAILED = ("refused", "errors", "gave_up", "unavailable")


class Variant(NamedTuple):
    """How the phones come in."""

    paced: bool
    http2: bool

    @property
    def name(self) -> str:
        """For tables."""
        return f"{'HTTP/2' if self.http2 else 'HTTP/1.1'}, {'paced' if self.paced else 'not paced'}"


class Storm(NamedTuple):
    """One of them: moments in ns of the machine's monotonic clock, `full` 0 if not all came back; counts; CPU seconds."""

    killed: int
    full: int
    ended: int
    counts: Mapping[str, float]
    cpu: Mapping[str, float]
    curve: Sequence[tuple[float, float]]


class Edges(Platform):
    """Its edges take the phones of both fronts."""

    def edge_settings(self, number: int) -> Settings:
        """Each edge may get all of them for a while, as the other one is slower to start."""
        return msgspec.structs.replace(
            self.settings, edge_connections=_FRONTS * self.settings.edge_connections
        )


async def run(bench: Bench) -> Answer:
    """All variants on one platform, one after the other."""
    count, repeats = bench.size(2000, 10_000), bench.size(2, 1)
    found: dict[Variant, list[Storm]] = {}
    seen: dict[Variant, Records] = {}
    never: list[str] = []
    each = count // _FRONTS + _ROOM
    # Its own HAProxy is the inner side alone; its limit, by which files are asked for, need not hold the phones.
    async with platform(bench, Edges, edge_connections=min(each, 4500)) as world:
        await preload(world, count)
        sending = cars.Options(
            port=world.settings.ingest_port, cars=count, rate=count / 300, size=0, form="json", connections=16
        )
        async with Load("bench.cars", sending, bench.folder / "cars") as fleet:
            await fleet.until("acked", 1, 30)
            for variant in (Variant(paced, http2) for http2 in (False, True) for paced in (True, False)):
                try:
                    found[variant], seen[variant] = await _variant(world, variant, fleet, count, repeats)
                except Failed as why:
                    if variant.paced:
                        raise
                    bench.say(f"{variant.name}: {why}")
                    never.append(variant.name)
            acked = await fleet.end()
    return _answer(found, seen, acked, count, never)


async def _variant(
    world: World, variant: Variant, fleet: Load, count: int, repeats: int
) -> tuple[list[Storm], Records]:
    world.bench.say(f"{variant.name}: {count:,} phones come in")
    try:
        return await _storms(world, variant, fleet, count, repeats)
    finally:  # what came of phones that all left at once is the edges' no more
        for name in _edges(world):
            await world.platform.supervisor.restart(name)
            await world.platform.well(name)


async def _storms(
    world: World, variant: Variant, fleet: Load, count: int, repeats: int
) -> tuple[list[Storm], Records]:
    bench, storms = world.bench, list[Storm]()
    async with _fronts(world, variant, count) as ports:
        options = phones.Options(ports=ports, count=count, pace=_OPENING)
        module = "bench.phones"
        if variant.http2:
            options, module = h2phones.Options(ports=ports, count=count, pace=_OPENING), "bench.h2phones"
        async with Load(module, options, bench.folder / "phones") as load:
            await load.until("open", count, 60 + count / 50 if variant.paced else 100)
            await asyncio.sleep(_AFTER)
            at_rest = await _at_rest(world, fleet, load, bench.size(5.0, 12.0))
            for number in range(repeats):
                storm = await _storm(world, fleet, load, at_rest, count)
                storms.append(storm)
                took = f"{(storm.full - storm.killed) / 1e9:.1f} s" if storm.full else "not all came back"
                bench.say(f"{variant.name}: storm {number + 1} of {repeats}: {took}")
                if not storm.full:
                    break
            return storms, await load.end()


@asynccontextmanager
async def _fronts(world: World, variant: Variant, count: int) -> AsyncIterator[list[int]]:
    """HAProxys before the edges, as the platform's own; their ports."""
    running, ports, names = world.platform, list[int](), list[str]()
    for number in range(_FRONTS):
        front, inner, admin = free_ports(3)
        settings = msgspec.structs.replace(
            world.settings,
            front_port=front,
            inner_port=inner,  # nobody asks there
            haproxy_port=admin,
            edge_connections=count // _FRONTS + _ROOM,
        )
        name, folder = f"front-{number}", running.run_folder / f"front{number}"
        folder.mkdir(exist_ok=True)
        texts = haproxy.configuration(settings, [], folder, most=count // _FRONTS + 2 * _ROOM)
        for file, text in texts.items():
            shaped = front_text(text, front, variant) if file == "haproxy.cfg" else text
            machine.write(folder / file, shaped)
        running.supervisor.start(running.program(name, ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]))
        await running.wait(name, partial(probes.tcp, "127.0.0.1", front))
        names.append(name)
        ports.append(front)
    await asyncio.sleep(2.5)  # until their checks know the edges
    try:
        yield ports
    finally:
        for name in names:
            await running.supervisor.stop_one(name, signal.SIGKILL)


def front_text(text: str, port: int, variant: Variant) -> str:
    """The rendered configuration with this variant's bounds and protocol. Raises ValueError if it has no place for them."""
    for name in ("PACE", "OPENING"):
        text, places = re.subn(
            rf"(setenv FLEETCAST_{name}) (\d+)",
            lambda found: f"{found[1]} {int(found[2]) // _FRONTS if variant.paced else _UNBOUNDED}",
            text,
        )
        if places != 1:
            raise ValueError(f"{places} places for FLEETCAST_{name}")
    bind = f"bind 127.0.0.1:{port}\n"
    if text.count(bind) != 1:
        raise ValueError("no bind of the front")
    return text.replace(bind, f"{bind[:-1]} proto h2\n") if variant.http2 else text


async def _at_rest(world: World, fleet: Load, load: Load, seconds: float) -> dict[str, float]:
    """CPU seconds a second, while all phones have their streams."""
    before, began = _spent(world, fleet, load), time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    return {role: value / took for role, value in since(before, _spent(world, fleet, load)).items()}


async def _storm(world: World, fleet: Load, load: Load, at_rest: Mapping[str, float], count: int) -> Storm:
    bound = world.bench.size(45.0, 100.0)
    counts, before = dict(load.last), _spent(world, fleet, load)
    for name in _edges(world):
        before.pop(name)  # those that come after begin at zero
    killed = time.monotonic_ns()
    for name in _edges(world):
        if (pid := world.platform.supervisor.pid(name)) is not None:
            os.kill(pid, signal.SIGKILL)
    curve: list[tuple[float, float]] = [(0.0, count)]
    while (seconds := (time.monotonic_ns() - killed) / 1e9) < bound:
        await asyncio.sleep(0.25)
        curve.append((seconds, load.last["open"]))
        if load.last["full"] > killed and load.last["open"] == count:
            break
        if len(curve) % 40 == 0:
            world.bench.say(f"{seconds:.0f} s: {load.last['open']:,} of {count:,} are back")
    full = int(load.last["full"]) if load.last["full"] > killed else 0
    await asyncio.sleep(_AFTER)
    ended = time.monotonic_ns()
    spent = since(before, _spent(world, fleet, load))
    took = (ended - killed) / 1e9
    return Storm(
        killed,
        full,
        ended,
        {key: load.last[key] - counts[key] for key in (*_FAILED, "tries", "opened", "resets")},
        {role: value - at_rest.get(role, 0.0) * took for role, value in spent.items()},
        curve,
    )


def _spent(world: World, fleet: Load, load: Load) -> dict[str, float]:
    return world.spent() | {"cars": fleet.last["cpu"], "phones": load.last["cpu"]}


def _edges(world: World) -> list[str]:
    return world.platform.layout.named("edge")


def level(
    acked: Iterable[tuple[int, int, int, int]],
    seen: Iterable[tuple[int, int, int, int]],
    killed: int,
    ended: int,
) -> tuple[float, int]:
    """(seconds after the kill at which the last update was seen that was not seen live, how many never were).

    Of updates acknowledged a second before the kill to three before the end. A packet `seq` makes the version after it.
    """
    first: dict[tuple[int, int], int] = {}
    newest: dict[int, int] = {}
    for vehicle, version, at, _ in seen:
        if at <= ended:
            first[vehicle, version] = at
            newest[vehicle] = max(version, newest.get(vehicle, 0))
    last, missing = killed, 0
    for vehicle, seq, at, _ in acked:
        if killed - _LATE <= at <= ended - 3 * _LATE:
            sight = first.get((vehicle, seq + 1))
            if sight is None:  # a reset may have led past it
                missing += newest.get(vehicle, 0) <= seq
            elif sight - at > _LATE:
                last = max(last, sight)
    return (last - killed) / 1e9, missing


def when(curve: Sequence[tuple[float, float]], least: float) -> float:
    """Seconds until so many phones were back, in steps of half a second; inf if they were not. The first point is before."""
    gone = False
    for seconds, there in curve:
        gone = gone or there < least
        if gone and there >= least:
            return seconds
    return math.inf


def _answer(
    found: Mapping[Variant, Sequence[Storm]],
    seen: Mapping[Variant, Records],
    acked: Records,
    count: int,
    never: Sequence[str],
) -> Answer:
    rows, costs, broken = list[Row](), list[Row](), list[str]()
    figures: dict[str, float] = {}
    curves: dict[str, list[tuple[float, float]]] = {}
    for variant, storms in found.items():
        back = [(s.full - s.killed) / 1e9 if s.full else math.inf for s in storms]
        levels = []
        for storm in storms:
            seconds, missing = level(acked, seen[variant], storm.killed, storm.ended)
            done = storm.full and not missing
            levels.append(max(seconds, (storm.full - storm.killed) / 1e9) if done else math.inf)
            if storm.full and missing:
                broken.append(f"{variant.name}: {missing} updates were not seen")
            if variant.paced and not storm.full:
                broken.append(f"{variant.name}: only {storm.curve[-1][1]:,.0f} of {count:,} phones came back")
        most = [min(when(s.curve, 0.99 * count), b) for s, b in zip(storms, back, strict=True)]
        tries = [s.counts["tries"] / count for s in storms]
        told = [spread([s.counts[name] for s in storms]) for name in _FAILED]
        rows.append((variant.name, count, spread(most), spread(back), spread(levels), spread(tries), *told))
        a_phone = {role: [1e3 * s.cpu.get(role, 0.0) / count for s in storms] for role in (*_ROLES, "phones")}
        total = [sum(a_phone[role][n] for role in _ROLES) for n in range(len(storms))]
        costs.append(
            (
                variant.name,
                *(spread(a_phone[role]) for role in _ROLES),
                spread(total),
                spread(a_phone["phones"]),
            )
        )
        curves[variant.name] = [(x, 100 * y / count) for x, y in storms[0].curve]
        key = variant.name.replace("HTTP/", "h").replace(", ", "_").replace(" ", "_")
        worst = {f"{key}_back_s": max(back), f"{key}_level_s": max(levels), f"{key}_cpu_ms": max(total)}
        figures |= {name: value for name, value in worst.items() if math.isfinite(value)}
    return Answer(
        [
            Table(
                f"{count:,} phones whose edges were killed",
                (
                    "phones over",
                    "phones",
                    "s until 99 % are back",
                    "all",
                    "level",
                    "tries a phone",
                    "refused",
                    "5xx and the like",
                    "given up after 15 s",
                    "`unavailable`",
                ),
                rows,
                "Both edges killed with kill -9; phones come back within a second. inf: not within the "
                "time that was given."
                + "".join(f" {name}: they never all came in, within 100 s." for name in never),
            ),
            Table(
                "CPU ms a returning phone",
                (
                    "phones over",
                    "edge",
                    "origin",
                    "nats-server",
                    "fronts",
                    "inner HAProxy",
                    "consume",
                    "all of these",
                    "the phones themselves",
                ),
                costs,
                "From the kill to 3 s after all are back; what the packets took meanwhile is subtracted.",
            ),
        ],
        [
            Chart(
                "storms",
                "Phones that have their stream, after both edges were killed",
                "seconds",
                "% of the phones",
                curves,
            )
        ],
        figures,
        broken,
    )

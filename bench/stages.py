"""How do the stages of live data compare at the same work: polling, streams of the backend, Pushpin by POST, Pushpin by ZeroMQ?

N vehicles send a packet each second, its head alone (3.3 kB), and a phone watches each. The write side is the same in all
four: ingest, nats-server, two consume processes; so are two backends, and HAProxy in front.

1. Polling: a phone asks for the latest state once a second, with its ETag. The handler is origin's own, behind HAProxy alone:
   without Pushpin and signatures, which this stage did not have, and which would only make it dearer.
2. The backend holds the streams: a bare ASGI application in Python. Consume broadcasts each update over core NATS to both
   replicas; a snapshot of LIVE at connect. (`backends.py` has both.)
3. The platform with `publish = "http"`: each batch of updates is posted to all three Pushpins, and for all who might listen:
   in full and calmly, by stream, long-poll and WebSocket. Without views, which the article has not; each would be posted too.
4. The platform with `publish = "zmq"`: each update goes to the Pushpin that has a listener.

N doubles until a stage gives in: p99 of the age on the phone over 2 s, or errors over 0.1 %; then it is halved in between.
The queue and LIVE are in memory (/dev/shm) here, as long as there is one: on a disk the write side, which is the same in all,
may give in first, for its fsyncs; the full size measures the fourth on the disk too, to see where. The age is from a packet's
acknowledgement until the phone sees its version or a later one. Errors are requests and streams that failed or were closed,
packets not acknowledged 2 s after they were due, and packets that no phone saw at all. CPU time is that of all processes that
serve, without load, for a thousand updates that phones saw. Bytes are counted on the loopback interface, headers included,
both directions, in some seconds of their own: between the backends and whoever holds the phones' connections. That is HAProxy
in stage 1; in stage 2 the replicas themselves, by the bus; in 3 and 4 Pushpin, its questions to origin included. Reads of the
database are what backends read of LIVE for phones and Pushpin.

Then a deploy: both backends are replaced one after the other, then both consume processes, while phones watch.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import httpx2

from bench import cars, loopback, phones, pollers
from bench.question import Answer, Bench, Chart, Table
from bench.stats import Records, percentile, show, spread
from bench.world import Failed, Load, World, platform, since, spent
from fleetcast import machine, probes
from fleetcast.layout import Process
from fleetcast.platform import Platform
from fleetcast.proof.ports import free_ports
from fleetcast.settings import Settings
from fleetcast.supervisor import Notice

_MOST = 6_400
_ROOM = 2_000_000_000
_AGE = 2.0
_ERRORS = 0.001
_PACE = 800
_SETTLE = 2.0
_MEMORY = Path("/dev/shm")
_WRITERS = ("ingest", "consume", "nats-server")
_READERS = ("bus", "backend", "origin", "edge", "haproxy")


@dataclass(frozen=True)
class Stage:
    """One of the four. `publish` is the setting, for those that are the platform's own; `bus`: streams of the backend."""

    name: str
    publish: str = ""
    bus: bool = False

    @property
    def polls(self) -> bool:
        """Phones ask, instead of being told."""
        return not self.publish and not self.bus


STAGES = (
    Stage("1 polling"),
    Stage("2 streams of the backend", bus=True),
    Stage("3 Pushpin, HTTP POST", publish="http"),
    Stage("4 Pushpin, ZeroMQ", publish="zmq"),
)


@dataclass
class Point:
    """A stage at one N."""

    n: int
    why: str = ""
    """Why it gave in; empty if it did not."""
    delivered: float = 0.0
    """A second."""
    p50: float = float("nan")
    p99: float = float("nan")
    """Seconds."""
    errors: float = float("nan")
    """Of all packets that were due."""
    cpu: Mapping[str, float] = field(default_factory=dict)
    """Seconds for a thousand updates, by role."""
    cores: float = float("nan")
    load: float = float("nan")
    """Cores that were busy: of what serves, of cars and phones."""
    wire: float = float("nan")
    """Bytes for an update."""
    reads: float = float("nan")
    """A second."""

    @property
    def spent(self) -> float:
        """CPU seconds for a thousand updates, all roles."""
        return sum(self.cpu.values()) if self.cpu else float("nan")


@dataclass(frozen=True)
class Seen:
    """What phones saw of the packets acknowledged in a time: ages in seconds; versions not shown; packets not seen at all."""

    ages: Sequence[float]
    skipped: int
    unseen: int


def judge(acked: Records, sights: Records, begin: int, end: int) -> Seen:
    """A packet is seen when its version is, or a later one. A vehicle's n-th packet makes version n."""
    versions: dict[int, list[int]] = {}
    times: dict[int, list[int]] = {}
    for number, version, at, _ in sights:  # each phone's are in order, and each vehicle has one phone
        versions.setdefault(number, []).append(version)
        times.setdefault(number, []).append(at)
    ages: list[float] = []
    skipped = unseen = 0
    for number, seq, at, _ in acked:
        if not begin <= at < end:
            continue
        known = versions.get(number, [])
        place = bisect_left(known, seq)
        if place == len(known):
            unseen += 1
            skipped += 1
            continue
        skipped += known[place] != seq
        ages.append(max(0, times[number][place] - at) / 1e9)
    return Seen(ages, skipped, unseen)


class Before(Platform):
    """A platform whose consume processes publish as the stages before ours did."""

    def __init__(self, bus: str, settings: Settings, notice: Notice) -> None:
        super().__init__(settings, notice)
        self.bus = bus

    def command(self, role: str) -> list[str]:
        """Ours of consume."""
        if role in ("consume", "backend"):
            return [sys.executable, "-m", "bench.backends", *(["--bus", self.bus] if self.bus else [])]
        return super().command(role)


@dataclass
class Running:
    """A stage that runs."""

    stage: Stage
    world: World
    links: Mapping[str, Sequence[int]]
    """TCP ports of what is between the backends and whoever holds the phones' connections."""
    used: int = 0
    """Vehicles that have sent by now: each measurement has new ones."""

    def phones(self, n: int, first: int, records: Path) -> Load:
        """One on each vehicle."""
        port = self.world.settings.front_port
        if self.stage.polls:
            return Load("bench.pollers", pollers.Options(port, n, first, pace=_PACE), records)
        return Load("bench.phones", phones.Options([port], n, first, pace=_PACE), records)

    async def reads(self) -> float:
        """Reads of states and windows by backends, until now."""
        role = "origin" if self.stage.publish else "backend"
        names = ("latest", "snapshots", "replays", "resets")
        return sum([await self.world.metric(role, f"fleetcast_{name}_total") for name in names])


@asynccontextmanager
async def running(bench: Bench, stage: Stage) -> AsyncIterator[Running]:
    """Starts it."""
    if stage.publish:
        async with platform(bench, edges=3, consumers=2, origins=2, views=(), publish=stage.publish) as world:
            settings = world.settings
            inputs = settings.edge_sub if stage.publish == "zmq" else settings.edge_http
            ports = [int(address.rpartition(":")[2]) for address in inputs]
            yield Running(stage, world, {"updates": ports, "questions": [settings.inner_port]})
        return
    bus = f"nats://127.0.0.1:{free_ports(1)[0]}" if stage.bus else ""
    # Settings of its edge do not matter: what would be started of it is ended at once. "http" keeps no connections.
    kind = partial(Before, bus)
    async with platform(bench, kind, edges=1, consumers=2, origins=2, views=(), publish="http") as world:
        ours = world.platform
        assert isinstance(ours, Before)
        names = ["haproxy", *ours.layout.named("origin", "edge")]
        await asyncio.gather(*(ours.supervisor.stop_one(name) for name in names))
        if bus:
            port = int(bus.rpartition(":")[2])
            command = [machine.nats_server(), "-a", "127.0.0.1", "-p", str(port)]
            ours.supervisor.start(ours.program("bus", command, base=True))
            await ours.wait("bus", lambda: probes.tcp("127.0.0.1", port))
        await _start_backends(ours)
        links = {"bus": [int(bus.rpartition(":")[2])]} if bus else {"polls": _backend_ports(ours)}
        yield Running(stage, world, links)


def _backend_ports(ours: Platform) -> list[int]:
    return [ours.settings.origin_port, ours.settings.origin_port + 1]


async def _start_backends(ours: Before) -> None:
    """Two, and HAProxy in front, with what was learnt about it: no delay, no phantoms, another try elsewhere."""
    ports = _backend_ports(ours)
    for number, port in enumerate(ports):
        name = f"backend-{number}"
        ours.layout.processes[name] = Process("backend", number, port, port)
        command = [*ours.command("backend"), "--config", str(ours.run_folder / "fleetcast.toml"), "backend"]
        environment = {"FLEETCAST_ORIGIN_PORT": str(port), "FLEETCAST_ADMIN_PORT": str(port)}
        ours.supervisor.start(ours.program(name, command, environment))
        await ours.well(name)
    servers = "\n".join(f"    server backend{number} 127.0.0.1:{port}" for number, port in enumerate(ports))
    file = ours.run_folder / "haproxy" / "before.cfg"
    machine.write(
        file,
        f"""\
global
    log stdout format raw local0 notice
    maxconn 9000
defaults
    mode http
    log global
    option http-no-delay
    option abortonclose
    option redispatch 1
    retries 3
    retry-on conn-failure empty-response
    timeout connect 2s
    timeout http-request 5s
    timeout queue 10s
    timeout client 75s
    timeout server 75s
    timeout http-keep-alive 60s
frontend front
    bind 127.0.0.1:{ours.settings.front_port}
{"    option httpclose" if ours.bus else ""}
    default_backend backends
backend backends
    balance leastconn
    option httpchk GET /live
    default-server check inter 500ms fall 2 rise 1
{servers}
""",
    )
    ours.supervisor.start(ours.program("haproxy", ["haproxy", "-db", "-f", str(file)]))
    await ours.wait("haproxy", lambda: probes.http(f"{ours.url}/ready"))


@asynccontextmanager
async def _load(one: Running, n: int) -> AsyncIterator[tuple[Load, Load]]:
    """Vehicles that have sent once, and phones that are all there; in the end both are ended, and everything is seen.

    Raises Failed if they do not all come.
    """
    world, first = one.world, one.used
    one.used += n
    settings, folder = world.settings, world.bench.folder
    sending = cars.Options(settings.ingest_port, n, n, first, size=0, form="json")
    async with (
        Load("bench.cars", sending, folder / "cars") as fleet,
        one.phones(n, first, folder / "phones") as crowd,
    ):
        for what, load, key in (
            ("vehicles were acknowledged", fleet, "acked"),
            ("phones connected", crowd, "open"),
        ):
            try:
                await load.until(key, n, n / _PACE + 20)
            except Failed:
                raise Failed(f"only {load.last.get(key, 0):,.0f} of {n:,} {what}") from None
        yield fleet, crowd


def _failures(line: Mapping[str, float]) -> float:
    names = ("errors", "refused", "gave_up", "closed", "resets", "unavailable")
    return sum(line.get(name, 0) for name in names)


async def measured(one: Running, n: int, seconds: float) -> Point:
    """The stage at this N; a point that gave in if it cannot even begin."""
    point, world = Point(n), one.world
    try:
        async with _load(one, n) as (fleet, crowd):
            await asyncio.sleep(_SETTLE)
            await _measure(one, point, fleet, crowd, seconds)
        if not point.why:
            await world.level(20)
    except (Failed, httpx2.HTTPError) as why:
        point.why = point.why or str(why) or type(why).__name__
    world.bench.say(
        f"{one.stage.name}, {n:,}: age p50 {show(1e3 * point.p50)} p99 {show(1e3 * point.p99)} ms,"
        f" {show(point.spent)} CPU s and {show(point.wire / 1e3)} kB an update (thousand), {show(point.reads)} reads/s,"
        f" cores {show(point.cores)} + {show(point.load)}{', gave in: ' + point.why if point.why else ''}"
    )
    return point


async def _measure(one: Running, point: Point, fleet: Load, crowd: Load, seconds: float) -> None:
    loop, world = asyncio.get_running_loop(), one.world
    loads = {"cars": fleet.pid, "phones": crowd.pid}
    reads, failed, seen = await one.reads(), _failures(crowd.last), time.monotonic_ns()
    begin, before, load = seen, world.spent(), spent(loads)
    began = loop.time()
    await asyncio.sleep(seconds)
    after, load_after, end = world.spent(), spent(loads), time.monotonic_ns()
    took = loop.time() - began
    busy = {name: value for name, value in since(before, after).items() if name in (*_WRITERS, *_READERS)}
    point.cores, point.load = sum(busy.values()) / took, sum(since(load, load_after).values()) / took
    if (behind := fleet.last["waiting"]) > _AGE * point.n:
        point.why = f"{behind:,.0f} packets were due and could not be sent"
        return
    point.reads = (await one.reads() - reads) / took
    sent = await wire(world.bench, one.links, world.bench.size(1.0, 2.0))
    acked = await fleet.end()
    made = int(fleet.last["made"])
    await asyncio.sleep(1.0)
    sights = await crowd.end()
    found = judge(acked, sights, begin, end)
    delivered = sum(begin <= at < end for _, _, at, _ in sights)
    late = sum(begin <= due < end and at - due > _AGE * 1e9 for _, _, at, due in acked) + made - len(acked)
    due = point.n * took
    late = min(late, round(due))
    if not found.ages or not delivered:
        point.why = "nothing was acknowledged, or seen"
        return
    point.p50, point.p99 = (percentile(found.ages, share) for share in (0.5, 0.99))
    failures = {
        "failed or closed": _failures(crowd.last) - failed,
        "not seen": found.unseen,
        "acknowledged late": late,
    }
    point.errors = sum(failures.values()) / due
    point.delivered = delivered / took
    point.cpu = {role: 1e3 * value / delivered for role, value in busy.items()}
    point.wire = sent / point.delivered
    if point.p99 > _AGE:
        point.why = f"age p99 {show(point.p99)} s"
    elif point.errors > _ERRORS:
        parts = ", ".join(f"{name} {count:,.0f}" for name, count in failures.items() if count)
        point.why = f"{parts} of {due:,.0f}"


async def wire(bench: Bench, links: Mapping[str, Sequence[int]], seconds: float) -> float:
    """Bytes a second of all links; nan if they cannot be counted, which is said."""
    try:
        return sum((await loopback.counted(links, seconds)).values())
    except (PermissionError, loopback.Unseen) as why:
        bench.say(f"bytes are not counted: {why}")
        return float("nan")


@dataclass(frozen=True)
class Deploy:
    """What phones had of it."""

    n: int
    seconds: float
    closed: float
    failed: float
    skipped: int
    unseen: int
    due: int
    longest: float
    """Seconds, the oldest that a packet was when it was seen."""


async def deployed(one: Running, n: int) -> Deploy:
    """Both backends are replaced, then consume, while phones watch."""
    world, loop = one.world, asyncio.get_running_loop()
    async with _load(one, n) as (fleet, crowd):
        await asyncio.sleep(_SETTLE)
        closed, failed = crowd.last.get("closed", 0), _failures(crowd.last)
        began, begin = loop.time(), time.monotonic_ns()
        if one.stage.publish:
            await world.platform.roll("origin", lambda _: None)
        else:
            await _replace_backends(world.platform)
        await world.platform.roll("consume", lambda _: None)
        seconds = loop.time() - began
        await asyncio.sleep(3.0)  # whoever was cut comes back within a second
        end = time.monotonic_ns()
        acked = await fleet.end()
        await asyncio.sleep(3.0)
        sights = await crowd.end()
    found = judge(acked, sights, begin, end)
    closed = crowd.last.get("closed", 0) - closed
    due = len(found.ages) + found.unseen
    failed = _failures(crowd.last) - failed - closed
    longest = max(found.ages, default=float("nan"))
    done = Deploy(n, seconds, closed, failed, found.skipped, found.unseen, due, longest)
    world.bench.say(
        f"{one.stage.name}, deploy with {n:,} phones: {closed:,.0f} streams closed, {failed:,.0f} requests failed,"
        f" {found.skipped:,} of {due:,} updates not shown, {found.unseen:,} not seen, oldest {show(longest)} s"
    )
    return done


async def _replace_backends(ours: Platform) -> None:
    """As a careful deploy of theirs would: one after the other, and each takes requests before the next one goes."""
    for number in range(2):
        name = f"backend-{number}"
        await ours.supervisor.restart(name)
        await ours.well(name)
        await asyncio.sleep(1.5)  # until HAProxy's checks have seen it


class Found:
    """All points and deploys of a stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.points: dict[int, list[Point]] = {}
        self.deploy: Deploy | None = None

    async def measure(self, one: Running, n: int, seconds: float) -> bool:
        """Whether it held."""
        point = await measured(one, n, seconds)
        self.points.setdefault(n, []).append(point)
        return not point.why

    def held(self) -> int:
        """The largest N that held each time that it was tried, and so did all below; 0: none."""
        held = 0
        for n, points in sorted(self.points.items()):
            if any(point.why for point in points):
                break
            held = n
        return held

    def gave_in(self) -> Point | None:
        """The first point that did."""
        failed = [point for _, points in sorted(self.points.items()) for point in points if point.why]
        return failed[0] if failed else None

    def values(self, n: int, what: Callable[[Point], float]) -> list[float]:
        """Of all measurements at this N."""
        return [what(point) for point in self.points[n]]

    def line(self, what: Callable[[Point], float]) -> list[tuple[float, float]]:
        """For a chart: medians."""
        points = [(float(n), median(self.values(n, what))) for n in sorted(self.points)]
        return [(n, value) for n, value in points if value == value]  # noqa: PLR0124 - nan is the one that is not


async def run(bench: Bench) -> Answer:
    """See the module's text."""
    seconds, first = bench.size(4.0, 8.0), bench.size(400, 100)
    found, on_disk = [Found(stage) for stage in STAGES], Found(STAGES[-1])
    with in_memory(bench) as fast:
        for one in found:
            await _ramp(fast, one, first, seconds)
        common = min(one.held() for one in found)
        if not common:
            return Answer([_limits(found, on_disk)], broken=[f"a stage did not even hold {first}"])
        shown = max(first, common // 2)
        for number in range(bench.size(1, 2)):
            order = found if number else found[::-1]
            for one in order:
                async with running(fast, one.stage) as now:
                    for n in bench.size([shown], sorted({shown, common})):
                        await one.measure(now, n, seconds)
                    if not one.deploy:
                        one.deploy = await deployed(now, shown)
    if bench.full and fast.folder != bench.folder:
        bench.say("the last one again, with the queue and LIVE on the disk")
        await _ramp(bench, on_disk, 2 * first, seconds)
    return _answer(found, on_disk, shown)


@contextmanager
def in_memory(bench: Bench) -> Iterator[Bench]:
    """The same bench with its folder in memory, if there is some to be had."""
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < _ROOM:
        bench.say(f"{_MEMORY} has no room: everything is on the disk")
        yield bench
        return
    with tempfile.TemporaryDirectory(prefix="fc-", dir=_MEMORY) as folder:
        fast = copy(bench)
        fast.folder = Path(folder)
        yield fast


async def _ramp(bench: Bench, found: Found, first: int, seconds: float) -> None:
    """Doubles until it gives in; then halves what is in between, on platforms that have no backlog."""
    low, high = 0, first
    async with running(bench, found.stage) as one:
        while high <= _MOST and await found.measure(one, high, seconds):
            low, high = high, 2 * high
    if not low or high > _MOST:
        return
    for _ in range(bench.size(1, 2)):
        middle = (low + high) // 2
        async with running(bench, found.stage) as one:
            held = await found.measure(one, middle, seconds)
        low, high = (middle, high) if held else (low, middle)


def _answer(found: Sequence[Found], on_disk: Found, shown: int) -> Answer:
    figures: dict[str, float] = {"cars": shown}
    broken: list[str] = []
    for number, one in enumerate(found, 1):
        figures[f"held_{number}"] = one.held()
        figures[f"age_p99_ms_{number}"] = 1e3 * median(one.values(shown, lambda point: point.p99))
        figures[f"cpu_ms_{number}"] = median(one.values(shown, lambda point: point.spent))
        figures[f"cpu_read_ms_{number}"] = median(one.values(shown, _reading))
        figures[f"bytes_{number}"] = median(one.values(shown, lambda point: point.wire))
        broken += [
            f"{one.stage.name} gave in at {shown:,}: {point.why}" for point in one.points[shown] if point.why
        ]
        if (deploy := one.deploy) is not None:
            figures[f"closed_{number}"] = deploy.closed
            if one.stage.bus and deploy.closed < shown:
                broken.append(
                    f"{one.stage.name}, deploy: only {deploy.closed:,.0f} streams were seen to be closed"
                )
            if one.stage.publish and (deploy.closed or deploy.skipped or deploy.failed):
                broken.append(
                    f"{one.stage.name}, deploy: {deploy.closed:,.0f} streams closed, {deploy.failed:,.0f} failed,"
                    f" {deploy.skipped:,} updates not shown"
                )
    if on_disk.points:
        figures["held_disk"] = on_disk.held()
    charts = [
        Chart(
            "stages-age",
            "p99 of the age on the phone",
            "vehicles and phones",
            "ms",
            {one.stage.name: one.line(lambda point: 1e3 * point.p99) for one in found},
            log_x=True,
            log_y=True,
        ),
        Chart(
            "stages-cpu",
            "CPU time for a thousand updates on phones",
            "vehicles and phones",
            "CPU seconds",
            {one.stage.name: one.line(lambda point: point.spent) for one in found},
            log_x=True,
        ),
    ]
    return Answer(
        [_same(found, shown), _by_role(found, shown), _limits(found, on_disk), _deploys(found)],
        charts,
        figures,
        broken,
    )


def _reading(point: Point) -> float:
    """CPU seconds for a thousand updates, but for what the write side takes in every stage."""
    return sum(value for role, value in point.cpu.items() if role not in _WRITERS)


def _same(found: Sequence[Found], shown: int) -> Table:
    rows = [
        (
            one.stage.name,
            spread(one.values(shown, lambda point: 1e3 * point.p50)),
            spread(one.values(shown, lambda point: 1e3 * point.p99)),
            spread(one.values(shown, lambda point: point.spent)),
            spread(one.values(shown, lambda point: point.wire / 1e3)),
            spread(one.values(shown, lambda point: point.reads)),
            spread(one.values(shown, lambda point: 100 * point.errors)),
        )
        for one in found
    ]
    columns = (
        "stage",
        "age p50, ms",
        "age p99, ms",
        "CPU s / 1,000 updates",
        "kB / update, backend to edge",
        "reads/s",
        "errors, %",
    )
    return Table(f"The same work: {shown:,} vehicles, one packet a second, {shown:,} phones", columns, rows)


def _by_role(found: Sequence[Found], shown: int) -> Table:
    roles = (*_WRITERS, *_READERS)
    rows = []
    for one in found:
        cells = [
            spread(one.values(shown, partial(_of, role))) if role in one.points[shown][0].cpu else ""
            for role in roles
        ]
        rows.append((one.stage.name, *cells, spread(one.values(shown, _reading))))
    return Table(
        f"Where the CPU time goes, seconds for a thousand updates, {shown:,} vehicles",
        ("stage", *roles, "all but the first three"),
        rows,
    )


def _of(role: str, point: Point) -> float:
    return point.cpu.get(role, 0.0)


def _limits(found: Sequence[Found], on_disk: Found) -> Table:
    rows = []
    for name, one in [
        *((one.stage.name, one) for one in found),
        (f"{on_disk.stage.name}, on the disk", on_disk),
    ]:
        if one.points:
            last = one.gave_in()
            gave = (f"{last.n:,}", last.why, last.cores, last.load) if last else ("", "it did not", "", "")
            rows.append((name, f"{one.held():,}", *gave))
    columns = ("stage", "held N", "gave in at", "for", "cores busy then: servers", "load")
    return Table("Where each gives in", columns, rows)


def _deploys(found: Sequence[Found]) -> Table:
    rows = [
        (
            one.stage.name,
            f"{deploy.n:,}",
            deploy.seconds,
            f"{deploy.closed:,.0f}" if not one.stage.polls else "none are held",
            f"{deploy.failed:,.0f}",
            f"{deploy.skipped:,} of {deploy.due:,}",
            deploy.longest,
        )
        for one in found
        if (deploy := one.deploy) is not None
    ]
    columns = (
        "stage",
        "phones",
        "took, s",
        "streams closed",
        "requests failed",
        "updates not shown",
        "oldest when seen, s",
    )
    note = (
        "Not shown: the phone saw a later version first. Phones come back 0 to 1 s after their stream was closed; those that"
        " poll miss a version whenever two come between two polls, deploy or not."
    )
    return Table("Both backends, then both consume processes, are replaced", columns, rows, note)

"""How near is each step to the same work in one bare script?

Side by side in one run, on the same nats-server: ingest (over HTTP; `bench.cars` sends as fast as it is answered) against a
script that publishes the same packets and waits for each acknowledgement; `NatsQueue` (pull, decode, ack) against one that
pulls from the same consumers; `NatsLive.commit` against one that publishes the same atomic batches; `ZmqEdge.publish` against
one that encodes and sends the same items, both to a socket that listens as a replica does. Each at 1 kB and at 500 kB; a ratio
of 1 is the limit. A commit is of 64 vehicles at 1 kB, of 8 at 500 kB.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from statistics import median

import msgspec
import zmq

from bench import bare
from bench.machine import disk_text
from bench.question import Answer, Bench, Cell, Table
from bench.stats import spread
from bench.world import Failed, Load, World, platform
from fleetcast.proof.ports import free_ports

TARGETS = {1_000: 0.5, 500_000: 0.8}
_STEPS = {
    "ingest": "store packets",
    "fetch": "pull, decode, ack",
    "commit": "commit batches",
    "edge": "publish items",
}


class _Took(msgspec.Struct):
    items: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        return self.items / self.seconds


async def run(bench: Bench) -> Answer:
    """The question."""
    repeats = bench.size(3, 5)
    rates: dict[tuple[str, int, str], list[_Took]] = {}
    async with platform(bench, consumers=1, edges=1) as world:
        await world.platform.supervisor.stop_one("consume-0")
        for size in TARGETS:
            for turn in range(repeats):
                for (step, which), took in (await _turn(world, size, turn)).items():
                    rates.setdefault((step, size, which), []).append(took)
                bench.say(
                    f"{size / 1000:.0f} kB: "
                    + ", ".join(f"{step} {_ratio(rates, step, size)[-1]:.2f}" for step in _STEPS)
                    + " of the limit"
                )
    rows: list[tuple[Cell, ...]] = []
    figures: dict[str, float] = {}
    for size, target in TARGETS.items():
        for step, text in _STEPS.items():
            ours, limit = rates[step, size, "ours"], rates[step, size, "bare"]
            ratios = _ratio(rates, step, size)
            figures[f"{step}_{size}"] = median(ratios)
            if step == "ingest":
                figures[f"bare_{size}"] = median(took.rate for took in limit)
            row = (
                text,
                f"{size // 1000} kB",
                *(spread([took.rate for took in each]) for each in (ours, limit)),
            )
            costs = (median(1e3 * took.cpu / took.items for took in each) for each in (ours, limit))
            rows.append(
                (*row, spread(ratios), *costs, "yes" if median(ratios) >= target else f"no, {target} asked")
            )
    columns = ("step", "size", "ours/s", "bare/s", "ratio", "CPU ms, ours", "CPU ms, bare", "met")
    note = f"Median (lowest to highest) of {repeats} turns, side by side. CPU is the process's own. {disk_text(bench.folder)}"
    return Answer([Table("Each step against its limit", columns, rows, note)], figures=figures)


def _ratio(rates: dict[tuple[str, int, str], list[_Took]], step: str, size: int) -> list[float]:
    pairs = zip(rates[step, size, "ours"], rates[step, size, "bare"], strict=True)
    return [ours.rate / limit.rate for ours, limit in pairs]


async def _turn(world: World, size: int, turn: int) -> dict[tuple[str, str], _Took]:
    """Every step once, both ways; what is stored by one is fetched by the next."""
    small = size < 10_000
    count = world.bench.size(4_000, 12_000) if small else world.bench.size(500, 1_500)
    number = 2 * turn + (0 if small else 1_000)
    sink = f"127.0.0.1:{free_ports(1)[0]}"
    work = bare.Work(world.settings, count, size, number, batch=64 if small else 8, sink=sink)
    items = msgspec.structs.replace(work, count=20 * count if small else count, batch=64)
    commits = msgspec.structs.replace(work, count=2 * count if small else count // 2)
    other = msgspec.structs.replace(commits, turn=number + 1)
    return {
        ("ingest", "ours"): await ingest(world, work),
        ("fetch", "ours"): await _do("fetch_ours", work),
        ("ingest", "bare"): await _do("publish_bare", msgspec.structs.replace(work, turn=number + 1)),
        ("fetch", "bare"): await _do("fetch_bare", work),
        ("commit", "ours"): await _do("commit_ours", commits),
        ("commit", "bare"): await _do("commit_bare", other),
        ("edge", "ours"): await _listened(items, "edge_ours"),
        ("edge", "bare"): await _listened(items, "edge_bare"),
    }


async def ingest(world: World, work: bare.Work) -> _Took:
    """Packets as fast as 64 connections get them acknowledged."""
    packets = msgspec.structs.replace(
        bare.options(work),
        port=world.settings.ingest_port,
        rate=1e6,
        seconds=work.count / 1e6,
        connections=work.flight,
    )
    before = world.spent()["ingest"]
    async with Load("bench.cars", packets, world.bench.folder / "acks") as load:
        await load.until("done", 1, 120)
        acks = await load.end()
    if len(acks) < work.count:
        raise Failed(f"{work.count - len(acks)} packets were not acknowledged")
    times = [acked for _, _, acked, _ in acks]
    first = min(due for _, _, _, due in acks)
    return _Took(len(acks), (max(times) - first) / 1e9, world.spent()["ingest"] - before)


async def _do(name: str, work: bare.Work) -> _Took:
    """In a process of its own, as ours is."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.bare",
        name,
        msgspec.json.encode(work).decode(),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(180):
            output, _ = await process.communicate()
    except BaseException:
        process.kill()
        raise
    if process.returncode:
        raise Failed(f"{name} ended with status {process.returncode}")
    return msgspec.json.decode(output.splitlines()[-1], type=_Took)  # before it there may be what is logged


async def _listened(work: bare.Work, name: str) -> _Took:
    """While a socket listens as a replica does, and takes everything."""
    ended = threading.Event()

    def listen() -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as sock:
            sock.bind(f"tcp://{work.sink}")
            sock.subscribe(b"v/car/all/")
            while not ended.is_set():
                if sock.poll(50):
                    sock.recv_multipart()

    listening = asyncio.create_task(asyncio.to_thread(listen))
    try:
        return await _do(name, work)
    finally:
        ended.set()
        await listening

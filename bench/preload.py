"""Fills LIVE before a measurement: so many states, some with windows of updates, by the platform's own commits."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise

from bench.cars import Bodies, Options, vehicle
from bench.world import World
from fleetcast.clock import rfc3339
from fleetcast.decode import load
from fleetcast.jetstream import connect
from fleetcast.live import Change
from fleetcast.nats_live import NatsLive
from fleetcast.packet import JSON, Signal
from fleetcast.settings import Settings
from fleetcast.state import State
from fleetcast.update import Update

_decode = load(Settings().decoders).decode

_BATCH = 350  # messages
_BOOT = 1


async def preload(world: World, cars: int, windows: int = 0, updates: int = 0, start: int = 0) -> float:
    """`cars` states from number `start` on, which must not be there yet; seconds it took.

    The first `windows` of them have so many updates in the window, and that version; the others are at version 1.

    Packets of `boot` 2 and more follow. The updates expire like any others, `window` seconds from now.
    """
    began = time.monotonic()
    workers, loop = 2, asyncio.get_running_loop()
    edges = [start + cars * number // workers for number in range(workers + 1)]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        parts = [
            loop.run_in_executor(pool, _part, world.settings, first, last, start + windows, updates)
            for first, last in pairwise(edges)
        ]
        waiting = asyncio.gather(*parts)
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=10)
            world.bench.say(f"loading {cars:,} states and {windows * updates:,} updates")
        await waiting
    return time.monotonic() - began


def _part(settings: Settings, first: int, last: int, windows: int, updates: int) -> None:
    asyncio.run(_fill(settings, first, last, windows, updates))


async def _fill(settings: Settings, first: int, last: int, windows: int, updates: int) -> None:
    connection = await connect(settings, "fleetcast-bench")
    live = NatsLive(connection, settings)
    head = Bodies(Options(port=0, cars=1, rate=1, size=0, boot=_BOOT)).body(0, 1)
    packet = _decode(head, JSON, "identity", len(head))
    at = rfc3339(time.time())
    signals = {path: Signal(signal.value, at) for path, signal in packet.signals.items()}
    changed = dict(
        list(signals.items())[:6]
    )  # what one packet of a parked or driving car changes, more or less
    changes: list[Change] = []
    held = 0
    for number in range(first, last):
        name, version = vehicle(number), updates if number < windows else 1
        state = State(name, version, at, signals, boot=_BOOT, seq=version, position=1, incarnation="before")
        past = range(1, version + 1) if number < windows else range(0)
        window = [Update(name, v, v - 1, at, dict(changed)) for v in past]
        changes.append(Change(state, 0, window))
        held += 1 + len(window)
        if held >= _BATCH or number == last - 1:
            await live.commit(changes)
            changes, held = [], 0
    await connection.close()

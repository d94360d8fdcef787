"""The fleet: N cars that send packets by HTTP or MQTT, each packet until it is acknowledged.

In: options and a stop event. Out: one `Acked` for each acknowledged packet. Nothing that was made is given up, except a packet
that the platform refuses as bad (counted as an error) and what is still unacknowledged half a minute after the stop
(counted as such). A tick that comes while a packet is still in hand waits; further ones are skipped, as a car's buffer is
not endless. With trouble (see there) a car also sends late, again, and after a tunnel.
"""

from __future__ import annotations

import asyncio
import random
import time
from functools import cache
from pathlib import Path

from fleetcast.simulator.car import Car
from fleetcast.simulator.credentials import Credentials
from fleetcast.simulator.door import Batching, Door, TokenOf, no_token
from fleetcast.simulator.drives import find_drives
from fleetcast.simulator.http_door import http_doors
from fleetcast.simulator.mqtt_door import MqttDoor
from fleetcast.simulator.options import Options, Totals
from fleetcast.simulator.samples import Samples
from fleetcast.simulator.sender import Report, Sender
from fleetcast.simulator.trouble import Script

GRACE = 30.0
"""Seconds after the stop in which the packets in hand may still be acknowledged."""

_samples = cache(Samples)


async def run_cars(
    options: Options,
    *,
    report: Report,
    stop: asyncio.Event,
    totals: Totals | None = None,
    token_of: TokenOf = no_token,
) -> Totals:
    """Drive the fleet until `stop` is set and the packets in hand are acknowledged, at most GRACE seconds later.

    ValueError if the drives, or the credentials, cannot be read.
    """
    credentials = Credentials(options.credentials) if options.credentials else None
    trust = credentials.trust if credentials else None
    token_of = credentials.token if credentials else token_of
    totals = Totals() if totals is None else totals
    drives = find_drives(Path(options.drives) if options.drives else None)
    samples = _samples(options.seed)
    boot = options.boot or time.time_ns() // 1_000_000
    async with http_doors(options.ingest, options.noun, token_of, trust) as http_door:
        senders = []
        for number in range(options.cars):
            vehicle = options.vehicle(number)
            rng = random.Random(f"post/{options.seed}/{vehicle}")
            drive = drives[number % len(drives)]
            car = Car(vehicle, drive, options.seed, rng.uniform(0, drive.period))
            door: Door
            batching: Batching | None = None
            if options.by_mqtt(number):
                door = MqttDoor(options.mqtt, vehicle, token_of, trust)
            else:
                door = by_http = http_door(vehicle)
                batching = by_http if options.batches else None
            script = Script(options.trouble, options.seed, vehicle, boot)
            senders.append(Sender(car, script, door, batching, rng, options, samples, report, stop, totals))
        begin = time.monotonic()
        tasks = [asyncio.create_task(one.drive(begin, n / options.cars)) for n, one in enumerate(senders)]
        stopped = asyncio.create_task(stop.wait())
        try:
            # A car ends before the stop only by a bug of ours: that must not go unseen.
            await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(tasks, timeout=GRACE if stop.is_set() else 0)
            totals.unacknowledged = sum(len(one.parcels) for one in senders)
            totals.unanswered = sum(one.in_hand for one in senders)
        finally:
            for task in (stopped, *tasks):
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(one.door.leave() for one in senders))
    for result in results:
        if isinstance(result, Exception):
            raise result
    return totals

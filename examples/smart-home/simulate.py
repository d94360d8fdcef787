"""Simulated rooms: each is heated, has its window opened and its thermostat turned, and sends a packet every few seconds.

A packet is x-ndjson: the head with the signals in the first line, then a line for each reading since the packet before. It
is sent, the same bytes, until it is acknowledged; only then is the next one made. Devices are room-00000, room-00001, …
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import catalogue
import httpx2

OUTSIDE = 5.0  # °C
INERTIA = 4 * 3600.0  # seconds in which an unheated room loses two thirds of its warmth
POWER = 30.0  # K above outside that the radiator can hold with the window shut
DRAUGHT = 8.0  # times the loss with the window open
STEP = 10.0  # seconds of the room between two readings
READINGS = 12  # a packet


class Room:
    """One room: physics in three lines, and people."""

    def __init__(self, device: str, rng: random.Random) -> None:
        self.device, self._rng = device, rng
        self.temperature, self.target = rng.uniform(18, 24), rng.uniform(19, 23)
        self.window_open, self.valve = False, 0.0
        self._battery = rng.uniform(20, 100)

    def step(self) -> None:
        """Lives for STEP seconds."""
        if self._rng.random() < STEP / (600 if self.window_open else 3600):
            self.window_open = not self.window_open
        if self._rng.random() < STEP / 7200:
            self.target = self._rng.uniform(18, 29)
        self.valve = min(100.0, max(0.0, (self.target - self.temperature) * 60))
        loss = (self.temperature - OUTSIDE) * (DRAUGHT if self.window_open else 1.0)
        self.temperature += STEP / INERTIA * (POWER * self.valve / 100 - loss)
        self._battery = max(1.0, self._battery - 1e-4)

    def signals(self) -> dict[str, Any]:
        """By the catalogue."""
        return {
            catalogue.TEMPERATURE: round(self.temperature, 1),
            catalogue.HUMIDITY: round(65 - (self.temperature - 18) * 2.5 - 8 * self.window_open),
            catalogue.WINDOW_OPEN: self.window_open,
            catalogue.TARGET: round(self.target * 2) / 2,
            catalogue.VALVE: round(self.valve),
            catalogue.BATTERY: round(self._battery),
        }

    def packet(self, boot: int, seq: int) -> bytes:
        """Lives on, and tells of it."""
        lines: list[dict[str, Any]] = []
        for number in range(READINGS):
            self.step()
            lines.append({"second": number * STEP, "temperature": self.temperature, "valve": self.valve})
        head = {
            "vehicle": self.device,  # the platform's word for whatever sends
            "boot": boot,
            "seq": seq,
            "sent_at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "signals": {path: {"value": value} for path, value in self.signals().items()},
        }
        return b"".join(json.dumps(line).encode() + b"\n" for line in [head, *lines])


async def live(room: Room, client: httpx2.AsyncClient, every: float, acknowledged: list[str]) -> None:
    """Sends until cancelled."""
    boot = time.time_ns() // 1_000_000  # higher after each start
    seq = 0
    await asyncio.sleep(random.uniform(0, every))
    while True:
        seq += 1
        body = room.packet(boot, seq)
        await deliver(client, room.device, body)
        acknowledged.append(room.device)
        await asyncio.sleep(every)


async def deliver(client: httpx2.AsyncClient, device: str, body: bytes) -> None:
    """Returns when the platform has it, however long that takes. Ends it all if the platform never will."""
    while True:
        with suppress(httpx2.TransportError):
            answer = await client.post(f"/v1/devices/{device}/packets", content=body)
            if answer.status_code == 202:
                return
            if answer.status_code < 500 and answer.status_code != 429:
                raise SystemExit(f"{device}: {answer.status_code} {answer.text}")
        await asyncio.sleep(random.uniform(0.5, 1.5))


async def run(arguments: argparse.Namespace) -> None:
    """All rooms at once."""
    acknowledged: list[str] = []
    headers = {"Content-Type": "application/x-ndjson"}
    async with httpx2.AsyncClient(
        base_url=arguments.ingest, headers=headers, timeout=10, trust_env=False
    ) as client:
        with suppress(TimeoutError):
            async with asyncio.timeout(arguments.seconds or None), asyncio.TaskGroup() as rooms:
                for number in range(arguments.devices):
                    room = Room(f"room-{number:05d}", random.Random(number))
                    rooms.create_task(live(room, client, arguments.every, acknowledged))
    print(f"{len(acknowledged)} packets of {len(set(acknowledged))} devices acknowledged")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Simulated rooms against a running platform.")
    parser.add_argument("--ingest", default="http://127.0.0.1:8081", metavar="URL", help="(%(default)s)")
    parser.add_argument("--devices", type=int, default=5, metavar="N", help="(%(default)s)")
    parser.add_argument(
        "--every",
        type=float,
        default=2.0,
        metavar="S",
        help="a packet; two minutes of the room (%(default)s)",
    )
    parser.add_argument("--seconds", type=float, default=0.0, metavar="S", help="0: until Ctrl-C")
    with suppress(KeyboardInterrupt):
        asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()

"""The cars of a proof, a process: each sends its packets one after the other, each until it is acknowledged.

In: commands on standard input, a JSON object a line: {"rate": packets a second of all cars together}, 0 pauses them.
Out: each tenth of a second {"acked": [[car, packet], …], "retries": n, "paused": whether nothing is on its way, "refused": a
sentence if ingest refused a packet}.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time

import msgspec

from fleetcast.proof.client import Line
from fleetcast.proof.drivers import Driver
from fleetcast.proof.packets import body

_TIMEOUT = 10.0


class Cars(Driver):
    """All cars."""

    def __init__(self, port: int, seed: int, vehicles: list[str], rate: float) -> None:
        super().__init__()
        self.port = port
        self.seed = seed
        self.vehicles = vehicles
        self.rate = rate
        self.go = asyncio.Event()
        self.busy = 0
        self.acked: list[tuple[int, int]] = []
        self.retries = 0
        self.refused = ""
        if rate > 0:
            self.go.set()

    def on_command(self, command: dict[str, object]) -> None:
        """See the module's text."""
        if "rate" in command:
            self.rate = float(str(command["rate"]))
            (self.go.set if self.rate > 0 else self.go.clear)()

    def report(self) -> dict[str, object]:
        """What is new."""
        acked, self.acked = self.acked, []
        return {
            "acked": acked,
            "retries": self.retries,
            "paused": not self.go.is_set() and not self.busy,
            "refused": self.refused,
        }

    async def live(self) -> None:
        """All of them, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(len(self.vehicles)):
                tasks.create_task(self._drive(number))

    async def _drive(self, number: int) -> None:
        vehicle = self.vehicles[number]
        dice = random.Random(f"{self.seed}/{vehicle}")
        n = 0
        line: Line | None = None
        due = time.monotonic() + dice.random() * len(self.vehicles) / max(self.rate, 1)
        while True:
            await self.go.wait()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not self.go.is_set():
                continue
            due = max(due, time.monotonic() - 1) + len(self.vehicles) / self.rate
            self.busy += 1
            content, kind, encoding = body(self.seed, vehicle, n)
            headers = {"Content-Type": kind, "Content-Encoding": encoding}
            while True:
                line, status = await self._post(line, vehicle, headers, content)
                if status == 202:
                    break
                if 400 <= status < 500:
                    self.refused = f"{vehicle}: packet {n} refused with {status}"
                self.retries += 1
                await asyncio.sleep(dice.uniform(0.1, 0.6))
            self.acked.append((number, n))
            self.busy -= 1
            n += 1

    async def _post(
        self, line: Line | None, vehicle: str, headers: dict[str, str], content: bytes
    ) -> tuple[Line | None, int]:
        """The connection to go on with, and the status; 0 if there was no answer."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                if line is None:
                    line = await Line.open(self.port)
                line.ask("POST", f"/v1/vehicles/{vehicle}/packets", headers, content)
                answer = await line.answer()
        except (OSError, TimeoutError):
            if line is not None:
                line.close()
            return None, 0
        if answer.headers.get("connection") == "close":
            line.close()
            return None, answer.status
        return line, answer.status


def main() -> int:
    """`python -m fleetcast.proof.cars`: see the module's text."""
    parser = argparse.ArgumentParser(prog="fleetcast.proof.cars", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="where ingest listens")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--vehicles", required=True, help="their ids, in a JSON list")
    parser.add_argument("--rate", type=float, default=0.0, help="packets a second of all together")
    given = parser.parse_args()
    asyncio.run(
        Cars(given.port, given.seed, msgspec.json.decode(given.vehicles, type=list[str]), given.rate).run()
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

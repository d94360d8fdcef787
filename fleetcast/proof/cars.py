"""The cars of a proof, a process: each sends its packets one after the other, each until it is acknowledged. Every second
one sends by MQTT, if there is a port for it; the others send some now and then in one request. Now and then one sleeps.

In: commands on standard input, a JSON object a line: {"rate": packets a second of all cars together}, 0 pauses them.
Out: each tenth of a second {"acked": [[car, packet], …], "retries": n, "unsure": how many of them may have been stored by MQTT,
"paused": whether nothing is on its way, "refused": a sentence if ingest refused a packet}.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence

import msgspec

from fleetcast.mqtt_line import MqttLine
from fleetcast.proof.client import Line
from fleetcast.proof.drivers import Driver
from fleetcast.proof.packets import body

_TIMEOUT = 10.0
_STORED = 202
_AWAKE = 25.0  # seconds after which a car sleeps, more or less
_AS_LONG = (0.7, 2.5)  # times as long as makes it quiet
_BATCH = 207
_BATCHES = 0.05  # the share of a car's requests that have several packets
_MOST = 5
_BOUNDARY = b"fleetcast-proof-0f1e2d3c4b5a69788796a5b4c3d2e1f0"
_SUFFIXES = {"application/x-ndjson": "/ndjson", "application/msgpack": "/msgpack"}


class Cars(Driver):
    """All cars."""

    def __init__(
        self, port: int, mqtt: int, seed: int, vehicles: list[str], rate: float, sleep: float
    ) -> None:
        super().__init__()
        self.port = port
        self.mqtt = mqtt
        self.seed = seed
        self.vehicles = vehicles
        self.rate = rate
        self.sleep = sleep
        self.go = asyncio.Event()
        self.busy = 0
        self.acked: list[tuple[int, int]] = []
        self.retries = 0
        self.unsure = 0
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
            "unsure": self.unsure,
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
        door = _Mqtt(self.mqtt, vehicle) if self.mqtt and number % 2 else _Http(self.port, vehicle)
        due = time.monotonic() + dice.random() * len(self.vehicles) / max(self.rate, 1)
        while True:
            await self.go.wait()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not self.go.is_set():
                continue
            batched = isinstance(door, _Http) and dice.random() < _BATCHES
            upto = n + (dice.randint(2, _MOST) if batched else 1)
            takes = (upto - n) * len(self.vehicles) / self.rate
            due = max(due, time.monotonic() - 1) + takes
            self.busy += 1
            while n < upto:
                stored, status = await door.send([body(self.seed, vehicle, one) for one in range(n, upto)])
                self.acked += [(number, one) for one in range(n, n + stored)]
                n += stored
                if n == upto:
                    break
                if 400 <= status < 500:
                    self.refused = f"{vehicle}: packet {n} refused with {status}"
                self.retries += 1
                self.unsure += isinstance(door, _Mqtt)
                await asyncio.sleep(dice.uniform(0.1, 0.6))
            self.busy -= 1
            if dice.random() < takes / _AWAKE:
                due = time.monotonic() + dice.uniform(*_AS_LONG) * self.sleep


_Packet = tuple[bytes, str, str]
"""Its body, content type and content encoding."""


class _Http:
    """A car's way to ingest. `send` gives how many were stored, and the status of the one that was not, 0 for no answer."""

    def __init__(self, port: int, vehicle: str) -> None:
        self._port = port
        self._path = f"/v1/vehicles/{vehicle}/packets"
        self._line: Line | None = None

    async def send(self, packets: Sequence[_Packet]) -> tuple[int, int]:
        """One alone, or several as parts of one request, of which the first that is not stored ends what counts."""
        headers, content = _alone(packets[0]) if len(packets) == 1 else _together(packets)
        try:
            async with asyncio.timeout(_TIMEOUT):
                if self._line is None:
                    self._line = await Line.open(self._port)
                self._line.ask("POST", self._path, headers, content)
                answer = await self._line.answer()
        except (OSError, TimeoutError):
            self._close()
            return 0, 0
        if answer.headers.get("connection") == "close":
            self._close()
        statuses = [answer.status]
        if answer.status == _BATCH:
            statuses = [one.status for one in msgspec.json.decode(bytes(answer.body), type=list[_Part])]
        stored = next((n for n, status in enumerate(statuses) if status != _STORED), len(statuses))
        return stored, statuses[stored] if stored < len(statuses) else _STORED

    def _close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


class _Part(msgspec.Struct):
    status: int


def _alone(packet: _Packet) -> tuple[dict[str, str], bytes]:
    content, kind, encoding = packet
    return {"Content-Type": kind, "Content-Encoding": encoding}, content


def _together(packets: Sequence[_Packet]) -> tuple[dict[str, str], bytes]:
    parts = b"".join(
        b"--%s\r\nContent-Type: %s\r\nContent-Encoding: %s\r\n\r\n%s\r\n"
        % (_BOUNDARY, kind.encode(), encoding.encode(), content)
        for content, kind, encoding in packets
    )
    headers = {"Content-Type": f"multipart/mixed; boundary={_BOUNDARY.decode()}"}
    return headers, parts + b"--%s--\r\n" % _BOUNDARY


class _Mqtt:
    """A car's way to nats-server. JSON goes to the bare topic, where the platform looks what it is."""

    def __init__(self, port: int, vehicle: str) -> None:
        self._port = port
        self._vehicle = vehicle
        self._line: MqttLine | None = None

    async def send(self, packets: Sequence[_Packet]) -> tuple[int, int]:
        """One; see the other one."""
        ((content, kind, _),) = packets
        topic = f"vehicles/{self._vehicle}/packets" + _SUFFIXES.get(kind, "")
        try:
            async with asyncio.timeout(_TIMEOUT):
                if self._line is None:
                    self._line = await MqttLine.open(self._port, self._vehicle)
                await self._line.publish(topic, content)
        except (OSError, TimeoutError):
            if self._line is not None:
                self._line.close()
                self._line = None
            return 0, 0
        return 1, _STORED


def main() -> int:
    """`python -m fleetcast.proof.cars`: see the module's text."""
    parser = argparse.ArgumentParser(prog="fleetcast.proof.cars", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="where ingest listens")
    parser.add_argument("--mqtt", type=int, default=0, help="where nats-server listens for MQTT; 0: nowhere")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--vehicles", required=True, help="their ids, in a JSON list")
    parser.add_argument("--rate", type=float, default=0.0, help="packets a second of all together")
    parser.add_argument("--sleep", type=float, required=True, help="seconds of silence that make a car quiet")
    given = parser.parse_args()
    vehicles = msgspec.json.decode(given.vehicles, type=list[str])
    asyncio.run(Cars(given.port, given.mqtt, given.seed, vehicles, given.rate, given.sleep).run())
    return 0


if __name__ == "__main__":
    sys.exit(main())

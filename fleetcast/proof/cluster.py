"""Three nats-servers as one cluster, each of which can be killed, held, wiped and started again.

They run on loopback, or on the hosts of a small network (`net.py`) whose wires can be cut. Whoever uses it asks `leader` which
node to harm; a node that was killed stays away until it is started.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from fleetcast import machine, natsserver
from fleetcast.errors import FleetcastError, Unavailable
from fleetcast.jetstream import ApiError, Connection, connect, stream_info
from fleetcast.natsserver import Node
from fleetcast.proof.net import Net
from fleetcast.proof.ports import free_ports
from fleetcast.settings import Settings
from fleetcast.subjects import LIVE, PACKETS, REJECTED
from fleetcast.supervisor import Program, Supervisor

COUNT = 3
_BOUND = 60.0


class Place(msgspec.Struct, frozen=True):
    """Where a node listens, for clients and for the others; `before` stands before its command."""

    host: str
    port: int
    cluster_port: int
    before: Sequence[str] = ()


def on_loopback() -> list[Place]:
    """Places beside each other."""
    ports = free_ports(2 * COUNT)
    return [Place("127.0.0.1", ports[2 * number], ports[2 * number + 1]) for number in range(COUNT)]


def on_net(net: Net) -> list[Place]:
    """A place on each host."""
    return [Place(address, 4222, 6222, net.within(number)) for number, address in enumerate(net.addresses)]


def url(places: Sequence[Place]) -> str:
    """The setting `nats` of those who use them all."""
    return ",".join(f"nats://{place.host}:{place.port}" for place in places)


class Cluster:
    """The nodes by number. Its processes are the supervisor's, which is stopped by whoever made it."""

    def __init__(
        self, folder: Path, settings: Settings, places: Sequence[Place], supervisor: Supervisor
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._supervisor = supervisor
        self.names = [f"nats-server-{number}" for number in range(len(places))]
        self._programs: list[Program] = []
        routes = [f"{place.host}:{place.cluster_port}" for place in places]
        for name, place in zip(self.names, places, strict=True):
            node = Node(name, place.host, place.port, place.cluster_port, routes)
            self._store(name).mkdir(parents=True, exist_ok=True)
            conf = folder / f"{name}.conf"
            conf.write_text(natsserver.configuration(settings, self._store(name), node))
            command = [*place.before, machine.nats_server(), "-c", str(conf)]
            environment = {**os.environ, "PATH": machine.search_path()}
            self._programs.append(Program(name, command, environment, base=True))

    def _store(self, name: str) -> Path:
        return self._folder / name

    # What can be done to a node

    def start(self, number: int) -> None:
        """On what is in its store. Nothing if it runs."""
        if self.names[number] not in self._supervisor.names:
            self._supervisor.start(self._programs[number])

    async def kill(self, number: int) -> None:
        """kill -9; it stays away."""
        if self.names[number] in self._supervisor.names:
            await self._supervisor.stop_one(self.names[number], signal.SIGKILL)

    def hold(self, number: int) -> None:
        """SIGSTOP: its connections stay, and nothing comes from it."""
        self._signal(number, signal.SIGSTOP)

    def wake(self, number: int) -> None:
        """SIGCONT."""
        self._signal(number, signal.SIGCONT)

    async def wipe(self, number: int) -> None:
        """Killed, and all that it had is gone."""
        await self.kill(number)
        await asyncio.to_thread(shutil.rmtree, self._store(self.names[number]))
        self._store(self.names[number]).mkdir()

    def _signal(self, number: int, sign: signal.Signals) -> None:
        if (pid := self._supervisor.pid(self.names[number])) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, sign)

    # What is to be known of them

    async def started(self) -> None:
        """Starts all, and waits until JetStream answers. Raises FleetcastError."""
        for number in range(len(self.names)):
            self.start(number)
        connection = await connect(self._settings, "fleetcast-proof")
        try:
            await _until(lambda: _answers(connection), "the cluster answers")
        finally:
            await connection.close()

    async def leader(self, connection: Connection, stream: str) -> int:
        """The number of the node that leads this stream. Waits for one; raises FleetcastError."""
        found: list[int] = []

        async def known() -> bool:
            info = await stream_info(connection, stream)
            name = ((info or {}).get("cluster") or {}).get("leader")
            found.extend([self.names.index(name)] if name else [])
            return bool(found)

        await _until(known, f"{stream} has a leader")
        return found[-1]

    async def whole(self, connection: Connection, streams: Sequence[str] = (PACKETS, LIVE, REJECTED)) -> None:
        """Waits until each copy of each stream is there and current. Raises FleetcastError."""

        async def current() -> bool:
            for stream in streams:
                copies = (await connection.api(f"STREAM.INFO.{stream}"))["cluster"].get("replicas") or ()
                if len(copies) < len(self.names) - 1:
                    return False
                if any(copy.get("offline") or not copy.get("current") for copy in copies):
                    return False
            return True

        await _until(current, "all copies are current")


async def _answers(connection: Connection) -> bool:
    await connection.api("INFO", timeout=1)
    return True


async def _until(condition: Callable[[], Awaitable[bool]], what: str, bound: float = _BOUND) -> None:
    deadline = time.monotonic() + bound
    while True:
        with suppress(Unavailable, ApiError):
            if await condition():
                return
        if time.monotonic() > deadline:
            raise FleetcastError(f"not within {bound:.0f} s: {what}")
        await asyncio.sleep(0.1)

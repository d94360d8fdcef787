"""The platform's roles as the proof runs them: the same processes, with a trap at each seam.

`python -m fleetcast.proof.roles --config FILE consume` is `fleetcast --config FILE consume`, but for a socket beside the file,
`trap-<admin port>.sock`, that takes one JSON object a connection and answers `ok`:

    {"at": "commit", "when": "after", "do": "kill"}    the next commit is done, and then the process is killed
    {"clock": 3600}                                    from now on its clock is an hour ahead
    {"at": ""}                                         takes a trap away that was not met

`at`: put, commit, publish, ack, reject. `when`: before, after. `do`: kill, stop (SIGSTOP), lose (it happens, and its answer
is lost). The product knows nothing of this: `wiring.Seams` is where it is put in.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from fleetcast import wiring
from fleetcast.clock import SystemClock
from fleetcast.edge import Edge, Item
from fleetcast.errors import Unavailable
from fleetcast.live import Change, Fenced, Held, Live
from fleetcast.queue import Delivery, Queue, Stored
from fleetcast.settings import Settings, load
from fleetcast.state import State
from fleetcast.update import Update
from fleetcast.views import EVERYTHING, View

T = TypeVar("T")

_ON_ITS_WAY = 0.02

ROLES = {"ingest": wiring.run_ingest, "consume": wiring.run_consume, "origin": wiring.run_origin}


class JumpingClock(SystemClock):
    """The machine's clock, and what it was made to jump by."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        """Seconds since 1970, as this process believes."""
        return super().now() + self.ahead


class Trap:
    """One, set for the next time that it is met."""

    def __init__(self) -> None:
        self.at = ""
        self.when = ""
        self.do = ""

    async def around(self, at: str, work: Callable[[], Awaitable[T]], lost: type[Exception]) -> T:
        """Does the work, and what the trap says before or after it."""
        if self.at == at and self.when == "before":
            await self._spring()
        done = await work()
        if self.at == at and self.when == "after":
            if self.do == "lose":
                self.at = ""
                raise lost("its answer was lost: the proof took it")
            await self._spring()
        return done

    async def _spring(self) -> None:
        self.at = ""
        # Acks and items are sent and not waited for: were they still in this process, they would never have been sent.
        await asyncio.sleep(_ON_ITS_WAY)
        os.kill(os.getpid(), signal.SIGSTOP if self.do == "stop" else signal.SIGKILL)


class TrappedQueue:
    """`queue.Queue` with traps at put, ack and reject."""

    def __init__(self, queue: Queue, trap: Trap) -> None:
        self._queue = queue
        self._trap = trap

    async def put(self, vehicle: str, packet_id: str, body: bytes, form: str, encoding: str) -> Stored:
        """See the seam."""
        return await self._trap.around(
            "put", lambda: self._queue.put(vehicle, packet_id, body, form, encoding), Unavailable
        )

    async def pull(self, most: int) -> Sequence[Delivery]:
        """See the seam."""
        return await self._queue.pull(most)

    def handed(self) -> Mapping[int, float]:
        """See the seam."""
        return self._queue.handed()

    async def newest(self, vehicle: str) -> tuple[str, int] | None:
        """See the seam."""
        return await self._queue.newest(vehicle)

    async def ack(self, deliveries: Iterable[Delivery]) -> None:
        """See the seam."""
        await self._trap.around("ack", lambda: self._queue.ack(deliveries), Unavailable)

    async def reject(self, delivery: Delivery, reason: str) -> None:
        """See the seam."""
        await self._trap.around("reject", lambda: self._queue.reject(delivery, reason), Unavailable)

    async def reset(self, partitions: Iterable[int]) -> None:
        """See the seam."""
        await self._queue.reset(partitions)


class TrappedLive:
    """`live.Live` with a trap at commit."""

    def __init__(self, live: Live, trap: Trap) -> None:
        self._live = live
        self._trap = trap

    async def epoch(self) -> str:
        """See the seam."""
        return await self._live.epoch()

    async def latest(self, vehicle: str, *, leader: bool = False) -> Held:
        """See the seam."""
        return await self._live.latest(vehicle, leader=leader)

    async def vehicles(self) -> Sequence[str]:
        """See the seam."""
        return await self._live.vehicles()

    async def latest_of(self, vehicles: Sequence[str]) -> Sequence[State]:
        """See the seam."""
        return await self._live.latest_of(vehicles)

    async def since(
        self, vehicle: str, version: int, *, leader: bool = False, view: View = EVERYTHING
    ) -> tuple[State, Sequence[Update]]:
        """See the seam."""
        return await self._live.since(vehicle, version, leader=leader, view=view)

    async def commit(self, changes: Sequence[Change], epoch: str = "") -> Sequence[int]:
        """See the seam."""
        return await self._trap.around("commit", lambda: self._live.commit(changes, epoch), Fenced)


class TrappedEdge:
    """`edge.Edge` with a trap at publish."""

    def __init__(self, edge: Edge, trap: Trap) -> None:
        self._edge = edge
        self._trap = trap

    async def ready(self) -> None:
        """See the seam."""
        await self._edge.ready()

    def listeners(self, channel: str) -> int:
        """See the seam."""
        return self._edge.listeners(channel)

    def replicas(self, channel: str) -> Sequence[str]:
        """See the seam."""
        return self._edge.replicas(channel)

    def channels(self) -> Sequence[str]:
        """See the seam."""
        return self._edge.channels()

    async def publish(self, items: Sequence[Item]) -> None:
        """See the seam."""
        await self._trap.around("publish", lambda: self._edge.publish(items), Unavailable)

    async def close(self) -> None:
        """See the seam."""
        await self._edge.close()


class TrappedSeams(wiring.Seams):
    """All seams of a role, with one trap between them."""

    def __init__(self) -> None:
        self.trap = Trap()
        self.jumping = JumpingClock()
        self.clock = self.jumping

    def queue(self, queue: Queue) -> Queue:
        """With traps."""
        return TrappedQueue(queue, self.trap)

    def live(self, live: Live) -> Live:
        """With a trap."""
        return TrappedLive(live, self.trap)

    def edge(self, edge: Edge) -> Edge:
        """With a trap."""
        return TrappedEdge(edge, self.trap)

    async def serve(self, path: Path) -> asyncio.Server:
        """Listens for what to do."""

        async def on_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            word = msgspec.json.decode(await reader.readline())
            if "clock" in word:
                self.jumping.ahead = float(word["clock"])
            else:
                self.trap.at, self.trap.when, self.trap.do = (
                    str(word.get(name, "")) for name in ("at", "when", "do")
                )
            writer.write(b"ok\n")
            await writer.drain()
            writer.close()

        with suppress(FileNotFoundError):  # of the process before
            await asyncio.to_thread(path.unlink)
        return await asyncio.start_unix_server(on_line, path)


def socket_of(config: Path, admin_port: int) -> Path:
    """Where a role's process listens for its trap."""
    return config.parent / f"trap-{admin_port}.sock"


async def run(config: Path, settings: Settings, role: str) -> None:
    """The role's whole life."""
    seams = TrappedSeams()
    server = await seams.serve(socket_of(config, settings.admin_port))
    try:
        await ROLES[role](settings, seams)
    finally:
        server.close()


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="fleetcast.proof.roles", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("role", choices=list(ROLES))
    given = parser.parse_args()
    sys.path.append(str(Path.cwd()))
    settings = load(given.config, os.environ)
    wiring.configure_logging(settings, given.role)
    asyncio.run(run(given.config, settings, given.role))
    return 0


if __name__ == "__main__":
    sys.exit(main())

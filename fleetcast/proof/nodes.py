"""Three nats-servers under a whole platform: one after the other is killed, held, cut off or wiped, and the oracle watches.

`python -m fleetcast.proof.nodes --seed 1 --rounds 3` prints the table of `fleetcast prove`, with exit status 1 if a promise was
broken. Each node is a host of a small network, so that it can be cut off without a word: that needs root. A heal is measured
from the moment of the harm, not from its end: what is away comes back only when the others should long have taken over.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from fleetcast.errors import FleetcastError, Unusable
from fleetcast.proof.acts import finished, one
from fleetcast.proof.cluster import COUNT, Cluster, Place, on_net, url
from fleetcast.proof.faults import Fault
from fleetcast.proof.net import Net, small_net
from fleetcast.proof.ports import free_ports, short_folder
from fleetcast.proof.rows import Row
from fleetcast.proof.table import broken, clocked, print_table
from fleetcast.proof.wire import Wire
from fleetcast.proof.world import HEAL_BOUND, ProvenPlatform, Size, World
from fleetcast.settings import Settings
from fleetcast.subjects import LIVE, PACKETS
from fleetcast.wiring import configure_logging

Say = Callable[[str], None]

AWAY = (15.0, 20.0)
"""Seconds that a node is away: more than the others take to elect another leader, and clients to find it."""
CUT = 10.0
RATE = 50.0
PARTITIONS = 8
"""Few, and packets a second at most: with three copies on one machine each is written and synced three times, and so is each
step of a partition's consumer."""
_FELT = 1.0  # until harm is seen in what is acknowledged


class NodesPlatform(ProvenPlatform):
    """The platform, on a cluster instead of its own nats-server."""

    def __init__(
        self,
        settings: Settings,
        notice: Callable[[str], None],
        wires: Mapping[str, Wire],
        places: list[Place],
    ) -> None:
        super().__init__(settings, notice, wires)
        self._places = places
        self.cluster: Cluster

    async def start_queue(self) -> None:
        """Starts the nodes, and waits for them."""
        self.cluster = Cluster(Path(self.settings.data), self.settings, self._places, self.supervisor)
        await self.cluster.started()


class NodesWorld(World):
    """A world on three nodes, which are hosts of `net`."""

    def __init__(self, folder: Path, seed: int, size: Size, say: Say, net: Net) -> None:
        self.net = net
        self._places = on_net(net)
        self.harmed: float | None = None
        self._mending: list[asyncio.Task[None]] = []
        super().__init__(
            folder,
            seed,
            size,
            say,
            partitions=PARTITIONS,
            nats=url(self._places),
            replicas=COUNT,
            mqtt_port=0,
        )

    def make_platform(self) -> ProvenPlatform:
        """On the nodes; edges are reached by wires as ever, the queue is not."""
        ports = free_ports(1 + self.settings.edges)
        self.wires = {"origins": Wire(ports[0], self.settings.inner_port)} | {
            f"edge-{number}": Wire(port, int(self.settings.edge_sub[number].rpartition(":")[2]))
            for number, port in enumerate(ports[1:])
        }
        return NodesPlatform(self.settings, self._notice, self.wires, self._places)

    @property
    def cluster(self) -> Cluster:
        """Its nodes."""
        assert isinstance(self.platform, NodesPlatform)
        return self.platform.cluster

    async def __aenter__(self) -> NodesWorld:
        await super().__aenter__()
        self._asking = asyncio.create_task(self._keep_asking())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._asking.cancel()
        await asyncio.gather(self._asking, return_exceptions=True)
        await super().__aexit__(*exc)

    async def _keep_asking(self) -> None:
        """As an origin does: so our own connection leaves a node that is cut off; the follower would go on reading its copy."""
        while True:
            with suppress(FleetcastError):
                await self.connection.api(f"STREAM.INFO.{LIVE}")
            await asyncio.sleep(1)

    async def heal(self, since: float, bound: float = HEAL_BOUND) -> float | None:
        """As ever, but from the moment of the harm, and with packets acknowledged in each second: ingest may be cut off."""
        began = start = self.harmed or since
        while (found := await super().heal(start, bound - (start - began))) is not None:
            acked = self.oracle.all_acked
            await asyncio.sleep(_FELT)
            if self.oracle.all_acked > acked:
                return start - began + found
            start = time.monotonic()
        self.say(f"         at last {self.laggards}")
        return None

    def later(self, seconds: float, mend: Callable[[], None]) -> None:
        """Mends after so many seconds, while it is measured."""

        async def wait() -> None:
            await asyncio.sleep(seconds)
            mend()

        self._mending.append(asyncio.create_task(wait()))

    async def mended(self) -> None:
        """Waits until the cluster is as it was. Raises FleetcastError."""
        await asyncio.gather(*self._mending)
        self._mending.clear()
        await self.cluster.whole(self.connection)


# Faults


async def _harm(
    world: World, dice: random.Random, harm: Callable[[NodesWorld, float], Awaitable[None]]
) -> bool:
    assert isinstance(world, NodesWorld)
    world.harmed = None
    await world.mended()
    await harm(world, dice.uniform(*AWAY))
    world.harmed = time.monotonic()
    await asyncio.sleep(_FELT)
    return True


async def _kill_leader(world: NodesWorld, away: float, stream: str) -> None:
    number = await world.cluster.leader(world.connection, stream)
    await world.cluster.kill(number)
    world.later(away, partial(world.cluster.start, number))


async def _kill_all(world: NodesWorld, away: float) -> None:
    await asyncio.gather(*(world.cluster.kill(number) for number in range(COUNT)))
    for number in range(COUNT):
        world.cluster.start(number)


async def _hold_leader(world: NodesWorld, away: float) -> None:
    number = await world.cluster.leader(world.connection, LIVE)
    world.cluster.hold(number)
    world.later(away, partial(world.cluster.wake, number))


async def _cut_leader(world: NodesWorld, away: float) -> None:
    number = await world.cluster.leader(world.connection, LIVE)
    await asyncio.to_thread(world.net.cut, number)
    world.later(CUT, partial(world.net.heal, number))


async def _part_leader(world: NodesWorld, away: float) -> None:
    number = await world.cluster.leader(world.connection, LIVE)
    await asyncio.to_thread(world.net.part, number)
    world.later(2 * away, partial(world.net.heal, number))


async def _wipe_follower(world: NodesWorld, away: float) -> None:
    leader = await world.cluster.leader(world.connection, LIVE)
    number = (leader + 1) % COUNT
    await world.cluster.wipe(number)
    world.cluster.start(number)


def faults() -> list[Fault]:
    """Each of them, in the order of a round."""
    harms: list[tuple[str, Callable[[NodesWorld, float], Awaitable[None]]]] = [
        ("leader of LIVE killed, away for 15 to 20 s", partial(_kill_leader, stream=LIVE)),
        ("leader of the packets killed, away for 15 to 20 s", partial(_kill_leader, stream=PACKETS)),
        ("all three killed at once, started at once", _kill_all),
        ("leader of LIVE stopped for 15 to 20 s (SIGSTOP)", _hold_leader),
        (f"leader of LIVE cut off from all for {CUT:.0f} s", _cut_leader),
        ("leader of LIVE cut off from the others only, for 30 to 40 s", _part_leader),
        ("a follower killed, wiped and started at once", _wipe_follower),
    ]
    return [Fault(name, partial(_harm, harm=harm), ("nats-server",), closes=True) for name, harm in harms]


async def prove(seed: int, rounds: int, say: Say, size: Size | None = None) -> list[Row]:
    """Each fault once a round. Raises Unusable without root."""
    size = size or Size()
    size = msgspec.structs.replace(size, rate=min(size.rate, RATE))
    with short_folder() as folder, small_net(COUNT) as net:
        world = NodesWorld(folder, seed, size, say, net)
        async with world:
            await asyncio.sleep(1)
            planned = [fault for _ in range(rounds) for fault in faults()]
            for number, fault in enumerate(planned):
                dice = random.Random(f"{seed}/nodes/{number}")
                await one(world, fault, dice, f"{number + 1}/{len(planned)}")
            await world.mended()
            await world.settle()
            return finished(world)


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="fleetcast.proof.nodes", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="(%(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="each fault so often (%(default)s)"
    )
    given = parser.parse_args()
    configure_logging(Settings(log_level="error"), "prove")

    async def run() -> list[Row]:
        proving = asyncio.create_task(prove(given.seed, given.rounds, clocked(sys.stdout)))
        for number in (signal.SIGINT, signal.SIGTERM):  # else the small network would stay
            asyncio.get_running_loop().add_signal_handler(number, proving.cancel)
        return await proving

    try:
        rows = asyncio.run(run())
    except asyncio.CancelledError:
        return 130
    except Unusable as why:
        sys.stderr.write(f"{why}\n")
        return 2
    print_table(rows, sys.stdout)
    return 1 if broken(rows) else 0


if __name__ == "__main__":
    sys.exit(main())

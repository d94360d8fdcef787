"""The queue and the live state on three nats-servers, while the one that leads dies.

One cluster for all tests here; each finds it whole, and has packets and vehicles of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from fleetcast.clock import SystemClock
from fleetcast.errors import Unavailable
from fleetcast.jetstream import Connection, connect, current_generation, provisioned
from fleetcast.live import Change, Fenced, Held, Live
from fleetcast.nats_live import NatsLive
from fleetcast.nats_queue import NatsQueue
from fleetcast.proof.cluster import Cluster, on_loopback, url
from fleetcast.settings import Settings
from fleetcast.subjects import LIVE, PACKETS
from fleetcast.supervisor import Supervisor
from tests.contracts.test_live import change
from tests.contracts.test_queue import (
    PARTITIONS,
    VEHICLES,
    Reader,
    Record,
    everything,
    of,
    pulled,
    put_all,
)
from tests.servers import platform_settings, short_folder, until


class Nodes:
    """The cluster, and who is connected to it."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self.settings = settings
        self.cluster = cluster
        self.connections: list[Connection] = []

    async def connection(self) -> Connection:
        self.connections.append(await connect(self.settings, "test"))
        return self.connections[-1]

    async def queue(self, name: str = "") -> NatsQueue:
        """With a name, one that takes part in owning partitions."""
        settings = msgspec.structs.replace(self.settings, member=name)
        queue = NatsQueue(await self.connection(), settings, SystemClock())
        if name:
            await queue.join()
        return queue

    async def live(self) -> NatsLive:
        return NatsLive(await self.connection(), self.settings)

    async def kill_leader(self, stream: str) -> int:
        """Its number."""
        number = await self.cluster.leader(self.connections[0], stream)
        await self.cluster.kill(number)
        return number

    async def waiting(self, count: int) -> bool:
        """Whether so many packets are in the queue."""
        info = await self.connections[0].api(f"STREAM.INFO.{PACKETS}")
        return bool(info["state"]["messages"] == count)

    async def close(self) -> None:
        for connection in self.connections:
            await connection.close()


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Nodes]:
    with short_folder() as folder:
        places = on_loopback()
        settings = platform_settings(
            folder, partitions=PARTITIONS, nats=url(places), replicas=3, member_timeout=1.0
        )
        (folder / "log").mkdir()
        supervisor = Supervisor(folder / "log", print)
        nodes = Nodes(settings, Cluster(folder, settings, places, supervisor))
        try:
            await nodes.cluster.started()
            await provisioned(await nodes.connection(), settings)
            yield nodes
        finally:
            await nodes.close()
            await supervisor.stop()


@pytest.fixture
async def nodes(running: Nodes) -> Nodes:
    """All three there, and each copy current."""
    for number in range(3):
        running.cluster.start(number)
    await running.cluster.whole(running.connections[0])
    return running


async def test_packets_are_neither_lost_nor_doubled_nor_reordered_when_their_leader_dies(
    nodes: Nodes,
) -> None:
    """Put with the same id again until acknowledged, and pulled by two members, before and after and in between."""
    queue, record, last = await nodes.queue(), Record(), 60
    members = [await nodes.queue(name) for name in ("a", "b")]
    readers = [Reader(str(number), member, record) for number, member in enumerate(members)]
    sending = asyncio.create_task(put_all(queue, VEHICLES, range(1, last + 1)))
    await until(lambda: sum(map(len, record.applied.values())) > 200)
    before = await current_generation(nodes.connections[0])
    await nodes.kill_leader(PACKETS)
    await sending
    await until(everything(record, VEHICLES, last))
    assert await current_generation(nodes.connections[0]) == before, "whichever node leads"
    for reader, member in zip(readers, members, strict=True):
        await reader.stop()
        await member.leave()


async def _vehicle(live: Live, vehicle: str, last: int, acknowledged: list[str]) -> None:
    """Commits one version after the other, each from what was read at the leader; a reload after whatever fails."""
    held: Held | None = None
    for turn in range(1_000_000):
        try:
            held = held or await live.latest(vehicle, leader=True)
            if held.state.version >= last:
                return
            one = change(held, 1, f"{id(live)} {turn}")
            (revision,) = await live.commit([one])
        except (Fenced, Unavailable):
            held = None
            await asyncio.sleep(0.05)
        else:
            held = Held(one.state, revision)
            acknowledged.append(_text(one))


def _text(one: Change) -> str:
    return str(one.state.signals["Test.Text"].value)


async def test_the_fence_holds_across_a_change_of_leader(nodes: Nodes) -> None:
    """Two writers for each vehicle: what was acknowledged is in the window once, and the window is whole; and what was read
    of the leader before is refused by the new one.
    """
    writers, vehicles, last = [await nodes.live(), await nodes.live()], ["fence-1", "fence-2"], 120
    said: dict[str, list[str]] = {vehicle: [] for vehicle in vehicles}
    writing = [
        asyncio.create_task(_vehicle(live, vehicle, last, said[vehicle]))
        for live in writers
        for vehicle in vehicles
    ]
    await until(lambda: min(map(len, said.values())) > 20)
    old = await writers[0].latest(vehicles[0], leader=True)
    await nodes.kill_leader(LIVE)
    await asyncio.gather(*writing)
    with pytest.raises(Fenced, match="committed first"):
        await writers[0].commit([change(old)])
    for vehicle in vehicles:
        state, updates = await writers[0].since(vehicle, 0, leader=True)
        assert [update.version for update in updates] == list(range(1, state.version + 1))
        texts = [update.signals["Test.Text"].value for update in updates if update.signals["Test.Text"]]
        assert len(said[vehicle]) == len(set(said[vehicle]))
        assert set(said[vehicle]) <= set(texts)
        assert state.version >= last


async def test_a_new_leader_delivers_again_what_was_not_acked(nodes: Nodes) -> None:
    """Of a partition's consumer: the pin is another's then, and with it everything held is thrown away."""
    queue, member = await nodes.queue(), await nodes.queue("c")
    vehicles = [f"lead-{number}" for number in range(8)]
    await put_all(queue, vehicles, range(1, 6))
    found = await pulled(member, 5 * len(vehicles))
    await member.ack(delivery for delivery in found if b" 1 " in delivery.body)
    await until(lambda: nodes.waiting(4 * len(vehicles)), "the acks are there")  # nobody waits for those else
    await nodes.kill_leader(PACKETS)
    await put_all(queue, vehicles, range(6, 8))
    # All partitions, also those whose consumers were led elsewhere: they were given everything already.
    await until(lambda: _is_reset(member))
    again = await pulled(member, 6 * len(vehicles))
    assert of(again) == {vehicle: [2, 3, 4, 5, 6, 7] for vehicle in vehicles}
    await member.ack(again)
    await member.leave()


async def _is_reset(member: NatsQueue) -> bool:
    try:
        await member.reset(range(PARTITIONS))
    except Unavailable:
        return False
    return True

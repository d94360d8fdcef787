"""How much of everything a fleet needs: cores, memory, disk, network, processes and shards. Pure.

In: the fleet (`Fleet`), and what each step costs (`Costs`), as the benchmark measured it (`costs.json`, written by
`make bench-full`; docs/benchmarks.md tells how). Costs are a line through two sizes of packets. Out: a row for each role, and
the assumptions. It plans for `headroom`: the share of a core that is meant to be busy at the stated load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import msgspec

_SECONDS_A_DAY = 86_400


class Fleet(msgspec.Struct, frozen=True):
    """What is to be carried. `size` is a packet's bytes as sent (compressed), `watched` the share of updates that some phone
    sees, `opens` how often an hour each phone opens its stream.
    """

    registered: Annotated[int, msgspec.Meta(ge=1)] = 300_000
    streaming: Annotated[int, msgspec.Meta(ge=1)] = 50_000
    per_minute: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    size: Annotated[int, msgspec.Meta(ge=1)] = 115_000
    phones: Annotated[int, msgspec.Meta(ge=0)] = 50_000
    opens: Annotated[float, msgspec.Meta(ge=0)] = 6.0
    window: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    outage: Annotated[float, msgspec.Meta(ge=0)] = 900.0
    """Seconds for which the queue must hold what nobody consumes."""
    mqtt: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """The share of those that stream by MQTT, each on a connection that it keeps; the others use HTTP."""
    replicas: int = 1
    headroom: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.6

    @property
    def packets(self) -> float:
        """A second."""
        return self.streaming * self.per_minute / 60

    @property
    def updates(self) -> float:
        """Seen by phones, a second: a phone watches a vehicle that streams."""
        return (
            min(self.phones, self.streaming)
            / self.streaming
            * self.packets
            * max(1.0, self.phones / self.streaming)
        )

    @property
    def openings(self) -> float:
        """Streams that open, a second."""
        return self.phones * self.opens / 3600


class Line(msgspec.Struct, frozen=True):
    """CPU ms a packet: `base`, and as much more for each MB as sent."""

    base: float
    each_mb: float

    def at(self, size: float) -> float:
        """CPU ms of a packet of so many bytes."""
        return self.base + self.each_mb * size / 1e6


class Costs(msgspec.Struct, frozen=True):
    """What was measured. CPU in ms of one core; memory in kB."""

    machine: str
    measured: str
    ingest: Line
    consume: Line
    nats: Line
    deliver_edge: float
    """CPU ms of the edge for one update seen by one phone."""
    deliver_front: float
    open_edge: float
    open_origin: float
    open_nats: float
    open_front: float
    stream_edge: float
    """Memory of one idle stream in the edge, with the kernel's part."""
    stream_front: float
    state_memory: float
    """Of nats-server, for each registered vehicle."""
    state_disk: float
    update_disk: float
    queue_limit: Line
    """The queue's own time for a packet, ms: one stream is one sequence. The highest rate seen is its inverse."""
    update_bytes: float
    """Of one update as sent to a phone."""
    connection: Annotated[Sequence[tuple[float, float]], msgspec.Meta(min_length=1)]
    """Memory of nats-server for one MQTT connection: (bytes of the packets that it sends, kB), the smallest first."""


def between(points: Sequence[tuple[float, float]], x: float) -> float:
    """y at x, on straight lines from point to point; before the first and after the last point it stays as there."""
    if x <= points[0][0]:
        return points[0][1]
    for (x1, y1), (x2, y2) in pairwise(points):
        if x <= x2:
            return y1 + (y2 - y1) * (x - x1) / (x2 - x1)
    return points[-1][1]


class Row(msgspec.Struct, frozen=True):
    """One role."""

    role: str
    cores: float
    """Busy, on average."""
    processes: int
    memory_gb: float
    note: str


class Plan(msgspec.Struct, frozen=True):
    """The answer."""

    rows: Sequence[Row]
    shards: int
    cores: float
    """To have, headroom included."""
    memory_gb: float
    disk_gb: float
    disk_mb_s: float
    network_in_mb_s: float
    network_out_mb_s: float
    assumptions: Sequence[str]

    @property
    def busy(self) -> float:
        """Cores that are busy on average."""
        return sum(row.cores for row in self.rows)


STREAMS_A_REPLICA = 18_000
"""Streams that one Pushpin holds with 20,000 open files, and one HAProxy with 40,000."""
_BASE_GB = {"ingest": 0.07, "consume": 0.12, "nats-server": 0.2, "edge": 0.09, "origin": 0.05, "front": 0.03}


def plan(fleet: Fleet, costs: Costs) -> Plan:
    """What this fleet needs."""
    share = fleet.headroom
    shards = max(1, math.ceil(fleet.packets * costs.queue_limit.at(fleet.size) / 1000 / share))
    used = {
        "ingest": (1 - fleet.mqtt) * fleet.packets * costs.ingest.at(fleet.size),
        "consume": fleet.packets * costs.consume.at(fleet.size),
        "nats-server": fleet.replicas * fleet.packets * costs.nats.at(fleet.size)
        + fleet.openings * costs.open_nats,
        "edge": fleet.updates * costs.deliver_edge + fleet.openings * costs.open_edge,
        "origin": fleet.openings * costs.open_origin,
        "front": fleet.updates * costs.deliver_front + fleet.openings * costs.open_front,
    }
    cores = {role: ms / 1000 for role, ms in used.items()}
    # A Python process, and a replica's handler, is one thread: no more than one core each.
    least = {
        "edge": math.ceil(fleet.phones / STREAMS_A_REPLICA),
        "front": math.ceil(fleet.phones / STREAMS_A_REPLICA),
        "nats-server": shards * fleet.replicas,
    }
    processes = {role: max(1, least.get(role, 1), math.ceil(busy / share)) for role, busy in cores.items()}
    processes["nats-server"] = shards * fleet.replicas  # it uses as many cores as there are
    connected = fleet.mqtt * fleet.streaming
    grown = {
        "nats-server": fleet.replicas * fleet.registered * costs.state_memory / 1e6
        + connected * between(costs.connection, fleet.size) / 1e6,
        "edge": fleet.phones * costs.stream_edge / 1e6,
        "front": fleet.phones * costs.stream_front / 1e6,
    }
    memory = {role: processes[role] * _BASE_GB[role] + grown.get(role, 0.0) for role in cores}
    notes = {
        "ingest": f"{(1 - fleet.mqtt) * fleet.packets:,.0f} packets/s",
        "consume": "at most `partitions` a shard",
        "nats-server": f"{shards} shards of {fleet.replicas}"
        + (f", {connected:,.0f} MQTT connections" if connected else ""),
        "edge": f"{fleet.updates:,.0f} updates/s seen, {fleet.phones:,} streams",
        "origin": f"{fleet.openings:,.1f} streams open a second",
        "front": "HAProxy, outside and inside",
    }
    rows = [Row(role, cores[role], processes[role], memory[role], notes[role]) for role in cores]
    window = fleet.packets * fleet.window * costs.update_disk + fleet.registered * costs.state_disk
    queue = fleet.packets * fleet.outage * fleet.size
    stored = fleet.packets * (fleet.size + 1e3 * costs.update_disk + 1e3 * costs.state_disk)
    return Plan(
        rows,
        shards,
        sum(cores.values()) / share,
        sum(memory.values()),
        fleet.replicas * (queue / 1e9 + window / 1e6),
        fleet.replicas * stored / 1e6,
        fleet.packets * fleet.size / 1e6,
        fleet.updates * costs.update_bytes / 1e6,
        _assumptions(fleet, costs),
    )


def _assumptions(fleet: Fleet, costs: Costs) -> Sequence[str]:
    day = fleet.packets * fleet.size * _SECONDS_A_DAY / 1e12
    text = f"""\
costs as measured on {costs.machine}, {costs.measured}; a core of another machine is another core
{fleet.size:,} bytes a packet as sent: {day:,.1f} TB a day arrive, and nothing of the bulk is kept once it is applied
each phone watches one vehicle, and opens its stream {fleet.opens:g} times an hour
no storm is planned for: it takes as long as the spare cores need
a core is busy for {fleet.headroom:.0%} of the time at this load
the disk keeps {fleet.outage:,.0f} s of packets that nobody consumes, and {fleet.window:,.0f} s of updates
a nats-server takes as many MQTT connections as it may open files, a hundred less; a packet costs it the same by either door
an edge replica and a front take {STREAMS_A_REPLICA:,} streams each
a shard is a packet stream with a LIVE beside it, on a nats-server (or {fleet.replicas}) of its own"""
    return text.splitlines()

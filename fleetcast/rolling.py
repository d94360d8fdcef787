"""Deploys: each process of a running platform replaced, added or removed while streams stay open and nothing is lost.

One process after the other, and each well before the next one. Ingest and consume finish what is in hand at SIGTERM. An
origin is taken out of the balancer before that, and an edge's streams are moved to the others; what comes back is asked
before it is given anything, an edge also by every consume process: else its phones would miss updates until the next poll.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Protocol

from fleetcast import haproxy, probes
from fleetcast.draining import PACE, Balancer, move_streams
from fleetcast.errors import Unusable
from fleetcast.layout import Layout
from fleetcast.settings import Settings
from fleetcast.subjects import CONTROL_CHANNELS
from fleetcast.supervisor import Notice, Program, Supervisor

_IN_HAND = 20.0  # seconds that requests of a drained server get
_STREAMS = 30.0  # seconds that the last streams of an edge get, once all have been told
_CONNECTED = 30.0
_WATCHED = 1.0  # seconds for which a new consume process is watched at its work
_WELL_AGAIN = 10.0  # one that stopped by itself never is
_SETTLE = 0.3  # seconds in which a replica tells a consume process its subscriptions


class Running(Protocol):
    """The platform, as far as this needs it."""

    settings: Settings
    layout: Layout
    supervisor: Supervisor
    balancer: Balancer
    front_connections: int

    def prepared(self, name: str) -> Program:
        """What runs under this name, its configuration written anew."""

    def write_common(self) -> None:
        """What several processes read, from the settings and the layout as they are now."""

    async def well(self, name: str) -> None:
        """Waits until this process is. Raises NotReady."""

    async def wait(
        self, name: str, check: Callable[[], Awaitable[object]], bound: float | None = None
    ) -> None:
        """Waits until this check passes. Raises NotReady."""


async def roll(running: Running, names: Iterable[str], say: Notice) -> None:
    """Replaces these, one after the other; stops at the first that is not well again."""
    for name in names:
        role = running.layout.processes[name].role
        began = time.monotonic()
        await (_roll_edge if role == "edge" else _roll_role)(running, name, say)
        say(f"{name} is replaced, {time.monotonic() - began:.1f} s")


async def add(running: Running, role: str, say: Notice) -> str:
    """One more of this role; its name."""
    name = running.layout.add(role)
    try:
        running.supervisor.start(running.prepared(name))
        await running.well(name)
    except BaseException:
        if name in running.supervisor.names:
            await running.supervisor.stop_one(name)
        running.layout.remove(name)
        raise
    say(f"{name} runs")
    running.write_common()
    number = running.layout.processes[name].number
    if role == "edge":
        await _tell_consume(running, say)
    for server in _servers(running, name):
        backend = server.partition("/")[0]
        if role == "edge":
            options = haproxy.edge_server(running.settings, number, backend)
        else:
            one = running.layout.processes[name]
            options = haproxy.origin_server(f"127.0.0.1:{one.port}", one.admin)
        await running.balancer.add(server, options)
    await _taken(running, name)
    say(f"{name} is added")
    if haproxy.connections(running.layout.counted(running.settings)) > running.front_connections:
        say(
            f"HAProxy took its limit at its start: {running.front_connections} connections in all, edges or not"
        )
    return name


async def remove(running: Running, name: str, say: Notice) -> None:
    """One less; what it has in hand is finished, and its streams are moved, as in a roll."""
    layout = running.layout
    if name not in layout.processes:
        raise Unusable(f"{name}: no such process; there are {', '.join(layout.processes)}")
    role = layout.processes[name].role
    if len(layout.named(role)) == 1:
        raise Unusable(f"{name} is the only {role}, and cannot be removed")
    await _drain(running, name, say)
    servers = _servers(running, name)
    await running.supervisor.stop_one(name)
    layout.remove(name)
    running.write_common()
    for server in servers:
        await running.balancer.delete(server)
    if role == "edge":
        await _tell_consume(running, say)
    if role == "consume":  # its partitions are the others' now
        await asyncio.gather(*(running.well(other) for other in layout.named("consume")))
    say(f"{name} is removed")


async def _roll_role(running: Running, name: str, say: Notice) -> None:
    await _drain(running, name, say)
    await running.supervisor.restart(name, running.prepared(name))
    await running.well(name)
    one = running.layout.processes[name]
    if (
        one.role == "consume"
    ):  # whose new code may reject nearly everything: at a fleet's rate that shows at once
        await asyncio.sleep(_WATCHED)
        await running.wait(name, partial(probes.http, f"http://127.0.0.1:{one.admin}/ready"), _WELL_AGAIN)
    await _taken(running, name)


async def _roll_edge(running: Running, name: str, say: Notice) -> None:
    await _drain(running, name, say)
    await running.supervisor.restart(name, running.prepared(name))
    ended = time.time()  # the old one is gone, the new one not there yet
    await running.well(name)
    if running.settings.publish == "zmq":
        for consumer in running.layout.named("consume"):
            await running.wait(
                consumer, partial(_connected_since, running, consumer, name, ended), _CONNECTED
            )
    await asyncio.sleep(_SETTLE)
    await _taken(running, name)


async def _tell_consume(running: Running, say: Notice) -> None:
    """Consume reads the edges' addresses when it starts."""
    say("consume is replaced, to know the edges as they are now")
    await roll(running, running.layout.named("consume"), say)


# In and out of the balancer


def _servers(running: Running, name: str) -> list[str]:
    """What HAProxy calls this process; nothing for a role that it does not know."""
    one = running.layout.processes[name]
    backends = {"edge": ["streams", "plain", "polls"], "origin": ["origins", "sockets"]}.get(one.role, [])
    return [f"{backend}/{one.role}{one.number}" for backend in backends]


async def _drain(running: Running, name: str, say: Notice) -> None:
    """Nothing new comes to it from here on, and it has finished what it had, or time is over."""
    servers = _servers(running, name)
    if not servers:
        return
    role = running.layout.processes[name].role
    if len(running.layout.named(role)) == 1:
        say(f"{name} is the only {role}: until it is back, new streams are told `unavailable`")
    await running.balancer.set(servers, "drain")
    if role == "edge":
        await _move(running, name, say)
    # Not its long-polls: HAProxy asks another edge for them when this one ends.
    waited_for = [server for server in servers if not server.startswith("polls/")]
    if left := await running.balancer.empty(waited_for, _IN_HAND):
        say(f"{name} still has {left} in hand, which are cut")


async def _move(running: Running, name: str, say: Notice) -> None:
    settings, number = running.settings, running.layout.processes[name].number
    others = [f"streams/edge{other}" for other in running.layout.numbers("edge") if other != number]
    held = await running.balancer.sessions([f"streams/edge{number}"])
    places = settings.edge_connections * len(others) - await running.balancer.sessions(others)
    say(f"{name} is drained; {held} streams move")
    if others and held > places:
        say(f"the other edges have room for {places} only: some phones will be told `unavailable`")
    # A pass takes what the pace makes of it, and phones that are let in meanwhile are none of this replica's.
    bound = CONTROL_CHANNELS / PACE + 2 * held / settings.new_streams + _STREAMS
    await move_streams(running.balancer, f"streams/edge{number}", settings.edge_http[number], settings, bound)


async def _taken(running: Running, name: str) -> None:
    """Back in the balancer, and given requests by it."""
    if servers := _servers(running, name):
        await running.balancer.set(servers, "ready")
        await running.wait("haproxy", partial(_up, running, servers))


async def _up(running: Running, servers: list[str]) -> None:
    if not await running.balancer.up(servers):
        raise OSError(f"{', '.join(servers)} not up yet")


async def _connected_since(running: Running, consumer: str, edge: str, when: float) -> None:
    """Raises OSError if this consume process has not connected to this edge since then."""
    sub = running.settings.edge_sub[running.layout.processes[edge].number]
    port = sub.rpartition(":")[2]
    since = await probes.figure(
        f"http://127.0.0.1:{running.layout.processes[consumer].admin}/metrics",
        "fleetcast_edge_connected_since_seconds",
        lambda labels: labels.get("replica", "").endswith(f":{port}"),
    )
    if since < when:
        raise OSError(f"{consumer} is not connected to {edge} yet")

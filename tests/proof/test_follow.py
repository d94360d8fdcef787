"""The follower reads each update once, in LIVE's order, through restarts of the server; and it ends when it is told to."""

import asyncio
from contextlib import suppress
from functools import partial

import msgspec

from fleetcast.jetstream import provision
from fleetcast.live import Change
from fleetcast.nats_live import NatsLive
from fleetcast.proof.follow import Follower
from fleetcast.settings import Settings
from fleetcast.state import State
from fleetcast.update import Update
from tests.conftest import Connect
from tests.servers import Server, until

AT = "2026-01-01T00:00:00.000Z"


async def commit(live: NatsLive, vehicle: str, revision: int, first: int, count: int) -> int:
    """So many versions from `first` on; the revision after them."""
    versions = range(first, first + count)
    updates = [Update(vehicle, version, version - 1, AT, {}) for version in versions]
    (revision,) = await live.commit([Change(State(vehicle, version=versions[-1]), revision, updates)])
    return revision


async def test_each_update_once_and_in_order_through_a_restart(
    nats: Server, connected: Connect, settings: Settings
) -> None:
    connection = await connected()
    await provision(connection, settings)
    live = NatsLive(connection, settings)
    seen: list[tuple[str, int]] = []
    follower = Follower(
        connection, lambda vehicle, data, _: seen.append((vehicle, msgspec.json.decode(data)["version"]))
    )
    following = asyncio.create_task(follower.run())
    a = await commit(live, "a", 0, 1, 600)  # more than it asks for at once
    await commit(live, "b", 0, 1, 3)
    await until(lambda: len(seen) == 603)
    await nats.kill()
    await nats.start()
    await until(lambda: connection.client.is_connected)
    await commit(live, "a", a, 601, 5)
    await until(lambda: len(seen) == 608)
    assert seen == [
        *(("a", n) for n in range(1, 601)),
        *(("b", n) for n in range(1, 4)),
        *(("a", n) for n in range(601, 606)),
    ]
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following


def _reached(follower: Follower, position: int) -> bool:
    return follower.position >= position


async def test_it_ends_at_once_wherever_it_is(nats: Server, connected: Connect, settings: Settings) -> None:
    connection = await connected()
    await provision(connection, settings)
    await commit(NatsLive(connection, settings), "a", 0, 1, 600)
    for moment in range(60):
        follower = Follower(connection, lambda *_: None)
        following = asyncio.create_task(follower.run())
        for _ in range(moment):
            await asyncio.sleep(0)
        await until(partial(_reached, follower, moment * 7))
        following.cancel()
        ended, _ = await asyncio.wait({following}, timeout=3)
        assert ended, f"it goes on, cancelled after {moment}"

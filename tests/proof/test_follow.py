"""The follower sees each update once, through everything that happens to nats-server."""

from __future__ import annotations

import asyncio

import msgspec

from fleetcast.jetstream import provision
from fleetcast.live import Change, Held
from fleetcast.nats_live import NatsLive
from fleetcast.proof.follow import Follower
from fleetcast.settings import Settings
from fleetcast.state import State
from fleetcast.update import Update
from tests.conftest import Connect
from tests.servers import until


async def test_that_nobody_answers_is_no_update(connected: Connect, settings: Settings) -> None:
    """nats-server's 503 names the subject of the question, as an update names its own: the follower ended at it."""
    connection = await connected()
    seen: list[int] = []
    asked = asyncio.Event()

    def committed(vehicle: str, update: bytes, stored: float) -> None:
        seen.append(msgspec.json.decode(update, type=Update).version)

    follower = Follower(connection, committed)
    read = follower._read

    async def told() -> int:
        try:
            return await read()
        finally:
            asked.set()

    follower._read = told  # type: ignore[method-assign]
    following = asyncio.create_task(follower.run())
    await asked.wait()  # there is no stream yet
    await provision(connection, settings)
    live, held = NatsLive(connection, settings), Held(State("car-1"), 0)
    update = Update("car-1", 1, 0, "2026-01-01T00:00:00.000Z", {})
    await live.commit([Change(State("car-1", 1, update.updated_at), held.revision, [update])])
    await until(lambda: seen or following.done())
    assert seen == [1]
    following.cancel()

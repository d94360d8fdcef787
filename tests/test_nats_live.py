"""What `nats_live` does beyond its contract: how it reads JetStream's answers."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from fleetcast.errors import FleetcastError, Unavailable
from fleetcast.jetstream import EPOCH, provision
from fleetcast.live import Change, Fenced, Held, Refused
from fleetcast.nats_live import NatsLive, _decision
from fleetcast.packet import Signal
from fleetcast.settings import Settings
from fleetcast.state import State
from fleetcast.subjects import LIVE
from fleetcast.update import Update
from tests.conftest import Connect
from tests.servers import until


def change(vehicle: str, version: int, revision: int) -> Change:
    state = State(vehicle, version, "2026-01-01T00:00:00.000Z")
    return Change(state, revision, [Update(vehicle, version, version - 1, state.updated_at, {})])


@pytest.mark.parametrize(
    ("code", "err_code", "decision"),
    [
        (400, 10071, Fenced),  # wrong last sequence
        (400, 10164, Fenced),  # another commit of the same subject is under way, on a replicated stream
        (503, 10077, Unavailable),  # the stream is full
        (500, 10047, Unavailable),  # no storage left
        (400, 10176, Unavailable),  # the batch is incomplete: some of it got lost, or too many are open
        (429, 0, Unavailable),
        (503, 10008, Unavailable),  # no leader
        (400, 10199, Refused),  # the batch is too large
        (400, 10054, Refused),  # a message is too large
        (400, 10097, Refused),  # its headers are
        (400, 10165, Refused),  # its time to live is none
        (503, 10023, Unavailable),  # insufficient resources
        (500, 10118, Unavailable),  # the stream is offline
        (500, 10194, Unavailable),  # and why
        (503, 10163, Unavailable),  # the fence cannot be held against what is under way
        (500, 10009, Unavailable),  # asked of one that does not lead
        (400, 10174, Unavailable),  # a stream that takes no batches
        (400, 10299, Unavailable),  # nobody knows
    ],
)
def test_what_a_refusal_means(code: int, err_code: int, decision: type[FleetcastError]) -> None:
    assert type(_decision({"code": code, "err_code": err_code, "description": "why"})) is decision


async def test_a_restore_renews_the_epoch_under_a_running_process(
    connected: Connect, settings: Settings
) -> None:
    connection = await connected()
    await provision(connection, settings)
    live = NatsLive(connection, settings)
    before = await live.epoch()
    config = (await connection.api(f"STREAM.INFO.{LIVE}"))["config"]
    await connection.api(f"STREAM.UPDATE.{LIVE}", config | {"metadata": {EPOCH: "5eed"}})
    assert before != await live.epoch() == "5eed"
    await connection.api(f"STREAM.UPDATE.{LIVE}", config | {"metadata": {}})
    with pytest.raises(Unavailable, match="being restored"):
        await live.epoch()


async def test_without_the_stream_everything_is_unavailable(connected: Connect, settings: Settings) -> None:
    live = NatsLive(await connected(), settings)
    with pytest.raises(Unavailable):
        await live.epoch()
    with pytest.raises(Unavailable):
        await live.latest("car-1")
    with pytest.raises(Unavailable):
        await live.latest("car-1", leader=True)
    with pytest.raises(Unavailable):
        await live.since("car-1", 0)
    with pytest.raises(Fenced):
        await live.commit([change("car-1", 1, 0)], "5eed")


async def test_many_commits_at_once_all_end(connected: Connect, settings: Settings) -> None:
    """JetStream holds 50 open batches of a stream; more are told to wait, and none is left half done."""
    connection = await connected()
    await provision(connection, settings)
    live = NatsLive(connection, settings)

    async def until_committed(vehicle: str) -> Held:
        async def committed() -> Held | None:
            one = change(vehicle, 1, 0)
            try:
                (revision,) = await live.commit([one])
            except Unavailable:
                return None
            return Held(one.state, revision)

        found = await until(committed)
        assert isinstance(found, Held)
        return found

    vehicles = [f"car-{number}" for number in range(200)]
    ends = await asyncio.gather(*(until_committed(vehicle) for vehicle in vehicles))
    for vehicle, end in zip(vehicles, ends, strict=True):
        assert await live.latest(vehicle, leader=True) == end


async def test_what_is_stored_is_small(connected: Connect, settings: Settings) -> None:
    connection = await connected()
    await provision(connection, settings)
    live = NatsLive(connection, settings)
    signals = {f"Vehicle.Signal{number}": Signal(number, "2026-01-01T00:00:00.000Z") for number in range(500)}
    await live.commit([Change(State("car-1", 1, signals=signals), 0, [])])
    assert (await live.latest("car-1")).state.signals == signals
    assert (await connection.api(f"STREAM.INFO.{LIVE}"))["state"]["bytes"] < 10_000


async def test_that_a_vehicle_never_sent_is_said_by_the_leader_alone(
    connected: Connect, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that lags, or is being filled again after its disk was lost, does not have it yet."""
    connection = await connected()
    await provision(connection, settings)
    live = NatsLive(connection, msgspec.structs.replace(settings, replicas=3))
    await live.commit([change("car-1", 1, 0)])

    async def nothing(subject: str) -> None:
        return None

    monkeypatch.setattr(live, "_direct", nothing)
    assert (await live.latest("car-1")).state.version == 1
    assert (await live.latest("car-2")).state.version == 0


async def test_a_copy_that_swallows_a_question_is_not_waited_for(
    connected: Connect, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs is asked like any other, until the others give it up: then the leader tells the window."""
    connection = await connected()
    connection.several = True
    await provision(connection, settings)
    live = NatsLive(connection, settings)
    await live.commit([change("car-1", 1, 0)])
    publish = connection.client.publish

    async def swallowed(subject: str, *rest: Any, **more: Any) -> None:
        if subject != f"$JS.API.DIRECT.GET.{LIVE}":
            await publish(subject, *rest, **more)

    monkeypatch.setattr(connection.client, "publish", swallowed)
    async with asyncio.timeout(4):
        _, updates = await live.since("car-1", 0)
    assert [update.version for update in updates] == [1]

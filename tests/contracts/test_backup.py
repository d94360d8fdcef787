"""Backup and restore on the real nats-server: what comes back, what is refused, and that nothing is served in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleetcast import nats_backup
from fleetcast.clock import SystemClock
from fleetcast.errors import FleetcastError, Recover, Unavailable, Unusable
from fleetcast.jetstream import Connection, provision, stream_info
from fleetcast.live import Change, Fenced, Held
from fleetcast.nats_backup import Manifest, backup, restore
from fleetcast.nats_live import NatsLive
from fleetcast.nats_queue import NatsQueue
from fleetcast.nats_registry import NatsRegistry
from fleetcast.nats_rejected import NatsRejected
from fleetcast.packet import JSON, Signal
from fleetcast.queue import Delivery
from fleetcast.registry import Vehicle
from fleetcast.settings import Settings
from fleetcast.state import State, stored_already
from fleetcast.subjects import LIVE, PACKETS, REGISTRY, REJECTED, RESTORING
from fleetcast.update import Update
from tests.conftest import Connect
from tests.servers import Server, until

AT = "2026-01-01T00:00:00.000Z"


@pytest.fixture
async def connection(connected: Connect, settings: Settings) -> Connection:
    """To a server with its streams made."""
    connection = await connected()
    await provision(connection, settings)
    return connection


def change(before: Held, incarnation: str = "", position: int = 0, text: str = "") -> Change:
    """One more packet of the vehicle."""
    version = before.state.version + 1
    signals = {"Test.Text": Signal(text or str(version), AT)}
    after = msgspec.structs.replace(
        before.state,
        version=version,
        updated_at=AT,
        signals=signals,
        incarnation=incarnation,
        position=position,
    )
    update = Update(before.state.vehicle, version, version - 1, AT, dict(signals))
    return Change(after, before.revision, [update])


async def grow(live: NatsLive, vehicle: str, count: int = 1) -> State:
    """So many commits of the vehicle, one by one."""
    held = await live.latest(vehicle, leader=True)
    for _ in range(count):
        one = change(held)
        (revision,) = await live.commit([one])
        held = Held(one.state, revision)
    return held.state


async def put(queue: NatsQueue, vehicle: str, number: int) -> int:
    stored = await queue.put(
        vehicle, f"{vehicle}/1/{number}", f"{vehicle} {number}".encode(), JSON, "identity"
    )
    assert not stored.duplicate
    return stored.position


@asynccontextmanager
async def member(connection: Connection, settings: Settings) -> AsyncIterator[NatsQueue]:
    """One that owns all partitions."""
    queue = NatsQueue(connection, msgspec.structs.replace(settings, member="a"), SystemClock())
    await queue.join()
    try:
        yield queue
    finally:
        await queue.leave()


async def pulled(queue: NatsQueue, count: int) -> list[Delivery]:
    """So many, in one unbroken run."""
    found: list[Delivery] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            try:
                found += await queue.pull(count - len(found))
            except Recover as why:
                found = [delivery for delivery in found if delivery.partition not in why.partitions]
                await until(lambda partitions=why.partitions: is_reset(queue, partitions))  # type: ignore[misc]
    return found


async def is_reset(queue: NatsQueue, partitions: Iterable[int]) -> bool:
    try:
        await queue.reset(partitions)
    except Unavailable:
        return False
    return True


def bodies(deliveries: Iterable[Delivery]) -> list[str]:
    return sorted(delivery.body.decode() for delivery in deliveries)


async def lose(connection: Connection, streams: Sequence[str] = (LIVE, PACKETS, REJECTED, REGISTRY)) -> None:
    for stream in streams:
        await connection.api(f"STREAM.DELETE.{stream}")


async def count(connection: Connection, stream: str) -> int:
    info = await stream_info(connection, stream)
    return -1 if info is None else int(info["state"]["messages"])


def left(folder: Path) -> list[str]:
    """What is there beside the server's own."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("nats"))


# A round trip


async def test_everything_comes_back_under_a_new_epoch(
    connection: Connection, settings: Settings, folder: Path
) -> None:
    live, queue, rejected = NatsLive(connection, settings), NatsQueue(connection, settings, SystemClock()), []
    states = [await grow(live, f"car-{number}", number) for number in range(1, 6)]
    for number in range(1, 31):
        await put(queue, f"car-{number % 5}", number)
    async with member(connection, settings) as owner:
        some = await pulled(owner, 10)
        await owner.reject(some[0], "no good")
        await owner.ack(some)
        await until(lambda: _holds(connection, PACKETS, 20))
        waiting = bodies(await pulled(owner, 20))
    rejected = [one async for one in NatsRejected(connection).all()]
    before = await live.epoch()

    made = await backup(connection, settings, folder / "b")
    assert (made.epoch, made.vehicles, made.partitions) == (before, 5, 8)
    assert [kept.messages for kept in made.streams] == [20, 20, 1, 0]
    await lose(connection)
    epoch = await restore(connection, settings, folder / "b")

    assert epoch == await live.epoch() != before
    for state in states:
        found, window = await live.since(state.vehicle, 0)
        assert found == state
        assert [update.version for update in window] == list(range(1, state.version + 1))
        assert (await grow(live, state.vehicle)).version == state.version + 1
    assert [one async for one in NatsRejected(connection).all()] == rejected
    async with member(connection, settings) as owner:
        assert bodies(await pulled(owner, 20)) == waiting
    await provision(connection, settings)
    assert await count(connection, RESTORING) == -1


async def test_an_update_keeps_what_is_left_of_its_time(
    connection: Connection, settings: Settings, folder: Path
) -> None:
    short = NatsLive(connection, msgspec.structs.replace(settings, window=4))
    await grow(short, "short", 2)
    await grow(NatsLive(connection, settings), "long", 2)
    await backup(connection, settings, folder / "b")
    await restore(connection, settings, folder / "b", replace=True)
    live = NatsLive(connection, settings)
    assert [len((await live.since(vehicle, 0))[1]) for vehicle in ("short", "long")] == [2, 2]
    await until(lambda: _window(live, "short", 0), bound=6)
    assert (await live.since("long", 0))[1][0].version == 1
    await restore(connection, settings, folder / "b", replace=True)
    state, window = await live.since("short", 0)
    assert (state.version, window) == (2, []), "the state stays, what expired since stays away"


async def test_an_empty_platform_comes_back_empty(
    connection: Connection, settings: Settings, folder: Path
) -> None:
    await backup(connection, settings, folder / "b")
    await restore(connection, settings, folder / "b")
    assert await NatsLive(connection, settings).vehicles() == []
    assert [await count(connection, stream) for stream in (PACKETS, LIVE, REJECTED)] == [0, 0, 0]


async def test_no_vehicle_is_missing_from_a_backup_that_is_made_while_they_commit(
    connection: Connection, connected: Connect, settings: Settings, folder: Path
) -> None:
    """A snapshot of JetStream's own lacks every state that was replaced before the snapshot reached it."""
    live, writer = NatsLive(connection, settings), NatsLive(await connected(), settings)
    held = {f"car-{number}": Held(State(f"car-{number}"), 0) for number in range(600)}
    chance = random.Random(1)

    async def commit(vehicles: Sequence[str]) -> None:
        changes = [change(held[vehicle], text=chance.randbytes(1000).hex()) for vehicle in vehicles]
        revisions = await writer.commit(changes)
        held.update({c.state.vehicle: Held(c.state, r) for c, r in zip(changes, revisions, strict=True)})

    async def storm() -> None:
        while True:
            await commit(chance.sample(sorted(held), 20))

    for first in range(0, 600, 100):
        await commit(sorted(held)[first : first + 100])
    first_commits = {vehicle: one.revision for vehicle, one in held.items()}
    storming = asyncio.create_task(storm())
    await until(lambda: sum(one.revision != first_commits[v] for v, one in held.items()) > 100, "it storms")
    before = {vehicle: one.state.version for vehicle, one in held.items()}
    made = await backup(connection, settings, folder / "b")
    assert sum(one.state.version for one in held.values()) > sum(before.values()), "they did commit meanwhile"
    storming.cancel()
    await asyncio.gather(storming, return_exceptions=True)
    assert made.vehicles == 600
    await restore(connection, settings, folder / "b", replace=True)
    for vehicle, version in before.items():
        found = (await live.latest(vehicle, leader=True)).state
        assert version <= found.version <= held[vehicle].state.version


# The registry


async def registered(connection: Connection) -> dict[str, bool]:
    return {one.vehicle: one.enabled async for one in NatsRegistry(connection).all()}


async def test_a_restored_platform_knows_its_vehicles(
    connection: Connection, settings: Settings, folder: Path
) -> None:
    registry = NatsRegistry(connection)
    cars = [Vehicle(f"car-{number}", ("north",), 5 + number, number % 3 > 0) for number in range(300)]
    await asyncio.gather(*(registry.put(car) for car in cars))
    await registry.remove("car-7")
    stamp = await registry.stamp()
    made = await backup(connection, settings, folder / "b")
    assert made.of(REGISTRY).messages == 299
    await lose(connection)
    await restore(connection, settings, folder / "b")
    found = {one.vehicle: one async for one in registry.all()}
    assert found == {car.vehicle: car for car in cars if car.vehicle != "car-7"}
    assert await registry.stamp() != stamp, "what a door remembers is of before"
    # What was changed after the backup is as it was: a door must not go on with what it knows.
    await registry.put(Vehicle("car-1", enabled=False))
    before = await registry.stamp()
    await restore(connection, settings, folder / "b", replace=True)
    assert await registry.get("car-1") == cars[1]
    assert await registry.stamp() not in (stamp, before)


@pytest.mark.parametrize("queue", ["keep", "empty"])
async def test_the_registry_stays_as_rejected_does_if_the_queue_is_not_restored(
    connection: Connection, settings: Settings, folder: Path, queue: nats_backup.Queue
) -> None:
    await NatsRegistry(connection).put(Vehicle("car-1"))
    await backup(connection, settings, folder / "b")
    await NatsRegistry(connection).put(Vehicle("car-1", enabled=False))
    await restore(connection, settings, folder / "b", queue=queue, replace=True)
    assert await registered(connection) == {"car-1": False}


async def test_a_backup_of_before_there_was_a_registry_is_restored_and_leaves_it(
    connection: Connection, settings: Settings, folder: Path
) -> None:
    await grow(NatsLive(connection, settings), "car-1", 3)
    await backup(connection, settings, folder / "b")
    _of_format_1(folder / "b")
    await NatsRegistry(connection).put(Vehicle("car-2"))
    await restore(connection, settings, folder / "b", replace=True)
    assert (await NatsLive(connection, settings).latest("car-1")).state.version == 3
    assert await registered(connection) == {"car-2": True}
    await lose(connection)
    await restore(connection, settings, folder / "b")
    assert await registered(connection) == {}
    await NatsRegistry(connection).put(Vehicle("car-3"))


def _of_format_1(folder: Path) -> None:
    manifest = msgspec.json.decode((folder / nats_backup.MANIFEST).read_bytes())
    manifest |= {
        "format": 1,
        "streams": [one for one in manifest["streams"] if one["stream"] != REGISTRY],
    }
    (folder / nats_backup.MANIFEST).write_bytes(msgspec.json.encode(manifest))
    (folder / "registry.snapshot").unlink()


async def test_a_registry_that_changes_meanwhile_is_read_again(
    connection: Connection, settings: Settings, folder: Path
) -> None:
    """A snapshot would lack an entry that was replaced before the snapshot reached it."""
    registry = NatsRegistry(connection)
    for number in range(5):
        await registry.put(Vehicle(f"car-{number}"))
    snapshot, times = nats_backup._snapshot, 0

    async def disturbed(link: Connection, stream: str, writer: Any) -> Any:
        nonlocal times
        made = await snapshot(link, stream, writer)
        if stream == REGISTRY and (times := times + 1) < 3:
            await registry.put(Vehicle(f"car-{times}", enabled=False))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nats_backup, "_snapshot", disturbed)
        await backup(connection, settings, folder / "b")
    assert times == 3
    await restore(connection, settings, folder / "b", replace=True)
    assert await registered(connection) == {f"car-{number}": number not in (1, 2) for number in range(5)}
    times = -100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nats_backup, "_snapshot", disturbed)
        with pytest.raises(Unavailable, match="registry changes all the time"):
            await backup(connection, settings, folder / "c")
    assert not (folder / "c").exists()


# The queue, in its incarnations


async def test_a_packet_in_the_queue_and_in_the_state_is_known_by_its_place(
    connection: Connection, settings: Settings, folder: Path
) -> None:
    """And a packet that is sent after the restore, to a place that a state knows from before, is not taken for applied."""
    live, queue = NatsLive(connection, settings), NatsQueue(connection, settings, SystemClock())
    for number in range(1, 4):
        await put(queue, "car-1", number)
    read = nats_backup._read_live

    async def later(*arguments: object) -> tuple[int, int]:
        """After the packets were read and before the live state is, two more come, and all are applied."""
        for number in (4, 5):
            await put(queue, "car-1", number)
        async with member(connection, settings) as owner:
            last = (await pulled(owner, 5))[-1]
        await live.commit([change(Held(State("car-1"), 0), last.incarnation, last.position)])
        return await read(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nats_backup, "_read_live", later)
        await backup(connection, settings, folder / "b")
    await restore(connection, settings, folder / "b", replace=True)
    state = (await live.latest("car-1")).state
    async with member(connection, settings) as owner:
        old = await pulled(owner, 3)
        assert all(stored_already(state, one.incarnation, one.position) for one in old)
        await owner.ack(old)
        assert await put(queue, "car-1", 6) == 4 < state.position
        (new,) = await pulled(owner, 1)
        assert not stored_already(state, new.incarnation, new.position)
    # A second time from the same backup: the third incarnation is not the second one.
    await restore(connection, settings, folder / "b", replace=True)
    await put(queue, "car-1", 7)
    async with member(connection, settings) as owner:
        again = await pulled(owner, 4)
    assert [one.incarnation for one in again[:3]] == [one.incarnation for one in old]
    assert again[3].incarnation not in {old[0].incarnation, new.incarnation}


async def test_packets_that_wait_are_kept_with_their_places(
    connection: Connection, settings: Settings, folder: Path
) -> None:
    queue, live = NatsQueue(connection, settings, SystemClock()), NatsLive(connection, settings)
    await grow(live, "car-1", 3)
    await backup(connection, settings, folder / "b")
    async with member(connection, settings) as owner:
        await put(queue, "car-1", 1)
        (before,) = await pulled(owner, 1)
        await lose(connection, [LIVE])
        await restore(connection, settings, folder / "b", queue="keep")
        (after,) = await pulled(owner, 1)
        assert (after.position, after.incarnation, after.body) == (
            before.position,
            before.incarnation,
            before.body,
        )
        await owner.ack([before])  # by the token of before the restore: it must count no more
        await owner._connection.client.flush()
        await owner.reset(range(settings.partitions))
        assert bodies(await pulled(owner, 1)) == ["car-1 1"]


async def test_a_queue_that_is_to_be_empty_is_made_anew(
    connection: Connection, settings: Settings, folder: Path
) -> None:
    queue, live = NatsQueue(connection, settings, SystemClock()), NatsLive(connection, settings)
    await grow(live, "car-1", 3)
    async with member(connection, settings) as owner:
        await put(queue, "car-1", 1)
        (before,) = await pulled(owner, 1)
        await backup(connection, settings, folder / "b")
        with pytest.raises(Unusable, match="--replace"):
            await restore(connection, settings, folder / "b", queue="empty")
        await restore(connection, settings, folder / "b", queue="empty", replace=True)
        assert await put(queue, "car-1", 2) == 1
        (after,) = await pulled(owner, 1)
        assert (after.body, after.position) == (b"car-1 2", before.position)
        assert after.incarnation != before.incarnation
    assert (await live.latest("car-1")).state.version == 3


# What is refused, and what is interrupted


async def test_streams_that_hold_data_are_not_replaced_unless_told(
    connection: Connection, settings: Settings, folder: Path
) -> None:
    live = NatsLive(connection, settings)
    await grow(live, "car-1")
    await backup(connection, settings, folder / "b")
    await grow(live, "car-1")
    with pytest.raises(Unusable, match="--replace"):
        await restore(connection, settings, folder / "b")
    assert (await live.latest("car-1")).state.version == 2
    await restore(connection, settings, folder / "b", replace=True)
    assert (await live.latest("car-1")).state.version == 1


async def _damaged(folder: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))


@pytest.mark.parametrize(
    "name", ["packets.snapshot", "live.messages", "rejected.snapshot", "registry.snapshot", "manifest.json"]
)
@pytest.mark.parametrize("how", ["short", "flipped", "gone"])
async def test_a_damaged_file_is_refused_and_nothing_is_touched(
    connection: Connection, settings: Settings, folder: Path, name: str, how: str
) -> None:
    live = NatsLive(connection, settings)
    await grow(live, "car-1")
    await backup(connection, settings, folder / "b")
    path = folder / "b" / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] if how == "short" else bytes([data[0] ^ 1]) + data[1:])
    if how == "gone":
        path.unlink()
    epoch = await live.epoch()
    with pytest.raises(Unusable):
        await restore(connection, settings, folder / "b", replace=True)
    assert (await live.epoch(), (await live.latest("car-1")).state.version) == (epoch, 1)


async def test_another_number_of_partitions_is_refused(
    connection: Connection, settings: Settings, folder: Path
) -> None:
    await backup(connection, settings, folder / "b")
    with pytest.raises(Unusable, match="partitions"):
        await restore(connection, msgspec.structs.replace(settings, partitions=9), folder / "b", replace=True)


async def test_a_backup_is_a_new_folder(connection: Connection, settings: Settings, folder: Path) -> None:
    (folder / "b").mkdir()
    with pytest.raises(Unusable, match="is there already"):
        await backup(connection, settings, folder / "b")
    with pytest.raises(Unusable, match=r"no manifest\.json"):
        await restore(connection, settings, folder / "b")


@pytest.mark.parametrize("end", ["cancelled", "server killed"])
async def test_a_backup_that_is_interrupted_leaves_nothing(
    connection: Connection, nats: Server, settings: Settings, folder: Path, end: str
) -> None:
    await grow(NatsLive(connection, settings), "car-1")
    reached = asyncio.Event()

    def progress(stream: str, size: int) -> None:
        if stream == LIVE:
            reached.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nats_backup, "_vehicles", _never)
        making = asyncio.create_task(backup(connection, settings, folder / "b", progress))
        await reached.wait()
        assert any(name.startswith("b.partial-") for name in left(folder))
        if end == "cancelled":
            making.cancel()
        else:
            await nats.kill()
        (ended,) = await asyncio.gather(making, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError if end == "cancelled" else FleetcastError)
    assert left(folder) == []


async def _never(connection: Connection) -> AsyncIterator[str]:
    for _ in range(1000):
        await connection.api("INFO")
        await asyncio.sleep(0.05)
    yield ""


async def test_a_restore_that_is_interrupted_serves_nothing_until_it_is_done_again(
    connection: Connection, connected: Connect, settings: Settings, folder: Path
) -> None:
    live = NatsLive(connection, settings)
    held = Held(await grow(live, "car-1", 3), (await live.latest("car-1")).revision)
    old = await live.epoch()
    await backup(connection, settings, folder / "b")

    def fail(stream: str, size: int) -> None:
        if stream == PACKETS:
            raise RuntimeError("the machine is gone")

    with pytest.raises(RuntimeError):
        await restore(connection, settings, folder / "b", replace=True, progress=fail)
    with pytest.raises(Unavailable, match="being restored"):
        await live.epoch()
    with pytest.raises(Fenced):
        await live.commit([change(held)], old)
    with pytest.raises(Unavailable, match="fleetcast restore"):
        await provision(await connected(), settings)
    await restore(connection, settings, folder / "b", replace=True)
    await provision(connection, settings)
    assert (await live.latest("car-1")).state == held.state
    with pytest.raises(Fenced):  # the state is as it was, and so might be its revision
        await live.commit([change(await live.latest("car-1"))], old)


def test_the_manifest_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="no manifest"):
        nats_backup.read(tmp_path)
    future = Manifest(99, "9", "9", AT, AT, "ab", 8, [], 0, [])
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode(future))
    with pytest.raises(Unusable, match="format 99"):
        nats_backup.read(tmp_path)


async def _holds(connection: Connection, stream: str, messages: int) -> bool:
    return await count(connection, stream) == messages


async def _window(live: NatsLive, vehicle: str, length: int) -> bool:
    return len((await live.since(vehicle, 0))[1]) == length

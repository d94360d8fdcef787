"""A backup put back under a running platform: every phone is told, and nothing that is sent afterwards is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fleetcast import sse
from fleetcast.jetstream import Connection, connect
from fleetcast.nats_backup import backup, restore
from fleetcast.subjects import LIVE, PACKETS
from tests.e2e.outside import Phone, Site, data, names, site
from tests.servers import short_folder, until

POLL = 5  # the least that the setting takes
BOUND = POLL + 15 + 10


@asynccontextmanager
async def connection(here: Site) -> AsyncIterator[Connection]:
    opened = await connect(here.settings, "test")
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
def kept() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder / "backup"


def epoch_of(event: sse.Event) -> str:
    return event.id.partition("-")[0].partition(".")[0]


def told(events: list[sse.Event], last: str, epoch: str, version: int) -> None:
    """A reset from this id, then the snapshot of the new epoch."""
    assert names(events) == ["reset", "snapshot"]
    at = events[1].id
    assert (epoch_of(events[1]), at.rpartition("-")[2]) == (epoch, str(version))
    word = {"vehicle": data(events[1])["vehicle"], "reason": "foreign", "from": last, "to": at}
    assert data(events[0]) == word
    assert data(events[1])["version"] == version


async def flows(here: Site, vehicle: str, seq: int, version: int) -> None:
    """A packet that is acknowledged is applied."""
    await here.send(vehicle, seq)
    await here.reaches(vehicle, version)


async def test_a_backup_put_back_under_a_running_platform_resets_every_phone_and_loses_nothing_more(
    kept: Path,
) -> None:
    async with site(next_poll=POLL, consumers=2) as here, connection(here) as nats:
        cars = [f"car-{number}" for number in range(16)]
        for car in cars:
            await flows(here, car, 1, 1)
        made = await backup(nats, here.settings, kept)
        assert made.vehicles == len(cars)
        # The first half goes on after the backup; of the others every process may hold a state that still fits.
        for car in cars[:8]:
            await flows(here, car, 2, 2)
        async with here.phone(cars[0]) as moves, here.phone(cars[1]) as stays, here.phone(cars[9]) as fits:
            for phone in (moves, stays, fits):
                await phone.snapshot()
            old, silent = moves.last_id, stays.last_id
            epoch = await restore(nats, here.settings, kept, replace=True)
            assert epoch != made.epoch == epoch_of(moves.events[0])
            # One that comes back.
            told(await here.read(cars[2], f"{made.epoch}-2"), f"{made.epoch}-2", epoch, 1)
            # One that stays, and whose car goes on; `fits` had the very version that was restored.
            for phone, seq in ((moves, 3), (fits, 2)):
                await flows(here, phone.vehicle, seq, 2)
                await heard(phone, epoch, 2)
            assert data(moves.events[1])["from"] == old
            # One that stays, and whose car is silent: by the poll.
            told(await stays.take(2, BOUND), silent, epoch, 1)
            # From then on all goes on, with no other reset.
            for phone, seq in ((moves, 4), (fits, 3)):
                await here.send(phone.vehicle, seq)
                assert await phone.versions(1) == [3]
            assert [names(phone.events).count("reset") for phone in (moves, stays, fits)] == [1, 1, 1]
        for car in cars[10:]:
            await flows(here, car, 2, 2)


async def heard(phone: Phone, epoch: str, version: int) -> None:
    """It is told, and shows this version then; by the snapshot, or by an update that follows it."""
    old = phone.last_id

    def there() -> bool:
        return phone.last_id.startswith(epoch) and phone.last_id.endswith(f"-{version}")

    await until(there, f"{phone.vehicle} is at version {version} of the new epoch", BOUND)
    events = phone.untaken
    assert names(events)[:2] == ["reset", "snapshot"], events
    assert data(events[0])["reason"] == "foreign"
    assert data(events[0])["from"].partition("-")[0] == old.partition("-")[0] or old.startswith(epoch)
    assert {epoch_of(event) for event in events[1:]} == {epoch}
    await phone.take(len(events))


async def test_a_consume_process_that_sleeps_through_a_restore_commits_and_acks_nothing_of_before(
    kept: Path,
) -> None:
    async with site(consumers=2) as here, connection(here) as nats:
        cars = [f"car-{number}" for number in range(16)]
        for car in cars:
            await flows(here, car, 1, 1)
        await backup(nats, here.settings, kept)
        asleep = [here.kill(f"consume-{number}", signal.SIGSTOP) for number in range(2)]
        try:
            for car in cars:  # delivered to those that sleep, if the server's sockets take it
                await here.send(car, 2)
            await restore(nats, here.settings, kept, queue="keep", replace=True)
        finally:
            for number in range(2):
                assert here.kill(f"consume-{number}", signal.SIGCONT) in asleep
        for car in cars:
            await here.reaches(car, 2)
            await flows(here, car, 3, 3)
        assert await nothing_waits(nats)


async def test_packets_of_a_packet_stream_that_was_made_anew_are_not_taken_for_applied(kept: Path) -> None:
    """Its positions begin at 1 again, and the states of the backup know greater ones."""
    async with site(consumers=2) as here, connection(here) as nats:
        cars = [f"car-{number}" for number in range(16)]
        for seq in range(1, 4):
            await asyncio.gather(*(flows(here, car, seq, seq) for car in cars))
        await backup(nats, here.settings, kept)
        await nats.api(f"STREAM.DELETE.{PACKETS}")
        await nats.api(f"STREAM.DELETE.{LIVE}")
        await restore(nats, here.settings, kept, queue="empty")
        for seq in range(4, 6):
            for car in cars:
                assert (await here.send(car, seq))["stored"] < 3 * len(cars)
            for car in cars:
                await here.reaches(car, seq)
        assert await nothing_waits(nats)


async def nothing_waits(nats: Connection) -> bool:
    async def empty() -> bool:
        return bool((await nats.api(f"STREAM.INFO.{PACKETS}"))["state"]["messages"] == 0)

    return bool(await until(empty, "the queue is empty"))

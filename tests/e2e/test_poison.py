"""A bad deploy of an enricher drains nothing: consumption stops, says so, hands over, and goes on after a good one."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fleetcast.errors import NotReady
from fleetcast.jetstream import Connection, connect
from fleetcast.nats_rejected import NatsRejected
from fleetcast.platform import Platform
from fleetcast.subjects import PACKETS, REJECTED
from tests.e2e.outside import Site, figure, site
from tests.servers import short_folder, until

SPOILED = """
def enrich(state, packet):
    raise ValueError("spoiled")
"""
CARS = [f"poison-{number}" for number in range(20)]
EACH = 15
PACKETS_WATCHED = 40
SETTINGS: dict[str, Any] = {
    "edges": 1,
    "origins": 1,
    "batch_packets": 8,
    "member_timeout": 1.0,
    "poison_packets": PACKETS_WATCHED,
    "poison_vehicles": 5,
}


class Spoiled(Platform):
    """A platform whose processes named in `spoiled` were deployed with a bad enricher."""

    spoiled: frozenset[str] = frozenset()

    def environment(self, name: str) -> Mapping[str, str]:
        return {"ENRICHERS": "spoiled"} if name in self.spoiled else {}


@asynccontextmanager
async def deployed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Site, Spoiled, Connection]]:
    with short_folder() as rules:
        (rules / "spoiled.py").write_text(SPOILED)
        monkeypatch.setenv("PYTHONPATH", f"{rules}:{os.environ.get('PYTHONPATH', '')}")
        async with site(kind=Spoiled, **SETTINGS) as here:
            assert isinstance(here.platform, Spoiled)
            connection = await connect(here.settings, "test")
            try:
                yield here, here.platform, connection
            finally:
                await connection.close()


async def held(connection: Connection, stream: str) -> int:
    return int((await connection.api(f"STREAM.INFO.{stream}"))["state"]["messages"])


async def drive(here: Site, first: int = 1) -> None:
    for seq in range(first, first + EACH):
        for car in CARS:
            await here.send(car, seq)


async def ready(here: Site, name: str) -> tuple[int, str]:
    answer = await here.client.get(f"http://127.0.0.1:{here.platform.admin_ports[name]}/ready")
    return answer.status_code, answer.text


async def replayed(connection: Connection) -> int:
    rejected, count = NatsRejected(connection), 0
    async for one in rejected.all():
        assert "spoiled" in one.reason
        await rejected.replay(one)
        count += 1
    return count


async def all_applied(here: Site, packets: int = EACH) -> None:
    for car in CARS:
        state = await here.reaches(car, packets)
        assert state["signals"]["Test.Number"]["value"] == packets


async def test_a_bad_process_leaves_the_work_to_the_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with deployed(monkeypatch) as (here, platform, connection):
        platform.spoiled = frozenset({"consume-0"})
        await platform.roll("consume-0", here.notes.append)
        pid = platform.supervisor.pid("consume-0")
        await drive(here)

        async def stopped() -> bool:
            return (await ready(here, "consume-0"))[0] == 503 and await held(connection, PACKETS) == 0

        await until(stopped, "the bad one stops, and the good one has taken everything")
        rejected = await held(connection, REJECTED)
        assert 0 < rejected < PACKETS_WATCHED
        _, why = await ready(here, "consume-0")
        assert "40 packets" in why
        assert "fleetcast rejected list" in why
        assert (await ready(here, "consume-1"))[0] == 200
        admin = f"http://127.0.0.1:{platform.admin_ports['consume-0']}"
        assert (await here.client.get(f"{admin}/live")).status_code == 200
        metrics = (await here.client.get(f"{admin}/metrics")).text
        assert (figure(metrics, "poisoned"), figure(metrics, "partitions")) == (1, 0)
        assert platform.supervisor.pid("consume-0") == pid, "started again it would go on rejecting"

        async def counted() -> bool:
            return await here.counts("applied") == EACH * len(CARS) - rejected

        await until(counted, "all others are applied")
        assert "consumption stops" in platform.supervisor.log("consume-0").read_text()

        platform.spoiled = frozenset()
        await platform.roll("consume-0", here.notes.append)
        assert (await ready(here, "consume-0"))[0] == 200
        assert await replayed(connection) == rejected
        await all_applied(here)


async def test_when_all_are_bad_the_queue_keeps_the_rest_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with deployed(monkeypatch) as (here, platform, connection):
        platform.spoiled = frozenset({"consume-0", "consume-1"})
        await platform.roll("consume", here.notes.append)
        await drive(here)

        async def stopped() -> bool:
            return all([(await ready(here, name))[0] == 503 for name in platform.spoiled])

        await until(stopped, "both stop")
        rejected, waiting = await held(connection, REJECTED), await held(connection, PACKETS)
        assert 0 < rejected < 2 * PACKETS_WATCHED
        assert rejected + waiting == EACH * len(CARS)
        await drive(here, EACH + 1)  # still acknowledged
        assert await held(connection, REJECTED) == rejected

        platform.spoiled = frozenset()
        await platform.roll("consume", here.notes.append)

        async def applied() -> bool:
            return await held(connection, PACKETS) == 0

        await until(applied, "the good ones take what waited")
        assert await held(connection, REJECTED) == rejected
        assert await replayed(connection) == rejected
        await all_applied(here, 2 * EACH)


async def test_a_roll_stops_at_the_first_process_that_rejects_nearly_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If packets come while it is watched; here they wait in the queue when it begins."""
    monkeypatch.setattr("fleetcast.rolling._WELL_AGAIN", 1.0)
    monkeypatch.setattr("fleetcast.platform._STARTING", 15.0)  # if it stops before it was ever ready
    async with deployed(monkeypatch) as (here, platform, connection):
        good = platform.supervisor.pid("consume-1")
        for name in ("consume-0", "consume-1"):
            here.kill(name, signal.SIGSTOP)
        await drive(here)
        here.kill("consume-0", signal.SIGCONT)
        platform.spoiled = frozenset({"consume-0", "consume-1"})
        with pytest.raises(NotReady, match=r"consume-0 is not ready .*consumption stops"):
            await platform.roll("consume", here.notes.append)
        assert platform.supervisor.pid("consume-1") == good
        here.kill("consume-1", signal.SIGCONT)

        async def applied() -> bool:
            return await held(connection, PACKETS) == 0

        await until(applied, "the old one takes what waited")
        assert 0 < await held(connection, REJECTED) < PACKETS_WATCHED
        platform.spoiled = frozenset()
        await platform.roll("consume", here.notes.append)
        await replayed(connection)
        await all_applied(here)

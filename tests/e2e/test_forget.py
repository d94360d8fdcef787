"""Vehicles that are disabled and forgotten while the platform runs, and a phone watches."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleetcast import nats_forget
from fleetcast.jetstream import Connection, connect
from fleetcast.known import HOLDS
from fleetcast.packet import JSON
from fleetcast.settings import dump
from fleetcast.subjects import ENCODING, FORM, put_subject
from tests.e2e.outside import Site, data, names, packet, site
from tests.servers import short_folder, until

POLL = 5


class Operator:
    """Runs `fleetcast` with the platform's own settings."""

    def __init__(self, here: Site, config: Path, nats: Connection) -> None:
        self.here = here
        self.nats = nats
        self._config = config

    async def run(self, *arguments: str, status: int = 0, stdin: bytes = b"") -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fleetcast", "--config", str(self._config), *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, errors = await process.communicate(stdin)
        assert process.returncode == status, (out.decode(), errors.decode())
        return (out if status != 2 else errors).decode()

    async def holds(self, vehicle: str) -> dict[str, int]:
        """What the streams hold of it."""
        return await nats_forget.held(self.nats, vehicle)


@pytest.fixture(scope="module")
async def operator() -> AsyncIterator[Operator]:
    async with site(edges=1, consumers=2, origins=2, next_poll=POLL) as here:
        with short_folder() as folder:
            config = folder / "fleetcast.toml"
            config.write_text(dump(here.settings))
            nats = await connect(here.settings, "test")
            try:
                yield Operator(here, config, nats)
            finally:
                await nats.close()


async def status_of(here: Site, vehicle: str, seq: int) -> int:
    return (await here.post(vehicle, packet(vehicle, seq))).status_code


async def test_a_disabled_vehicle_is_refused_within_seconds_and_comes_back_when_enabled(
    operator: Operator,
) -> None:
    here = operator.here
    assert "1 added" in await operator.run("vehicles", "add", "stolen", "--fleet", "north")
    await here.send("stolen", 1)
    assert f"within {HOLDS:.0f} s" in await operator.run("vehicles", "disable", "stolen")
    numbers = iter(range(2, 1_000_000))

    async def answered(status: int) -> bool:
        return await status_of(here, "stolen", next(numbers)) == status

    await until(lambda: answered(403), "it is refused", HOLDS)
    refused = await here.post("stolen", packet("stolen", 1))
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["detail"] == "stolen is disabled in the registry"
    version = (await here.latest("stolen"))["version"]
    assert await status_of(here, "other", 1) == 202, "nobody else is"
    assert "disabled; fleets: north" in await operator.run("vehicles", "show", "stolen")
    await operator.run("vehicles", "enable", "stolen")
    await until(lambda: answered(202), "it is welcome again", HOLDS)
    await until(lambda: _is_at_least(here, "stolen", version + 1))


async def _is_at_least(here: Site, vehicle: str, version: int) -> bool:
    return bool((await here.latest(vehicle))["version"] >= version)


async def reject(operator: Operator, vehicle: str) -> None:
    """A packet past ingest that nobody can decode."""
    before = (await operator.holds(vehicle))["rejected"]
    body = b'{"vehicle": ' + b"?" * (before + 1)
    await operator.nats.request(put_subject(vehicle), body, {FORM: JSON, ENCODING: "identity"})
    await until(lambda: _rejected(operator, vehicle, before + 1), "it is rejected")


async def _rejected(operator: Operator, vehicle: str, count: int) -> bool:
    return (await operator.holds(vehicle))["rejected"] == count


async def test_a_forgotten_vehicle_leaves_nothing_and_begins_anew_and_its_phones_are_reset(
    operator: Operator,
) -> None:
    here = operator.here
    await operator.run("vehicles", "add", "sold", "kept", "--every", "600")
    for seq in range(1, 6):
        for vehicle in ("sold", "kept"):
            await here.send(vehicle, seq, {"Test.Secret": seq, f"Test.Only{seq}": True})
    for vehicle in ("sold", "kept"):
        await here.reaches(vehicle, 5)
        await reject(operator, vehicle)
    async with here.phone("sold") as watches, here.phone("kept") as other:
        for phone in (watches, other):
            assert (await phone.snapshot())["version"] == 5
        old = watches.last_id
        tag = (await here.get("/v1/vehicles/sold")).headers["etag"]
        out = await operator.run("vehicles", "forget", "sold", "--yes")
        assert "sold: forgotten" in out
        assert "state     1 erased, 0 left" in out
        assert "window    5 erased, 0 left" in out
        assert "rejected  1 erased, 0 left" in out
        assert "registry  no entry" in out
        assert set((await operator.holds("sold")).values()) == {0}
        assert (await here.get("/v1/vehicles/sold")).status_code == 404
        listed = [one["vehicle"] for one in (await here.get("/v1/vehicles?limit=100")).json()["vehicles"]]
        assert "kept" in listed
        assert "sold" not in listed
        assert "has never sent" in await operator.run("explain", "sold")
        assert "not there" in await operator.run("vehicles", "show", "sold")

        # It sends again: as any vehicle that never did.
        await until(lambda: _sends(here, "sold", 6), "it is welcome again", HOLDS)
        first = await here.reaches("sold", 1)
        assert first["signals"].keys() == {"Test.Number"}, "nothing of before"
        reset, snapshot = await watches.take(2)
        assert names([reset, snapshot]) == ["reset", "snapshot"]
        word = {"vehicle": "sold", "reason": "foreign", "from": old, "to": snapshot.id}
        assert data(reset) == word
        if data(snapshot)["version"] == 0:  # told by the poll, before it sent again
            assert await watches.versions(1) == [1]
        else:
            assert data(snapshot) == first
        for seq in range(7, 11):
            await here.send("sold", seq)
        assert await watches.versions(4) == [2, 3, 4, 5]
        assert watches.view() == await here.latest("sold")

        # One that comes back with an id of before, when the new life is just as old: it is not taken for one of this life.
        for last in (old, old.replace("-5", "-3")):
            events = await here.read("sold", last)
            assert names(events) == ["reset", "snapshot"], events
            assert data(events[1])["version"] == 5
        again = await here.get("/v1/vehicles/sold", {"If-None-Match": tag})
        assert (again.status_code, again.json()["version"]) == (200, 5)

        # Nobody else noticed.
        await here.send("kept", 6)
        assert await other.versions(1) == [6]
        assert names(other.events) == ["snapshot", "update"]
    assert (await operator.holds("kept")) == {
        "queue": 0,
        "retained": 0,
        "state": 1,
        "window": 6,
        "rejected": 1,
    }
    assert "enabled" in await operator.run("vehicles", "show", "kept")


async def _sends(here: Site, vehicle: str, seq: int) -> bool:
    return await status_of(here, vehicle, seq) == 202


async def test_a_phone_that_stays_on_a_forgotten_silent_vehicle_is_told_by_the_poll(
    operator: Operator,
) -> None:
    here = operator.here
    await here.send("silent", 1)
    await here.reaches("silent", 1)
    async with here.phone("silent") as phone:
        assert (await phone.snapshot())["version"] == 1
        old = phone.last_id
        await operator.run("vehicles", "forget", "silent", "--yes")
        reset, snapshot = await phone.take(2, POLL + 15 + 10)
        assert names([reset, snapshot]) == ["reset", "snapshot"]
        assert data(reset)["from"] == old
        assert data(snapshot) == {"vehicle": "silent", "version": 0, "updated_at": "", "signals": {}}


async def test_a_car_that_sends_all_the_while_is_refused_then_erased_then_begins_anew(
    operator: Operator,
) -> None:
    """What is acknowledged after it was forgotten, and nothing else, is in the new life; once each, and in order."""
    here, stop = operator.here, asyncio.Event()
    statuses: list[int] = []

    async def drive() -> None:
        for seq in range(1, 1_000_000):
            if stop.is_set():
                return
            statuses.append(await status_of(here, "busy", seq))
            await asyncio.sleep(0.005)

    driving = asyncio.create_task(drive())
    try:
        await until(lambda: len(statuses) > 50)
        async with here.phone("busy") as phone:
            await phone.snapshot()
            forgetting = asyncio.create_task(operator.run("vehicles", "forget", "busy", "--yes"))
            await until(lambda: 403 in statuses, "it is refused")
            assert "busy: forgotten" in await forgetting
            await until(lambda: statuses[-1] == 202, "it is welcome again", HOLDS)
            due = len(statuses) + 50
            await until(lambda: len(statuses) > due)
            stop.set()
            await driving
            assert set(statuses) == {202, 403}
            anew = statuses[len(statuses) - statuses[::-1].index(403) :]
            shown = await here.reaches("busy", len(anew))
            await until(lambda: phone.view() == shown, "the phone shows the new life", POLL + 15 + 10)
        assert names(phone.events).count("reset") == 1
    finally:
        stop.set()
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)

"""Calm streams as an app sees them through the real front door: one update a bucket, what is urgent at once, and kills."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import pairwise

import httpx2
import pytest

from tests.e2e.outside import Phone, Site, data, site
from tests.servers import until

SPEED = "Vehicle.Speed"
LOW = "Fleetcast.Tyres.Low"
EVERY = 5


@pytest.fixture(scope="module")
async def here() -> AsyncIterator[Site]:
    # What is lost is to be healed by what this is about, not by the poll of the next link.
    async with site(enrichers=(), next_poll=60) as running:
        yield running


async def begin_of_a_bucket() -> None:
    """Or soon after: its updates are not yet those that the next one ends with. Not of one with which a minute's ends, too."""
    into = time.time() % EVERY
    await asyncio.sleep(max(0.5 - into, 0) if into < EVERY / 2 else EVERY + 0.5 - into)
    if time.time() % 60 > 60 - EVERY:
        await asyncio.sleep(EVERY)


def links(phone: Phone) -> list[tuple[int, int]]:
    return [(data(one)["prev"], data(one)["version"]) for one in phone.events if one.event == "update"]


async def calm_poll(here: Site, vehicle: str, last: str) -> httpx2.Response:
    return await here.get(f"/v1/vehicles/{vehicle}/events?every=5s&wait=30&last_event_id={last}")


async def test_a_calm_phone_gets_one_update_a_bucket_and_at_once_what_is_urgent(here: Site) -> None:
    await here.send("car", 1, {SPEED: 1, LOW: []})
    await here.reaches("car", 1)
    async with (
        here.phone("car") as full,
        here.phone("car", every="5s") as calm,
        here.phone("car", every="60s") as calmest,
    ):
        for phone in (full, calm, calmest):
            await phone.snapshot()
        await begin_of_a_bucket()
        bucket = time.time() // EVERY
        polling = asyncio.create_task(calm_poll(here, "car", calm.last_id))
        for number in range(2, 8):
            await here.send("car", number, {SPEED: number, LOW: []})
        await until(lambda: len(links(full)) == 6)
        assert links(calm) == []
        await here.send("car", 8, {SPEED: 8, LOW: ["Row1.Left"]})
        await until(lambda: links(calm) == links(calmest) == [(1, 8)])
        for number in range(9, 12):
            await here.send("car", number, {SPEED: number, LOW: ["Row1.Left"]})
        await until(lambda: len(links(full)) == 10)
        assert time.time() // EVERY == bucket, "this machine is too slow for this test"
        assert links(calm) == links(calmest) == [(1, 8)]
        await until(lambda: links(calm) == [(1, 8), (8, 11)])
        assert time.time() // EVERY == bucket + 1
        assert calm.last_id == full.last_id
        assert calm.view() == full.view() == await here.latest("car")
        assert links(calmest) == [(1, 8)]
        # A long-poll is answered at once by what is urgent, and then when the bucket ended.
        first = (await polling).json()
        assert [(one["data"]["prev"], one["data"]["version"]) for one in first["events"]] == [(1, 8)]
        second = (await calm_poll(here, "car", first["last_event_id"])).json()
        assert [(one["data"]["prev"], one["data"]["version"]) for one in second["events"]] == [(8, 11)]
        assert second["last_event_id"] == full.last_id
    # With the id of the calmest: whatever class it comes back to, or none.
    async with here.phone("car", calmest.last_id, every="5s") as back:
        await until(lambda: links(back) == [(8, 11)])
    async with here.phone("car", calmest.last_id) as back:
        await until(lambda: links(back) == [(8, 9), (9, 10), (10, 11)])


async def test_a_kill_in_the_middle_of_a_bucket_costs_nothing(here: Site) -> None:
    """Who had the vehicle dies with what waited; whoever has it next does not know that anything does."""
    cars = [f"kill-{number}" for number in range(4)]
    for car in cars:
        await here.send(car, 1)
        await here.reaches(car, 1)
    phones = []
    async with (
        here.phone(cars[0], every="5s") as one,
        here.phone(cars[1], every="5s") as two,
        here.phone(cars[2], every="5s") as three,
        here.phone(cars[3], every="5s") as four,
    ):
        phones = [one, two, three, four]
        for phone in phones:
            await phone.snapshot()
        await begin_of_a_bucket()
        for car in cars:
            await here.send(car, 2)
            await here.send(car, 3)
            await here.reaches(car, 3)
        killed = {name: here.kill(name) for name in ("consume-0", "consume-1")}
        began = time.monotonic()
        assert [links(phone) for phone in phones] == [[]] * 4
        await until(lambda: all(phone.view()["version"] == 3 for phone in phones))
        assert time.monotonic() - began < 2 * EVERY + here.settings.member_timeout + 5
        for name, pid in killed.items():
            await here.started_again(name, pid)
        for car in cars:
            await here.send(car, 4)
        await until(lambda: all(phone.view()["version"] == 4 for phone in phones))
        for phone, car in zip(phones, cars, strict=True):
            assert all(before[1] == after[0] for before, after in pairwise(links(phone)))
            assert links(phone) == [(1, 3), (3, 4)]
            assert phone.view() == await here.latest(car)

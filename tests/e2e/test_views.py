"""Views as an app sees them through the real front door: what comes, what does not, kills, and deploys that change them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.outside import Phone, Site, data, names, site
from tests.servers import until

SPEED = "Vehicle.Speed"
TYRE = "Vehicle.Chassis.Axle.Row1.Wheel.Left.Tire.Pressure"
LATITUDE = "Vehicle.CurrentLocation.Latitude"


@pytest.fixture(scope="module")
async def here() -> AsyncIterator[Site]:
    async with site(enrichers=(), next_poll=5) as running:
        yield running


async def of(here: Site, vehicle: str, view: str) -> dict[str, Any]:
    answer = await here.get(f"/v1/vehicles/{vehicle}?view={view}")
    assert answer.status_code == 200
    return dict(answer.json())


def chain(phone: Phone) -> list[tuple[int, int]]:
    return [(data(one)["prev"], data(one)["version"]) for one in phone.events if one.event == "update"]


async def ends_or_has(phone: Phone, updates: int) -> None:
    await until(lambda: phone.ended or len(chain(phone)) >= updates, bound=60)


async def test_each_view_gets_its_signals_once_in_order_and_nothing_else(here: Site) -> None:
    await here.send("car", 1, {SPEED: 1, TYRE: 230, LATITUDE: 1.5})
    await here.reaches("car", 1)
    async with (
        here.phone("car") as everything,
        here.phone("car", view="summary") as summary,
        here.phone("car", view="tyres") as tyres,
        here.phone("car", view="location") as location,
        here.phone("car", view="security") as security,
    ):
        phones = {
            "all": everything,
            "summary": summary,
            "tyres": tyres,
            "location": location,
            "security": security,
        }
        for phone in phones.values():
            await phone.snapshot()
        for number in range(2, 32):
            values: dict[str, Any] = {SPEED: number}
            if number % 5 == 0:
                values[TYRE] = number
            if number % 7 == 0:
                values = {LATITUDE: number / 7}
            await here.send("car", number, values)
        await everything.take(30)
        changed = {
            "all": list(range(2, 32)),
            "summary": [n for n in range(2, 32) if n % 7],
            "tyres": [n for n in range(2, 32) if n % 5 == 0 and n % 7],
            "location": [n for n in range(2, 32) if n % 7 == 0],
            "security": [],
        }
        for name, phone in phones.items():
            first = 0 if name == "security" else 1
            await phone.take(len(changed[name]) - (30 if name == "all" else 0))
            assert chain(phone) == list(pairwise([first, *changed[name]]))
            assert phone.view() == await of(here, "car", name)
        assert set(everything.view()["signals"]) == {SPEED, TYRE, LATITUDE}
        assert set(summary.view()["signals"]) == {SPEED}
        assert set(tyres.view()["signals"]) == {TYRE}
        assert set(location.view()["signals"]) == {LATITUDE}
        assert security.view() == {"vehicle": "car", "version": 0, "updated_at": "", "signals": {}}
        assert b"CurrentLocation" not in summary.raw + tyres.raw + security.raw


async def test_a_phone_that_changes_its_view_is_told_and_one_that_keeps_it_is_not(here: Site) -> None:
    await here.send("moves", 1, {SPEED: 1, TYRE: 230})
    await here.reaches("moves", 1)
    async with here.phone("moves", view="tyres") as phone:
        await phone.snapshot()
        last = phone.last_id
    for number in range(2, 5):
        await here.send("moves", number, {SPEED: number})
    await here.send("moves", 5, {SPEED: 5, TYRE: 180})
    await here.reaches("moves", 5)
    async with here.phone("moves", last, view="tyres") as phone:
        (update,) = await phone.take()
        assert (update.event, data(update)["prev"], data(update)["signals"].keys()) == ("update", 1, {TYRE})
    for view, expected in (("summary", {SPEED}), ("all", {SPEED, TYRE})):
        async with here.phone("moves", last, view=view) as phone:
            reset, snapshot = await phone.take(2)
            assert (reset.event, data(reset)["reason"], snapshot.event) == ("reset", "foreign", "snapshot")
            assert set(data(snapshot)["signals"]) == expected


async def test_a_view_that_is_none_is_refused_before_the_stream(here: Site) -> None:
    async with here.phone("car", view="nonsense") as phone:
        await until(lambda: phone.ended)
        assert (phone.status, phone.headers["content-type"]) == (400, "application/problem+json")
        assert b"all, summary, tyres, security, location" in phone.raw


async def test_a_views_chain_goes_on_through_kills_of_everything(here: Site) -> None:
    async def drive() -> None:
        for number in range(1, 121):
            await here.send("killed", number, {SPEED: number} | ({TYRE: number} if number % 4 == 0 else {}))
            await asyncio.sleep(0.02)

    async def kill() -> None:
        for name in ("consume-0", "origin-0", "consume-1", "origin-1", "edge-0", "edge-1"):
            await here.started_again(name, here.kill(name))

    due = [(max(0, n - 4), n) for n in range(4, 121, 4)]
    events: list[tuple[int, int]] = []
    last, begun = "", False
    work = asyncio.gather(drive(), kill())
    while not work.done() or len(events) < len(due):
        async with here.phone("killed", last, view="tyres") as phone:
            await ends_or_has(phone, len(due) - len(events))
            if phone.events:
                assert names(phone.events).count("snapshot") == (not begun)
                assert "reset" not in names(phone.events)
                begun = True
            events += chain(phone)
            last = phone.last_id or last
            if not phone.ended and not work.done():
                await work
    await work
    assert events == due


async def test_a_deploy_that_changes_a_view_resets_its_streams_and_one_that_takes_it_away_ends_them() -> None:
    """The settings change, and consume and origin are started again, under the phones."""
    async with site(enrichers=(), next_poll=5, views=("some: A B", "other: A", "gone: A")) as here:
        await here.send("car", 1, {"A": 1, "B": 1, "C": 1})
        await here.reaches("car", 1)
        async with (
            here.phone("car", view="some") as some,
            here.phone("car", view="other") as other,
            here.phone("car", view="gone") as gone,
        ):
            for phone in (some, other, gone):
                assert (await phone.snapshot())["version"] == 1
            file = Path(here.settings.data) / "run" / "fleetcast.toml"
            text = file.read_text()
            assert text.count('"some: A B","other: A","gone: A"') == 1
            file.write_text(text.replace('"some: A B","other: A","gone: A"', '"some: A C","other: A"'))
            for name in ("consume-0", "consume-1", "origin-0", "origin-1"):
                await here.started_again(name, here.kill(name))
            await here.send("car", 2, {"A": 2, "B": 2, "C": 2})
            reset, snapshot = await some.take(2)
            assert (reset.event, data(reset)["reason"], snapshot.event) == ("reset", "foreign", "snapshot")
            assert set(data(snapshot)["signals"]) == {"A", "C"}
            await here.send("car", 3, {"A": 3, "B": 3})
            await until(lambda: data(some.events[-1])["version"] == 3)
            assert "B" not in some.view()["signals"]
            # What means the same as before goes on as if nothing had been.
            await until(lambda: data(other.events[-1])["version"] == 3)
            assert names(other.events) == ["snapshot", "update", "update"]
            await until(lambda: gone.ended, "the stream of what is no view any more ends", 40)
            assert names(gone.events) == ["snapshot", "unavailable"]
            async with here.phone("car", gone.last_id, view="gone") as again:
                assert again.status == 400

"""examples/smart-home: another kind of thing by settings alone, from its packet to the table in a browser."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from playwright.async_api import async_playwright, expect

from fleetcast import enrich
from fleetcast.packet import Packet, Signal, Value
from fleetcast.settings import load
from fleetcast.state import State, apply
from tests.e2e.outside import SENT_AT, Site, data, names, packet, site

HOME = Path(__file__).parents[2] / "examples" / "smart-home"
CHROMIUM = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
KITCHEN = {"Room.Temperature": 21.5, "Room.Window.IsOpen": False, "Room.Heating.Valve": 40}


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """The example's modules, here and in the platform's processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HOME)
        patch.setenv("PYTHONPATH", str(HOME))
        yield


@pytest.fixture(scope="module")
async def home(importable: None) -> AsyncIterator[Site]:
    profile = tomllib.loads((HOME / "settings.toml").read_text())
    del profile["data"]  # here a temporary folder
    async with site(**profile, edges=1, consumers=1, origins=1) as running:
        yield running


def test_the_settings_are_read() -> None:
    settings = load(HOME / "settings.toml", {})
    assert (settings.noun, settings.enrichers) == ("devices", ("comfort",))


@pytest.fixture
def judged() -> Callable[..., State]:
    """A state after a packet with these signals."""
    enrichers = enrich.load(["comfort"])

    def after(state: State, **signals: Value) -> State:
        seq = state.seq + 1
        values = {f"Room.{name.replace('_', '.')}": Signal(value, SENT_AT) for name, value in signals.items()}
        return apply(state, Packet("room", 1, seq, SENT_AT, values), "s", seq, SENT_AT, enrichers)

    return after


def test_too_warm_is_judged_with_hysteresis(judged: Callable[..., State]) -> None:
    state, seen = State("room"), []
    for temperature in (24.5, 25.1, 24.5, 23.9, 24.5):
        state = judged(state, Temperature=temperature, Heating_Valve=0)
        seen.append((state.value("Comfort.IsTooWarm"), state.value("Comfort.Advice")))
    well, warm = (False, "all is well"), (True, "open the window")
    assert seen == [well, warm, warm, well, well]


def test_a_room_that_tells_nothing_of_comfort_is_let_be(judged: Callable[..., State]) -> None:
    assert set(judged(State("room"), Sensor_Battery=50).signals) == {"Room.Sensor.Battery"}


async def test_a_packet_reaches_who_watches_the_device(home: Site) -> None:
    async with home.phone("kitchen") as phone:
        (snapshot,) = await phone.take()
        assert (snapshot.event, data(snapshot)["version"]) == ("snapshot", 0)
        await home.send("kitchen", 1, KITCHEN)
        await home.send("kitchen", 2, {"Room.Window.IsOpen": True})
        updates = await phone.take(2)
        assert names(updates) == ["update", "update"]
        first, second = ({path: s["value"] for path, s in data(u)["signals"].items()} for u in updates)
        judged = {"Comfort.IsTooWarm": False, "Comfort.IsHeatingWithWindowOpen": False}
        assert first == {**KITCHEN, **judged, "Comfort.Advice": "all is well"}
        assert second == {
            "Room.Window.IsOpen": True,
            "Comfort.IsHeatingWithWindowOpen": True,
            "Comfort.Advice": "close the window, or turn the heating off",
        }
    assert (await home.latest("kitchen"))["vehicle"] == "kitchen"  # the field's name is the protocol's


async def test_it_knows_no_vehicles(home: Site) -> None:
    for path in ("/v1/vehicles", "/v1/vehicles/kitchen", "/v1/vehicles/kitchen/events"):
        assert (await home.get(path)).status_code == 404
    url = f"{home.platform.ingest_url}/v1/vehicles/kitchen/packets"
    kind = {"Content-Type": "application/json"}
    assert (await home.client.post(url, content=packet("kitchen", 3), headers=kind)).status_code == 404


async def run(*command: str) -> str:
    """What it printed; it must end well."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command), stdout=asyncio.subprocess.PIPE, env=dict(os.environ)
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def test_simulated_rooms_and_the_phones_that_check_them(home: Site) -> None:
    simulator = (str(HOME / "simulate.py"), "--ingest", home.platform.ingest_url, "--devices", "2")
    phones = ("-m", "fleetcast", "simulate", "phones", "--front", home.url, "--noun", "devices")
    crowd = ("--prefix", "room-", "--cars", "2", "--phones", "4", "--seconds", "4")
    sent, checked = await asyncio.gather(
        run(*simulator, "--every", "0.2", "--seconds", "3"), run(*phones, *crowd)
    )
    assert "packets of 2 devices acknowledged" in sent
    assert "4 phones are level with the latest state, 0 are not" in checked
    listed = (await home.get("/v1/devices?search=room-&signals=Comfort.Advice")).json()["vehicles"]
    assert [one["vehicle"] for one in listed] == ["room-00000", "room-00001"]
    assert all(one["signals"]["Comfort.Advice"]["value"] for one in listed)
    known = {entry.path for entry in sys.modules["catalogue"].CATALOGUE}
    assert set((await home.latest("room-00000"))["signals"]) == known


async def test_it_conforms_as_devices(home: Site) -> None:
    where = (home.url, "--noun", "devices", "--vehicle", "conform", "--send", home.platform.ingest_url)
    groups = (
        "state",
        "fleet",
        "stream.chain",
        "stream.patch",
        "resume.header",
        "reset.garbage",
        "errors.other",
    )
    only = (word for group in groups for word in ("--only", group))
    out = await run("-m", "fleetcast", "conform", *where, *only)
    assert "stream.chain" in out
    assert out.splitlines()[-1].endswith(" 0 failed, 0 not tried: conforms, as far as it was tried")


async def test_the_page_lists_devices_and_shows_one_as_a_table(home: Site) -> None:
    path = shutil.which("chromium")
    assert path is not None, "chromium is missing; `make setup-test` installs it"
    await home.send("study", 1, KITCHEN)
    await home.reaches("study", 1)
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=CHROMIUM)
        page = await browser.new_page()
        page.on("console", lambda told: complaints.append(told.text) if told.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(home.url)
        await page.get_by_label("Search by device id").fill("study")
        row = page.locator("[data-rows] a")
        await expect(row).to_have_count(1)
        await page.reload()
        await expect(page.locator("[data-found]")).to_have_text("1 device listed")
        await expect(row.locator(".energy")).to_be_hidden()  # a car's columns say nothing of a room
        await row.click()
        await expect(page.get_by_role("link", name="All devices")).to_be_visible()
        await expect(page.locator("[data-panels]")).to_be_hidden()
        table = page.locator("[data-signals-rows]")
        await expect(table).to_contain_text("Room.Temperature21.5")
        await expect(table).to_contain_text("Comfort.IsHeatingWithWindowOpenfalse")
        await home.send("study", 2, {"Room.Window.IsOpen": True})
        await expect(table).to_contain_text("Comfort.IsHeatingWithWindowOpentrue")
        await browser.close()
    assert complaints == []

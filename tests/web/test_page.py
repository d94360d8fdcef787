"""The page in a real Chromium, through the real front door: the fleet, a vehicle, and what becomes of them when things fail.

Every test ends with a look at the browser's console: no error stands there, but for the requests that a test made fail.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import pytest
from playwright.async_api import BrowserContext, ConsoleMessage, Page, Route, async_playwright, expect

from tests.e2e.outside import Signals, Site, names, packet, site
from tests.servers import Proxy, free_ports, short_folder, until

CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")

SPEED = "Vehicle.Speed"
TYRE = "Vehicle.Chassis.Axle.Row1.Wheel.Left.Tire.Pressure"
DRIVER = "Vehicle.Cabin.Seat.Row1.DriverSide"
CAR: Signals = {
    SPEED: 48.2,
    TYRE: 236,
    "Vehicle.LowVoltageSystemState": "ON",
    "Vehicle.TraveledDistance": 12_345_678,
    "Vehicle.Powertrain.TractionBattery.StateOfCharge.Displayed": 64.2,
    "Vehicle.Powertrain.Transmission.CurrentGear": 1,
    "Vehicle.Exterior.AirTemperature": -3.2,
    "Vehicle.Cabin.Door.Row1.DriverSide.IsOpen": False,
    f"{DRIVER}.OccupancyStatus": "OCCUPIED",
    f"{DRIVER}.IsBelted": True,
}

# Notes every state of the connection that the page shows.
WATCH_STATES = """
window.states = [];
new MutationObserver(() => {
  const state = document.querySelector("main")?.dataset.state;
  if (state && state !== states.at(-1)) states.push(state);
}).observe(document, { subtree: true, attributeFilter: ["data-state"] });
"""

# What the Copy button copies.
COPIED = """() => new Promise(resolve => {
  navigator.clipboard.writeText = async text => resolve(text);
  document.querySelector("[data-log-copy]").click();
})"""

# As if its tab were left, or looked at again.
VISIBLE = """state => {
  Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""

# What the keyboard is on, in words, and whether it can be seen to be.
FOCUSED = """() => {
  const element = document.activeElement, style = getComputedStyle(element);
  return [element.tagName.toLowerCase(), (element.id || element.textContent || element.ariaLabel || "").trim().slice(0, 60),
          style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1];
}"""

# What stands to be read to somebody who sees nothing, and is missing.
UNNAMED = """() => {
  const named = element => element.ariaLabel || element.textContent.trim() || element.labels?.length
    || document.getElementById(element.getAttribute("aria-labelledby"));
  const missing = [...document.querySelectorAll("a, button, input, summary, section, nav, [role=region], [tabindex='0']")]
    .filter(element => !named(element)).map(element => element.outerHTML.slice(0, 100));
  const heads = [...document.querySelectorAll("h1")].length;
  return [...missing, ...(heads === 1 ? [] : [`${heads} first headings`]),
          ...(document.documentElement.lang ? [] : ["no language"]), ...(document.title ? [] : ["no title"])];
}"""


@pytest.fixture(scope="module")
async def here() -> AsyncIterator[Site]:
    async with site() as running:
        yield running


@pytest.fixture(scope="module")
async def hurried() -> AsyncIterator[Site]:
    """One that forgets its updates after a second."""
    async with site(window=1.0, edges=1, consumers=1, origins=1) as running:
        yield running


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[BrowserContext]:
    """Opens pages in the system's Chromium."""
    path = shutil.which("chromium")
    assert path is not None, "chromium is missing; `make setup-test` installs it"
    with short_folder() as profile:
        async with async_playwright() as playwright:
            context = await playwright.chromium.launch_persistent_context(
                profile, executable_path=path, headless=True, args=CHROMIUM
            )
            context.set_default_timeout(30_000)
            expect.set_options(timeout=30_000)
            yield context
            await context.close()


@asynccontextmanager
async def showing(
    browser: BrowserContext,
    address: str,
    size: Any = DESK,
    failures: tuple[str, ...] = (),
    *,
    clock: bool = False,
) -> AsyncIterator[Page]:
    """A page at this address. `failures`: what may stand in the console, since the test itself brings it about.

    `clock`: its time can be put forward.
    """
    page = await browser.new_page()
    complaints: list[str] = []

    def told(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(known in message.text for known in failures):
            complaints.append(message.text)

    page.on("console", told)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        await page.set_viewport_size(size)
        await page.emulate_media(reduced_motion="reduce")
        await page.add_init_script(WATCH_STATES)
        if clock:
            await page.clock.install()
        await page.goto(address)
        yield page
    finally:
        await page.close()  # a browser has six connections to a server, and a stream takes one
    assert complaints == []


NETWORK = ("Failed to load resource", "net::ERR_")


def vehicle_page(url: str, vehicle: str) -> str:
    return f"{url}/?vehicle={vehicle}"


async def send(here: Site, vehicle: str, seq: int, signals: Signals, sent_at: str = "") -> None:
    """A packet of now, since the page shows ages."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    answer = await here.post(vehicle, packet(vehicle, seq, signals, sent_at=sent_at or now))
    assert answer.status_code == 202, answer.text


async def speed_is(page: Page, words: str) -> None:
    await expect(page.locator(f"[data-signal='{SPEED}']")).to_have_text(words)


async def connection_is(page: Page, words: str) -> None:
    await expect(page.locator("[data-connection-word]")).to_have_text(words)


async def events(page: Page) -> list[dict[str, Any]]:
    """All that the developers' pane holds, as its Copy button gives it."""
    copied: str = await page.evaluate(COPIED)
    return [json.loads(line) for line in copied.splitlines()]


async def only_stream(here: Site) -> int:
    """Which edge replica holds the one stream that is open."""

    async def where() -> list[int]:
        sessions = await here.sessions()
        return sessions if sum(sessions) == 1 else []

    found: list[int] = await until(where, "one stream is open")
    return found.index(1)


# A vehicle


async def test_what_a_packet_changes_is_seen(browser: BrowserContext, here: Site) -> None:
    await send(here, "seen", 1, CAR)
    await here.reaches("seen", 1)
    async with showing(browser, vehicle_page(here.url, "seen")) as page:
        await connection_is(page, "Live")
        await expect(page).to_have_title("seen · Fleetcast")
        await expect(page.get_by_role("heading", level=1)).to_have_text("seen")
        await speed_is(page, "48")
        for words in ("64\u00a0%", "12,346\u00a0km", "−3.2\u00a0°C"):
            await expect(page.locator(".facts")).to_contain_text(words)
        await expect(page.locator("[data-tyres]")).to_contain_text("236\u00a0kPa")
        await expect(page.locator("[data-motion]")).to_contain_text("Moving")
        await expect(page.locator("[data-alerts]")).to_have_text("No warnings")
        await expect(page.locator("[data-seat='left1']")).to_contain_class("occupied belted")
        changes = {SPEED: 71.0, TYRE: 172, f"{DRIVER}.IsBelted": False}
        await send(here, "seen", 2, {**changes, "Vehicle.Cabin.Door.Row1.DriverSide.IsOpen": True})
        await speed_is(page, "71")
        await expect(page.locator("[data-tyres]")).to_contain_text("172\u00a0kPa, low")
        for words in ("Tyre low: front left", "Open while moving: driver", "Not belted: driver"):
            await expect(page.locator("[data-alerts]")).to_contain_text(words)
        await expect(page.locator("[data-announce]")).to_contain_text("Tyre low: front left")
        await expect(page.locator("[data-wheel='Row1.Left']")).to_contain_class("low")
        await expect(page.locator("[data-label='Row1.Left'] .unit")).to_have_text("kPa, low")
        await expect(page.locator("[data-door='left1']")).to_contain_class("open danger")
        await expect(page.locator("[data-seat='left1']")).to_contain_class("occupied unbelted")
        await expect(page.locator("[data-chart] svg")).to_have_attribute("aria-label", _speeds(71, 48))
        await send(here, "seen", 3, {SPEED: 0, TYRE: 240, "Vehicle.Cabin.Door.Row1.DriverSide.IsOpen": False})
        await expect(page.locator("[data-alerts]")).to_have_text("No warnings")
        await expect(page.locator("[data-door='left1']")).not_to_contain_class("open")


def _speeds(highest: int, lowest: int) -> str:
    return f"Speed over the last 5 minutes: highest {highest}, lowest {lowest} km/h"


async def test_ages_count_up_by_themselves(browser: BrowserContext, here: Site) -> None:
    await send(here, "ages", 1, CAR)
    await here.reaches("ages", 1)
    async with showing(browser, vehicle_page(here.url, "ages")) as page:
        age = page.locator(f".speed > [data-age='{SPEED}']")
        seen: list[int] = []

        async def counted() -> bool:
            words = await age.text_content() or ""
            if words.endswith(" s ago") and int(words.split()[0]) not in seen:
                seen.append(int(words.split()[0]))
            return len(seen) >= 4

        await until(counted, "four ages")
        assert seen == sorted(seen)


async def test_the_age_of_an_old_value_says_so(browser: BrowserContext, here: Site) -> None:
    await send(here, "old", 1, {SPEED: 10.0}, sent_at="2025-06-01T00:00:00.000Z")
    await here.reaches("old", 1)
    async with showing(browser, vehicle_page(here.url, "old")) as page:
        await expect(page.locator(f".speed > [data-age='{SPEED}']")).to_contain_text("days ago")
        await expect(page.locator(f".speed > [data-age='{SPEED}']")).to_contain_class("old")
        await expect(page.locator("[data-heard]")).not_to_contain_text("days")


async def test_a_car_that_falls_silent_is_said_to_be_and_when_it_is_back(browser: BrowserContext) -> None:
    """On an open page, by no packet."""
    async with site(expected_every=1.0, edges=1, consumers=1, origins=1) as here:
        await send(here, "silent", 1, CAR)
        await here.reaches("silent", 1)
        async with showing(browser, vehicle_page(here.url, "silent")) as page:
            status = page.locator("[data-status-word]")
            await expect(status).to_have_text("Quiet")
            await expect(status).to_have_text("Offline", timeout=20_000)
            await expect(page.locator("[data-status-since]")).to_contain_text("for ")
            async with showing(browser, f"{here.url}/") as fleet:
                presence = fleet.locator(".row", has_text="silent").locator(".presence .word")
                await expect(presence).to_contain_text("Offline for ")
                await expect(fleet.locator("[data-summary]")).to_contain_text("1 quiet")
            await send(here, "silent", 2, CAR)
            await expect(page.locator("[data-status]")).to_be_hidden()


async def test_a_vehicle_that_never_sent_says_so_and_goes_live_with_its_first_packet(
    browser: BrowserContext, here: Site
) -> None:
    async with showing(browser, vehicle_page(here.url, "unborn")) as page:
        await connection_is(page, "Live")
        await expect(page.locator("[data-waiting]")).to_be_visible()
        await expect(page.locator("[data-panels]")).to_be_hidden()
        await send(here, "unborn", 1, CAR)
        await speed_is(page, "48")
        await expect(page.locator("[data-waiting]")).to_be_hidden()


async def test_a_thing_that_is_no_car_is_shown_as_a_table(browser: BrowserContext, here: Site) -> None:
    strange = "<img src=x onerror=alert(1)>"
    await send(here, "thing", 1, {"Home.Hall.Temperature": 21.5, "Home.Words": strange, "__proto__": 1})
    await here.reaches("thing", 1)
    async with showing(browser, vehicle_page(here.url, "thing")) as page:
        await expect(page.locator("[data-panels]")).to_be_hidden()
        table = page.locator("[data-signals-rows]")
        await expect(table).to_contain_text("Home.Hall.Temperature21.5")
        await expect(table).to_contain_text(strange)
        await expect(table).to_contain_text("__proto__1")
        await send(here, "thing", 2, {"Home.Hall.Temperature": 22.5})
        await expect(table).to_contain_text("Home.Hall.Temperature22.5")
        await page.get_by_label("Filter").fill("hall")
        await expect(table.locator("tr")).to_have_count(1)


async def test_a_sender_whose_clock_is_wrong_is_said_to_be(browser: BrowserContext, here: Site) -> None:
    await send(here, "skewed", 1, {"Test.A": 1}, sent_at="1970-01-01T00:00:07Z")
    await here.reaches("skewed", 1)
    async with showing(browser, vehicle_page(here.url, "skewed")) as page:
        await page.locator("[data-signals-pane] > summary").click()
        age = page.locator("[data-signals-pane] td.age")
        await expect(age).to_contain_text("received ")
        await expect(age).to_have_attribute("title", re.compile("the sender's clock is wrong"))
        await send(here, "skewed", 2, {"Test.A": 1})
        await expect(age).not_to_contain_text("received")


async def test_an_id_that_cannot_be_is_said(browser: BrowserContext, here: Site) -> None:
    async with showing(browser, f"{here.url}/?vehicle=no%20such") as page:
        await expect(page.get_by_role("heading", level=1)).to_have_text("No such vehicle")


async def test_raw_events_can_be_held_and_copied(browser: BrowserContext, here: Site) -> None:
    await send(here, "raw", 1, CAR)
    await here.reaches("raw", 1)
    async with showing(browser, vehicle_page(here.url, "raw")) as page:
        await page.locator("[data-log-pane] > summary").click()
        rows = page.locator("[data-log-rows] > li")
        await expect(rows).to_have_count(1)
        await send(here, "raw", 2, {SPEED: 50})
        await expect(rows).to_have_count(2)
        await expect(rows.first).to_contain_text("version 2 after 1")
        await rows.first.locator("summary").click()
        await expect(rows.first.locator("pre")).to_contain_text('"value":50')
        await page.get_by_role("button", name="Pause").click()
        await send(here, "raw", 3, {SPEED: 51})
        await expect(page.locator("[data-log-count]")).to_have_text("2 events, paused, 1 new")
        await expect(rows).to_have_count(2)
        await page.get_by_role("button", name="Pause").click()
        await expect(rows).to_have_count(3)
        copied = await events(page)
        assert [event["event"] for event in copied] == ["snapshot", "update", "update"]
        assert [event["data"]["version"] for event in copied] == [1, 2, 3]
        assert copied[2]["id"].endswith("-3")


async def test_a_page_that_is_opened_again_goes_on_where_it_was(browser: BrowserContext, here: Site) -> None:
    await send(here, "again", 1, CAR)
    await here.reaches("again", 1)
    async with showing(browser, vehicle_page(here.url, "again")) as page:
        await speed_is(page, "48")
        await page.goto(f"{here.url}/")
        for number in (2, 3):
            await send(here, "again", number, {SPEED: 60 + number})
        await here.reaches("again", 3)
        await page.goto(vehicle_page(here.url, "again"))
        await speed_is(page, "63")
        assert [(e["event"], e["data"]["version"]) for e in await events(page)] == [
            ("update", 2),
            ("update", 3),
        ]
        await expect(page.locator("[data-chart] svg")).to_have_attribute("aria-label", _speeds(63, 48))


# When things fail


async def test_a_page_whose_edge_is_killed_says_so_and_catches_up(
    browser: BrowserContext, here: Site
) -> None:
    await send(here, "cut", 1, CAR)
    await here.reaches("cut", 1)
    async with showing(browser, vehicle_page(here.url, "cut"), failures=NETWORK) as page:
        await connection_is(page, "Live")
        on = await only_stream(here)
        pid = here.kill(f"edge-{on}")
        await until(lambda: page.evaluate("states.includes('reconnecting')"), "it is noticed")
        for number in (2, 3, 4):
            await send(here, "cut", number, {SPEED: 50 + number})
        await connection_is(page, "Live")
        await speed_is(page, "54")
        assert [event["data"]["version"] for event in await events(page)] == [1, 2, 3, 4]
        assert await page.evaluate("states") == ["connecting", "live", "reconnecting", "live"]
        await expect(page.locator("[data-why]")).to_be_hidden()
    await here.started_again(f"edge-{on}", pid)


async def test_unavailable_is_shown_and_left_again(browser: BrowserContext, here: Site) -> None:
    await send(here, "hangs", 1, CAR)
    await here.reaches("hangs", 1)
    here.kill("nats-server", signal.SIGSTOP)
    try:
        async with showing(browser, vehicle_page(here.url, "hangs"), failures=NETWORK) as page:
            await connection_is(page, "Unavailable")
            await expect(page.locator("[data-why]")).to_contain_text("live state does not answer")
            here.kill("nats-server", signal.SIGCONT)
            await connection_is(page, "Live")
            await speed_is(page, "48")
            await expect(page.locator("[data-why]")).to_be_hidden()
            await send(here, "hangs", 2, {SPEED: 52})
            await speed_is(page, "52")
            assert await page.evaluate("states") == ["connecting", "unavailable", "live"]
    finally:
        here.kill("nats-server", signal.SIGCONT)


async def test_a_lost_update_is_noticed_and_fetched(browser: BrowserContext, here: Site) -> None:
    await send(here, "gap", 1, CAR)
    await here.reaches("gap", 1)
    (port,) = free_ports(1)
    async with Proxy(port, here.settings.front_port) as proxy:
        address = vehicle_page(f"http://127.0.0.1:{port}", "gap")
        async with showing(browser, address, failures=NETWORK) as page:
            await connection_is(page, "Live")
            proxy.down, lost = without(b'"version":2,')
            await send(here, "gap", 2, {SPEED: 52, TYRE: 199})
            await until(lambda: lost, "the update is lost")
            await send(here, "gap", 3, {SPEED: 53})
            await speed_is(page, "53")
            await connection_is(page, "Live")
            await expect(page.locator("[data-tyres]")).to_contain_text("199\u00a0kPa")
            seen = await events(page)
            assert [event["data"]["version"] for event in seen] == [1, 3, 2, 3]
            assert [event.get("note", "") for event in seen] == ["", "gap: the stream is opened anew", "", ""]
            assert {event["event"] for event in seen[1:]} == {"update"}


def without(mark: bytes) -> tuple[Callable[[bytes], bytes], list[bytes]]:
    """A filter that loses the first piece with this mark, and what it lost."""
    lost: list[bytes] = []

    def passed(data: bytes) -> bytes:
        if mark in data and not lost:
            lost.append(data)
            return b""
        return data

    return passed, lost


async def test_a_page_that_was_away_for_too_long_is_told_and_shown_afresh(
    browser: BrowserContext, hurried: Site
) -> None:
    await send(hurried, "away", 1, CAR)
    await hurried.reaches("away", 1)
    (port,) = free_ports(1)
    async with Proxy(port, hurried.settings.front_port) as proxy:
        address = vehicle_page(f"http://127.0.0.1:{port}", "away")
        async with showing(browser, address, failures=NETWORK) as page:
            await connection_is(page, "Live")
            last = str((await events(page))[-1]["id"])
            proxy.up = lambda _: None
            proxy.cut()
            await connection_is(page, "Reconnecting…")
            for number in (2, 3):
                await send(hurried, "away", number, {SPEED: 50 + number})

            async def expired() -> bool:
                async with hurried.phone("away", last) as phone:
                    return names(await phone.take())[0] == "reset"

            await hurried.reaches("away", 3)
            await until(expired, "the window has passed")
            proxy.up = lambda data: data
            await connection_is(page, "Live")
            await speed_is(page, "53")
            await expect(page.locator("[data-note]")).to_contain_text("Away for longer")
            assert [event["event"] for event in await events(page)] == ["snapshot", "reset", "snapshot"]
            await send(hurried, "away", 4, {SPEED: 54})
            await speed_is(page, "54")


async def test_a_stream_that_is_answered_with_an_error_is_opened_anew_with_the_last_id(
    browser: BrowserContext, here: Site
) -> None:
    await send(here, "dead", 1, CAR)
    await here.reaches("dead", 1)
    async with showing(browser, vehicle_page(here.url, "dead"), failures=NETWORK) as page:
        await speed_is(page, "48")
        asked: list[str] = []

        async def refuse_twice(route: Route) -> None:
            asked.append(route.request.url)
            if len(asked) <= 2:
                await route.fulfill(status=503, body="no")
            else:
                await route.continue_()

        await page.route("**/events*", refuse_twice)
        on = await only_stream(here)
        pid = here.kill(f"edge-{on}")
        await send(here, "dead", 2, {SPEED: 52})
        await speed_is(page, "52")
        await connection_is(page, "Live")
        assert len(asked) == 3
        assert all("last_event_id=" in url for url in asked)
        assert [event["data"]["version"] for event in await events(page)] == [1, 2]
    await here.started_again(f"edge-{on}", pid)


async def test_a_stream_that_went_silent_is_found_out(browser: BrowserContext, here: Site) -> None:
    await send(here, "silent", 1, CAR)
    await here.reaches("silent", 1)
    (port,) = free_ports(1)
    async with Proxy(port, here.settings.front_port) as proxy:
        address = vehicle_page(f"http://127.0.0.1:{port}", "silent")
        async with showing(browser, address, failures=NETWORK, clock=True) as page:
            await connection_is(page, "Live")
            proxy.down, lost = without(b'"version":2,')
            await send(here, "silent", 2, {SPEED: 52})
            await until(lambda: lost, "the update is lost")
            await page.clock.fast_forward(60_000)
            await speed_is(page, "52")
            await connection_is(page, "Live")
            assert [event["data"]["version"] for event in await events(page)] == [1, 2]


async def test_a_page_that_nobody_looks_at_gives_its_stream_back(browser: BrowserContext, here: Site) -> None:
    await send(here, "unseen", 1, CAR)
    await here.reaches("unseen", 1)
    async with showing(browser, vehicle_page(here.url, "unseen"), clock=True) as page:
        await connection_is(page, "Live")
        await only_stream(here)
        await page.evaluate(VISIBLE, "hidden")
        await page.clock.fast_forward(90_000)

        async def given_back() -> bool:
            return sum(await here.sessions()) == 0

        await until(given_back, "the stream is closed")
        await send(here, "unseen", 2, {SPEED: 52})
        await here.reaches("unseen", 2)
        await page.evaluate(VISIBLE, "visible")
        await speed_is(page, "52")
        await connection_is(page, "Live")
        assert [event["data"]["version"] for event in await events(page)] == [1, 2]


# The fleet


async def test_the_fleet_is_listed_kept_up_to_date_and_searched(browser: BrowserContext, here: Site) -> None:
    await send(here, "list-1", 1, {**CAR, TYRE: 150})
    await send(here, "list-2", 1, {"Vehicle.Powertrain.FuelSystem.RelativeLevel": 40, "Vehicle.Speed": 0})
    await send(here, "other", 1, CAR)
    await here.reaches("other", 1)
    async with showing(browser, here.url) as page:
        rows = page.locator("[data-rows] a")
        await page.get_by_label("Search by vehicle id").fill("list-")
        await expect(rows).to_have_count(2)
        await expect(page.locator("[data-found]")).to_have_text("2 vehicles listed")
        for words in ("list-1", "Live, ", "Moving, 48 km/h", "64\u00a0% charge", "Tyre low: front left"):
            await expect(rows.first).to_contain_text(words)
        await expect(rows.last).to_contain_text("40\u00a0% fuel")
        await rows.first.focus()
        await send(here, "list-1", 2, {SPEED: 0, TYRE: 240})
        await expect(rows.first).to_contain_text("Running")
        await expect(rows.first).not_to_contain_text("Tyre low")
        await expect(rows.first).to_be_focused()  # rows are kept, not made anew
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("list-1")
        await page.get_by_role("link", name="All vehicles").click()
        await expect(page.get_by_label("Search by vehicle id")).to_have_value("list-")
        await expect(rows).to_have_count(2)
        await page.get_by_label("Search by vehicle id").fill("nothing-like-it")
        await expect(page.locator("[data-empty]")).to_contain_text("No vehicle's id contains")


async def test_a_long_fleet_has_pages(browser: BrowserContext, here: Site) -> None:
    for number in range(60):
        await send(here, f"page-{number:02}", 1, {SPEED: number})
    await here.reaches("page-59", 1)
    async with showing(browser, f"{here.url}/?search=page-") as page:
        rows = page.locator("[data-rows] a")
        await expect(rows).to_have_count(50)
        await page.get_by_role("button", name="Next").click()
        await expect(rows).to_have_count(10)
        await expect(rows.first).to_contain_text("page-50")
        await page.reload()
        await expect(rows).to_have_count(10)
        await page.get_by_role("button", name="Previous").click()
        await expect(rows).to_have_count(50)
        await page.go_back()
        await expect(rows).to_have_count(10)


async def test_a_fleet_that_cannot_be_had_is_said_and_comes_back(browser: BrowserContext, here: Site) -> None:
    await send(here, "fleet-1", 1, CAR)
    await here.reaches("fleet-1", 1)
    async with showing(browser, f"{here.url}/?search=fleet-", failures=NETWORK) as page:
        await expect(page.locator("[data-rows] a")).to_have_count(1)
        await page.route("**/v1/vehicles?*", lambda route: route.abort())
        await expect(page.locator("[data-trouble]")).to_contain_text("cannot be reached")
        await expect(page.locator("[data-rows] a")).to_have_count(1)
        await page.unroute("**/v1/vehicles?*")
        await expect(page.locator("[data-trouble]")).to_be_hidden()


# For everybody


@pytest.mark.parametrize("path", ["/", "/?vehicle=keys"])
async def test_the_keyboard_reaches_everything_and_is_seen(
    browser: BrowserContext, here: Site, path: str
) -> None:
    await send(here, "keys", 1, CAR)
    await here.reaches("keys", 1)
    async with showing(browser, f"{here.url}{path}") as page:
        await expect(page.get_by_text("keys").first).to_be_visible()
        await page.evaluate("document.querySelectorAll('.pane').forEach(pane => { pane.open = true; })")
        expected = await page.locator(
            "a:visible, button:visible:enabled, input:visible, summary:visible, [tabindex='0']:visible"
        ).count()
        reached: list[str] = []
        for _ in range(expected + 1):
            await page.keyboard.press("Tab")
            tag, words, seen = await page.evaluate(FOCUSED)
            if tag == "body":
                break
            assert seen, f"no focus is seen on {tag} {words}"
            reached.append(f"{tag} {words}")
        assert reached[0] == "a Skip to content"
        assert len(reached) == expected, reached


LOOKS = [
    pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"]),
    pytest.mark.parametrize("scheme", ["light", "dark"]),
    pytest.mark.parametrize(
        "path", ["/", "/?vehicle=looked-at", "/?vehicle=nobody"], ids=["fleet", "car", "nobody"]
    ),
]


def in_every_look(test: Any) -> Any:
    """Small and large, light and dark, each kind of page."""
    for look in LOOKS:
        test = look(test)
    return test


@asynccontextmanager
async def looking(
    browser: BrowserContext, here: Site, path: str, scheme: Any, size: dict[str, int]
) -> AsyncIterator[Page]:
    """A page with everything on it that can be there, all panes open."""
    await send(here, "looked-at", 1, {**CAR, TYRE: 150, f"{DRIVER}.IsBelted": False})
    await here.reaches("looked-at", 1)
    async with showing(browser, f"{here.url}{path}", size) as page:
        await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        await page.wait_for_selector("[data-rows] a, [data-state='live']")
        await page.evaluate("document.querySelectorAll('.pane').forEach(pane => { pane.open = true; })")
        yield page


@in_every_look
async def test_it_fits_and_everything_has_a_name(
    browser: BrowserContext, here: Site, path: str, scheme: Any, size: dict[str, int]
) -> None:
    async with looking(browser, here, path, scheme, size) as page:
        width = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1], "it is wider than the screen"
        assert await page.evaluate(UNNAMED) == []


@in_every_look
async def test_axe_finds_nothing_that_keeps_anybody_out(
    browser: BrowserContext, here: Site, path: str, scheme: Any, size: dict[str, int]
) -> None:
    async with looking(browser, here, path, scheme, size) as page:
        await page.evaluate(AXE)
        found = await page.evaluate("axe.run()")
        assert len(found["passes"]) > 20
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]] == []

"""Clients that others wrote: a browser's EventSource, curl, and a library, each through the front door.

They know nothing of versions or chains. Each must follow a vehicle, and come back with the last event id it saw.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sseclient
from playwright.async_api import Page, async_playwright

from fleetcast.supervisor import Program
from tests.e2e.outside import Site, site
from tests.servers import short_folder, until

CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# What a test page does: it keeps each event with its id, and counts how often the stream opened and failed.
WATCH = """
vehicle => {
  window.seen = []; window.opened = 0; window.failed = 0; window.states = new Set();
  window.source = new EventSource(`/v1/vehicles/${vehicle}/events`);
  source.onopen = () => { opened++ };
  source.onerror = () => { failed++; states.add(source.readyState) };
  for (const name of ["snapshot", "update", "reset", "unavailable"])
    source.addEventListener(name, event => seen.push([name, event.lastEventId, JSON.parse(event.data)]));
}
"""


@pytest.fixture(scope="module")
async def here() -> AsyncIterator[Site]:
    async with site() as running:
        yield running


# A browser


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Any]:
    """Opens pages in the system's Chromium."""
    path = shutil.which("chromium")
    assert path is not None, "chromium is missing; `make setup-test` installs it"
    with short_folder() as profile:
        async with async_playwright() as playwright:
            context = await playwright.chromium.launch_persistent_context(
                profile, executable_path=path, headless=True, args=CHROMIUM
            )
            yield context
            await context.close()


class Watcher:
    """An EventSource in a page of the front door's own origin."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def seen(self) -> list[tuple[str, str, dict[str, Any]]]:
        """(event, last event id, data) of all that came."""
        return [(name, last, told) for name, last, told in await self.page.evaluate("seen")]

    async def versions(self) -> list[int]:
        """Of snapshots and updates."""
        return [told["version"] for _, _, told in await self.seen() if "version" in told]

    async def has(self, *versions: int) -> None:
        """Waits until it has these, and holds it to that."""

        async def enough() -> bool:
            return len(await self.versions()) >= len(versions)

        await until(enough, f"versions {versions}")
        assert await self.versions() == list(versions)

    async def value(self, name: str) -> Any:
        """A variable of the page."""
        return await self.page.evaluate(name)

    async def times(self, name: str, count: int) -> bool:
        """Whether this event came so often."""
        return sum(event == name for event, _, _ in await self.seen()) >= count


@asynccontextmanager
async def watching(browser: Any, here: Site, vehicle: str) -> AsyncIterator[Watcher]:
    page = await browser.new_page()
    await page.goto(f"{here.url}/next/0")  # any page of the front door's own origin
    await page.evaluate(WATCH, vehicle)
    yield Watcher(page)
    await page.close()


async def test_a_browser_follows_a_vehicle(browser: Any, here: Site) -> None:
    async with watching(browser, here, "browser") as watcher:
        await watcher.has(0)
        for number in (1, 2, 3):
            await here.send("browser", number, {"Test.Word": f"ä\u2028{number}\n"})
        await watcher.has(0, 1, 2, 3)
        seen = await watcher.seen()
        assert [name for name, _, _ in seen] == ["snapshot", "update", "update", "update"]
        assert [told["signals"]["Test.Word"]["value"] for _, _, told in seen[1:]] == [
            f"ä\u2028{number}\n" for number in (1, 2, 3)
        ]
        life = seen[1][1].rpartition("-")[0]
        assert life.startswith(seen[0][1].removesuffix("-0"))
        assert [last for _, last, _ in seen[1:]] == [f"{life}-{version}" for version in range(1, 4)]


async def test_a_browser_whose_edge_is_killed_comes_back_and_misses_nothing(browser: Any, here: Site) -> None:
    async with watching(browser, here, "killed") as watcher:
        await watcher.has(0)
        await here.send("killed", 1)
        await watcher.has(0, 1)
        on = (await here.sessions()).index(1)
        replays = await here.counts("replays", "origin", label="phone")
        pid = here.kill(f"edge-{on}")
        await until(lambda: watcher.value("failed"), "the stream is cut")
        for number in (2, 3):
            await here.send("killed", number)
        await watcher.has(0, 1, 2, 3)
        await here.send("killed", 4)
        await watcher.has(0, 1, 2, 3, 4)
        assert [name for name, _, _ in await watcher.seen()] == ["snapshot"] + ["update"] * 4
        assert await watcher.value("[...states]") == [0]
        assert await here.counts("replays", "origin", label="phone") > replays
    await here.started_again(f"edge-{on}", pid)


@asynccontextmanager
async def away(here: Site, role: str) -> AsyncIterator[None]:
    """All edge replicas, or all origins, are ended, and then started again; nats-server hangs, and goes on."""
    supervisor = here.platform.supervisor
    if role == "nats-server":
        here.kill(role, signal.SIGSTOP)
        try:
            yield
        finally:
            here.kill(role, signal.SIGCONT)
        return
    names = [name for name in supervisor.names if name.startswith(role)]
    for name in names:
        await supervisor.stop_one(name)
    yield
    run = Path(here.settings.data, "run")
    for number, name in enumerate(names):
        command = ["pushpin", "--config", str(run / name / "pushpin.conf")]
        environment = dict(os.environ)
        if role == "origin":
            command = [sys.executable, "-m", "fleetcast", "--config", str(run / "fleetcast.toml"), "origin"]
            environment["FLEETCAST_ORIGIN_PORT"] = str(here.settings.origin_port + number)
            environment["FLEETCAST_ADMIN_PORT"] = str(here.platform.admin_ports[name])
        supervisor.start(Program(f"{name}-again", command, environment))


@pytest.mark.parametrize(
    ("role", "reason"), [("edge", "edge"), ("origin", "edge"), ("nats-server", "live state")]
)
async def test_a_browser_that_is_told_unavailable_comes_back_by_itself(
    browser: Any, here: Site, role: str, reason: str
) -> None:
    vehicle = f"without-{role}"
    await here.send(vehicle, 1)
    await here.reaches(vehicle, 1)
    async with watching(browser, here, vehicle) as old, AsyncExitStack() as stack:
        await old.has(1)
        async with away(here, role):
            asked = asyncio.create_task(here.get(f"/v1/vehicles/{vehicle}"))
            new = await stack.enter_async_context(watching(browser, here, vehicle))
            await until(lambda: new.times("unavailable", 1 if role == "nats-server" else 2))
            assert await new.versions() == []
            assert {told["reason"] for _, _, told in await new.seen()} == {reason}
            plain = await asked
            assert (plain.status_code, plain.headers["retry-after"]) == (503, "1")
            assert plain.headers["content-type"] == "application/problem+json"
        await new.has(1)
        await here.send(vehicle, 2)
        await new.has(1, 2)
        await old.has(1, 2)
        for watcher in (old, new):
            assert await watcher.value("[...states]") in ([], [0])
            assert not await watcher.times("reset", 1)
        assert bool(await old.value("failed")) is (
            role == "edge"
        )  # the edge holds streams while others are away


# curl


@asynccontextmanager
async def curl(here: Site, vehicle: str, *headers: str) -> AsyncIterator[asyncio.StreamReader]:
    """What `curl -N` prints."""
    arguments = [part for header in headers for part in ("-H", header)]
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sN", "--noproxy", "*", *arguments, f"{here.url}/v1/vehicles/{vehicle}/events"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.terminate()
        await process.communicate()


async def lines(output: asyncio.StreamReader) -> dict[str, str]:
    """One event's fields, as they stand there."""
    text = (await asyncio.wait_for(output.readuntil(b"\n\n"), 30)).decode()
    return dict(line.split(": ", 1) for line in text.strip().splitlines())


@pytest.mark.parametrize("accept", [["Accept: text/event-stream"], []], ids=["accept", "plain"])
async def test_curl_follows_and_resumes(here: Site, accept: list[str]) -> None:
    vehicle = f"curl-{len(accept)}"
    async with curl(here, vehicle, *accept) as output:
        snapshot = await lines(output)
        assert (snapshot["event"], json.loads(snapshot["data"])["version"]) == ("snapshot", 0)
        await here.send(vehicle, 1)
        update = await lines(output)
        assert (update["event"], json.loads(update["data"])["version"]) == ("update", 1)
    for number in (2, 3):
        await here.send(vehicle, number)
    await here.reaches(vehicle, 3)
    async with curl(here, vehicle, *accept, f"Last-Event-ID: {update['id']}") as output:
        missed = [await lines(output), await lines(output)]
        await here.send(vehicle, 4)
        missed.append(await lines(output))
    assert [event["event"] for event in missed] == ["update"] * 3
    assert [json.loads(event["data"])["version"] for event in missed] == [2, 3, 4]


# A library


async def test_a_client_library_follows_and_resumes(here: Site) -> None:
    loop = asyncio.get_running_loop()

    def follow(last: str, count: int, number: int) -> list[sseclient.Event]:
        """In a thread, since the library blocks: sends the next packet once it has this many less one."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        url = f"{here.url}/v1/vehicles/library/events"
        events: list[sseclient.Event] = []
        with httpx2.stream("GET", url, headers=headers, timeout=30, trust_env=False) as answer:
            for event in sseclient.SSEClient(answer.iter_bytes()).events():
                events.append(event)
                if len(events) == count - 1:
                    asyncio.run_coroutine_threadsafe(here.send("library", number), loop).result()
                if len(events) == count:
                    break
        return events

    first = await asyncio.to_thread(follow, "", 2, 1)
    assert [(event.event, json.loads(event.data)["version"]) for event in first] == [
        ("snapshot", 0),
        ("update", 1),
    ]
    last = first[-1].id
    assert last is not None
    for number in (2, 3):
        await here.send("library", number)
    await here.reaches("library", 3)
    missed = await asyncio.to_thread(follow, last, 3, 4)
    assert [(event.event, json.loads(event.data)["version"]) for event in missed] == [
        ("update", 2),
        ("update", 3),
        ("update", 4),
    ]

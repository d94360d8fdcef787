"""fleetcast.js in a page that is left, looked at again, and on a line that comes back: what only a browser tells."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest
from playwright.async_api import BrowserContext

from tests.clients.followers import (
    Follower,
    Scripted,
    chromium,
    in_chromium,
    snapshot,
    status,
    stream,
    update,
)
from tests.servers import free_ports, until

CAR = "/v1/vehicles/car/events"
SEEN = """state => {
  Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[BrowserContext]:
    async with chromium() as context:
        yield context


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    """A snapshot at first, and whoever comes back gets what he missed."""
    (port,) = free_ports(1)
    async with Scripted(port, [stream(snapshot(1)), stream(update(1, 2))]) as running:
        yield running


def following(
    browser: BrowserContext, server: Scripted, **options: float
) -> AbstractAsyncContextManager[Follower]:
    return in_chromium(browser)(server.url, "car", **options)


async def test_a_page_that_is_left_gives_its_stream_back(browser: BrowserContext, server: Scripted) -> None:
    async with following(browser, server, hidden=100) as follower:
        await follower.says("snapshot 1")
        await follower.page.evaluate(SEEN, "hidden")
        await follower.says("waiting hidden")
        await until(lambda: server.open == 0)
        assert server.asked == [CAR]
        await follower.page.evaluate(SEEN, "visible")
        await follower.says("waiting hidden", "update 2")
        assert server.asked == [CAR, f"{CAR}?last_event_id=aa-1"]


async def test_a_page_that_is_seen_again_soon_keeps_its_stream(
    browser: BrowserContext, server: Scripted
) -> None:
    async with following(browser, server, hidden=60_000) as follower:
        await follower.says("snapshot 1")
        for state in ("hidden", "visible"):
            await follower.page.evaluate(SEEN, state)
        assert await follower.page.evaluate("stream.status") == "live"
        assert server.asked == [CAR]


async def test_a_page_kept_for_the_back_button_holds_no_stream(
    browser: BrowserContext, server: Scripted
) -> None:
    async with following(browser, server) as follower:
        await follower.says("snapshot 1")
        await follower.page.evaluate(
            "window.dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))"
        )
        await until(lambda: server.open == 0)
        await follower.page.evaluate(
            "window.dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))"
        )
        await follower.says("waiting hidden", "update 2")


async def test_closed_while_hidden_it_does_not_come_again(browser: BrowserContext, server: Scripted) -> None:
    async with following(browser, server, hidden=0) as follower:
        await follower.says("snapshot 1")
        await follower.page.evaluate(SEEN, "hidden")
        await follower.says("waiting hidden")
        await follower.close()
        await follower.says("closed")
        await follower.page.evaluate(SEEN, "visible")
        assert await follower.page.evaluate("stream.status") == "ended"
        assert server.asked == [CAR]


async def test_a_line_that_is_back_ends_the_pause(browser: BrowserContext) -> None:
    (port,) = free_ports(1)
    async with (
        Scripted(port, [status(503), stream(snapshot(1))]) as server,
        following(browser, server, pause=600_000, longest=600_000) as follower,
    ):
        await follower.says("waiting no stream")
        await follower.page.evaluate("window.dispatchEvent(new Event('online'))")
        await follower.says("snapshot 1")


async def test_a_listener_that_throws_is_reported_and_disturbs_nothing(
    browser: BrowserContext, server: Scripted
) -> None:
    async with following(browser, server) as follower:
        await follower.says("snapshot 1")
        await follower.page.evaluate(
            """() => {
                window.errors = [];
                addEventListener("error", (event) => errors.push(String(event.error)));
                stream.on("status", () => { throw new Error("mine") });
            }"""
        )
        await follower.page.evaluate(
            "window.dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))"
        )
        await follower.page.evaluate(
            "window.dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))"
        )
        await follower.says("update 2")
        errors = await follower.page.evaluate("errors")
        assert set(errors) == {"Error: mine"}

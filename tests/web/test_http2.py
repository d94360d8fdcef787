"""Fifty streams in one page: over HTTP/1.1 a browser opens six to a server, over HTTP/2 all, on one connection."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.async_api import BrowserContext, Page, async_playwright

from fleetcast import front
from fleetcast.devpki import DevelopmentPki
from fleetcast.haproxy import _OPENING
from fleetcast.proof.client import get
from fleetcast.settings import Settings
from tests.e2e.outside import Site, site
from tests.e2e.test_tls import with_tls
from tests.servers import haproxy_server, http_server, short_folder, until
from tests.test_pace import SlowEdge
from tests.web.test_page import CHROMIUM

STREAMS = 50

# A stream for each vehicle; what came of each, and how often it opened and failed.
WATCH = """
vehicles => {
  window.seen = {}; window.opened = 0; window.failed = {}; window.sources = [];
  for (const vehicle of vehicles) {
    const source = new EventSource(`/v1/vehicles/${vehicle}/events`);
    sources.push(source);
    seen[vehicle] = []; failed[vehicle] = [];
    source.onopen = () => { opened++ };
    source.onerror = () => failed[vehicle].push(source.readyState);
    for (const name of ["snapshot", "update", "reset", "unavailable"])
      source.addEventListener(name, event => seen[vehicle].push([name, JSON.parse(event.data).version]));
  }
}
"""


@pytest.fixture
async def here() -> AsyncIterator[Site]:
    with short_folder() as folder:
        pki = DevelopmentPki(folder / "dev-pki")
        async with site(folder, front_cert=str(pki.server), front_key=str(pki.server_key)) as running:
            yield running


@asynccontextmanager
async def browser(settings: Settings) -> AsyncIterator[BrowserContext]:
    """A Chromium that takes this one certificate, and no other that it does not know."""
    path = shutil.which("chromium")
    assert path is not None, "chromium is missing; `make setup-test` installs it"
    trusted = f"--ignore-certificate-errors-spki-list={pin(settings)}"
    with short_folder() as profile:
        async with async_playwright() as playwright:
            context = await playwright.chromium.launch_persistent_context(
                profile, executable_path=path, headless=True, args=[*CHROMIUM, trusted]
            )
            yield context
            await context.close()


def pin(settings: Settings) -> str:
    """The hash of the certificate's public key."""
    key = x509.load_pem_x509_certificate(Path(settings.front_cert).read_bytes()).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return base64.b64encode(digest).decode()


async def connections(settings: Settings) -> int:
    """That the front door has now."""
    answer = await get(settings.haproxy_port, "/metrics")
    found = re.search(rb'haproxy_frontend_current_sessions{proxy="front"} (\d+)', bytes(answer.body))
    assert found
    return int(found[1])


async def versions(page: Page) -> dict[str, list[int]]:
    """Of snapshots and updates, by vehicle; nothing else may have come."""
    seen: dict[str, list[Any]] = await page.evaluate("seen")
    for events in seen.values():
        names = [name for name, _ in events]
        # While an edge is down it may be told to come back, in band.
        assert [name for name in names if name != "unavailable"] == (["snapshot"] + ["update"] * len(names))[
            : len(names) - names.count("unavailable")
        ]
    return {
        vehicle: [version for name, version in events if name != "unavailable"]
        for vehicle, events in seen.items()
    }


async def test_fifty_streams_of_one_page_open_follow_and_come_back(here: Site) -> None:
    vehicles = [f"h2-{number:02d}" for number in range(STREAMS)]
    async with browser(here.settings) as context:
        page = await context.new_page()
        await page.goto(f"{here.url}/next/0")  # any page of the front door's own origin
        hop = 'performance.getEntriesByType("navigation")[0].nextHopProtocol'
        assert await page.evaluate(hop) == "h2"
        await page.evaluate(WATCH, vehicles)

        async def level(*wanted: int) -> bool:
            return await versions(page) == {vehicle: list(wanted) for vehicle in vehicles}

        await until(lambda: level(0), "all streams open, with a snapshot each")
        assert await page.evaluate("opened") == STREAMS
        assert sum(await here.sessions()) == STREAMS
        assert await connections(here.settings) <= 2  # its own: all streams are on one
        await asyncio.gather(*(here.send(vehicle, 1) for vehicle in vehicles))
        await until(lambda: level(0, 1), "each has its update")

        on = max(range(2), key=(await here.sessions()).__getitem__)
        held = (await here.sessions())[on]
        assert held > 0
        pid = here.kill(f"edge-{on}")
        await asyncio.gather(*(here.send(vehicle, 2) for vehicle in vehicles))
        await until(lambda: level(0, 1, 2), "those that were cut have what they missed, once", 60)
        failed: dict[str, list[int]] = await page.evaluate("failed")
        assert sum(bool(states) for states in failed.values()) >= held
        assert {state for states in failed.values() for state in states} == {0}  # never given up
        await here.started_again(f"edge-{on}", pid)
        await asyncio.gather(*(here.send(vehicle, 3) for vehicle in vehicles))
        await until(lambda: level(0, 1, 2, 3))

        await page.close()

        async def nobody() -> bool:
            return sum(await here.sessions()) == 0

        await until(nobody, "streams of a page that is closed end")


async def test_the_streams_of_one_connection_are_paced(folder: Path) -> None:
    """HAProxy's own rate limits count connections, and would let all of these through at once."""
    edge, phones = SlowEdge(), 3 * _OPENING
    settings = with_tls(folder)
    async with http_server(edge, settings.edge_port), haproxy_server(folder, settings, []) as haproxy:
        async with browser(settings) as context:
            page = await context.new_page()
            await page.goto(f"{front.url(settings)}/")
            await page.evaluate(WATCH, [f"car-{number}" for number in range(phones)])
            await until(lambda: edge.unanswered == _OPENING, "as many as may be are let through")
            assert await connections(settings) <= 2
            edge.go.set()
            await until(lambda: edge.held == phones, "all are opened")
            assert edge.most == _OPENING
        assert "runtime error" not in haproxy.log.read_text()

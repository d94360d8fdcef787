"""`demo --share` as a phone meets it: in Chromium, at another address than the one where everything else listens."""

from __future__ import annotations

import signal
from pathlib import Path

from playwright.async_api import BrowserContext, expect

from tests.e2e.demo import SMALL, Command, command, settings_file
from tests.e2e.outside import client, packet
from tests.servers import short_folder
from tests.web.test_page import NETWORK, browser, connection_is, showing, vehicle_page

__all__ = ["browser"]
ADDRESS = "127.0.0.2"
_LISTENS = "0A"


def listening(pids: set[int]) -> set[tuple[str, int]]:
    """The addresses on which these processes listen, by TCP."""
    sockets = {link for pid in pids for link in _links(Path("/proc", str(pid), "fd"))}
    found = set[tuple[str, int]]()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == _LISTENS and f"socket:[{fields[9]}]" in sockets:
            address, port = fields[1].split(":")
            octets = reversed(bytes.fromhex(address))
            found.add((".".join(map(str, octets)), int(port, 16)))
    for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == _LISTENS and f"socket:[{fields[9]}]" in sockets:
            found.add((fields[1], 0))
    return found


def _links(folder: Path) -> list[str]:
    return [str(one.readlink()) for one in folder.iterdir() if one.is_symlink()]


def of_platform(running: Command) -> set[int]:
    return {one.pid for one in running.family()}


async def test_a_phone_in_the_same_network_is_served_by_the_link_alone(browser: BrowserContext) -> None:
    with short_folder() as folder:
        settings, file = settings_file(folder, log_level="debug")
        options = [str(part) for pair in ({**SMALL, "--cars": 4, "--phones": 4}).items() for part in pair]
        async with command(settings, file, "demo", *options, "--share", ADDRESS) as running:
            link = (await running.heard("open http")).removeprefix("open ")
            url, _, token = link.partition("/#token=")
            assert url == f"http://{ADDRESS}:{settings.front_port}"
            await running.flows()

            # Only the front is there for others.
            where = listening(of_platform(running))
            assert {host for host, _ in where} == {"127.0.0.1", ADDRESS}
            assert [port for host, port in where if host == ADDRESS] == [settings.front_port]
            assert settings.ingest_port in {port for _, port in where}

            async with client() as outside:
                # 401 without; and the token is worth the demo's cars, whatever else is in the data folder.
                sent = await outside.post(
                    f"http://127.0.0.1:{settings.ingest_port}/v1/vehicles/private/packets",
                    content=packet("private", 1),
                    headers={"Content-Type": "application/json"},
                )
                assert sent.status_code == 202
                shown = {"Authorization": f"Bearer {token}"}
                for path in ("", "/car-00000", "/car-00000/events", "/private"):
                    answer = await outside.get(f"{url}/v1/vehicles{path}")
                    assert answer.status_code == 401, path
                    query = await outside.get(f"{url}/v1/vehicles{path}?token=x&ticket=y")
                    assert query.status_code == 401, path
                listed = (await outside.get(f"{url}/v1/vehicles", headers=shown)).json()["vehicles"]
                assert [one["vehicle"] for one in listed] == [f"car-{number:05d}" for number in range(4)]
                assert (await outside.get(f"{url}/v1/vehicles/private", headers=shown)).status_code == 403

            # Without the link the page shows nothing; a forged one says so; with it everything is there, and stays.
            async with showing(browser, url, failures=NETWORK) as page:
                await expect(page.locator("[data-trouble]")).to_contain_text("show a token")
                await page.goto(f"{url}/#token={token[:-4]}AAAA")
                await expect(page.locator("h1")).to_have_text("No entry")
                assert page.url == f"{url}/"
            asked: list[str] = []
            async with showing(browser, "about:blank") as page:
                page.on("request", lambda request: asked.append(request.url))
                await page.goto(link)
                await expect(page.locator("[data-rows] a").first).to_contain_text("car-00000")
                assert page.url == f"{url}/"
                assert await page.evaluate("document.cookie") == ""
                await page.goto(vehicle_page(url, "car-00001"))
                await connection_is(page, "Live")
            (cookie,) = await browser.cookies(url)
            assert (cookie["name"], cookie["value"]) == ("fleetcast", token)
            assert cookie["httpOnly"]
            assert any(one.endswith("/v1/session") for one in asked)
            assert not [one for one in asked if token in one.replace(link, "")]

            # It is in no argument or environment of a process.
            for one in running.family():
                assert token not in f"{one.command} {one._environment}", one
            assert await running.end(signal.SIGINT) == 0, running.said
        logs = [one for one in folder.rglob("*") if one.is_file()]
        assert any(one.name == "origin-0.log" for one in logs)
        assert [one for one in logs if token.encode() in one.read_bytes()] == []
        assert not [
            line for line in [*running.printed, *running.said] if token in line and line != f"open {link}"
        ]

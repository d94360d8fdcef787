"""The front door over TLS and HTTP/2: as `up --tls` begins it, and what else holds over it as over HTTP/1.1."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from fleetcast import front
from fleetcast.devpki import DevelopmentPki
from fleetcast.settings import Settings
from tests.e2e.demo import command, settings_file
from tests.e2e.outside import Site, site
from tests.e2e.test_up import ended
from tests.servers import haproxy_server, platform_settings, short_folder

STREAM = ("-H", "Accept: text/event-stream")


@pytest.fixture(scope="module")
async def here() -> AsyncIterator[Site]:
    with short_folder() as folder:
        pki = DevelopmentPki(folder / "dev-pki")
        async with site(folder, front_cert=str(pki.server), front_key=str(pki.server_key)) as running:
            yield running


def ca(settings: Settings) -> str:
    return str(Path(settings.data).absolute() / "dev-pki" / "ca.pem")


@asynccontextmanager
async def curl(settings: Settings, *arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    """curl over HTTP/2, which verifies the certificate by the development CA; its output, headers before bodies."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sNi", "--http2", "--noproxy", "*", "--cacert", ca(settings), *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def part(output: asyncio.StreamReader) -> dict[str, str]:
    """The lines up to the next empty one: an answer's headers (with its status as `""`), or an event."""
    found = dict[str, str]()
    while not found:
        lines = (await asyncio.wait_for(output.readuntil(b"\n"), 30)).decode().strip()
        while lines:
            name, separator, value = lines.partition(": ")
            found[name if separator else ""] = value if separator else lines
            lines = (await asyncio.wait_for(output.readuntil(b"\n"), 30)).decode().strip()
    return found


async def test_up_with_tls_says_whom_to_trust_and_serves_http_2(folder: Path) -> None:
    settings, file = settings_file(folder)
    async with command(settings, file, "up", "--tls") as running:
        url = (await running.heard("ready ")).removeprefix("ready ")
        assert url == f"https://127.0.0.1:{settings.front_port}"
        assert any(ca(settings) in line for line in running.said)
        async with curl(settings, f"{url}/v1/vehicles") as output:
            answer = await part(output)
            assert answer[""].startswith("HTTP/2 200")
            assert json.loads(await output.read()) == {"vehicles": [], "next": None}
        bundle = Path(settings.data) / "run" / "haproxy" / front.BUNDLE
        assert bundle.stat().st_mode & 0o777 == 0o600
        config = str(Path(settings.data) / "run" / "fleetcast.toml")
        tail = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fleetcast", "--config", config, "tail", "--events", "1", "car-1"),
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await asyncio.wait_for(tail.communicate(), 60)
        assert json.loads(said)["event"] == "snapshot"
        await ended(running, signal.SIGINT)


async def test_a_stream_over_http_2_follows_and_resumes(here: Site) -> None:
    url = f"{here.url}/v1/vehicles/two/events"
    async with curl(here.settings, *STREAM, url) as output:
        assert (await part(output))[""].startswith("HTTP/2 200")
        assert (await part(output))["event"] == "snapshot"
        await here.send("two", 1)
        update = await part(output)
        assert update["event"] == "update"
    for seq in (2, 3):
        await here.send("two", seq)
    await here.reaches("two", 3)
    async with curl(here.settings, *STREAM, "-H", f"Last-Event-ID: {update['id']}", url) as output:
        assert (await part(output))[""].startswith("HTTP/2 200")
        missed = [await part(output), await part(output)]
        await here.send("two", 4)
        missed.append(await part(output))
    assert [event["event"] for event in missed] == ["update"] * 3
    assert [json.loads(event["data"])["version"] for event in missed] == [2, 3, 4]


async def test_http_1_1_is_still_there_and_plain_http_is_not(here: Site) -> None:
    async with curl(here.settings, "--http1.1", f"{here.url}/v1/vehicles") as output:
        assert (await part(output))[""].startswith("HTTP/1.1 200")
    async with curl(here.settings, f"http://127.0.0.1:{here.settings.front_port}/v1/vehicles") as output:
        assert await output.read() == b""


async def test_a_certificate_is_renewed_without_a_stream_that_closes(here: Site) -> None:
    """As operations.md says it is done."""
    later = DevelopmentPki(Path(here.settings.data) / "later")
    own = here.platform.run_folder / "haproxy" / front.BUNDLE
    pem = "\n".join(
        line for line in (later.server.read_text() + later.server_key.read_text()).splitlines() if line
    )
    async with here.phone("renewed") as phone:
        await phone.snapshot()
        said = await here.platform.balancer.tell(f"set ssl cert {own} <<\n{pem}\n")
        assert "Transaction created" in said
        assert "Success" in await here.platform.balancer.tell(f"commit ssl cert {own}")
        await here.send("renewed", 1)
        assert await phone.versions(1) == [1]
        trusting = ("--cacert", str(later.ca), f"{here.url}/v1/vehicles/renewed")
        async with curl(here.settings, *trusting) as output:
            assert (await part(output))[""].startswith("HTTP/2 200")
    own.write_text(front.bundle(here.settings))
    await here.platform.balancer.tell(f"set ssl cert {own} <<\n{own.read_text()}\n")
    assert "Success" in await here.platform.balancer.tell(f"commit ssl cert {own}")


# What HAProxy does by itself, over HTTP/2


def with_tls(folder: Path) -> Settings:
    pki = DevelopmentPki(folder / "dev-pki")
    settings = platform_settings(
        folder,
        edges=1,
        new_streams=2000,
        edge_connections=1000,
        front_cert=str(pki.server),
        front_key=str(pki.server_key),
    )
    (folder / "haproxy").mkdir()
    (folder / "haproxy" / front.BUNDLE).write_text(front.bundle(settings))
    return settings


async def test_a_phone_is_told_unavailable_in_band(folder: Path) -> None:
    settings = with_tls(folder)
    url = f"{front.url(settings)}/v1/vehicles/car-1/events"
    async with haproxy_server(folder, settings, []), curl(settings, *STREAM, url) as output:
        answer = await part(output)
        assert answer[""].startswith("HTTP/2 200")
        assert answer["content-type"] == "text/event-stream"
        assert "retry" in await part(output)
        assert await part(output) == {"event": "unavailable", "data": '{"reason":"edge"}'}
        assert await output.read() in (b"", b"\n")

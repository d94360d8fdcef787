"""SIGTERM finishes what is in hand, within a bound, and ends with status 0: what every deploy rests on, for each role."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import jwt
import msgspec
import pytest

from fleetcast import probes
from fleetcast.settings import Settings, dump
from fleetcast.subjects import partition
from tests.e2e.outside import packet, site
from tests.servers import Server, until

KEY = "k" * 40
_BOUND = 14.0  # less than the supervisor's patience


class Role:
    """A role's process, as production runs it."""

    def __init__(self, process: asyncio.subprocess.Process, settings: Settings) -> None:
        self.process = process
        self.settings = settings

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Its status, within the bound."""
        return await asyncio.wait_for(self.process.wait(), _BOUND)

    async def refuses(self, port: int) -> None:
        """Waits until nobody is let in any more."""

        async def refused() -> bool:
            try:
                await probes.tcp("127.0.0.1", port)
            except OSError:
                return True
            return False

        await until(refused, "the door is closed")


@asynccontextmanager
async def role(name: str, settings: Settings, folder: Path) -> AsyncIterator[Role]:
    """Runs it, ready."""
    settings = msgspec.structs.replace(settings, sig_key=KEY)
    file = folder / f"{name}.toml"
    file.write_text(dump(settings))
    with (folder / f"{name}.log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fleetcast", "--config", str(file), name), stdout=log, stderr=log
        )

    async def ready() -> bool:
        try:
            await probes.http(f"http://127.0.0.1:{settings.admin_port}/ready")
        except (OSError, httpx2.HTTPError):
            return False
        return True

    try:
        await until(ready, f"{name} is ready")
        yield Role(process, settings)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        print((folder / f"{name}.log").read_text())


def request(body: bytes) -> bytes:
    head = f"POST /v1/vehicles/one/packets HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: application/json\r\n\r\n".encode() + body


async def test_ingest_takes_the_packet_that_is_on_its_way(
    nats: Server, settings: Settings, folder: Path
) -> None:
    async with role("ingest", settings, folder) as ingest:
        sent = request(packet("one", 1))
        reader, writer = await asyncio.open_connection("127.0.0.1", settings.ingest_port)
        writer.write(sent[:-20])
        await writer.drain()
        # So that it is in hand: what was read of a connection before this one's answer has been seen.
        async with httpx2.AsyncClient() as client:
            url = f"http://127.0.0.1:{settings.ingest_port}/v1/vehicles/two/packets"
            kind = {"Content-Type": "application/json"}
            assert (await client.post(url, content=packet("two", 1), headers=kind)).status_code == 202
        ingest.terminate()
        await ingest.refuses(settings.ingest_port)
        writer.write(sent[-20:])
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 202 "), answer
        assert await ingest.ended() == 0


async def test_ingest_does_not_wait_for_ever_for_a_packet_that_does_not_come(
    nats: Server, settings: Settings, folder: Path
) -> None:
    async with role("ingest", settings, folder) as ingest:
        _, writer = await asyncio.open_connection("127.0.0.1", settings.ingest_port)
        writer.write(request(packet("one", 1))[:-20])
        await writer.drain()
        ingest.terminate()
        assert await ingest.ended() == 0
        writer.close()


async def test_origin_answers_what_it_was_asked(nats: Server, settings: Settings, folder: Path) -> None:
    signed = jwt.encode({"iss": "fleetcast-edge", "exp": time.time() + 60}, KEY, algorithm="HS256")
    async with role("origin", settings, folder) as origin, httpx2.AsyncClient(timeout=30) as client:
        os.kill(nats.pid, signal.SIGSTOP)  # so that the answer waits
        try:
            url = f"http://127.0.0.1:{settings.origin_port}/v1/vehicles/one"
            asked = asyncio.create_task(client.get(url, headers={"Grip-Sig": signed}))
            await until(lambda: connections(settings.origin_port), "it is asked")
            # What it was sent before this, it has read.
            assert (await client.get(url)).status_code == 403
            origin.terminate()
            await origin.refuses(settings.origin_port)
        finally:
            os.kill(nats.pid, signal.SIGCONT)
        assert (await asked).status_code == 404  # that vehicle has never sent
        assert await origin.ended() == 0


def connections(port: int) -> int:
    """Established ones to this port, as the kernel counts them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


@pytest.mark.parametrize("name", ["ingest", "origin", "consume"])
async def test_each_role_ends_within_the_bound_though_nats_server_hangs(
    name: str, nats: Server, settings: Settings, folder: Path
) -> None:
    async with role(name, settings, folder) as running:
        os.kill(nats.pid, signal.SIGSTOP)
        try:
            running.terminate()
            assert await running.ended() == 0
        finally:
            os.kill(nats.pid, signal.SIGCONT)


async def test_a_consume_that_is_told_to_stop_hands_its_partitions_over_at_once() -> None:
    # Were it silent, the other would wait for so long before it takes them.
    async with site(member_timeout=60.0) as here:
        numbers = range(here.settings.partitions)
        vehicles = {partition(f"v{n}", here.settings.partitions): f"v{n}" for n in range(200)}
        assert vehicles.keys() == set(numbers)
        for vehicle in vehicles.values():
            await here.send(vehicle, 1)
            await here.reaches(vehicle, 1)
        recoveries = await here.counts("recoveries", "consume-1")
        await here.platform.supervisor.stop_one("consume-0")
        for vehicle in vehicles.values():
            await here.send(vehicle, 2)
        for vehicle in vehicles.values():
            await here.reaches(vehicle, 2)
        assert await here.counts("recoveries", "consume-1") > recoveries

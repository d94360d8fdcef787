"""A car that falls silent, told through the real edge though no packet causes it; and one that comes back."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from fleetcast.clock import rfc3339, seconds
from fleetcast.members import owners
from fleetcast.settings import dump
from fleetcast.subjects import partition
from tests.e2e.outside import PARTITIONS, Phone, Site, data, site
from tests.servers import until

EVERY, QUIET_AFTER, OFFLINE_AFTER = 2.0, 1.5, 3.0
CARS = 55


@pytest.fixture(scope="module")
async def here() -> AsyncIterator[Site]:
    async with site(expected_every=EVERY, quiet_after=QUIET_AFTER, offline_after=OFFLINE_AFTER) as running:
        yield running


async def status(phone: Phone) -> dict[str, Any]:
    (event,) = await phone.take()
    assert event.event == "status", event
    shown = data(event)
    assert event.id.endswith(f"-{shown['version']}")
    assert shown["signals"] == {}
    return shown


async def test_quiet_then_offline_then_live_on_an_open_stream(here: Site) -> None:
    async with here.phone("car-1") as phone, here.phone("car-1", view="tyres") as tyres:
        assert "status" not in await phone.snapshot()
        await tyres.snapshot()
        await here.send("car-1", 1)
        assert await phone.versions(1) == [1]
        latest = await here.latest("car-1")
        stored = seconds(latest["updated_at"])
        assert (latest["status"], latest["since"]) == ("live", latest["updated_at"])

        quiet = await status(phone)
        assert (quiet["version"], quiet["prev"], quiet["status"]) == (2, 1, "quiet")
        assert quiet["since"] == rfc3339(stored + QUIET_AFTER * EVERY)
        assert quiet["updated_at"] == latest["updated_at"]
        latest = await here.latest("car-1")
        assert (latest["status"], latest["since"]) == ("quiet", quiet["since"])
        assert phone.view() == latest

        offline = await status(phone)
        assert (offline["version"], offline["status"]) == (3, "offline")
        assert offline["since"] == rfc3339(stored + OFFLINE_AFTER * EVERY)

        await here.send("car-1", 2)
        live = await status(phone)
        assert (live["version"], live["prev"], live["status"]) == (4, 3, "live")
        assert await phone.versions(1) == [5]
        latest = await here.latest("car-1")
        assert live["since"] == live["updated_at"] == latest["updated_at"] == latest["since"]
        assert phone.view() == latest
        told = [await status(tyres) for _ in range(3)]
        assert [(one["prev"], one["version"], one["status"]) for one in told] == [
            (0, 2, "quiet"),
            (2, 3, "offline"),
            (3, 4, "live"),
        ]
    # One that comes back gets what it missed, statuses too; and in a snapshot it is there at once.
    async with here.phone("car-1", last=phone.events[1].id) as again:
        assert [event.event for event in await again.take(4)] == ["status", "status", "status", "update"]
    async with here.phone("car-1") as fresh:
        assert (await fresh.snapshot())["status"] in ("live", "quiet")


async def test_tail_on_a_terminal_shows_it(here: Site, folder: Path) -> None:
    config = folder / "fleetcast.toml"
    config.write_text(dump(here.settings))
    await here.send("car-t", 1)
    screen, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    tail = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fleetcast", "--config", str(config), "tail", "car-t"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=terminal,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(terminal)
    try:
        drawn = b""

        def says(word: bytes) -> bool:
            nonlocal drawn
            drawn += os.read(screen, 1 << 16)  # it draws twice a second
            return word in drawn

        await until(lambda: says(b"car-t   quiet for "), "it is said to be quiet")
        await until(lambda: says(b"car-t   offline for "), "it is said to be offline")
    finally:
        tail.terminate()
        await tail.wait()
        os.close(screen)


async def test_it_comes_though_the_owner_is_killed_while_the_car_is_silent(here: Site) -> None:
    async with here.phone("car-k") as phone:
        await phone.snapshot()
        await here.send("car-k", 1)
        await phone.versions(1)
        owner = owners(PARTITIONS, frozenset({"consume-0", "consume-1"}))[partition("car-k", PARTITIONS)]
        here.kill(owner)
        # Late, so it may be offline by then.
        told = await status(phone)
        assert told["status"] in ("quiet", "offline")
        if told["status"] == "quiet":
            assert (await status(phone))["status"] == "offline"


async def test_how_long_a_status_takes_to_a_phone(here: Site) -> None:
    """From the moment it is due; both clocks are this machine's."""
    came: dict[tuple[str, str], float] = {}

    async def watch(phone: Phone) -> None:
        await phone.snapshot()
        await phone.versions(1)
        for _ in range(2):
            shown = await status(phone)
            came[(phone.vehicle, shown["status"])] = time.time() - seconds(shown["since"])

    async with AsyncExitStack() as stack:
        phones = [await stack.enter_async_context(here.phone(f"many-{n}")) for n in range(CARS)]
        watching = [asyncio.create_task(watch(phone)) for phone in phones]
        for phone in phones:
            await here.send(phone.vehicle, 1)
        await asyncio.gather(*watching)
    assert len(came) == 2 * CARS
    delays = sorted(came.values())
    p50, p99 = delays[len(delays) // 2], delays[int(len(delays) * 0.99)]
    print(f"{len(delays)} statuses: p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms")
    assert delays[0] >= -0.01, "told before it was due"
    assert p50 < 2.0
    await until(lambda: here.counts("statuses", label="quiet"))

"""The clients on a real platform whose parts are killed (SIGKILL) while packets come: nothing missed, nothing twice."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import BrowserContext

from tests.clients.followers import Follow, chromium, in_chromium, in_node, in_python
from tests.e2e.outside import Site, site
from tests.servers import Proxy, free_ports, until


@pytest.fixture(scope="module")
async def here() -> AsyncIterator[Site]:
    async with site(edges=2, consumers=1, origins=2) as running:
        yield running


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[BrowserContext]:
    async with chromium() as context:
        yield context


@pytest.fixture(params=["python", "node", "chromium"])
def follow(request: pytest.FixtureRequest) -> Follow:
    if request.param == "chromium":
        return in_chromium(request.getfixturevalue("browser"))
    clients: dict[str, Follow] = {"python": in_python, "node": in_node}
    return clients[request.param]


@pytest.fixture
def vehicle(request: pytest.FixtureRequest) -> str:
    """One for each test."""
    return "".join(letter for letter in request.node.name if letter.isalnum())[-60:]


async def test_an_edge_is_killed_twice(follow: Follow, here: Site, vehicle: str) -> None:
    sent = 0

    async def send(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            sent += 1
            await here.send(vehicle, sent)

    async with follow(here.url, vehicle, pause=200) as follower:
        await follower.says("snapshot 0")
        await send(5)
        for _ in range(2):
            await until(lambda: follower.changes[-1].endswith(f" {sent}"))
            sessions = await here.sessions()
            on = sessions.index(max(sessions))
            pid = here.kill(f"edge-{on}")
            await send(5)
            await here.started_again(f"edge-{on}", pid)
            await send(5)
        await follower.says(f"update {sent}")
        assert follower.words.count("live") >= 3
        assert follower.changes == ["snapshot 0", *(f"update {number}" for number in range(1, sent + 1))]
        state = follower.states[-1]
        assert state == await here.latest(vehicle)


async def test_an_origin_is_killed_and_the_stream_stays_open(
    follow: Follow, here: Site, vehicle: str
) -> None:
    async with follow(here.url, vehicle) as follower:
        await follower.says("snapshot 0")
        pid = here.kill("origin-0")
        for number in range(1, 6):
            await here.send(vehicle, number)
        await follower.says("update 5")
        await here.started_again("origin-0", pid)
        assert follower.changes == ["snapshot 0", *(f"update {number}" for number in range(1, 6))]
        assert [word for word in follower.words if word.startswith("waiting")] == []


async def test_both_origins_are_killed_while_the_line_is_cut(
    follow: Follow, here: Site, vehicle: str
) -> None:
    """Coming back it is told `unavailable`, or waits, and then has all it missed."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    async with Proxy(port, here.settings.front_port) as proxy, follow(url, vehicle, pause=200) as follower:
        await follower.says("snapshot 0")
        pids = [here.kill("origin-0"), here.kill("origin-1")]
        proxy.cut()
        for number in range(1, 6):
            await here.send(vehicle, number)
        await follower.says("update 5")
        for number, pid in enumerate(pids):
            await here.started_again(f"origin-{number}", pid)
        assert follower.changes == ["snapshot 0", *(f"update {number}" for number in range(1, 6))]
        assert any(word.startswith("waiting") for word in follower.words)


async def test_a_lost_update_is_a_gap_and_is_fetched(follow: Follow, here: Site, vehicle: str) -> None:
    (port,) = free_ports(1)
    async with Proxy(port, here.settings.front_port) as proxy:
        lost: list[bytes] = []

        def losing(data: bytes) -> bytes:
            if b'"version":2,' in data and not lost:
                lost.append(data)
                return b""
            return data

        async with follow(f"http://127.0.0.1:{port}", vehicle) as follower:
            await follower.says("snapshot 0")
            await here.send(vehicle, 1)
            await follower.says("update 1")
            proxy.down = losing
            await here.send(vehicle, 2)
            await until(lambda: lost)
            await here.send(vehicle, 3)
            await follower.says("gap", "update 2", "update 3")
            assert follower.changes == ["snapshot 0", "update 1", "gap", "update 2", "update 3"]
            assert follower.states[-1] == await here.latest(vehicle)


async def test_an_id_of_another_platform_is_reset(follow: Follow, here: Site, vehicle: str) -> None:
    await here.send(vehicle, 1)
    await here.reaches(vehicle, 1)
    old = {"vehicle": vehicle, "version": 9, "updated_at": "2026-01-01T00:00:00.000Z", "signals": {}}
    async with follow(here.url, vehicle, from_=("deadbeef-9", old)) as follower:
        await follower.says("reset foreign", "snapshot 1")
        await here.send(vehicle, 2)
        await follower.says("update 2")


async def test_an_id_that_is_none_is_refused(follow: Follow, here: Site) -> None:
    async with follow(here.url, "no such") as follower:
        await follower.says("refused 400")

"""What all tests share: the async backend, short temporary folders, and a nats-server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from fleetcast.jetstream import Connection, connect
from fleetcast.settings import Settings
from tests.servers import Server, nats_server, platform_settings, short_folder

# A busy machine is slow, and a slow example is no finding.
hypothesis.settings.register_profile(
    "fleetcast", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("fleetcast")

_SLOW_FIRST = ("e2e", "proof", "clients", "contracts", "web")

Connect = Callable[[], Awaitable[Connection]]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, because unix sockets lie in it."""
    with short_folder() as made:
        yield made


@pytest.fixture
def settings(folder: Path) -> Settings:
    """Every port free; few partitions, so that a test sees all of them used."""
    return platform_settings(folder, partitions=8)


@pytest.fixture
async def nats(folder: Path, settings: Settings) -> AsyncIterator[Server]:
    """A nats-server of its own for each test, at `settings.nats`."""
    async with nats_server(folder, int(settings.nats.rpartition(":")[2]), settings) as server:
        yield server


@pytest.fixture
async def connected(nats: Server, settings: Settings) -> AsyncIterator[Connect]:
    """Opens connections to it, and closes them at the end."""
    opened: list[Connection] = []

    async def open_one() -> Connection:
        opened.append(await connect(settings, "test"))
        return opened[-1]

    yield open_one
    for connection in opened:
        await connection.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts whole platforms first: a worker takes a file at a time, and a long one at the end keeps all waiting."""
    items.sort(key=_weight)  # a stable sort


def _weight(item: pytest.Item) -> int:
    folder = item.path.parent.name
    return _SLOW_FIRST.index(folder) if folder in _SLOW_FIRST else len(_SLOW_FIRST)

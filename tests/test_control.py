"""The control socket: what is asked is done, each word of progress arrives, and every end is told."""

from __future__ import annotations

import asyncio
import socket
import stat
from contextlib import closing
from pathlib import Path

import pytest

from fleetcast.control import Request, Say, ask, path, served
from fleetcast.errors import FleetcastError, NotReady, Unusable


@pytest.fixture
def data(folder: Path) -> str:
    (folder / "run").mkdir()
    return str(folder)


async def test_what_is_asked_is_done_and_progress_is_said(data: str) -> None:
    asked: list[Request] = []

    async def obey(request: Request, say: Say) -> None:
        asked.append(request)
        say("one")
        say("two")

    request = Request("roll", ["consume"], {"enrichers": "a,b"})
    said: list[str] = []
    async with served(path(data), obey):
        await ask(data, request, said.append)
    assert (asked, said) == ([request], ["one", "two"])


@pytest.mark.parametrize("kind", [Unusable, NotReady, FleetcastError, RuntimeError])
async def test_what_went_wrong_is_told_as_it_was(data: str, kind: type[Exception]) -> None:
    async def obey(request: Request, say: Say) -> None:
        say("begun")
        raise kind("and why")

    said: list[str] = []
    async with served(path(data), obey):
        with pytest.raises(FleetcastError, match="and why") as raised:
            await ask(data, Request("roll"), said.append)
    assert said == ["begun"]
    assert isinstance(raised.value, Unusable) is (kind is Unusable)


async def test_only_its_user_may_ask_and_nothing_is_left_behind(data: str) -> None:
    async with served(path(data), _nothing):
        assert mode(path(data)) == 0o600
    assert left(data) == []


async def _nothing(request: Request, say: Say) -> None:
    pass


def mode(where: Path) -> int:
    return stat.S_IMODE(where.stat().st_mode)


def left(data: str) -> list[Path]:
    return list(path(data).parent.iterdir())


async def test_without_a_platform_it_is_one_clear_line(data: str, tmp_path: Path) -> None:
    long = str(tmp_path / ("x" * 200))
    for folder in (data, long):
        with pytest.raises(Unusable, match=f"no platform runs in {folder}"):
            await ask(folder, Request("roll"), print)
    with closing(socket.socket(socket.AF_UNIX)) as killed:  # the socket of one that was killed
        killed.bind(str(path(data)))
    with pytest.raises(Unusable, match="no platform runs"):
        await ask(data, Request("roll"), print)
    async with served(path(data), _nothing):
        await ask(data, Request("roll"), print)


async def test_a_change_goes_on_when_whoever_asked_goes_away(data: str) -> None:
    begun, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def obey(request: Request, say: Say) -> None:
        begun.set()
        await go_on.wait()
        for _ in range(1000):
            say("nobody hears it")
        done.set()

    async with served(path(data), obey):
        asking = asyncio.create_task(ask(data, Request("roll"), print))
        await begun.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        go_on.set()
        await asyncio.wait_for(done.wait(), 10)


async def test_the_end_of_the_platform_ends_the_change_and_is_told(data: str) -> None:
    begun = asyncio.Event()
    ended: list[str] = []

    async def obey(request: Request, say: Say) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("given up")

    async with served(path(data), obey):
        asking = asyncio.create_task(ask(data, Request("roll"), print))
        await begun.wait()
    with pytest.raises(FleetcastError, match="the platform ended meanwhile"):
        await asking
    assert ended == ["given up"]


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"hello\n", b'{"command":1}\n', b'{"command":"a","x":1}\n', b"x" * 100_000]
)
async def test_what_is_no_request_is_answered(data: str, line: bytes) -> None:
    async with served(path(data), _nothing):
        reader, writer = await asyncio.open_unix_connection(str(path(data)))
        writer.write(line)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b'{"said":"not a request')
    assert answer.endswith(b'"status":2}\n')

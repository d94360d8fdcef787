"""What only the Python client has: `latest`, resuming without a state, `break`, and how little it needs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from fleetcast import client as module
from fleetcast.client import Client, Gap, NotAvailable, Refused, Snapshot, State, Update
from tests.clients.followers import Answer, Scripted, snapshot, status, stream, update
from tests.servers import free_ports, until

VIEW = b'{"vehicle":"car","version":1,"updated_at":"2026-11-23T10:00:00.000Z","signals":{"N":{"value":1,"at":"x"}},"new":1}'


def scripted(*answers: Answer) -> Scripted:
    (port,) = free_ports(1)
    return Scripted(port, answers)


def latest(body: bytes, tag: str = '"aa-1"') -> Answer:
    head = f"HTTP/1.1 200 X\r\nETag: {tag}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return Answer(head.encode() + body)


async def test_latest_asks_with_the_etag_of_the_one_before() -> None:
    newer = VIEW.replace(b'"version":1', b'"version":2')
    answers = [latest(VIEW), status(304), latest(newer, '"aa-2"'), status(304)]
    async with scripted(*answers) as server, Client(server.url) as client:
        one, again = await client.latest("car"), await client.latest("car")
        two, after = await client.latest("car"), await client.latest("car")
    assert one is again
    assert two is after
    assert isinstance(one, State)
    assert isinstance(two, State)
    assert (one.version, one.value("N"), one.value("none", 7), two.version) == (1, 1, 7, 2)
    asked = [head.partition("if-none-match: ")[2].partition("\r\n")[0] for head in server.heads]
    assert asked == ["", '"aa-1"', '"aa-1"', '"aa-2"']


async def test_latest_of_what_never_sent_and_of_what_fails() -> None:
    answers = [status(404, {}), status(403, {"detail": "not yours"}), status(503, {"title": "later"})]
    garbage = [latest(b"{"), latest(b"[]"), Answer(b"\0\r\n\r\n"), Answer(b"")]
    async with scripted(*answers, *garbage) as server, Client(server.url) as client:
        assert await client.latest("car") is None
        with pytest.raises(Refused, match="not yours") as refused:
            await client.latest("car")
        assert refused.value.status == 403
        for _ in range(5):
            with pytest.raises(NotAvailable):
                await client.latest("car")


async def test_latest_that_is_never_answered() -> None:
    async with scripted(Answer(b"", hold=True)) as server, Client(server.url, opening=0.2) as client:
        with pytest.raises(NotAvailable):
            await client.latest("car")


async def test_an_id_without_its_state_has_updates_and_still_a_chain() -> None:
    answers = [stream(update(7, 8), update(9, 10)), stream(update(8, 9), update(9, 10))]
    async with scripted(*answers) as server, Client(server.url) as client:
        following = client.follow("car", last_id="aa-7")
        found = []
        async for change in following:
            found.append(change)
            if following.last_id == "aa-10":
                break
        await following.aclose()
    kinds = [(type(change), getattr(change, "version", 0)) for change in found]
    assert kinds == [(Update, 8), (Gap, 0), (Update, 9), (Update, 10)]
    assert [change.state for change in found if isinstance(change, Update)] == [None] * 3


async def test_who_breaks_off_gives_the_stream_back() -> None:
    async with scripted(stream(snapshot(1), update(1, 2))) as server, Client(server.url) as client:
        async for change in client.follow("car"):
            assert isinstance(change, Snapshot)
            break
        await until(lambda: server.asked and server.open == 0)


async def test_who_is_cancelled_gives_the_stream_back() -> None:
    async with scripted(stream(snapshot(1))) as server, Client(server.url) as client:
        following = client.follow("car")

        async def follow() -> None:
            async for _ in following:
                pass

        task = asyncio.create_task(follow())
        await until(lambda: server.open == 1 and following.state)
        task.cancel()
        await until(lambda: server.open == 0)
        assert (following.status, following.reason) == ("ended", "closed")


async def test_what_the_users_own_code_raises_is_not_taken_for_a_failure() -> None:
    async def broken() -> module.Grant:
        raise KeyError("mine")

    async with scripted(stream(snapshot(1))) as server, Client(server.url, authorize=broken) as client:
        with pytest.raises(KeyError, match="mine"):
            async for _ in client.follow("car"):
                pass


async def test_a_ticket_office_that_is_away_is_asked_again() -> None:
    asked = 0

    async def office() -> module.Grant:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise OSError("away")
        return {"headers": {"Authorization": "Bearer abc"}}

    async with scripted(stream(snapshot(1))) as server, Client(server.url, authorize=office, pause=0.01) as c:
        async for _ in c.follow("car"):
            break
        assert "authorization: bearer abc" in server.heads[0]


def test_it_needs_nothing_of_the_platform_but_the_reader_of_events(tmp_path: Path) -> None:
    folder = tmp_path / "fleetcast"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name in ("client.py", "sse.py"):
        (folder / name).write_bytes(Path(module.__file__).with_name(name).read_bytes())
    code = """if True:
        import sys
        import fleetcast.client
        ours = sorted(name for name in sys.modules if name.startswith("fleetcast"))
        print(*ours, *(name for name in ("nats", "zmq", "starlette", "prometheus_client", "structlog") if name in sys.modules))
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["fleetcast", "fleetcast.client", "fleetcast.sse"]

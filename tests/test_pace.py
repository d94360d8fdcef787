"""The pace of new streams, in the real HAProxy: an edge that is slow to answer is never given more than its queues hold."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.types import Receive, Scope, Send

from fleetcast.haproxy import _OPENING
from fleetcast.proof.client import Answer, Line, get
from fleetcast.settings import Settings
from tests.servers import haproxy_server, http_server, platform_settings, until

PHONES = 3 * _OPENING


class SlowEdge:
    """Answers a stream's beginning only when it is let go, and holds it then."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.unanswered = self.most = self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        stream = scope["path"].endswith("/events")
        await receive()
        if stream:
            self.unanswered += 1
            self.most = max(self.most, self.unanswered)
            await self.go.wait()
            self.unanswered -= 1
            self.held += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b":\n\n", "more_body": stream})
        if stream:
            while (await receive())["type"] != "http.disconnect":
                pass


@asynccontextmanager
async def front(folder: Path, edge: SlowEdge, rate: int = 2000) -> AsyncIterator[Settings]:
    settings = platform_settings(folder, edges=1, new_streams=rate, edge_connections=1000)
    async with http_server(edge, settings.edge_port), haproxy_server(folder, settings, []) as haproxy:
        yield settings
        assert "runtime error" not in haproxy.log.read_text()


async def status(settings: Settings, query: str = "") -> int:
    """Of the answer to a phone's question for a stream, which is closed then."""
    line = await Line.open(settings.front_port)
    try:
        line.ask("GET", f"/v1/vehicles/car-1/events{query}", {"Accept": "text/event-stream"})
        answer = Answer()
        while not answer.begun:
            data = await line.reader.read(65_536)
            if not data:
                return 0
            answer.feed(data)
        return answer.status
    finally:
        line.close()


async def test_no_more_streams_are_opened_at_a_time_than_the_edge_can_queue(folder: Path) -> None:
    """3,000 phones that came back at once collapsed an edge whose machine was slower than the pace."""
    edge = SlowEdge()
    async with front(folder, edge) as settings, asyncio.TaskGroup() as tasks:
        opening = [tasks.create_task(status(settings)) for _ in range(PHONES)]
        await until(lambda: edge.unanswered == _OPENING, "as many as may be are let through")
        edge.go.set()
        assert set(await asyncio.gather(*opening)) == {200}
        assert (edge.held, edge.most) == (PHONES, _OPENING)


async def test_phones_that_leave_before_the_answer_hold_their_places_for_seconds_only(folder: Path) -> None:
    """Otherwise those that gave up would keep the others waiting, and they would give up too."""
    edge = SlowEdge()
    async with front(folder, edge) as settings:
        leaving = [asyncio.create_task(status(settings)) for _ in range(_OPENING)]
        await until(lambda: edge.unanswered == _OPENING)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        edge.go.set()
        found = await asyncio.gather(*(status(settings) for _ in range(_OPENING)))
        assert set(found) == {200}


async def test_phones_that_leave_while_they_wait_never_reach_the_edge(folder: Path) -> None:
    """All that gave up at once were let through at once, for nobody, and the edge stood still meanwhile."""
    edge = SlowEdge()
    async with front(folder, edge) as settings, asyncio.TaskGroup() as tasks:
        first = [tasks.create_task(status(settings)) for _ in range(_OPENING)]
        await until(lambda: edge.unanswered == _OPENING)
        waiting = [asyncio.create_task(status(settings)) for _ in range(PHONES)]
        await until(lambda: sessions(settings, PHONES + _OPENING), "they wait in HAProxy")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await until(lambda: sessions(settings, _OPENING), "HAProxy knows that they left")
        assert edge.most == _OPENING
        edge.go.set()
        assert set(await asyncio.gather(*first)) == {200}
        assert await status(settings) == 200
        assert edge.held == _OPENING + 1


async def told(settings: Settings, query: str = "", **headers: str) -> tuple[int, bytes]:
    """The whole of an answer that ends."""
    line = await Line.open(settings.front_port)
    try:
        line.ask("GET", f"/v1/vehicles/car-1/events{query}", headers)
        answer = await line.answer()
        return answer.status, answer.take()
    finally:
        line.close()


SSE = {"Accept": "text/event-stream"}


async def test_who_has_waited_for_long_is_told_to_come_back(folder: Path) -> None:
    """Let through so late, phones gave up before they were answered, and what was done for them was in vain."""
    edge = SlowEdge()
    async with front(folder, edge) as settings, asyncio.TaskGroup() as tasks:
        first = [tasks.create_task(status(settings)) for _ in range(_OPENING)]
        await until(lambda: edge.unanswered == _OPENING)
        others = [asyncio.create_task(told(settings, **SSE)) for _ in range(PHONES)]
        # Some get the places of the first, which count for five seconds only.
        await until(lambda: sum(one.done() for one in others) >= PHONES - _OPENING, "the rest is told")
        late = [one.result() for one in others if one.done()]
        assert all(answer == 200 and b"event: unavailable" in body for answer, body in late)
        assert all(b"retry: " in body for _, body in late)
        for one in others:
            one.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        edge.go.set()
        assert set(await asyncio.gather(*first)) == {200}


async def test_whoever_would_have_to_wait_for_long_is_told_so_at_once(folder: Path) -> None:
    """A browser's EventSource in band, everybody else by a status."""
    kinds = (("", SSE["Accept"]), ("", "*/*"), ("?wait=5", "application/json"), ("?wait=5", SSE["Accept"]))
    async with front(folder, SlowEdge(), rate=1) as settings:
        asking = {
            asyncio.create_task(told(settings, query, Accept=accept)): (query, accept)
            for query, accept in kinds * 20
        }
        # The others wait: of eight seconds there are as many places.
        await until(lambda: sum(one.done() for one in asking) >= 60, "most are told")
        found = [(kind, *one.result()) for one, kind in asking.items() if one.done()]
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    assert {kind for kind, *_ in found} == set(kinds)
    for kind, answer, body in found:
        if kind == kinds[0]:
            assert (answer, body.count(b"event: unavailable")) == (200, 1)
        else:
            assert (answer, b"try again" in body) == (503, True)


async def test_long_polls_that_wait_hold_no_places(folder: Path) -> None:
    """They are answered only when there is something to say: counted as openings they would keep streams out."""
    edge = SlowEdge()
    async with front(folder, edge) as settings, asyncio.TaskGroup() as tasks:
        polls = [tasks.create_task(status(settings, "?wait=30")) for _ in range(PHONES)]
        await until(lambda: edge.unanswered == PHONES, "all wait at the edge")
        stream = tasks.create_task(status(settings))
        await until(lambda: edge.unanswered == PHONES + 1, "a stream is let through")
        edge.go.set()
        assert set(await asyncio.gather(*polls, stream)) == {200}


async def test_an_edge_that_ends_connections_keeps_no_places(folder: Path) -> None:
    """HAProxy's own answers ended no opening: after an edge was killed those who waited did so for five seconds more."""
    told = 0

    async def edge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal told
        if b"/events" in await reader.readuntil(b"\r\n\r\n"):
            told += 1
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    settings = platform_settings(folder, edges=1, new_streams=2000)
    server = await asyncio.start_server(edge, "127.0.0.1", settings.edge_port)
    async with (
        server,
        haproxy_server(folder, settings, []),
        asyncio.timeout(4),
    ):  # before the 5 s after which all are free
        found = await asyncio.gather(*(status(settings) for _ in range(PHONES)))
        assert set(found) == {200}  # and the word `unavailable`, in band
        assert told >= PHONES


async def sessions(settings: Settings, count: int) -> bool:
    """Whether the front has so many."""
    answer = await get(settings.haproxy_port, "/metrics")
    found = re.search(rb'haproxy_frontend_current_sessions{proxy="front"} (\d+)', bytes(answer.body))
    assert found
    return int(found[1]) == count


async def test_without_an_edge_phones_are_told_at_once(folder: Path) -> None:
    settings = platform_settings(folder, edges=1, new_streams=2000)
    async with haproxy_server(folder, settings, []):
        found = await asyncio.gather(*(status(settings) for _ in range(PHONES)))
        assert set(found) == {200}  # and the word `unavailable`, in band

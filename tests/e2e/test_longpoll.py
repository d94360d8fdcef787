"""Long-polling through the real front door: the same events as a stream's, each once and in order, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import pytest

from fleetcast.edge import FITS_NOBODY, Item
from fleetcast.pushpin import HttpEdge
from fleetcast.subjects import channel
from tests.e2e.outside import Site, site
from tests.e2e.test_clients import away
from tests.e2e.test_stream import is_problem
from tests.servers import until


class Poller:
    """An app that long-polls a vehicle again and again, and keeps what came."""

    def __init__(self, here: Site, vehicle: str, wait: int = 30) -> None:
        self._here, self.vehicle, self._wait = here, vehicle, wait
        self.last = ""
        self.events: list[dict[str, Any]] = []
        self.answers = 0
        self.failed = 0
        self.asked = 0.0

    async def ask(self, wait: int = 0) -> dict[str, Any]:
        """One answer, which must be a 200."""
        self.asked = time.monotonic()
        answer = await poll(self._here, self.vehicle, self.last, wait or self._wait)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        self.answers += 1
        self.last = told["last_event_id"]
        self.events += told["events"]
        return told

    async def run(self) -> None:
        """Until cancelled. What is no answer is asked again, with the same id."""
        while True:
            try:
                await self.ask()
            except (httpx2.TransportError, AssertionError):
                self.failed += 1
                await asyncio.sleep(0.1)

    @property
    def versions(self) -> list[int]:
        return [event["data"]["version"] for event in self.events]

    def chained(self, *names: str) -> None:
        """Asserts that it is a snapshot (or what is given) and then updates, each of which follows the one before."""
        first = names or ("snapshot",)
        assert [event["event"] for event in self.events] == [
            *first,
            *(["update"] * (len(self.events) - len(first))),
        ]
        for before, after in zip(self.events[len(first) - 1 :], self.events[len(first) :], strict=False):
            assert after["data"]["prev"] == before["data"]["version"]


async def poll(
    here: Site, vehicle: str, last: str = "", wait: object = 30, **headers: str
) -> httpx2.Response:
    sent = {"Accept": "application/json", **headers} | ({"Last-Event-ID": last} if last else {})
    return await here.get(f"/v1/{here.settings.noun}/{vehicle}/events?wait={wait}", sent)


@pytest.fixture(scope="module")
async def here() -> AsyncIterator[Site]:
    async with site() as running:
        yield running


@asynccontextmanager
async def polling(*pollers: Poller) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one.run()) for one in pollers]
        try:
            yield
        finally:
            for task in running:
                task.cancel()


async def held(here: Site, count: int) -> None:
    """Waits until so many long-polls are held by the edges."""

    async def so_many() -> bool:
        page = (await here.client.get(f"http://127.0.0.1:{here.settings.haproxy_port}/metrics")).text
        found = re.findall(r'haproxy_server_current_sessions{proxy="polls",server="[^"]*"} (\d+)', page)
        return sum(map(int, found)) == count

    await until(so_many, f"{count} long-polls are held")


async def test_a_first_poll_is_answered_at_once_and_the_next_one_when_something_happens(here: Site) -> None:
    phone = Poller(here, "first")
    answer = await poll(here, "first")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert not [name for name in answer.headers if name.startswith("grip-")]
    told = await phone.ask()
    assert [event["event"] for event in told["events"]] == ["snapshot"]
    assert told["events"][0]["data"] == {"vehicle": "first", "version": 0, "updated_at": "", "signals": {}}
    assert told["events"][0]["id"] == told["last_event_id"]

    waiting = asyncio.create_task(phone.ask())
    await held(here, 1)
    assert not waiting.done()
    await here.send("first", 1, {"Test.Word": 'ä\u2028\n"🚗'})
    told = await asyncio.wait_for(waiting, 10)
    (event,) = told["events"]
    assert (event["event"], event["id"]) == ("update", told["last_event_id"])
    assert event["data"]["signals"]["Test.Word"]["value"] == 'ä\u2028\n"🚗'
    tag = (await here.get("/v1/vehicles/first")).headers["etag"]
    assert tag == f'"{told["last_event_id"]}"'
    phone.chained()


async def test_what_was_missed_is_answered_at_once_and_in_one(here: Site) -> None:
    phone = Poller(here, "missed")
    await phone.ask()
    for seq in (1, 2, 3):
        await here.send("missed", seq)
    await here.reaches("missed", 3)
    query = await here.get(f"/v1/vehicles/missed/events?wait=60&last_event_id={phone.last}")
    told = await phone.ask()
    assert query.json() == told
    assert phone.versions == [0, 1, 2, 3]
    phone.chained()


async def test_without_news_the_answer_is_empty_after_the_time_and_the_id_stays(here: Site) -> None:
    phone = Poller(here, "idle")
    first = await phone.ask()
    began = time.monotonic()
    told = await phone.ask(wait=2)
    assert told == {"events": [], "last_event_id": first["last_event_id"]}
    assert time.monotonic() - began > 1.9


async def test_haproxy_is_patient_though_keep_alives_are_frequent() -> None:
    """Its other timeouts are three times the keep-alive's."""
    async with site(keep_alive=1, window=1.0, edges=1, consumers=1, origins=1) as hurried:
        phone = Poller(hurried, "patient")
        await hurried.send("patient", 1)
        await hurried.reaches("patient", 1)
        await phone.ask()
        assert await phone.ask(wait=6) == {"events": [], "last_event_id": phone.last}
        # And that one forgets its updates after a second.
        await hurried.send("patient", 2)
        await hurried.reaches("patient", 2)

        async def expired() -> bool:
            told = (await poll(hurried, "patient", phone.last)).json()["events"]
            if told[0]["event"] == "update":
                return False
            assert told[0] == {
                "event": "reset",
                "data": {"vehicle": "patient", "reason": "expired", "from": phone.last, "to": told[1]["id"]},
            }
            assert (told[1]["event"], told[1]["data"]["version"]) == ("snapshot", 2)
            return True

        await until(expired, "the window has gone by")


@pytest.mark.parametrize("last", ["deadbeef-7", "x", "0" * 300])
async def test_a_foreign_id_is_told_and_gets_a_snapshot(here: Site, last: str) -> None:
    told = (await poll(here, "foreign", last)).json()
    assert [event["event"] for event in told["events"]] == ["reset", "snapshot"]
    assert "id" not in told["events"][0]
    assert told["events"][0]["data"]["reason"] == "foreign"
    assert told["last_event_id"] == told["events"][1]["id"]


@pytest.mark.parametrize("wait", ["", "0", "61", "-1", "1.5", "abc", "25s", "%D9%A2", "100", " 5"])
async def test_a_bad_wait_is_a_400(here: Site, wait: str) -> None:
    for accept in ("application/json", "text/event-stream"):
        answer = await poll(here, "bad", wait=wait, Accept=accept)
        assert is_problem(answer, 400)
        assert answer.json()["detail"] == "wait is 1 to 60, in seconds"


async def test_the_longest_wait_is_let_through(here: Site) -> None:
    assert (await poll(here, "longest", wait=60)).status_code == 200


async def test_streams_and_polls_of_a_vehicle_see_the_same_and_only_who_listens_costs(here: Site) -> None:
    async def items() -> float:
        return await here.counts("published_items")

    async with here.phone("both") as phone:
        await phone.take()
        before = await items()
        await here.send("both", 1)
        assert await phone.versions(1) == [1]
        await here.reaches("both", 1)
        assert await items() == before + 1  # to the one replica that has the stream
        poller = Poller(here, "both")
        sent = 1

        async def one_more() -> float:
            """What an update costs. That somebody polls is known to consume a moment after the edge holds it."""
            nonlocal sent
            await held(here, 1)
            before = await items()
            sent += 1
            await here.send("both", sent)
            assert await phone.versions(1) == [sent]
            await until(lambda: poller.versions == [*range(1, sent + 1)])
            return await items() - before

        async with polling(poller):
            while (cost := await one_more()) == 1:
                assert sent < 20
        assert cost == 2  # an item for who streams, and one for who polls
        streamed = [{"event": one.event, "id": one.id} for one in phone.events[1:]]
        assert [{"event": "update", "id": event["id"]} for event in poller.events] == streamed


async def test_many_polls_in_a_row_miss_nothing_and_see_nothing_twice_whatever_is_killed(here: Site) -> None:
    vehicles = [f"many-{number}" for number in range(4)]
    # A poll that was answered by an edge as it died may wait out its time: so that is short.
    pollers = [Poller(here, vehicle, 10) for vehicle in vehicles for _ in range(4)]
    sent = 0

    async def drive(rounds: int) -> None:
        nonlocal sent
        for _ in range(rounds):
            sent += 1
            await asyncio.gather(*(here.send(vehicle, sent) for vehicle in vehicles))

    async def level() -> None:
        wanted = list(range(sent + 1))
        await until(lambda: all(one.versions == wanted for one in pollers), f"all have {sent} updates", 60)

    async with polling(*pollers):
        await until(lambda: all(one.events for one in pollers))
        await drive(20)
        await level()
        for name in ("edge-0", "origin-0", "edge-1", "consume-0", "origin-1"):
            killed = here.kill(name)
            await drive(10)
            await level()
            await here.started_again(name, killed)
        await held(here, len(pollers))
        killed = here.kill("haproxy")
        await drive(3)
        await level()
        await here.started_again("haproxy", killed)
    for one in pollers:
        one.chained()
        assert one.answers > 20


async def test_an_edge_is_replaced_and_its_polls_notice_nothing(here: Site) -> None:
    pollers = [Poller(here, f"rolled-{number}", 60) for number in range(8)]
    async with polling(*pollers):
        await until(lambda: all(one.events for one in pollers))
        await held(here, len(pollers))
        began = time.monotonic()
        await here.platform.roll("edge", lambda _: None)
        assert time.monotonic() - began < 30  # it waits for none of them
        await asyncio.gather(*(here.send(one.vehicle, 1) for one in pollers))
        await until(lambda: all(one.versions == [0, 1] for one in pollers))
    assert [one.failed for one in pollers] == [0] * len(pollers)


async def test_an_edge_is_killed_and_its_polls_notice_nothing(here: Site) -> None:
    """They had no answer yet, so HAProxy asks the other one for them."""
    pollers = [Poller(here, f"killed-{number}", 60) for number in range(8)]
    async with polling(*pollers):
        await until(lambda: all(one.events for one in pollers))
        await held(here, len(pollers))
        killed = here.kill("edge-0")
        await here.started_again("edge-0", killed)
        await held(here, len(pollers))
        await asyncio.gather(*(here.send(one.vehicle, 1) for one in pollers))
        await until(lambda: all(one.versions == [0, 1] for one in pollers))
    assert [one.failed for one in pollers] == [0] * len(pollers)


async def test_a_poll_is_answered_in_its_time_however_often_its_edge_asks_again(here: Site) -> None:
    """As it does whenever its channel may have had something that it has not: after each takeover of a calm vehicle's."""
    phone = Poller(here, "again")
    await phone.ask()
    waiting = asyncio.create_task(phone.ask(wait=8))
    asked = 0.0

    async def again() -> bool:
        nonlocal asked
        before, asked = asked, await here.counts("polls", "origin", label="held")
        return waiting.done() or asked > before

    async with AsyncExitStack() as stack:
        edge = HttpEdge(here.settings)
        stack.push_async_callback(edge.close)
        await edge.ready()
        while not waiting.done():
            assert time.monotonic() - phone.asked < 20
            await until(again)
            await edge.publish([Item(channel("again"), f"unheard-{asked}", FITS_NOBODY, b"")])
    assert (await waiting)["events"] == []
    assert asked > 5


async def test_polls_that_wait_do_not_keep_plain_requests_or_streams_out() -> None:
    async with site(edges=1, consumers=1, origins=1, edge_connections=20) as small, AsyncExitStack() as stack:
        pollers = [Poller(small, f"wait-{number}") for number in range(10)]  # as many as there is room for
        for one in pollers:
            await one.ask()
        await stack.enter_async_context(polling(*pollers))
        await held(small, 10)
        assert (await small.get("/v1/vehicles")).status_code == 200
        async with small.phone("wait-0") as phone:
            await phone.take()
        await small.send("wait-0", 1)
        await until(lambda: pollers[0].versions == [0, 1])


async def test_without_an_origin_a_poll_is_a_503_and_the_next_one_goes_on() -> None:
    async with site(edges=1, consumers=1, origins=1) as lone:
        phone = Poller(lone, "gone")
        await phone.ask()
        async with away(lone, "origin"):
            for accept in ("application/json", "text/event-stream"):
                answer = await poll(lone, "gone", phone.last, Accept=accept)
                assert is_problem(answer, 503)
                assert answer.headers["retry-after"] == "1"
            await lone.send("gone", 1)
        async with polling(phone):
            await until(lambda: phone.versions == [0, 1])

"""The contract of `fleetcast.edge`, held by every adapter against real Pushpins, with phones' streams held open by an origin.

What concerns who listens, and what goes over the wire, only the ZeroMQ adapter can promise.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fleetcast import longpoll, probes, sse
from fleetcast.edge import FITS_NOBODY, Edge, Item
from fleetcast.pushpin import (
    GRIP_SIG,
    HttpEdge,
    ZmqEdge,
    client_maxconn,
    hold,
    hold_poll,
    last_ids,
    signed_by_edge,
)
from fleetcast.settings import Settings
from fleetcast.subjects import channel, control_channel
from tests.servers import (
    Proxy,
    Server,
    free_ports,
    http_server,
    platform_settings,
    pushpin_server,
    short_folder,
    until,
)

KEPT_ALIVE = b":\n\n"
KEY = "a-key-of-the-tests-as-long-as-it-should-be"
ADAPTERS: Mapping[str, Callable[[Settings], Edge]] = {"zmq": ZmqEdge, "http": HttpEdge}
zmq_only = pytest.mark.parametrize("worlds", ["zmq"], indirect=True)


class Origin:
    """Holds `/streams?channel=…&at=…`, and answers the next link with what was published after the id asked for."""

    def __init__(self, settings: Settings) -> None:
        self.published: dict[str, list[Item]] = {}
        self.asked: list[tuple[str, str]] = []
        self.signed: list[bool] = []
        self.polled: list[str] = []
        self.unseen: list[Item] = []
        self.publishers: list[Callable[[list[Item]], Awaitable[None]]] = []
        self._settings = settings
        routes = [
            Route("/live", self._live),
            Route("/streams", self._open),
            Route("/next/{link:int}", self._next),
            Route("/polls", self._poll),
        ]
        self.app = Starlette(routes=routes)

    async def _live(self, request: Request) -> Response:
        """Holds nothing, but is given to the replica's handler as what holds is."""
        return Response(b'{"response": {"body": "live"}}', media_type="application/grip-instruct")

    async def _open(self, request: Request) -> Response:
        name, at = request.query_params["channel"], request.query_params["at"]
        self.signed.append(signed_by_edge(request.headers.get(GRIP_SIG), KEY))
        response = Response(b"open\n", media_type="text/plain")
        for key, value in hold(name, at, 7, 3, self._settings, begins=True):
            response.headers.append(key, value)
        return response

    async def _next(self, request: Request) -> Response:
        lasts = last_ids(request.headers.getlist("grip-last"))
        self.asked += lasts.items()
        body, at = b"", dict[str, str]()
        for name, last in lasts.items():
            later = [item for item in self.published.get(name, ()) if int(item.id) > int(last)]
            body += b"".join(item.content for item in later)
            at[name] = later[-1].id if later else last
        response = Response(body, media_type="text/plain")
        for name, last in at.items():
            for key, value in hold(name, last, 7, request.path_params["link"], self._settings):
                if key == "Grip-Channel" or name == next(iter(at)):
                    response.headers.append(key, value)
        return response

    async def _poll(self, request: Request) -> Response:
        """What came after the id asked from, or a hold. `unseen`: what is published while it answers."""
        name, at = request.query_params["channel"], request.query_params["at"]
        self.polled.append(at)
        later = [item for item in self.published.get(name, ()) if int(item.id) > int(at)]
        unseen, self.unseen = self.unseen, []  # at once: another poll may come while this one waits
        self.published.setdefault(name, []).extend(unseen)
        await asyncio.gather(*(publish([one]) for publish in self.publishers for one in unseen))
        body = longpoll.answer(b"".join(item.content for item in later), later[-1].id if later else at)
        response = Response(body, media_type=longpoll.MEDIA_TYPE)
        wait = int(request.query_params.get("wait", "20"))
        for key, value in [] if later else hold_poll(name, at, wait):
            response.headers.append(key, value)
        return response


class Phone:
    """A stream that is held open."""

    def __init__(self, port: int, name: str, at: str) -> None:
        self.body = bytearray()
        self.ended = False
        self._url = f"http://127.0.0.1:{port}/streams?channel={name}&at={at}"
        self._opened = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    async def opened(self) -> bool:
        """Whether the origin's answer came: not another, and not none within a bound."""
        try:
            await until(lambda: self.body.startswith(b"open\n") or self._task.done(), bound=5)
        except AssertionError:
            return False
        return self.body.startswith(b"open\n")

    @property
    def got(self) -> bytes:
        """What came after the origin's answer, without what only keeps the stream alive."""
        return bytes(self.body[5:]).replace(KEPT_ALIVE, b"")

    async def leave(self) -> None:
        """Closes its connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        try:
            async with (
                httpx2.AsyncClient(timeout=60, trust_env=False, verify=probes.authorities()) as client,
                client.stream("GET", self._url) as answer,
            ):
                async for part in answer.aiter_raw():
                    self.body += part
        except httpx2.HTTPError:
            pass
        self.ended = True


class World:
    """Edge replicas, their origin, and phones."""

    def __init__(self, settings: Settings, adapter: str, origin: Origin, replicas: list[Server]) -> None:
        self.settings = settings
        self.origin = origin
        self.replicas = replicas
        self._adapter = adapter
        self._phones: list[Phone] = []
        self._edges: list[Edge] = []

    async def edge(self, **changes: object) -> Edge:
        """One that is ready."""
        edge = ADAPTERS[self._adapter](msgspec.structs.replace(self.settings, **changes))
        self._edges.append(edge)
        await edge.ready()
        return edge

    async def phone(self, name: str, replica: int = 0, at: str = "0") -> Phone:
        """One whose stream is open at that replica."""

        async def opened() -> Phone | None:
            phone = Phone(self.settings.edge_port + 10 * replica, name, at)
            self._phones.append(phone)
            if await phone.opened():
                return phone
            await phone.leave()
            return None

        # A replica that has just started may answer 502, or lose a request, until its processes have found each other.
        found = await until(opened, "the stream opens")
        assert isinstance(found, Phone)
        return found

    async def poll(self, name: str, at: str, replica: int = 0, wait: int = 20) -> tuple[list[str], str]:
        """What a long-poll is answered: the ids of its events, and the last one's."""
        url = f"http://127.0.0.1:{self.settings.edge_port + 10 * replica}/polls"
        async with httpx2.AsyncClient(timeout=60, trust_env=False, verify=probes.authorities()) as client:

            async def answered() -> httpx2.Response | None:
                try:
                    answer = await client.get(url, params={"channel": name, "at": at, "wait": wait})
                except httpx2.RemoteProtocolError:  # one in a hundred that have just started closes its first
                    return None
                return answer if answer.status_code == 200 else None

            answer = await until(answered, "the poll is answered")
        assert answer.headers["content-type"] == "application/json"
        told = answer.json()
        return [event["id"] for event in told["events"]], told["last_event_id"]

    async def settled(self, name: str, asked: int = 1) -> None:
        """When the replica has asked the next link, as it does a second after a channel's first listener."""
        await until(lambda: [which for which, _ in self.origin.asked].count(name) >= asked)

    async def publish(self, edge: Edge, *items: Item) -> None:
        """As consume does: what the origin can tell of is what was published."""
        for one in items:
            self.origin.published.setdefault(one.channel, []).append(one)
        await edge.publish(items)

    async def close(self) -> None:
        for phone in self._phones:
            await phone.leave()
        for edge in self._edges:
            await edge.close()


@asynccontextmanager
async def pushpin_world(folder: Path, adapter: str, replicas: int, **changes: Any) -> AsyncIterator[World]:
    settings = platform_settings(folder, edges=replicas, sig_key=KEY, **({"next_poll": 600} | changes))
    async with AsyncExitStack() as stack:
        origin = Origin(settings)
        await stack.enter_async_context(http_server(origin.app, settings.inner_port))
        servers = [
            await stack.enter_async_context(pushpin_server(folder, settings, number))
            for number in range(replicas)
        ]
        world = World(settings, adapter, origin, servers)
        try:
            yield world
        finally:
            await world.close()


@pytest.fixture(params=ADAPTERS)
async def worlds(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Awaitable[World]]]:
    """Makes worlds of so many replicas."""
    async with AsyncExitStack() as stack:

        async def make(replicas: int, **changes: Any) -> World:
            folder = stack.enter_context(short_folder())
            return await stack.enter_async_context(pushpin_world(folder, request.param, replicas, **changes))

        yield make


@pytest.fixture
async def world(worlds: Callable[..., Awaitable[World]]) -> World:
    return await worlds(1)


def item(name: str, number: int, content: bytes | None = None) -> Item:
    """The chain's link from `number` - 1 to `number`."""
    return Item(
        name, str(number), str(number - 1), f"item {number}\n".encode() if content is None else content
    )


def lines(first: int, last: int) -> bytes:
    """What those items come to."""
    return b"".join(f"item {number}\n".encode() for number in range(first, last + 1))


def event(name: str, number: int) -> Item:
    """The same, as an event of Server-Sent Events, which is what a long-poll can be answered with."""
    return item(name, number, sse.event("update", b'{"n":%d}' % number, str(number)))


CAR = channel("car-1")


# What a replica bears, whichever the adapter


@zmq_only
async def test_many_that_come_and_go_do_not_end_a_replica(worlds: Callable[..., Awaitable[World]]) -> None:
    """More held within a minute than its process for requests could keep accounts of: it ended itself, and every stream."""
    world = await worlds(1, edge_connections=20)
    edge = await world.edge()
    stays = await world.phone(CAR)
    for _ in range(3 * client_maxconn(world.settings) // 50):
        phones = await asyncio.gather(*(world.phone(CAR) for _ in range(50)))
        await asyncio.gather(*(phone.leave() for phone in phones))
    await world.publish(edge, item(CAR, 1))
    await until(lambda: stays.got == lines(1, 1) or stays.ended)
    assert not stays.ended


# What every adapter does


async def test_an_item_arrives_on_the_stream(world: World) -> None:
    edge = await world.edge()
    phone = await world.phone(CAR)
    await until(lambda: edge.listeners(CAR))
    await world.publish(edge, item(CAR, 1))
    await until(lambda: phone.got == lines(1, 1))
    await world.publish(edge, item(CAR, 2), item(CAR, 3))
    await until(lambda: phone.got == lines(1, 3))
    assert all(world.origin.signed), "the origin can tell that the edge asks"
    assert not phone.ended


async def test_what_a_channel_without_a_chain_holds_is_ended_by_it_and_nothing_else(
    worlds: Callable[..., Awaitable[World]],
) -> None:
    world = await worlds(2)
    edge = await world.edge()
    assert isinstance(edge, ZmqEdge | HttpEdge)
    phones = [await world.phone(CAR, replica) for replica in (0, 1)]
    await until(lambda: edge.listeners(control_channel(7)) == 2)
    await world.settled(CAR, 2)
    await edge.end([control_channel(8), CAR])  # one that holds nothing, and one with a chain
    await world.publish(edge, item(CAR, 1))
    await until(lambda: all(phone.got == lines(1, 1) for phone in phones))
    assert not any(phone.ended for phone in phones)
    await edge.end([control_channel(7)])
    await until(lambda: all(phone.ended for phone in phones))


async def test_bytes_come_as_they_were_published(world: World) -> None:
    edge = await world.edge()
    phone = await world.phone(CAR)
    await until(lambda: edge.listeners(CAR))
    content = 'id: x\nevent: update\ndata: {"text":"\\u0000 ä € 🚗 \\" \\\\ \\n"}\n\n'.encode()
    await world.publish(edge, item(CAR, 1, content))
    await until(lambda: phone.got == content)


async def test_three_thousand_quick_items_arrive_in_order(worlds: Callable[..., Awaitable[World]]) -> None:
    """Pushpin may drop some of a burst; the next link's poll heals a lost end, in order and once."""
    world = await worlds(1, next_poll=5)
    edge = await world.edge()
    phone = await world.phone(CAR)
    await until(lambda: edge.listeners(CAR))
    await world.settled(CAR)
    for first in range(1, 3001, 50):
        await world.publish(edge, *(item(CAR, number) for number in range(first, first + 50)))
    everything = lines(1, 3000)

    def complete() -> bool:
        assert everything.startswith(phone.got)
        return len(phone.got) == len(everything)

    await until(complete)


async def test_an_item_of_one_and_a_half_megabytes_arrives_whole(world: World) -> None:
    edge = await world.edge()
    phone = await world.phone(CAR)
    await until(lambda: edge.listeners(CAR))
    await world.settled(CAR)
    large = b"data: " + bytes(32 + number % 90 for number in range(1_500_000)) + b"\n\n"
    await world.publish(edge, item(CAR, 1, large), item(CAR, 2))
    await until(lambda: len(phone.got) >= len(large) + 7)
    assert phone.got == large + lines(2, 2)


async def test_a_gap_makes_the_edge_ask_for_what_was_missed(world: World) -> None:
    edge = await world.edge()
    phone = await world.phone(CAR)
    await until(lambda: edge.listeners(CAR))
    await world.settled(CAR)
    await world.publish(edge, *(item(CAR, number) for number in (1, 2, 3)))
    await until(lambda: phone.got == lines(1, 3))
    world.origin.asked.clear()
    world.origin.published[CAR].append(item(CAR, 4))  # lost on its way
    await world.publish(edge, item(CAR, 5))
    await until(lambda: phone.got == lines(1, 5))
    assert world.origin.asked == [(CAR, "3")]
    await world.publish(edge, item(CAR, 6))
    await until(lambda: phone.got == lines(1, 6))
    assert len(world.origin.asked) == 1, "the chain is whole again"


async def test_an_item_published_again_is_not_seen_twice(world: World) -> None:
    edge = await world.edge()
    phone = await world.phone(CAR)
    await until(lambda: edge.listeners(CAR))
    await world.settled(CAR)
    await world.publish(edge, item(CAR, 1), item(CAR, 2))
    await until(lambda: phone.got == lines(1, 2))
    await edge.publish([item(CAR, 2)])
    await world.publish(edge, item(CAR, 3))
    await until(lambda: len(phone.got) >= len(lines(1, 3)))
    assert phone.got == lines(1, 3)


async def test_what_falls_before_the_first_refresh_is_healed_by_it(world: World) -> None:
    edge = await world.edge()
    world.origin.published[CAR] = [item(CAR, 1)]  # between the snapshot and the hold
    phone = await world.phone(CAR)
    await until(lambda: phone.got == lines(1, 1))
    await until(lambda: edge.listeners(CAR))
    await world.publish(edge, item(CAR, 2))
    await until(lambda: phone.got == lines(1, 2))


async def test_what_falls_between_a_later_listeners_snapshot_and_its_hold_is_healed_soon(
    world: World,
) -> None:
    """The edge asks by itself only after a channel's first listener: it waited for the next update, or half a minute."""
    edge = await world.edge()
    world.origin.published[CAR] = [item(CAR, 1)]
    first = await world.phone(CAR, at="1")
    await until(lambda: world.origin.asked, "the first listener's refresh")
    later = await world.phone(CAR, at="0")
    await until(lambda: later.got == lines(1, 1), "healed", bound=10)
    await world.publish(edge, item(CAR, 2))
    await until(lambda: (first.got, later.got) == (lines(2, 2), lines(1, 2)))


# Long-polls


async def test_a_long_poll_is_answered_by_the_next_item_and_listens_like_a_stream(world: World) -> None:
    edge = await world.edge()
    waiting = asyncio.create_task(world.poll(CAR, "0"))
    await until(lambda: len(world.origin.polled) == 2)  # the edge asks again a second after a first listener
    assert edge.listeners(CAR) == 1
    await world.publish(edge, event(CAR, 1))  # while it is asked again, which then is the answer, or after
    assert await waiting == (["1"], "1")
    await world.publish(edge, event(CAR, 2))
    assert await world.poll(CAR, "1") == (["2"], "2")


async def test_a_long_poll_that_an_item_does_not_follow_is_asked_again(world: World) -> None:
    edge = await world.edge()
    waiting = asyncio.create_task(world.poll(CAR, "0"))
    await until(lambda: len(world.origin.polled) == 2)
    assert edge.listeners(CAR)
    world.origin.published[CAR] = [event(CAR, 1)]  # lost on its way
    await world.publish(edge, event(CAR, 2))
    assert await waiting == (["1", "2"], "2")


async def test_a_calm_long_poll_at_an_id_between_two_items_is_held_at_once_and_asked_again_by_an_item(
    world: World,
) -> None:
    """Mostly it is at such an id. Were it asked again as soon as it is held, Pushpin would now and then lose it."""
    calm = channel("car-1", every=5)
    edge = await world.edge()
    first = asyncio.create_task(world.poll(calm, "0"))
    await until(lambda: len(world.origin.polled) == 2)
    assert edge.listeners(calm)
    last = 1
    while not first.done():  # what comes before it is held is lost on it, and told with the next one
        last += 1
        await world.publish(edge, event(calm, last))
        await asyncio.wait({first}, timeout=1)
    assert await first == ([str(number) for number in range(2, last + 1)], str(last))
    between = str(last + 1)
    world.origin.polled.clear()
    held = asyncio.create_task(world.poll(calm, between))
    await until(lambda: world.origin.polled)
    assert await world.poll(calm, between, wait=5) == ([], between)
    assert world.origin.polled == [between] * 2
    # Who takes over publishes such an item.
    unheard = msgspec.structs.replace(event(calm, last + 1), id=f"{between}.unheard", prev=FITS_NOBODY)
    await edge.publish([unheard])
    await until(lambda: len(world.origin.polled) == 3)
    assert await world.poll(calm, between, wait=5) == ([], between)
    assert world.origin.polled == [between] * 4
    await world.publish(edge, event(calm, last + 2))
    assert await held == ([str(last + 2)], str(last + 2))


async def test_what_falls_between_a_first_long_polls_answer_and_its_hold_is_answered(world: World) -> None:
    await world.edge()
    world.origin.unseen = [event(CAR, 1)]  # of which nobody could know yet that it is listened to
    assert await asyncio.wait_for(world.poll(CAR, "0"), 10) == (["1"], "1")
    assert world.origin.polled == ["0", "0"]


async def test_what_falls_between_a_later_long_polls_answer_and_its_hold_is_answered(world: World) -> None:
    edge = await world.edge()
    first = asyncio.create_task(world.poll(CAR, "0"))
    await until(lambda: len(world.origin.polled) == 2)
    world.origin.unseen, world.origin.publishers = [event(CAR, 1)], [edge.publish]
    assert await asyncio.wait_for(world.poll(CAR, "0"), 10) == (["1"], "1")
    assert await first == (["1"], "1")


async def test_a_stream_and_a_long_poll_get_the_same_item(worlds: Callable[..., Awaitable[World]]) -> None:
    world = await worlds(2)
    edge = await world.edge()
    phone = await world.phone(CAR)
    waiting = asyncio.create_task(world.poll(CAR, "0", replica=1))
    await until(lambda: world.origin.polled == ["0", "0"])
    await world.settled(CAR)
    await until(lambda: edge.listeners(CAR) == 2)
    await world.publish(edge, event(CAR, 1))
    assert await waiting == (["1"], "1")
    await until(lambda: phone.got == event(CAR, 1).content)


@zmq_only
async def test_a_channel_that_is_only_polled_is_known_by_its_own_name(world: World) -> None:
    """After a takeover consume publishes the last update of each channel with listeners again."""
    edge = await world.edge()
    waiting = asyncio.create_task(world.poll(CAR, "0"))
    await until(lambda: edge.channels() == [CAR])
    assert edge.listeners(channel("car-10")) == 0
    await world.publish(edge, event(CAR, 1))
    assert await waiting == (["1"], "1")


async def test_only_the_channels_own_listeners_get_an_item(world: World) -> None:
    """ZeroMQ matches by prefix: v/1 would also pull v/10."""
    edge = await world.edge()
    names = ["v/1", "v/10", "v/1/", channel("1"), channel("10"), channel("1-")]
    phones = [await world.phone(name) for name in names]
    await until(lambda: all(edge.listeners(name) for name in names))
    for number, name in enumerate(names):
        await world.publish(edge, item(name, 1, f"{number} for {name}\n".encode()))
    await until(lambda: all(phone.got for phone in phones))
    for name in names:
        await world.settled(name)
    assert [phone.got for phone in phones] == [f"{n} for {name}\n".encode() for n, name in enumerate(names)]


async def test_a_close_on_the_control_channel_ends_the_stream(world: World) -> None:
    """Not on the stream's own channel: with a prev-id and a next link Pushpin would ask that instead."""
    edge = await world.edge()
    phone, other = await world.phone(CAR), await world.phone(CAR)
    await until(lambda: edge.listeners(CAR))
    await world.settled(CAR)
    await _close(world, 8)  # not theirs
    await world.publish(edge, item(CAR, 1))
    await until(lambda: phone.got == other.got == lines(1, 1))
    await _close(world, 7)
    await until(lambda: phone.ended and other.ended)


async def _close(world: World, number: int) -> None:
    close = {"channel": control_channel(number), "formats": {"http-stream": {"action": "close"}}}
    async with httpx2.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"http://{world.settings.edge_http[0]}/publish/", json={"items": [close]})
    answer.raise_for_status()


async def test_every_replica_with_a_listener_gets_an_item(worlds: Callable[..., Awaitable[World]]) -> None:
    world = await worlds(2)
    edge = await world.edge()
    phones = [await world.phone(CAR, 0), await world.phone(CAR, 1), await world.phone(CAR, 1)]
    await until(lambda: edge.listeners(CAR) == 2)
    await world.publish(edge, item(CAR, 1))
    await until(lambda: all(phone.got == lines(1, 1) for phone in phones))


async def test_a_replica_that_is_away_disturbs_nobody_and_is_served_again(
    worlds: Callable[..., Awaitable[World]],
) -> None:
    world = await worlds(2)
    edge = await world.edge()
    staying, cut = await world.phone(CAR, 0), await world.phone(CAR, 1)
    await until(lambda: edge.listeners(CAR) == 2)
    await world.publish(edge, item(CAR, 1))
    await until(lambda: staying.got == cut.got == lines(1, 1))
    await world.replicas[1].kill()
    await until(lambda: cut.ended)
    for number in range(2, 12):
        await world.publish(edge, item(CAR, number))
    await until(lambda: staying.got == lines(1, 11))
    await world.replicas[1].start()
    back = await world.phone(CAR, 1, at="11")
    await until(lambda: edge.listeners(CAR) == 2)
    await world.settled(CAR, asked=2)
    await world.publish(edge, item(CAR, 12))
    await until(lambda: back.got == lines(12, 12))
    await until(lambda: staying.got == lines(1, 12))


async def test_closing_sends_what_is_on_its_way(world: World) -> None:
    edge = await world.edge()
    phone = await world.phone(CAR)
    await until(lambda: edge.listeners(CAR))
    await world.settled(CAR)
    another = await world.edge()
    await until(lambda: another.listeners(CAR))
    await world.publish(another, *(item(CAR, number) for number in range(1, 101)))
    await another.close()
    world._edges.remove(another)
    await until(lambda: phone.got == lines(1, 100))
    assert world.origin.asked == [(CAR, "0")], "nothing had to be asked for"


async def test_nobody_is_there_yet(worlds: Callable[..., Awaitable[World]]) -> None:
    """A replica that is away holds nobody up, and is found when it comes."""
    world = await worlds(1)
    await world.replicas[0].stop()
    edge = await world.edge()
    await edge.publish([item(CAR, 1)])
    await world.replicas[0].start()
    phone = await world.phone(CAR, at="1")
    await until(lambda: edge.listeners(CAR))
    await world.settled(CAR)
    await world.publish(edge, item(CAR, 2))
    await until(lambda: phone.got == lines(2, 2))


# Who listens, and what goes over the wire


class Wire(Proxy):
    """Between an XPUB socket and its replica: counts the messages that are published, heartbeats set aside."""

    def __init__(self, port: int, to: int) -> None:
        super().__init__(port, to)
        self.frames: list[bytes] = []
        self.up = self._read
        self._rest = b""
        self._greeted = False

    def opened(self) -> None:
        """One connection at a time."""
        self._rest, self._greeted = b"", False

    def _read(self, data: bytes) -> bytes:
        """ZMTP 3: a greeting of 64 bytes; then frames of flags (1 more, 2 long, 4 command), size and body."""
        self._rest += data
        if not self._greeted and len(self._rest) >= 64:
            self._rest, self._greeted = self._rest[64:], True
        while self._greeted and len(self._rest) >= 2:
            long = self._rest[0] & 2
            head = 9 if long else 2
            if len(self._rest) < head:
                break
            size = int.from_bytes(self._rest[1:head])
            if len(self._rest) < head + size:
                break
            if not self._rest[0] & 4:
                self.frames.append(self._rest[head : head + size])
            self._rest = self._rest[head + size :]
        return data


@asynccontextmanager
async def wired(world: World) -> AsyncIterator[tuple[Edge, list[Wire]]]:
    """An edge that reaches each replica through a wire that is looked at."""
    async with AsyncExitStack() as stack:
        wires: list[Wire] = []
        for spec in world.settings.edge_sub:
            (port,) = free_ports(1)
            wires.append(Wire(port, int(spec.rpartition(":")[2])))
            await stack.enter_async_context(wires[-1])
        edge = await world.edge(edge_sub=tuple(f"127.0.0.1:{wire.port}" for wire in wires))
        yield edge, wires
        await edge.close()
        world._edges.remove(edge)


@zmq_only
async def test_nothing_is_sent_for_a_channel_that_nobody_listens_to(
    worlds: Callable[..., Awaitable[World]],
) -> None:
    world = await worlds(1)
    async with wired(world) as (edge, (wire,)):
        phone = await world.phone(channel("10"))
        await until(lambda: edge.listeners(channel("10")))
        await world.settled(channel("10"))
        sent = wire.sent
        await until(lambda: wire.sent > sent, "a heartbeat, so that what follows would have been seen")
        heartbeat = wire.sent - sent
        sent = wire.sent
        for number in range(1, 501):
            for vehicle in ("1", "100", "car-1"):
                await edge.publish([item(channel(vehicle), number, b"x" * 1000)])
        await until(lambda: wire.sent > sent)
        assert wire.frames == []
        assert wire.sent - sent <= 2 * heartbeat
        await world.publish(edge, item(channel("10"), 1))
        await until(lambda: phone.got == lines(1, 1))
        assert [frame[:20] for frame in wire.frames] == [b"v/10/all/", wire.frames[1][:20]]
        assert b"item 1" in wire.frames[1]
        await phone.leave()
        await until(lambda: not edge.listeners(channel("10")))
        await edge.publish([item(channel("10"), number) for number in range(2, 100)])
        sent = wire.sent
        await until(lambda: wire.sent > sent)
        assert len(wire.frames) == 2


@zmq_only
async def test_only_the_replica_with_the_listener_gets_the_item(
    worlds: Callable[..., Awaitable[World]],
) -> None:
    world = await worlds(2)
    async with wired(world) as (edge, (first, second)):
        phone = await world.phone(CAR, 1)
        await until(lambda: edge.listeners(CAR) == 1)
        await world.publish(edge, item(CAR, 1), item(CAR, 2))
        await until(lambda: phone.got == lines(1, 2))
        assert len(second.frames) == 4
        sent = first.sent
        await until(lambda: first.sent > sent, "a heartbeat")
        assert first.frames == []


@zmq_only
async def test_listeners_and_channels_follow_the_phones(worlds: Callable[..., Awaitable[World]]) -> None:
    world = await worlds(2)
    edge = await world.edge()
    assert (edge.listeners(CAR), list(edge.channels())) == (0, [])
    first = await world.phone(CAR, 0)
    await until(lambda: edge.listeners(CAR) == 1)
    second, third = await world.phone(CAR, 1), await world.phone(CAR, 1)
    await until(lambda: edge.listeners(CAR) == 2)
    fourth = await world.phone(channel("car-2"), 1)
    await until(lambda: set(edge.channels()) == {CAR, channel("car-2"), control_channel(7)})
    await second.leave()
    await first.leave()
    await until(lambda: edge.listeners(CAR) == 1)
    await third.leave()
    await until(lambda: edge.listeners(CAR) == 0)
    assert set(edge.channels()) == {channel("car-2"), control_channel(7)}
    await fourth.leave()
    await until(lambda: not edge.channels())


@zmq_only
async def test_who_listens_is_known_when_it_is_ready(worlds: Callable[..., Awaitable[World]]) -> None:
    world = await worlds(2)
    for number in range(10):
        await world.phone(channel(f"car-{number}"), number % 2)
    await world.settled(channel("car-9"))
    edge = await world.edge()
    assert [edge.listeners(channel(f"car-{number}")) for number in range(10)] == [1] * 10


@zmq_only
async def test_a_dead_replica_has_no_listeners_and_is_sent_nothing_when_it_is_back(
    worlds: Callable[..., Awaitable[World]],
) -> None:
    world = await worlds(1)
    async with wired(world) as (edge, (wire,)):
        phone = await world.phone(CAR)
        await until(lambda: edge.listeners(CAR) == 1)
        await world.replicas[0].kill()
        await until(lambda: phone.ended)
        await until(lambda: edge.listeners(CAR) == 0)
        assert list(edge.channels()) == []
        await edge.publish([item(CAR, number) for number in range(1, 100)])
        await world.replicas[0].start()
        other = await world.phone(channel("car-2"))
        await until(lambda: edge.listeners(channel("car-2")) == 1)
        await world.settled(channel("car-2"))
        await world.publish(edge, item(channel("car-2"), 1))
        await until(lambda: other.got == lines(1, 1))
        assert len(wire.frames) == 2
        assert edge.listeners(CAR) == 0


async def test_a_stream_that_is_asked_for_soon_has_no_other_asked_for(world: World) -> None:
    """They share the link: were all of its streams asked for whenever one begins, thousands would be, all the time."""
    others = [f"v/other-{number}/all/" for number in range(20)]
    for name in others:
        await world.phone(name)
    await world.phone(CAR, at="0")
    await until(lambda: {name for name, _ in world.origin.asked} == {*others, CAR}, "the first listeners")
    world.origin.published[CAR] = [item(CAR, 1)]
    later = await world.phone(CAR, at="0")
    await until(lambda: later.got == lines(1, 1), "asked for", bound=10)
    # Once as their channel's first listener, and once as those of the control channel that they share.
    times = Counter(name for name, _ in world.origin.asked)
    assert max(times[name] for name in others) <= 2

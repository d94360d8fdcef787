"""Streams of many vehicles through the real front door: 400 of the longest ids on one, with a view and a credential; who may;
coming back; and an edge that is killed.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from fleetcast import sse
from fleetcast.client import Client, FollowingMany, Gone, Grant, Snapshot, Update
from fleetcast.devpki import DevelopmentPki
from fleetcast.many import MOST
from tests.clients.followers import HARNESS, MODULE, node
from tests.e2e.outside import Phone, data, names, site
from tests.e2e.test_access import Keyed, bearer
from tests.servers import short_folder, until

TYRE = "Vehicle.Chassis.Axle.Row1.Wheel.Left.Tire.Pressure"
SPEED = "Vehicle.Speed"
CARS = [f"car-{'x' * 55}-{number:04d}" for number in range(MOST)]
FEW = ["one", "two", "three"]
PAIR = ["seven", "eight"]


@pytest.fixture(scope="module")
async def keyed() -> AsyncIterator[Keyed]:
    with short_folder() as folder:
        pki = DevelopmentPki(folder / "dev-pki")
        given: dict[str, Any] = {"app_keys": str(pki.app_keys), "next_poll": 5, "streams_seconds": 8}
        async with site(folder, edges=2, origins=2, consumers=1, enrichers=(), **given) as here:
            yield Keyed(here, pki, folder)


async def send(keyed: Keyed, vehicles: Sequence[str], seq: int, *paths: str) -> None:
    free = asyncio.Semaphore(16)

    async def one(vehicle: str) -> None:
        async with free:
            await keyed.here.send(vehicle, seq, dict.fromkeys(paths or (TYRE,), seq))

    await asyncio.gather(*map(one, vehicles))


async def ask(keyed: Keyed, token: str, **body: Any) -> str:
    answer = await keyed.here.client.post(f"{keyed.here.url}/v1/streams", json=body, headers=bearer(token))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["url"])


@asynccontextmanager
async def stream(
    keyed: Keyed, token: str, url: str = "", last: str = "", **body: Any
) -> AsyncIterator[Phone]:
    url = url or await ask(keyed, token, **body)
    phone = Phone(url, last)
    sent = {"Accept": sse.MEDIA_TYPE, **bearer(token), **({"Last-Event-ID": last} if last else {})}
    task = asyncio.create_task(phone.read(keyed.here.client, f"{keyed.here.url}{url}", sent))
    try:
        await until(lambda: phone.status or phone.ended, "the stream answers")
        yield phone
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def got(events: Sequence[sse.Event]) -> Counter[tuple[str, int]]:
    return Counter((data(one)["vehicle"], data(one)["version"]) for one in events)


def once(vehicles: Sequence[str], *versions: int) -> Counter[tuple[str, int]]:
    return Counter((vehicle, version) for vehicle in vehicles for version in versions)


def ids(events: Sequence[sse.Event]) -> dict[str, str]:
    return {data(one)["vehicle"]: one.id for one in events if one.id}


def chained(events: Sequence[sse.Event], at: Mapping[str, int]) -> None:
    now = dict(at)
    for one in events:
        if one.event == "update":
            assert data(one)["prev"] == now[data(one)["vehicle"]]
        now[data(one)["vehicle"]] = data(one)["version"]


async def test_400_vehicles_on_one_stream_and_back_again(keyed: Keyed) -> None:
    here, token = keyed.here, keyed.token("many", "*")
    await send(keyed, CARS, 1)

    async def all_there() -> bool:
        return await here.counts("applied") >= MOST

    await until(all_there, "all have been applied")
    asked = await here.counts("replays", "origin", label="edge")
    async with stream(keyed, token, vehicles=CARS, view="tyres") as phone:
        await until(lambda: phone.ended or len(phone.events) >= MOST, "all snapshots")
        assert names(phone.events) == ["snapshot"] * MOST
        assert [data(one)["vehicle"] for one in phone.events] == CARS

        async def edge_asked() -> bool:
            return await here.counts("replays", "origin", label="edge") >= asked + MOST

        # The next link, with 400 headers that say where each is: the edge asks it a second after channels are new, and often.
        await until(edge_asked, "the edge asks what follows")
        await send(keyed, CARS, 2)
        await send(keyed, CARS[::2], 3, SPEED)  # not of the view
        await until(lambda: phone.ended or len(phone.events) >= 2 * MOST, "all updates", 60)
        assert names(phone.events[MOST:]) == ["update"] * MOST
        assert got(phone.events) == once(CARS, 1, 2)
        chained(phone.events, {})
        known, last = ids(phone.events), phone.last_id
    await send(keyed, CARS[:3], 4)
    for car in CARS[:3]:
        await until_version(keyed, token, car, 4 if car in CARS[::2] else 3)
    async with stream(keyed, token, vehicles=CARS, view="tyres", versions=known) as phone:
        await until(lambda: phone.ended or len(phone.events) >= 3)
        assert names(phone.events) == ["update"] * 3
        assert [data(one)["vehicle"] for one in phone.events] == CARS[:3]
        assert [data(one)["prev"] for one in phone.events] == [2, 2, 2]
        await send(keyed, CARS[-1:], 5)
        await until(lambda: phone.ended or len(phone.events) >= 4, "what is new comes too")
        assert data(phone.events[3])["vehicle"] == CARS[-1]
        assert len(phone.events) == 4
    async with stream(keyed, token, last=last, vehicles=CARS, view="tyres", versions=known) as phone:
        await until(lambda: phone.ended or len(phone.events) >= MOST + 1)
        assert names(phone.events) == ["reset", *["snapshot"] * MOST]
        assert data(phone.events[0]) == {"vehicle": "", "reason": "many", "from": last, "to": ""}


async def until_version(keyed: Keyed, token: str, vehicle: str, version: int) -> None:
    async def there() -> bool:
        answer = await keyed.here.get(f"/v1/vehicles/{vehicle}", bearer(token))
        return answer.status_code == 200 and answer.json()["version"] >= version

    await until(there, f"{vehicle} reaches {version}")


async def test_who_may_and_until_when(keyed: Keyed) -> None:
    here = keyed.here
    await keyed.fleetcast("vehicles", "add", "one", "--fleet", "west")
    await keyed.fleetcast("vehicles", "add", "two", "--fleet", "west")
    mine, fleets = keyed.token("mina", "one"), keyed.token("fred", fleets=["west"])

    async def refused(token: str, **body: Any) -> tuple[int, str]:
        answer = await here.client.post(f"{here.url}/v1/streams", json=body, headers=bearer(token))
        return answer.status_code, answer.json().get("detail", "")

    assert (await refused(mine, vehicles=FEW))[0] == 403
    assert (await refused(mine, vehicles=["one", "two"]))[1].endswith("1 of 2: two")
    assert (await refused("nonsense", vehicles=["one"]))[0] == 401
    url = await ask(keyed, fleets, fleet="west")
    stranger = await here.get(url, bearer(keyed.token("bob", "*")))
    unknown = await here.get(f"/v1/streams/{'y' * 22}", bearer(mine))
    assert (stranger.status_code, stranger.json()) == (404, unknown.json())
    ticket = await keyed.ticket(fleets)
    status, text = await keyed.shown(f"{url}?ticket={ticket}")
    assert (status, "snapshot" in text) == (200, True)
    async with stream(keyed, fleets, url) as phone:
        await until(lambda: len(phone.events) == 2, "both have begun")
        await keyed.fleetcast("vehicles", "add", "two", "--fleet", "east")
        await until(lambda: phone.ended or len(phone.events) > 2, "it is told", 60)
        assert (phone.events[2].event, data(phone.events[2])) == (
            "gone",
            {"vehicle": "two", "reason": "access"},
        )
        version = data(phone.events[0])["version"]
        await send(keyed, ["two"], version + 10)
        await send(keyed, ["one"], version + 10)
        await until(lambda: phone.ended or len(phone.events) > 3, "the other goes on")
        assert data(phone.events[3])["vehicle"] == "one"

        async def over() -> bool:
            async with stream(keyed, fleets, url) as late:
                return late.status == 404

        await until(over, "it cannot be opened any more")
        assert not phone.ended
        await keyed.fleetcast("revoke", "fred")
        await until(lambda: phone.ended, "it is closed")
        assert len(phone.events) == 4


Told = list[tuple[str, str, Any]]


@asynccontextmanager
async def in_python(keyed: Keyed, token: str, vehicles: Sequence[str]) -> AsyncIterator[Told]:
    told: Told = []

    async def shown() -> Grant:
        return {"headers": bearer(token)}

    async def run(following: FollowingMany) -> None:
        async for change in following:
            match change:
                case Snapshot() | Update():
                    state = change.state
                    assert state is not None
                    assert following.states[state.vehicle] is state
                    told.append((change.raw.event, state.vehicle, state.version))
                case Gone():
                    told.append(("gone", change.vehicle, change.reason))

    async with Client(keyed.here.url, authorize=shown, pause=0.02, longest=0.2) as client:
        task = asyncio.create_task(run(client.follow_many(vehicles)))
        yield told
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def in_node(keyed: Keyed, token: str, vehicles: Sequence[str]) -> AsyncIterator[Told]:
    told: Told = []
    module = keyed.folder / "fleetcast.mjs"
    module.write_bytes(MODULE.read_bytes())
    target = json.dumps({"base": keyed.here.url, "vehicles": vehicles})
    process = await asyncio.create_subprocess_exec(
        *(node(), str(HARNESS.with_name("follow_many.mjs")), str(module), target, token),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            kind, vehicle, what = json.loads(line)
            if kind in ("snapshot", "update", "reset", "gap", "gone"):
                told.append((kind, vehicle, what))

    reading = asyncio.create_task(read())
    yield told
    assert process.stdin is not None
    process.stdin.write(b"close\n")
    await reading
    assert await process.wait() == 0


async def test_both_clients_miss_nothing_when_an_edge_is_killed_and_are_told_who_is_gone(
    keyed: Keyed,
) -> None:
    for car in PAIR:
        await keyed.fleetcast("vehicles", "add", car, "--fleet", "pair")
    token = keyed.token("paul", fleets=["pair"])
    await send(keyed, PAIR, 1)
    for car in PAIR:
        await until_version(keyed, token, car, 1)
    async with in_python(keyed, token, PAIR) as one, in_node(keyed, token, PAIR) as other:
        await until(lambda: len(one) >= 2 and len(other) >= 2, "both have begun")
        sessions = await keyed.here.sessions()
        name = f"edge-{sessions.index(max(sessions))}"
        killed = keyed.here.kill(name)
        await send(keyed, PAIR, 2)
        await send(keyed, PAIR[:1], 3)
        await keyed.here.started_again(name, killed)
        await send(keyed, PAIR, 4)
        due = once(PAIR[:1], 1, 2, 3, 4) + once(PAIR[1:], 1, 2, 3)
        await until(lambda: len(one) >= 7 and len(other) >= 7, "all has come", 60)
        for told in (one, other):
            assert Counter((vehicle, version) for _, vehicle, version in told) == due
            assert Counter(kind for kind, _, _ in told) == {"snapshot": 2, "update": 5}
        await keyed.fleetcast("vehicles", "add", PAIR[0], "--fleet", "elsewhere")
        await until(lambda: len(one) >= 8 and len(other) >= 8, "they are told", 60)
        await send(keyed, PAIR[1:], 5)
        await until(lambda: len(one) >= 9 and len(other) >= 9, "the other goes on")
        for told in (one, other):
            assert told[7:] == [("gone", PAIR[0], "access"), ("update", PAIR[1], 4)]

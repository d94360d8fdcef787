"""Simulated phones against a small platform that speaks the protocol, well and badly, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from fleetcast.simulator.phones import Phones
from fleetcast.sse import event, retry

pytestmark = pytest.mark.anyio

PROGRAM = """
import argparse, asyncio, sys
from fleetcast.simulator import phones
parser = argparse.ArgumentParser()
phones.add_arguments(parser)
sys.exit(asyncio.run(phones.run(parser.parse_args())))
"""
CUT = b""  # ends a stream cleanly
BREAK = b"!"  # breaks the connection


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Car:
    """A vehicle's state with its whole history, and what its streams are fed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = 0
        self.signals: dict[str, Any] = {}
        self.history: list[bytes] = []
        self.streams: list[asyncio.Queue[bytes]] = []
        self.resumed: list[str] = []  # each Last-Event-ID that came

    def drive(self, *, tell: bool = True) -> bytes:
        """Apply a packet and send its update; returns the event."""
        self.version += 1
        signals = {
            "Simulator.Packet": {"value": [1, self.version], "at": "x"},
            "Speed": {"value": self.version % 3},
        }
        self.signals |= signals
        self.history.append(self.event("update", prev=self.version - 1, signals=signals))
        if tell:
            self.send(self.history[-1])
        return self.history[-1]

    def event(self, name: str, **more: Any) -> bytes:
        document = {
            "vehicle": self.name,
            "version": self.version,
            "updated_at": None,
            "signals": self.signals,
            **more,
        }
        return event(name, msgspec.json.encode(document), f"ab12-{self.version}")

    def send(self, data: bytes) -> None:
        for stream in self.streams:
            stream.put_nowait(data)


class Platform:
    """The two app-facing endpoints. `answer` can make a connection be answered in another way, once each."""

    def __init__(self) -> None:
        self.cars: dict[str, Car] = {}
        self.answers: list[bytes | int] = []
        self.open = 0
        self.port = 0

    def car(self, name: str) -> Car:
        return self.cars.setdefault(name, Car(name))

    @property
    def front(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def latest(self, request: Request) -> Response:
        car = self.car(request.path_params["vehicle"])
        if not car.version:
            return Response(status_code=404)
        document = {"vehicle": car.name, "version": car.version, "updated_at": None, "signals": car.signals}
        return Response(msgspec.json.encode(document), media_type="application/json")

    async def events(self, request: Request) -> Response:
        car = self.car(request.path_params["vehicle"])
        assert request.headers["accept"] == "text/event-stream"
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, int):
            return Response(status_code=answer)
        if answer is not None:
            return Response(answer, media_type="text/event-stream")
        last = request.headers.get("last-event-id")
        stream: asyncio.Queue[bytes] = asyncio.Queue()
        stream.put_nowait(retry(50))
        if last is None:
            stream.put_nowait(car.event("snapshot"))
        else:
            car.resumed.append(last)
            for update in car.history[int(last.removeprefix("ab12-")) :]:
                stream.put_nowait(update)
        car.streams.append(stream)
        return StreamingResponse(self.chunks(car, stream), media_type="text/event-stream")

    async def chunks(self, car: Car, stream: asyncio.Queue[bytes]) -> AsyncIterator[bytes]:
        self.open += 1
        try:
            while (data := await stream.get()) != CUT:
                if data == BREAK:
                    raise ConnectionAbortedError
                # Anywhere is a good place for a network to divide what it carries.
                place = random.randrange(len(data) + 1)
                for part in (data[:place], data[place:]):
                    if part:
                        yield part
                        await asyncio.sleep(0)
        finally:
            self.open -= 1
            car.streams.remove(stream)


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    platform = Platform()
    routes = [
        Route("/v1/vehicles/{vehicle}", platform.latest),
        Route("/v1/vehicles/{vehicle}/events", platform.events),
    ]
    with listening() as listener:
        platform.port = listener.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(Starlette(routes=routes), ws="none", lifespan="off", log_config=None)
        )
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        yield platform
        await until(lambda: not platform.open)
        server.should_exit = True
        await serving


def listening() -> socket.socket:
    """A socket on a free port outside the range that outgoing connections take theirs from."""
    while True:
        listener = socket.socket()
        try:
            listener.bind(("127.0.0.1", random.randrange(20000, 32000)))
            listener.listen()
        except OSError:
            listener.close()
        else:
            return listener


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for knows of no events
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def watching(platform: Platform, cars: int = 1, phones: int = 1) -> AsyncIterator[Phones]:
    crowd = Phones(platform.front, cars, phones)
    task = asyncio.create_task(crowd.watch())
    try:
        await until(lambda: all(w.phone.version is not None for w in crowd.watches))
        yield crowd
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def faults(report: dict[str, Any]) -> dict[str, int]:
    names = (
        "lost",
        "twice",
        "reordered",
        "resets",
        "foreign",
        "malformed",
        "streams_closed",
        "refused",
        "unavailable",
    )
    return {name: total for name in names if (total := sum(phone[name] for phone in report["phones"]))}


async def test_phones_follow_their_vehicles(platform: Platform) -> None:
    platform.car("car-00001").drive()
    async with watching(platform, cars=3, phones=5) as crowd:
        assert [w.phone.vehicle for w in crowd.watches] == [f"car-0000{n}" for n in (0, 1, 2, 0, 1)]
        for _ in range(20):
            platform.car("car-00000").drive()
            platform.car("car-00001").drive()
        await until(lambda: [w.phone.version for w in crowd.watches] == [20, 21, 0, 20, 21])
        progress = crowd.progress()
        report = await crowd.settle(5)
    assert sorted(progress["snapshots"]) == [
        ["car-00000", 0, 0, 0, 0],
        ["car-00000", 3, 0, 0, 0],
        ["car-00001", 1, 1, 1, 1],
        ["car-00001", 4, 1, 1, 1],
        ["car-00002", 2, 0, 0, 0],
    ]
    assert len(progress["seen"]) == progress["updates"] == 80
    assert [s[3] for s in progress["seen"] if s[1] == 4] == list(range(2, 22))
    assert progress["connected"] == 5
    assert (report["level"], report["unlevel"], faults(report)) == (5, 0, {})


@pytest.mark.parametrize("end", [CUT, BREAK])
async def test_a_cut_within_an_event_loses_nothing(platform: Platform, end: bytes) -> None:
    car = platform.car("car-00000")
    async with watching(platform) as crowd:
        car.drive()
        car.send(car.drive(tell=False)[:-9])
        car.send(end)
        await until(lambda: not car.streams)
        car.drive()
        await until(lambda: crowd.watches[0].phone.version == 3)
        report = await crowd.settle(5)
        assert [seen[3] for seen in crowd.progress()["seen"]] == [1, 2, 3]
    assert car.resumed == ["ab12-1"]
    assert faults(report) == {"streams_closed": 1}
    assert report["level"] == 1


async def test_unavailable_and_refused_are_not_closed_streams(platform: Platform) -> None:
    platform.answers = [503, retry(50) + event("unavailable", b'{"reason":"away"}'), 404]
    car = platform.car("car-00000")
    async with watching(platform) as crowd:
        car.drive()
        await until(lambda: crowd.watches[0].phone.version == 1)
        report = await crowd.settle(5)
    assert faults(report) == {"refused": 2, "unavailable": 1}
    assert report["phones"][0]["faults"] == []


async def test_unavailable_in_a_running_stream_keeps_its_place(platform: Platform) -> None:
    car = platform.car("car-00000")
    async with watching(platform) as crowd:
        car.drive()
        car.send(event("unavailable", b'{"reason":"away"}') + retry(50))
        car.send(CUT)
        await until(lambda: car.resumed)
        car.drive()
        await until(lambda: crowd.watches[0].phone.version == 2)
        report = await crowd.settle(5)
    assert car.resumed == ["ab12-1"]
    assert faults(report) == {"unavailable": 1}


async def test_nobody_listens(platform: Platform) -> None:
    with listening() as listener:
        gone = listener.getsockname()[1]
    crowd = Phones(f"http://127.0.0.1:{gone}", 1, 1)
    task = asyncio.create_task(crowd.watch())
    await until(lambda: crowd.watches[0].refused)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    report = await crowd.settle(0)
    assert (report["unlevel"], faults(report)) == (1, {"refused": 1})
    assert "not to be had" in report["phones"][0]["faults"][0]


async def plant_gap(car: Car) -> None:
    car.drive(tell=False)
    car.drive()


async def plant_repeat(car: Car) -> None:
    car.send(car.drive())


async def plant_swap(car: Car) -> None:
    first = car.drive(tell=False)
    car.drive()
    car.send(first)


async def plant_reset(car: Car) -> None:
    car.drive(tell=False)
    car.send(event("reset", b'{"reason":"expired","from":1,"to":2}') + car.event("snapshot"))


async def plant_silent_snapshot(car: Car) -> None:
    car.drive(tell=False)
    car.send(car.event("snapshot"))


async def plant_foreign(car: Car) -> None:
    car.drive()
    car.send(car.event("update", vehicle="car-00009", prev=2))


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (plant_gap, {"lost": 1}),
        (plant_repeat, {"twice": 1}),
        (plant_swap, {"reordered": 1}),
        (plant_reset, {"resets": 1}),
        (plant_silent_snapshot, {"lost": 1, "resets": 1}),
        (plant_foreign, {"foreign": 1}),
    ],
)
async def test_a_planted_fault_is_found(platform: Platform, plant: Any, expected: dict[str, int]) -> None:
    car = platform.car("car-00000")
    async with watching(platform) as crowd:
        car.drive()
        await plant(car)
        car.drive()
        await until(lambda: crowd.watches[0].phone.version == car.version)
        report = await crowd.settle(0.5)
    assert faults(report) == expected
    assert report["phones"][0]["faults"]


async def test_a_phone_that_lags_is_not_level(platform: Platform) -> None:
    car = platform.car("car-00000")
    async with watching(platform) as crowd:
        car.drive()
        car.drive(tell=False)
        await until(lambda: crowd.watches[0].phone.version == 1)
        report = await crowd.settle(0.5)
        assert (report["unlevel"], report["phones"][0]["level"]) == (1, False)
        assert report["phones"][0]["faults"] == ["the phone has version 1, the latest is 2"]
        settling = asyncio.create_task(crowd.settle(20))
        car.send(car.history[-1])
        assert (await settling)["level"] == 1


async def run(platform: Platform, *arguments: str) -> asyncio.subprocess.Process:
    command = (
        sys.executable,
        "-c",
        PROGRAM,
        "--front",
        platform.front,
        "--cars",
        "2",
        "--phones",
        "4",
        *arguments,
    )
    return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)


async def test_the_program_tells_all_and_settles_on_a_signal(platform: Platform) -> None:
    process = await run(platform, "--json")
    await until(lambda: platform.open == 4)
    for _ in range(5):
        platform.car("car-00000").drive()
    process.send_signal(signal.SIGTERM)
    output, _ = await process.communicate()
    *lines, report = [msgspec.json.decode(line) for line in output.splitlines()]
    assert process.returncode == 0
    assert (report["done"], report["level"], report["unlevel"]) == (True, 4, 0)
    assert sum(len(line["seen"]) for line in lines) == lines[-1]["updates"] == 10
    assert sum(len(line["snapshots"]) for line in lines) == 4


async def test_the_program_fails_if_a_promise_was_broken(platform: Platform) -> None:
    process = await run(platform)
    await until(lambda: platform.open == 4)
    await plant_gap(platform.car("car-00001"))
    process.send_signal(signal.SIGINT)
    output, _ = await process.communicate()
    assert process.returncode == 1
    assert b"4 phones are level" in output
    assert output.count(b"version 1 is missing") == 2


async def test_the_program_ends_by_itself(platform: Platform) -> None:
    process = await run(platform, "--seconds", "1", "--json")
    await process.communicate()
    assert process.returncode == 0

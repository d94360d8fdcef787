"""The fleet against a real HTTP server that also fails: order, nothing lost, and the same bytes again."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import socket
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime

import msgspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fleetcast.decode import load
from fleetcast.inflate import inflate
from fleetcast.settings import Settings
from fleetcast.simulator.cars import run_cars
from fleetcast.simulator.cars_command import add_arguments, run
from fleetcast.simulator.door import Receipt
from fleetcast.simulator.http_door import http_doors
from fleetcast.simulator.options import Acked, Options, Totals
from fleetcast.simulator.samples import MAX_BYTES, Parcel
from fleetcast.simulator.sender import pause_before
from fleetcast.simulator.trouble import Trouble

pytestmark = pytest.mark.anyio

decode = load(Settings().decoders).decode

PROGRAM = """
import argparse, asyncio, sys
from fleetcast.simulator import cars_command
parser = argparse.ArgumentParser()
cars_command.add_arguments(parser)
sys.exit(asyncio.run(cars_command.run(parser.parse_args())))
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Cut(Response):
    """Begins an answer and breaks off: the server has the packet, the car cannot know."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"packet"', "more_body": True})


class Arrival(msgspec.Struct):
    vehicle: str
    boot: int
    seq: int
    body: bytes
    inflated: int
    sent_at: str
    token: str | None = None


class Ingest:
    """Keeps what it is sent; `answer(arrival)` may fail it before or after it is kept."""

    def __init__(self, answer: Callable[[Arrival], Response | None] | None = None) -> None:
        self.arrivals: list[Arrival] = []
        self.batches: list[int] = []
        self.kept: dict[tuple[str, int, int], int] = {}
        self.answer = answer or (lambda _: None)
        self.app = Starlette(routes=[Route("/v1/vehicles/{vehicle}/packets", self.post, methods=["POST"])])

    async def post(self, request: Request) -> Response:
        body = await request.body()
        form = request.headers["content-type"]
        if form.startswith("multipart/mixed; boundary="):
            return self.batch(request, body, form.partition("=")[2])
        return self.take(request, body, request.headers)

    def batch(self, request: Request, body: bytes, boundary: str) -> Response:
        """As ingest: nothing behind what is to be sent again is stored."""
        first, *parts, last = (b"\r\n" + body).split(f"\r\n--{boundary}".encode())
        assert (first, last) == (b"", b"--\r\n")
        self.batches.append(len(parts))
        answers: list[dict[str, object]] = []
        later: Response | None = None
        for part in parts:
            head, _, packet = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
            headers = dict(line.lower().split(": ") for line in head.decode().splitlines())
            answer = later or self.take(request, packet, headers)
            later = answer if answer.status_code in (429, 503) else None
            said = (
                json.loads(bytes(answer.body))
                if answer.status_code == 202
                else {"title": "no", "detail": "no"}
            )
            again = {"retry_after": 0} if later else {}
            answers.append({"status": answer.status_code, **said, **again})
        return JSONResponse(answers, 207)

    def take(self, request: Request, body: bytes, headers: Mapping[str, str]) -> Response:
        form, encoding = headers["content-type"], headers.get("content-encoding", "identity")
        packet = decode(body, form, encoding, MAX_BYTES)
        inflated = len(inflate(body, encoding, MAX_BYTES))
        assert packet.vehicle == request.path_params["vehicle"]
        assert packet.signals["Simulator.Packet"].value == [packet.boot, packet.seq]
        token = request.headers.get("authorization")
        arrival = Arrival(packet.vehicle, packet.boot, packet.seq, body, inflated, packet.sent_at, token)
        self.arrivals.append(arrival)
        failure = self.answer(arrival)
        key = (packet.vehicle, packet.boot, packet.seq)
        if failure is not None and not isinstance(failure, Cut):
            return failure
        duplicate = key in self.kept
        stored = self.kept.setdefault(key, len(self.kept) + 1)
        if failure is not None:
            return failure
        answer = {"packet": "/".join(map(str, key)), "stored": stored, "duplicate": duplicate}
        return JSONResponse(answer, 202)


def free_port() -> int:
    """A port that no outgoing connection of this machine is given meanwhile."""
    while True:
        port = random.randrange(20_000, 32_768)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@asynccontextmanager
async def serving(ingest: Ingest, port: int = 0) -> AsyncIterator[str]:
    port = port or free_port()
    config = uvicorn.Config(ingest.app, port=port, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started or task.done())
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def fleet(options: Options) -> AsyncIterator[tuple[list[Acked], Totals, asyncio.Event]]:
    """A running fleet; on leaving it is stopped and has ended."""
    acked: list[Acked] = []
    totals, stop = Totals(), asyncio.Event()
    task = asyncio.create_task(run_cars(options, report=acked.append, stop=stop, totals=totals))
    try:
        yield acked, totals, stop
    finally:
        stop.set()
        assert await asyncio.wait_for(task, 40) is totals


def by_car(acked: list[Acked]) -> dict[str, list[int]]:
    cars = defaultdict(list)
    for one in acked:
        cars[one.vehicle].append(one.seq)
    return cars


async def test_every_packet_is_acknowledged_in_order_and_has_its_size() -> None:
    ingest = Ingest()
    async with serving(ingest) as url:
        options = Options(ingest=url, cars=5, per_minute=120, boot=77)
        async with fleet(options) as (acked, totals, _):
            await until(lambda: len(acked) >= 15)
    cars = by_car(acked)
    assert set(cars) == {f"car-{n:05d}" for n in range(5)}
    for vehicle, seqs in cars.items():
        assert seqs == list(range(1, len(seqs) + 1))
        assert [a.seq for a in ingest.arrivals if a.vehicle == vehicle] == seqs
    assert {one.boot for one in acked} == {77}
    assert all(500_000 <= arrival.inflated <= MAX_BYTES for arrival in ingest.arrivals)
    assert len({arrival.inflated for arrival in ingest.arrivals}) > 10
    assert sum(one.raw_bytes for one in acked) == sum(a.inflated for a in ingest.arrivals) == totals.raw
    assert sum(one.wire_bytes for one in acked) == sum(len(a.body) for a in ingest.arrivals) == totals.wire
    assert all(one.sent < one.acked for one in acked)
    assert {(one.vehicle, one.boot, one.seq): one.stored for one in acked} == ingest.kept
    assert totals.acked == len(ingest.kept)
    assert (totals.errors, totals.retries, totals.unacknowledged, totals.duplicates) == (0, 0, 0, 0)


async def test_a_packet_that_fails_is_sent_again_with_the_same_bytes_before_the_next() -> None:
    rng = random.Random(4)
    failed: set[tuple[str, int]] = set()

    def answer(arrival: Arrival) -> Response | None:
        key = (arrival.vehicle, arrival.seq)
        if key in failed or rng.random() > 0.6:
            return None
        failed.add(key)
        return rng.choice(
            [Cut(), Response(status_code=503), Response(status_code=429), Response(status_code=500)]
        )

    ingest = Ingest(answer)
    async with serving(ingest) as url:
        options = Options(ingest=url, cars=4, per_minute=120, min_bytes=8_000, max_bytes=20_000)
        async with fleet(options) as (acked, totals, _):
            await until(lambda: len(acked) >= 24)
    for vehicle, seqs in by_car(acked).items():
        assert seqs == list(range(1, len(seqs) + 1))
        arrived = [a.seq for a in ingest.arrivals if a.vehicle == vehicle]
        assert arrived == sorted(arrived), "no packet overtakes the one before it"
    bodies = defaultdict(set)
    for arrival in ingest.arrivals:
        bodies[(arrival.vehicle, arrival.boot, arrival.seq)].add(arrival.body)
    assert all(len(different) == 1 for different in bodies.values())
    assert len(ingest.kept) == len(acked) == totals.acked
    assert totals.retries == len(failed) == len(ingest.arrivals) - len(acked) > 5
    assert 0 < totals.duplicates < totals.retries, "those that were cut had been kept already"
    assert totals.errors == totals.unacknowledged == 0


async def test_a_fleet_that_starts_before_ingest_waits_for_it() -> None:
    port = free_port()
    ingest = Ingest()
    options = Options(ingest=f"http://127.0.0.1:{port}", cars=3, per_minute=120, max_bytes=8_000, min_bytes=0)
    # The server is opened after the fleet and closed after it, so that the packets in hand get home.
    async with AsyncExitStack() as outer, fleet(options) as (acked, totals, _):
        await until(lambda: totals.retries >= 3)
        assert "ConnectError" in totals.error
        await outer.enter_async_context(serving(ingest, port))
        await until(lambda: len(by_car(acked)) == 3)
    assert totals.unacknowledged == 0
    assert all(seqs[0] == 1 for seqs in by_car(acked).values())


async def test_a_refused_packet_is_an_error_and_the_next_goes_on() -> None:
    ingest = Ingest(lambda arrival: Response("no", 413) if arrival.seq == 1 else None)
    async with serving(ingest) as url:
        options = Options(ingest=url, cars=2, per_minute=120, min_bytes=6_000, max_bytes=6_000)
        async with fleet(options) as (acked, totals, _):
            await until(lambda: len(by_car(acked)) == 2)
    assert all(seqs[0] == 2 for seqs in by_car(acked).values())
    assert totals.errors == 2
    assert totals.retries == 0
    assert "413" in totals.error


async def test_the_stop_waits_for_the_packet_in_hand() -> None:
    refuse = True
    ingest = Ingest(lambda _: Response(status_code=503) if refuse else None)
    async with serving(ingest) as url:
        options = Options(ingest=url, cars=2, per_minute=120, min_bytes=6_000, max_bytes=6_000)
        async with fleet(options) as (acked, totals, stop):
            await until(lambda: {a.vehicle for a in ingest.arrivals} == {"car-00000", "car-00001"})
            stop.set()
            tries = len(ingest.arrivals)
            await until(lambda: len(ingest.arrivals) >= tries + 2)
            refuse = False
    assert by_car(acked) == {"car-00000": [1], "car-00001": [1]}
    assert totals.unacknowledged == 0


SMALL = Options(cars=6, per_minute=120, min_bytes=0, max_bytes=0, boot=77)


async def test_in_trouble_every_packet_is_kept_and_the_same_seed_makes_the_same() -> None:
    trouble = Trouble(tunnels=0.1, bursts=0.2, duplicates=0.3, late=0.2, reboots=0.1)
    orders = []
    for _ in range(2):
        ingest = Ingest()
        async with serving(ingest) as url:
            options = msgspec.structs.replace(SMALL, ingest=url, trouble=trouble)
            async with fleet(options) as (acked, totals, _stop):
                await until(lambda acked=acked: len(acked) >= 80)  # type: ignore[misc]
        assert {(one.vehicle, one.boot, one.seq) for one in acked} == ingest.kept.keys()
        assert len(acked) == totals.acked == len(ingest.kept)
        assert totals.repeats == totals.duplicates == len(ingest.arrivals) - len(acked) > 0
        assert min(totals.tunnels, totals.late, totals.reboots) > 0
        assert totals.unacknowledged == totals.errors == totals.retries == 0
        bodies = {(one.vehicle, one.boot, one.seq, one.body) for one in ingest.arrivals}
        assert len(bodies) == len(acked), "again means the same bytes"
        orders.append([(one.boot, one.seq) for one in ingest.arrivals if one.vehicle == "car-00003"][:8])
    assert orders[0] == orders[1]


async def test_what_was_kept_in_a_tunnel_is_one_request_and_each_packet_is_answered() -> None:
    rng = random.Random(3)

    def answer(arrival: Arrival) -> Response | None:
        if arrival.seq == 3 and arrival.vehicle == "car-00001":
            return Response(status_code=413)
        return Response(status_code=rng.choice([429, 503])) if rng.random() < 0.3 else None

    ingest = Ingest(answer)
    async with serving(ingest) as url:
        options = msgspec.structs.replace(
            SMALL, ingest=url, batches=True, trouble=Trouble(tunnels=0.5, bursts=0.3, duplicates=0.2)
        )
        async with fleet(options) as (acked, totals, _):
            await until(lambda: len(acked) >= 60 and len(ingest.batches) > 8 and totals.errors == 1)
    assert {(one.vehicle, one.boot, one.seq) for one in acked} == ingest.kept.keys()
    assert len(acked) == totals.acked == len(ingest.kept)
    assert max(ingest.batches) > 4
    assert totals.batches == len(ingest.batches) - ingest.batches.count(1)
    assert totals.retries > 0
    for vehicle, seqs in by_car(acked).items():
        lost = [3] if vehicle == "car-00001" else []
        assert sorted([*seqs, *lost]) == list(range(1, len(seqs) + len(lost) + 1))
        assert seqs == sorted(seqs), "nothing overtakes what is to be sent again"
    assert {(one.vehicle, one.boot, one.seq): one.stored for one in acked} == ingest.kept


async def test_a_batch_is_bounded() -> None:
    ingest = Ingest()
    form = (
        '{"vehicle":"v","boot":1,"seq":%d,"sent_at":"2026-11-26T00:00:00Z",'
        '"signals":{"Simulator.Packet":{"value":[1,%d]}}}'
    )

    def parcel(seq: int, size: int) -> Parcel:
        body = (form % (seq, seq)).encode().ljust(size)
        return Parcel("v", 1, seq, "application/json", "identity", body, len(body))

    small = [parcel(seq, 0) for seq in range(1, 71)]
    large = [parcel(seq, 1_000_000) for seq in range(101, 113)]
    async with serving(ingest) as url, http_doors(url, "vehicles") as door:
        for parcels in (small, large, large[8:], [large[0]]):
            answers = await door("v").send_all(parcels)
            assert all(isinstance(answer, Receipt) for answer in answers)
            assert len(answers) == ingest.batches[-1]
    assert ingest.batches == [50, 8, 4, 1]


async def test_a_late_packet_keeps_its_times() -> None:
    ingest = Ingest()
    async with serving(ingest) as url:
        options = msgspec.structs.replace(SMALL, ingest=url, trouble=Trouble(late=0.3))
        async with fleet(options) as (_acked, totals, _):
            await until(lambda: totals.late >= 3)
    overtaken = 0
    for vehicle in {one.vehicle for one in ingest.arrivals}:
        mine = [one for one in ingest.arrivals if one.vehicle == vehicle]
        made = sorted(mine, key=lambda one: one.seq)
        times = [one.sent_at for one in made]
        assert times == sorted(set(times)), "made one after the other"
        overtaken += mine != made
    assert overtaken > 0


async def test_wrong_clocks_are_an_hour_ahead_or_in_1970() -> None:
    ingest = Ingest()
    async with serving(ingest) as url:
        options = msgspec.structs.replace(SMALL, ingest=url, trouble=Trouble(skewed=1, reboots=0.2))
        async with fleet(options) as (_acked, totals, _):
            await until(lambda: totals.reboots >= 3)
    now = datetime.now(UTC)
    off = {(datetime.fromisoformat(one.sent_at) - now).total_seconds() // 60 for one in ingest.arrivals}
    assert {minutes for minutes in off if minutes > 0} <= {58, 59}
    assert all(one.sent_at.startswith("1970-01-01T00:00") for one in ingest.arrivals if one.sent_at < "2000")
    assert len({one.sent_at < "2000" for one in ingest.arrivals}) == 2
    for one in ingest.arrivals:
        if one.seq == 1 and one.sent_at < "2000":
            assert one.sent_at < "1970-01-01T00:00:00.1", "this clock begins anew with its sender"


async def test_a_car_shows_its_token() -> None:
    ingest = Ingest()
    acked: list[Acked] = []
    stop = asyncio.Event()
    async with serving(ingest) as url:
        options = msgspec.structs.replace(SMALL, ingest=url, cars=2)
        drive = run_cars(options, report=acked.append, stop=stop, token_of=lambda vehicle: f"of-{vehicle}")
        task = asyncio.create_task(drive)
        await until(lambda: len(by_car(acked)) == 2)
        stop.set()
        await task
    assert all(one.token == f"Bearer of-{one.vehicle}" for one in ingest.arrivals)


@pytest.mark.parametrize(
    "options",
    [
        Options(form="mix", encoding="gzip"),
        Options(form="json", encoding="identity"),
        Options(precompressed=True),
    ],
)
async def test_every_form_and_encoding_is_readable(options: Options) -> None:
    ingest = Ingest()
    async with serving(ingest) as url:
        options = msgspec.structs.replace(options, ingest=url, cars=2, per_minute=120)
        async with fleet(options) as (acked, totals, _):
            await until(lambda: len(acked) >= 4)
    assert all(500_000 <= arrival.inflated <= MAX_BYTES for arrival in ingest.arrivals)
    assert totals.errors == 0


async def test_without_a_boot_a_later_start_has_a_higher_one() -> None:
    boots = []
    async with serving(Ingest()) as url:
        for _ in range(2):
            options = Options(ingest=url, cars=1, per_minute=120, min_bytes=0, max_bytes=0)
            async with fleet(options) as (acked, _totals, _stop):
                await until(lambda acked=acked: len(acked) > 0)  # type: ignore[misc]
            boots.append(acked[0].boot)
    assert boots[0] < boots[1]


async def test_bad_drives_are_an_error_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="no drives"):
        await run_cars(Options(drives="/nowhere"), report=lambda _: None, stop=asyncio.Event())


def test_the_pause_grows_is_jittered_and_honours_retry_after() -> None:
    rng = random.Random(1)
    for failures, longest in ((0, 0.2), (1, 0.4), (3, 1.6), (6, 5.0), (5000, 5.0)):
        pauses = {pause_before(failures, None, rng) for _ in range(50)}
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
        assert len(pauses) > 40
    assert 3 <= pause_before(0, "3", rng) <= 3.2
    assert pause_before(0, "100000", rng) < 61
    assert pause_before(0, "Wed, 21 Oct 2026 07:28:00 GMT", rng) <= 0.2


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--per-minute", "121"], "per_minute"),
        (["--cars", "0"], "cars"),
        (["--max-bytes", "1048577"], "max_bytes"),
        (["--min-bytes", "9", "--max-bytes", "8"], "min_bytes"),
        (["--prefix", "a/b"], "prefix"),
        (["--ingest", "localhost"], "ingest"),
        (["--drives", "/nowhere"], "/nowhere"),
        (["--mqtt", "localhost"], "mqtt"),
        (["--late", "1.5"], "late"),
    ],
)
async def test_a_wrong_argument_is_one_line_that_names_it(
    arguments: list[str], word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert await run(parser.parse_args(arguments)) == 2
    told = capfd.readouterr().err
    assert word in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_command_prints_lines_of_json_and_ends_on_a_signal(number: signal.Signals) -> None:
    ingest = Ingest()
    async with serving(ingest) as url:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, "--json", "--ingest", url, "--cars", "3", "--per-minute", "120"),
            stdout=asyncio.subprocess.PIPE,
        )
        await until(lambda: len(ingest.kept) >= 6)
        process.send_signal(number)
        out, _ = await asyncio.wait_for(process.communicate(), 30)
    *lines, last = [json.loads(line) for line in out.splitlines()]
    acked = [tuple(one[:3]) for line in lines for one in line["acked"]]
    assert sorted(acked) == sorted(ingest.kept)
    assert last["done"] is True
    assert last["acked"] == len(ingest.kept)
    assert last["raw"] == sum(line["raw"] for line in lines)
    assert last["unacknowledged"] == last["errors"] == 0
    assert process.returncode == 0

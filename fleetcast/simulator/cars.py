"""The fleet: N cars that post packets to ingest, each packet until it is acknowledged.

In: options and a stop event. Out: one `Acked` for each acknowledged packet. A car has one packet in flight, so its
packets arrive in order; a packet that fails is sent again, the same bytes, before the next is made. Nothing that was
made is given up, except a packet that ingest refuses as bad (counted as an error) and what is still unacknowledged half
a minute after the stop (counted as such). A tick that comes while a packet is still in hand waits; further ones are
skipped, as a car's buffer is not endless.
"""

import argparse
import asyncio
import contextlib
import math
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import httpx2
import msgspec
from msgspec import Meta

from fleetcast.settings import Noun
from fleetcast.simulator.car import Car
from fleetcast.simulator.drives import find_drives
from fleetcast.simulator.samples import MAX_BYTES, Encoding, Form, Parcel, Samples, content_type, head_of

MixedForm = Literal["ndjson", "json", "mix"]

TIMEOUT = 10.0
FIRST_PAUSE, LAST_PAUSE = 0.2, 5.0
LONGEST_RETRY_AFTER = 60.0
GRACE = 30.0
"""Seconds after the stop in which the packets in hand may still be acknowledged."""
REPORT_EVERY = 0.5
KEEP_IDLE = 4.0
"""Seconds an idle connection is kept: less than the 5 s after which many servers close theirs, which would look like a
failed send of whatever packet was just written."""
CARS_A_POOL = 50
"""A connection pool looks at all of its connections for each request: large ones cost more than the packets."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the fleet does. `boot` 0 means the current time in ms, so that a restart has a higher one.

    Sizes are inflated bytes of a packet, drawn evenly between the two. `speedup` is how many seconds the cars live in
    one second. `precompressed` is for load generators: see Samples.body.
    """

    ingest: str = "http://127.0.0.1:8081"
    noun: Noun = "vehicles"
    cars: Annotated[int, Meta(ge=1)] = 200
    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,48}$")] = "car-"
    per_minute: Annotated[float, Meta(ge=1, le=120)] = 12.0
    min_bytes: Annotated[int, Meta(ge=0)] = 500_000
    max_bytes: Annotated[int, Meta(le=MAX_BYTES)] = MAX_BYTES
    encoding: Encoding = "zstd"
    form: MixedForm = "ndjson"
    precompressed: bool = False
    seed: int = 1
    boot: Annotated[int, Meta(ge=0)] = 0
    drives: str | None = None
    speedup: Annotated[float, Meta(gt=0)] = 1.0

    def __post_init__(self) -> None:
        if self.min_bytes > self.max_bytes:
            raise ValueError("min_bytes is more than max_bytes")
        if self.precompressed and (self.form, self.encoding) != ("ndjson", "zstd"):
            raise ValueError("precompressed needs the form ndjson and the encoding zstd")
        if not self.ingest.startswith(("http://", "https://")):
            raise ValueError("ingest must be a URL, http:// or https://")

    def vehicle(self, number: int) -> str:
        """The vehicle id of a car, numbered from 0."""
        return f"{self.prefix}{number:05d}"


class Acked(msgspec.Struct, frozen=True):
    """A packet that ingest acknowledged. `sent` (first try) and `acked` are time.monotonic(), the same for all
    processes of a Linux machine; `stored` is its place in the stream; sizes in bytes before and after compression.
    """

    vehicle: str
    boot: int
    seq: int
    stored: int
    duplicate: bool
    sent: float
    acked: float
    raw_bytes: int
    wire_bytes: int


class Totals(msgspec.Struct):
    """What happened so far; `run_cars` keeps it up to date. `error` is the last error's text."""

    acked: int = 0
    duplicates: int = 0
    raw: int = 0
    wire: int = 0
    errors: int = 0
    retries: int = 0
    unacknowledged: int = 0
    error: str = ""


class _Answer(msgspec.Struct):
    stored: int
    duplicate: bool


Report = Callable[[Acked], None]


async def run_cars(
    options: Options, *, report: Report, stop: asyncio.Event, totals: Totals | None = None
) -> Totals:
    """Drive the fleet until `stop` is set and the packets in hand are acknowledged, at most GRACE seconds later.

    ValueError if the drives cannot be read.
    """
    totals = Totals() if totals is None else totals
    drives = find_drives(Path(options.drives) if options.drives else None)
    samples = Samples(options.seed)
    boot = options.boot or time.time_ns() // 1_000_000
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_IDLE)
    trusted = httpx2.create_ssl_context(trust_env=False)
    async with contextlib.AsyncExitStack() as clients:
        posts = []
        for number in range(options.cars):
            if number % CARS_A_POOL == 0:
                client = await clients.enter_async_context(
                    httpx2.AsyncClient(
                        base_url=options.ingest,
                        timeout=TIMEOUT,
                        limits=limits,
                        trust_env=False,
                        verify=trusted,
                    )
                )
            vehicle = options.vehicle(number)
            rng = random.Random(f"post/{options.seed}/{vehicle}")
            drive = drives[number % len(drives)]
            car = Car(vehicle, drive, options.seed, rng.uniform(0, drive.period))
            posts.append(_Post(car, boot, rng, options, samples, client, report, stop, totals))
        begin = time.monotonic()
        tasks = [asyncio.create_task(post.drive(begin, n / options.cars)) for n, post in enumerate(posts)]
        stopped = asyncio.create_task(stop.wait())
        try:
            # A car ends before the stop only by a bug of ours: that must not go unseen.
            await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            _, late = await asyncio.wait(tasks, timeout=GRACE if stop.is_set() else 0)
            totals.unacknowledged = len(late)
        finally:
            for task in (stopped, *tasks):
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return totals


class _Post:
    """One car and the post it sends."""

    def __init__(
        self,
        car: Car,
        boot: int,
        rng: random.Random,
        options: Options,
        samples: Samples,
        client: httpx2.AsyncClient,
        report: Report,
        stop: asyncio.Event,
        totals: Totals,
    ) -> None:
        self.car, self.boot, self.rng, self.options, self.samples = car, boot, rng, options, samples
        self.client, self.report, self.stop, self.totals = client, report, stop, totals
        self.seq = 0

    async def drive(self, begin: float, share: float) -> None:
        """Send a packet at each tick until the stop; the first after `share` (0 to 1) of an interval."""
        interval = 60 / self.options.per_minute
        tick, lived = 0, begin
        while not await self._stopped_before(begin + (share + tick) * interval):
            now = time.monotonic()
            self.car.advance((now - lived) * self.options.speedup)
            lived = now
            await self._deliver(self._next())
            late = math.floor((time.monotonic() - begin) / interval - share)
            tick = max(tick + 1, late)

    async def _stopped_before(self, moment: float) -> bool:
        wait = moment - time.monotonic()
        if wait > 0 and not self.stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), wait)
        return self.stop.is_set()

    def _next(self) -> Parcel:
        """The next packet, made once: whatever happens to it, these bytes are what is sent."""
        options = self.options
        self.seq += 1
        form: Form = ("ndjson", "json")[self.seq % 2] if options.form == "mix" else options.form
        vehicle = self.car.vehicle
        head = head_of(vehicle, self.boot, self.seq, time.time(), self.car.signals())
        body, raw = self.samples.body(
            head,
            self.rng.randint(options.min_bytes, options.max_bytes),
            self.rng,
            form=form,
            encoding=options.encoding,
            precompressed=options.precompressed,
        )
        return Parcel(vehicle, self.boot, self.seq, content_type(form), options.encoding, body, raw)

    async def _deliver(self, parcel: Parcel) -> None:
        """Send a packet until it is acknowledged, or refused as bad."""
        headers = {"Content-Type": parcel.content_type}
        if parcel.encoding != "identity":
            headers["Content-Encoding"] = parcel.encoding
        url = f"/v1/{self.options.noun}/{parcel.vehicle}/packets"
        sent = time.monotonic()
        failures = 0
        while True:
            retry_after = None
            try:
                response = await self.client.post(url, content=parcel.body, headers=headers)
            except httpx2.TransportError as error:
                self.totals.error = f"{parcel.vehicle}: {type(error).__name__}: {error}"
            else:
                if response.status_code == 202:
                    self._acknowledged(parcel, response, sent)
                    return
                self.totals.error = f"{parcel.vehicle}: {response.status_code}: {response.text[:200]}"
                if response.status_code != 429 and response.status_code < 500:
                    self.totals.errors += 1
                    return
                retry_after = response.headers.get("Retry-After")
            self.totals.retries += 1
            await asyncio.sleep(pause_before(failures, retry_after, self.rng))
            failures += 1

    def _acknowledged(self, parcel: Parcel, response: httpx2.Response, sent: float) -> None:
        acked = time.monotonic()
        try:
            answer = msgspec.json.decode(response.content, type=_Answer)
        except msgspec.MsgspecError as error:
            self.totals.errors += 1
            self.totals.error = f"{parcel.vehicle}: an answer 202 that is not the contract's: {error}"
            return
        self.totals.acked += 1
        self.totals.duplicates += answer.duplicate
        self.totals.raw += parcel.raw_bytes
        self.totals.wire += len(parcel.body)
        self.report(
            Acked(
                parcel.vehicle,
                parcel.boot,
                parcel.seq,
                answer.stored,
                answer.duplicate,
                sent,
                acked,
                parcel.raw_bytes,
                len(parcel.body),
            )
        )


def pause_before(failures: int, retry_after: str | None, rng: random.Random) -> float:
    """Seconds to wait before the next try after `failures` earlier ones: full jitter in the upper half, so that a
    fleet that failed together does not return together; never less than a Retry-After in seconds asks for.
    """
    pause: float = min(FIRST_PAUSE * 2 ** min(failures, 10), LAST_PAUSE) * rng.uniform(0.5, 1.0)
    if retry_after is not None and retry_after.strip().isdecimal():
        asked = min(float(retry_after), LONGEST_RETRY_AFTER)
        pause = max(pause, asked + rng.uniform(0, FIRST_PAUSE))
    return pause


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `fleetcast simulate cars`."""
    default = Options()
    parser.add_argument("--ingest", default=default.ingest, metavar="URL")
    parser.add_argument("--noun", default=default.noun, help="of the addresses (%(default)s)")
    parser.add_argument("--cars", type=int, default=default.cars, metavar="N")
    parser.add_argument("--prefix", default=default.prefix, help="of the vehicle ids: car- gives car-00000")
    parser.add_argument(
        "--per-minute", type=float, default=default.per_minute, metavar="X", help="1 to 120 packets"
    )
    parser.add_argument("--min-bytes", type=int, default=default.min_bytes, metavar="B", help="inflated")
    parser.add_argument("--max-bytes", type=int, default=default.max_bytes, metavar="B", help="inflated")
    parser.add_argument("--encoding", choices=get_args(Encoding), default=default.encoding)
    parser.add_argument("--form", choices=get_args(MixedForm), default=default.form)
    parser.add_argument(
        "--precompressed", action="store_true", help="compress the samples once, not in each packet"
    )
    parser.add_argument("--seconds", type=float, default=0.0, metavar="S", help="0: until stopped")
    parser.add_argument(
        "--speedup", type=float, default=default.speedup, metavar="X", help="seconds lived in one"
    )
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--boot", type=int, default=default.boot, help="0: the time now in ms")
    parser.add_argument("--drives", metavar="DIR", help="a folder of traces second,speed_kmh")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, twice a second")


async def run(args: argparse.Namespace) -> int:
    """`fleetcast simulate cars`: 0 if every packet was acknowledged, 1 if not, 2 if the arguments are wrong.

    With --json: lines `{"acked": [[vehicle, boot, seq, acked, duplicate], ...], "raw", "wire", "errors", "retries"}`,
    where `raw` and `wire` are the bytes of that line's packets and `errors` and `retries` count from the start; the
    last line is `{"done": true, ...totals}`.
    """
    fields = {name: getattr(args, name) for name in Options.__struct_fields__}
    try:
        options = msgspec.convert(fields, Options)
    except msgspec.ValidationError as error:
        return _wrong(error)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if args.seconds > 0:
        loop.call_later(args.seconds, stop.set)
    acked: list[Acked] = []
    totals = Totals()
    screen = _Screen(args.json, acked, totals, stop)
    printing = asyncio.create_task(screen.keep())
    try:
        await run_cars(options, report=acked.append, stop=stop, totals=totals)
    except ValueError as error:
        return _wrong(error)
    finally:
        printing.cancel()
        await asyncio.gather(printing, return_exceptions=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    screen.last()
    return 1 if totals.errors or totals.unacknowledged else 0


def _wrong(error: Exception) -> int:
    sys.stderr.write(f"simulate cars: {error}\n")
    return 2


class _Screen:
    """What is printed. Whoever reads may go away: then the fleet stops too."""

    def __init__(self, json: bool, acked: list[Acked], totals: Totals, stop: asyncio.Event) -> None:
        self.json, self.acked, self.totals, self.stop = json, acked, totals, stop
        self.begin = time.monotonic()

    async def keep(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY)
            self.now()

    def now(self) -> None:
        acked, totals = self.acked[:], self.totals
        self.acked.clear()
        if self.json:
            self._print(
                {
                    "acked": [[a.vehicle, a.boot, a.seq, a.acked, a.duplicate] for a in acked],
                    "raw": sum(a.raw_bytes for a in acked),
                    "wire": sum(a.wire_bytes for a in acked),
                    "errors": totals.errors,
                    "retries": totals.retries,
                    "error": totals.error,
                }
            )
        elif sys.stdout.isatty():
            self._write("\r" + self._sentence() + "\x1b[K")

    def last(self) -> None:
        if self.json:
            self.now()
            self._print({"done": True, **msgspec.structs.asdict(self.totals)})
        else:
            end = "\r" if sys.stdout.isatty() else ""
            self._write(
                f"{end}{self._sentence()}\n"
                + (f"last error: {self.totals.error}\n" if self.totals.error else "")
            )

    def _sentence(self) -> str:
        t, seconds = self.totals, max(time.monotonic() - self.begin, 0.001)
        return (
            f"{t.acked} packets acknowledged ({t.acked / seconds:.1f}/s), {t.raw / seconds / 1e6:.1f} MB/s"
            f" ({t.wire / seconds / 1e6:.1f} compressed), {t.duplicates} duplicates, {t.retries} retries,"
            f" {t.errors} errors, {t.unacknowledged} unacknowledged"
        )

    def _print(self, line: dict[str, Any]) -> None:
        self._write(msgspec.json.encode(line).decode() + "\n")

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            self.stop.set()

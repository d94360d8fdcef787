"""Simulated phones: real SSE clients that watch vehicles through the front door and check all they get.

Each phone holds one stream, comes back with its last event id when the stream ends, and passes every event
through `phone.Phone`. As a last act they compare what they show with the latest state. Out: each half second one
JSON line with the packets seen since (or a line for people), in the end a report. No reconnect is hidden: each is
counted in `streams_closed`, `refused` or `unavailable`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from fleetcast import sse
from fleetcast.simulator.phone import Counts, Phone

PACE = 200  # first connects a second: a crowd that comes at once is another experiment
RETRY = 1000  # ms until a phone comes back, where the stream named no `retry`
SHORTEST = 50  # ms: a stream that says `retry: 0` shall not make a phone spin
TICK = 0.5  # s between two lines of output
LINE = 5.0  # s between two lines where output is for people but not a terminal
SILENCE = 60.0  # s without a byte; keep-alives come every 25 s
TOGETHER = 250  # streams a client: a connection pool looks through all of its connections each time
COUNTED = [name for name in Counts.__struct_fields__ if name != "snapshots"]  # summed up in each line
READERS = 16  # latest states asked for at a time


class Watch:
    """One phone's line to the platform: connects, listens, comes back."""

    def __init__(self, number: int, vehicle: str, noun: str = "vehicles") -> None:
        self.number = number
        self.noun = noun
        self.phone = Phone(vehicle)
        self.connected = False
        self.streams_closed = 0  # ended though the phone wanted more
        self.refused = 0  # could not connect, or was answered with no stream
        self.difference: str | None = "not compared"  # from the latest state; "" is level

    async def follow(self, client: httpx2.AsyncClient) -> None:
        """Listen until cancelled."""
        retry = RETRY
        while True:
            named = await self._listen(client)
            retry = retry if named is None else named
            # Jitter, because all phones of a dead edge come back at the same time.
            await asyncio.sleep(max(SHORTEST, retry) / 1000 * random.uniform(0.5, 1.5))

    async def _listen(self, client: httpx2.AsyncClient) -> int | None:
        """One stream to its end; returns the `retry` it named, in ms."""
        parser = sse.Parser(self.phone.last_event_id)
        headers = {"Accept": sse.MEDIA_TYPE, "Accept-Encoding": "identity", "Cache-Control": "no-cache"}
        if self.phone.last_event_id:
            headers["Last-Event-ID"] = self.phone.last_event_id
        unavailable = self.phone.counts.unavailable
        try:
            path = f"/v1/{self.noun}/{self.phone.vehicle}/events"
            async with client.stream("GET", path, headers=headers) as response:
                kind = response.headers.get("content-type", "").partition(";")[0]
                self.connected = response.status_code == 200 and kind == sse.MEDIA_TYPE
                if self.connected:
                    async for chunk in response.aiter_raw():
                        now = time.monotonic()
                        for event in parser.feed(chunk):
                            self.phone.on_event(event.id, event.event, event.data, now)
        except httpx2.TransportError:
            pass  # A cut: counted below like a clean end, since the phone wanted neither.
        if not self.connected:
            self.refused += 1
        elif self.phone.counts.unavailable == unavailable:
            self.streams_closed += 1
        self.connected = False
        return parser.retry

    def report(self) -> dict[str, Any]:
        """All of this phone as plain JSON values."""
        said = self.phone.report()
        said["faults"] = [*said["faults"], *([self.difference] if self.difference else [])]
        return {
            "phone": self.number,
            **said,
            "streams_closed": self.streams_closed,
            "refused": self.refused,
            "level": self.difference == "",
        }


class Phones:
    """A crowd of phones. `watch()` runs them, `progress()` says what is new, `settle()` compares and reports."""

    def __init__(
        self,
        front: str,
        cars: int,
        phones: int,
        prefix: str = "car-",
        noun: str = "vehicles",
        token: str = "",
    ) -> None:
        self.front = front
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.noun = noun
        self.watches = [Watch(number, f"{prefix}{number % cars:05d}", noun) for number in range(phones)]

    async def watch(self) -> None:
        """Connect all, paced, and follow until cancelled."""
        async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            for start in range(0, len(self.watches), TOGETHER):
                client = await stack.enter_async_context(self._client())
                for one in self.watches[start : start + TOGETHER]:
                    tasks.create_task(one.follow(client))
                    await asyncio.sleep(1 / PACE)

    def progress(self) -> dict[str, Any]:
        """The packets and snapshots since the last call, and cumulative counters of all phones."""
        snapshots: list[list[Any]] = []
        seen: list[list[Any]] = []
        for one in self.watches:
            who = [one.phone.vehicle, one.number]
            snapshots += [[*who, *told.packet, told.version] for told in one.phone.take_snapshots()]
            seen += [[*who, *told.packet, told.when, told.version] for told in one.phone.take_seen()]
        counts = [msgspec.structs.asdict(one.phone.counts) for one in self.watches]
        totals = {name: sum(count[name] for count in counts) for name in COUNTED}
        return {
            "at": time.monotonic(),
            "snapshots": snapshots,
            "seen": seen,
            "connected": sum(w.connected for w in self.watches),
            "streams_closed": sum(w.streams_closed for w in self.watches),
            "refused": sum(w.refused for w in self.watches),
            **totals,
        }

    async def settle(self, seconds: float, hurry: asyncio.Event | None = None) -> dict[str, Any]:
        """Compare all phones with the latest states until they are level, at most for `seconds`; the report.

        The phones must still be listening, since what they lack may be on its way. `hurry` ends it early.
        """
        deadline = time.monotonic() + seconds
        async with self._client() as client:
            while True:
                due = [w for w in self.watches if w.difference != ""]
                vehicles = sorted({w.phone.vehicle for w in due})
                readers = asyncio.Semaphore(READERS)
                answers = await asyncio.gather(*(self._latest(client, readers, v) for v in vehicles))
                latest = dict(zip(vehicles, answers, strict=True))
                for one in due:
                    answer = latest[one.phone.vehicle]
                    one.difference = answer if isinstance(answer, str) else one.phone.difference(answer)
                level = sum(w.difference == "" for w in self.watches)
                hurried = hurry is not None and hurry.is_set()
                if level == len(self.watches) or hurried or time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.2)
        return {
            "done": True,
            "phones": [w.report() for w in self.watches],
            "level": level,
            "unlevel": len(self.watches) - level,
        }

    async def _latest(
        self, client: httpx2.AsyncClient, readers: asyncio.Semaphore, vehicle: str
    ) -> bytes | str | None:
        """The latest document, None when the vehicle never sent, or why there is no answer."""
        async with readers:
            try:
                answer = await client.get(f"/v1/{self.noun}/{vehicle}")
            except httpx2.TransportError as error:
                return f"the latest state was not to be had: {error!r}"
        if answer.status_code == 404:
            return None
        if answer.status_code == 200:
            return answer.content
        return f"the latest state was answered with {answer.status_code}"

    def _client(self) -> httpx2.AsyncClient:
        # Proxies from the environment are not for us: the front door is what is to be tried.
        return httpx2.AsyncClient(
            base_url=self.front,
            headers=self._headers,
            trust_env=False,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
            timeout=httpx2.Timeout(10.0, read=SILENCE, pool=None),
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `fleetcast simulate phones`."""
    parser.add_argument(
        "--front", default="http://127.0.0.1:8080", metavar="URL", help="the front door (%(default)s)"
    )
    parser.add_argument("--noun", default="vehicles", help="of the addresses (%(default)s)")
    parser.add_argument("--cars", type=_positive, default=200, help="vehicles in the fleet (%(default)s)")
    parser.add_argument(
        "--phones", type=_positive, default=50, help="phones; distinct vehicles first (%(default)s)"
    )
    parser.add_argument("--prefix", default="car-", help="vehicle ids are this and five digits (%(default)s)")
    parser.add_argument("--token", type=Path, metavar="FILE", help="of an app token, which all of them show")
    parser.add_argument("--seconds", type=float, help="stop after this time; without it at Ctrl-C")
    parser.add_argument(
        "--settle", type=float, default=20.0, metavar="SECONDS", help="wait so long to be level (%(default)s)"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON line each half second, a report as the last one"
    )


async def run(args: argparse.Namespace) -> int:
    """Watch until told to stop, then settle and report; 0 when nothing was wrong.

    SIGTERM or SIGINT begins to settle, a second one ends it at once.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()
    try:
        token = "" if args.token is None else args.token.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"simulate phones: --token: {args.token}: {error}\n")
        return 2
    crowd = Phones(args.front, args.cars, args.phones, args.prefix, args.noun, token)
    say = _Printer(crowd, as_json=args.json)
    with _signals(stop, hurry):
        async with _beside(crowd.watch()) as watching, _beside(say.forever()) as saying:
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait(
                {watching, saying, stopping}, timeout=args.seconds, return_when=asyncio.FIRST_COMPLETED
            )
            for task in (watching, saying):
                if task.done():
                    task.result()  # Neither ends by itself: this raises what went wrong.
            report = await crowd.settle(args.settle, hurry)
            stopping.cancel()
    return say.last(report)


class _Printer:
    """Standard output: JSON lines for a program, or one line for people that a terminal keeps in place."""

    def __init__(self, crowd: Phones, *, as_json: bool) -> None:
        self._crowd, self._as_json = crowd, as_json
        self._terminal = sys.stdout.isatty()

    async def forever(self) -> None:
        while True:
            await asyncio.sleep(TICK if self._as_json or self._terminal else LINE)
            self._progress()

    def last(self, report: dict[str, Any]) -> int:
        """Print what is left and the report; returns the exit status."""
        self._progress()
        wrong = [p for p in report["phones"] if p["faults"] or not p["level"]]
        if self._as_json:
            self._line(msgspec.json.encode(report).decode())
        else:
            if self._terminal:
                self._write("\n")
            self._line(
                f"{report['level']} phones are level with the latest state, {report['unlevel']} are not"
            )
            for phone in wrong:
                self._line(f"phone {phone['phone']} on {phone['vehicle']}: {'; '.join(phone['faults'])}")
        return 1 if wrong else 0

    def _progress(self) -> None:
        now = self._crowd.progress()
        if self._as_json:
            self._line(msgspec.json.encode(now).decode())
            return
        text = (
            f"{now['connected']} of {len(self._crowd.watches)} phones connected, {now['updates']} updates, "
            f"{now['lost']} lost, {now['twice']} twice, {now['reordered']} out of order, {now['resets']} resets, "
            f"{now['streams_closed']} streams closed"
        )
        if self._terminal:
            self._write(f"\r\x1b[K{text}")
        else:
            self._line(text)

    def _line(self, text: str) -> None:
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """A task for as long as the block runs."""
    task: asyncio.Task[None] = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.contextmanager
def _signals(stop: asyncio.Event, hurry: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def heard() -> None:
        (hurry if stop.is_set() else stop).set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, heard)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number

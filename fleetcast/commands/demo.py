"""`fleetcast demo`: the main job. The whole platform, a fleet and its phones on this machine, and a verdict.

The platform runs as `up` runs it; cars and phones are processes of their own that report what was acknowledged and what was
seen, and the verdict joins both: every acknowledged packet must be in its state once, and every update must have come to
every phone of its car, once and in order. The exit status is 1 if not.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx2
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from fleetcast import probes, share
from fleetcast.commands import roll
from fleetcast.errors import FleetcastError, Unavailable, Unusable
from fleetcast.jetstream import Connection, connect
from fleetcast.nats_live import NatsLive
from fleetcast.platform import Platform
from fleetcast.settings import Settings
from fleetcast.simulator import cars_command
from fleetcast.simulator.options import Totals
from fleetcast.simulator.table import LiveTable, print_summary
from fleetcast.simulator.verdict import Verdict
from fleetcast.subjects import PACKETS
from fleetcast.wiring import configure_logging

_DRAINED = 60.0  # seconds that the queue may take to empty after the last packet
_SETTLE = (
    60  # seconds that a phone may take to be level: a lost last update waits for the poll of the next link
)
_LINE = 64 * 1024 * 1024  # of a simulator's report: thousands of packets


def add_commands(commands: Any) -> None:
    """Adds it to the parser."""
    sub = commands.add_parser(
        "demo",
        help="the whole platform with simulated cars and phones, and a verdict",
        description="Runs the whole platform on this machine with simulated cars and phones, shows what happens, and says"
        " at the end whether every update arrived, once and in order. Exit status 1 if not. Ctrl-C ends it early. Half of"
        " the cars send by MQTT, the others by HTTP; with --trouble they also lose the network, repeat and reorder their"
        " packets, restart, and have wrong clocks, and the verdict is to be the same.",
    )
    sub.add_argument(
        "--seconds", type=float, default=0.0, metavar="S", help="how long cars send; 0: until Ctrl-C"
    )
    sub.add_argument("--cars", type=int, default=200, metavar="N", help="(%(default)s)")
    sub.add_argument("--phones", type=int, default=50, metavar="N", help="spread over the cars (%(default)s)")
    sub.add_argument(
        "--per-minute", type=float, default=12.0, metavar="X", help="packets a car, 1 to 120 (%(default)s)"
    )
    sub.add_argument(
        "--min-bytes", type=int, default=500_000, metavar="B", help="a packet inflated (%(default)s)"
    )
    sub.add_argument("--max-bytes", type=int, default=1_048_576, metavar="B", help="(%(default)s)")
    sub.add_argument(
        "--door",
        choices=("http", "mqtt", "mix"),
        help="of the cars; mix: every second one by MQTT (mix, or http if the setting mqtt_port is 0)",
    )
    sub.add_argument("--seed", type=int, default=1, help="of cars and trouble (%(default)s)")
    cars_command.add_trouble(sub)
    sub.add_argument("--form", choices=("ndjson", "json", "mix"), default="ndjson", help="(%(default)s)")
    sub.add_argument("--encoding", choices=("zstd", "gzip", "identity"), default="zstd", help="(%(default)s)")
    sub.add_argument(
        "--json", action="store_true", help="print the summary as one JSON line, all else on stderr"
    )
    sub.add_argument(
        "--share",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="let phones of this network watch the demo's cars, by a link with a token; at this machine's address, or ADDRESS",
    )
    sub.set_defaults(run=run)


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Runs the demo; 0 if every promise was kept."""
    if arguments.cars < 1 or arguments.phones < 1:
        raise Unusable("demo: --cars and --phones must be at least 1")
    if arguments.door is None:
        arguments.door = "mix" if settings.mqtt_port else "http"
    elif arguments.door != "http" and not settings.mqtt_port:
        raise Unusable(f"demo: --door {arguments.door} needs the setting mqtt_port, which is 0")
    if settings.front_cert:
        raise Unusable("demo: its phones speak plain HTTP; leave front_cert out (`up` takes it)")
    if settings.app_keys and arguments.share is None:
        raise Unusable("demo: its phones show no tokens; leave app_keys out (--share makes a key of its own)")
    try:
        cars_command.trouble_of(arguments)
    except ValueError as why:
        raise Unusable(f"demo: {why}") from None
    # What goes wrong is said by the table's notes and the verdict; the roles' own logs are in files.
    configure_logging(msgspec.structs.replace(settings, log_level="error"), "demo")
    if arguments.share is None:
        return await _run(_Demo(arguments, settings))
    with share.shared(settings, arguments.share or share.address(), arguments.cars) as shared:
        return await _run(_Demo(arguments, shared.settings, shared))


async def _run(demo: _Demo) -> int:
    loop = asyncio.get_running_loop()
    working = asyncio.create_task(demo.run())

    def interrupt() -> None:
        if demo.stop.is_set() or not demo.running:
            working.cancel()  # the second Ctrl-C, or one before anything runs
        demo.stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        return await working
    except asyncio.CancelledError:
        return 130


class _Demo:
    """One run."""

    def __init__(
        self, arguments: argparse.Namespace, settings: Settings, shared: share.Shared | None = None
    ) -> None:
        self.arguments = arguments
        self.shared = shared
        self.stop = asyncio.Event()
        self.running = False
        self.verdict = Verdict(arguments.cars, arguments.phones)
        self.vehicles = [share.car(number) for number in range(arguments.cars)]
        self.screen = sys.stderr if arguments.json else sys.stdout
        self.table = LiveTable(self.screen)
        self.platform = Platform(settings, self.say)
        self.counters = _Counters(self.platform)
        self.all_connected = asyncio.Event()
        self.alive: list[_Simulator] = []

    def say(self, line: str) -> None:
        """A note in the table while it lives, a line before that."""
        if self.running:
            self.table.note(line)
        else:
            print(line, file=self.screen, flush=True)

    async def run(self) -> int:
        """Start, drive, stop, judge: the order matters, see each step."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.platform)
            await stack.enter_async_context(roll.served(self.platform))
            connection = await connect(self.platform.settings, "fleetcast-demo")
            stack.push_async_callback(connection.close)
            await _drained(connection)
            before = await self._versions(connection)
            phones = await self._start_phones(stack)
            self._say_where()
            cars = await stack.enter_async_context(_simulator(self._cars_command(), self._on_cars))
            self.alive.append(cars)
            self.running = True
            with self.table:
                began = time.monotonic()
                await self._drive(self.arguments.seconds)
                await cars.finish()
                seconds = time.monotonic() - began
                # A phone may be level with a state that is behind the queue: so first the queue, then the phones.
                await self._watch(_drained(connection))
                await self._watch(phones.finish())
                await self.counters.read()
            self.running = False
            after = await self._versions(connection)
            for vehicle in self.vehicles:
                self.verdict.versions(vehicle, before[vehicle], after[vehicle])
            self.verdict.counters(*self.counters.published_and_skipped())
            self._say_shares()
        broken = [*self.verdict.broken(), *(f"{one.name} ended by itself" for one in self.alive if one.broke)]
        print_summary(self.verdict.summary(seconds), broken, as_json=self.arguments.json)
        return 1 if broken else 0

    def _say_where(self) -> None:
        url, logs = self.platform.url, f"logs are in {self.platform.settings.data}/log"
        if self.shared is None:
            self.say(f"{url} is open for development; {logs}")
            return
        link = self.shared.link(url)
        if self.screen.isatty():
            self.say(share.qr(link))
        self.say(
            f"for phones in this network, until the demo ends or {share.LASTS / 3600:.0f} hours are over: whoever has the"
            " link sees the demo's cars, and plain HTTP hides it from nobody who listens in"
        )
        self.say(f"open {link}")
        self.say(f"nothing at {url} is to be had without it; {logs}")

    async def _start_phones(self, stack: AsyncExitStack) -> _Simulator:
        phones = await stack.enter_async_context(_simulator(self._phones_command(), self._on_phones))
        self.alive.append(phones)
        with suppress(TimeoutError):  # the verdict says if they never came
            async with asyncio.timeout(30 + self.arguments.phones / 100):
                await self.all_connected.wait()
        return phones

    def _on_cars(self, line: Mapping[str, Any]) -> None:
        self.verdict.cars_line(line)
        if line.get("done") and (made := cars_command.trouble_made(msgspec.convert(line, Totals))):
            self.say(f"trouble that the cars made: {made}")

    def _on_phones(self, line: Mapping[str, Any]) -> None:
        if line.get("connected", 0) >= self.arguments.phones:
            self.all_connected.set()
        self.verdict.phones_line(line)

    async def _drive(self, seconds: float) -> None:
        async def until_told() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds or None):
                    await self.stop.wait()

        await self._watch(until_told())

    async def _watch(self, doing: Coroutine[None, None, None]) -> None:
        """Shows what happens while something is done."""
        task = asyncio.create_task(doing)
        while not task.done():
            await self.counters.read()
            self.verdict.counters(*self.counters.published_and_skipped())
            self.table.update(self.verdict.figures(time.monotonic()))
            await asyncio.wait({task}, timeout=0.5)
        await task

    async def _versions(self, connection: Connection) -> dict[str, int]:
        """Each car's version, as an app would ask for it: through the front door; less the changes of status among them.

        How many these are no app need know: that is asked of the live state.
        """
        slots = asyncio.Semaphore(20)
        live = NatsLive(connection, self.platform.settings)

        async def version(client: httpx2.AsyncClient, vehicle: str) -> int:
            async with slots:
                for _ in range(50):
                    with suppress(httpx2.HTTPError, Unavailable):  # as when nats-server is killed just now
                        answer = await client.get(
                            f"{self.platform.url}/v1/{self.platform.settings.noun}/{vehicle}"
                        )
                        found = int(answer.json()["version"]) if answer.status_code == 200 else 0
                        state = (await live.latest(vehicle)).state
                        if answer.status_code in (200, 404) and state.version == found:
                            return found - state.statuses
                    await asyncio.sleep(0.2)
            raise FleetcastError(f"{vehicle}: its latest state cannot be read through the front door")

        token = {} if self.shared is None else {"Authorization": f"Bearer {self.shared.own.read_text()}"}
        async with httpx2.AsyncClient(timeout=10, headers=token, trust_env=False) as client:
            versions = await asyncio.gather(*(version(client, vehicle) for vehicle in self.vehicles))
        return dict(zip(self.vehicles, versions, strict=True))

    def _cars_command(self) -> list[str]:
        given = self.arguments
        options = {
            "--ingest": self.platform.ingest_url,
            "--noun": self.platform.settings.noun,
            "--door": given.door,
            "--mqtt": f"{self.platform.vehicle_host}:{self.platform.settings.mqtt_port or 1883}",
            "--cars": given.cars,
            "--per-minute": given.per_minute,
            "--min-bytes": given.min_bytes,
            "--max-bytes": given.max_bytes,
            "--form": given.form,
            "--encoding": given.encoding,
            "--seed": given.seed,
        }
        trouble = msgspec.structs.asdict(cars_command.trouble_of(given))
        options |= {f"--{name}": rate for name, rate in trouble.items()}
        batches = ["--batches"] if given.batches or given.trouble else []
        return ["cars", "--json", *batches, *(str(part) for pair in options.items() for part in pair)]

    def _phones_command(self) -> list[str]:
        given = self.arguments
        options = {
            "--front": self.platform.url,
            "--noun": self.platform.settings.noun,
            "--cars": given.cars,
            "--phones": given.phones,
            "--settle": _SETTLE,
        }
        if self.shared is not None:
            options["--token"] = self.shared.own
        return ["phones", "--json", *(str(part) for pair in options.items() for part in pair)]

    def _say_shares(self) -> None:
        """That the work was shared: who applied, and which edge replicas got items."""
        applied = ", ".join(f"{name} {count:.0f}" for name, count in self.counters.by_process("applied"))
        items = ", ".join(f"{name} {count:.0f}" for name, count in self.counters.by_replica())
        self.say(f"applied by {applied}; items to {items or 'no edge replica'}")


class _Counters:
    """What the consume processes count, summed over their restarts."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._last: dict[tuple[str, str, str], float] = {}
        self._sum: dict[tuple[str, str, str], float] = {}

    async def read(self) -> None:
        """Adds what has been counted since the last time; a process that is away is left out."""
        async with httpx2.AsyncClient(timeout=2, trust_env=False, verify=probes.authorities()) as client:
            for name, port in self._platform.admin_ports.items():
                if not name.startswith("consume"):
                    continue
                with suppress(httpx2.HTTPError):
                    self._add(name, (await client.get(f"http://127.0.0.1:{port}/metrics")).text)

    def _add(self, name: str, text: str) -> None:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if not sample.name.startswith("fleetcast_") or not sample.name.endswith("_total"):
                    continue
                key = (sample.name, name, sample.labels.get("replica", ""))
                grown = sample.value - self._last.get(key, 0.0)
                self._sum[key] = self._sum.get(key, 0.0) + (grown if grown >= 0 else sample.value)
                self._last[key] = sample.value

    def published_and_skipped(self) -> tuple[int, int]:
        """Updates that somebody listened to, and those that nobody did."""
        return round(self._total("published")), round(self._total("skipped"))

    def by_process(self, what: str) -> list[tuple[str, float]]:
        """(process, count)."""
        wanted = f"fleetcast_{what}_total"
        return sorted((name, value) for (metric, name, _), value in self._sum.items() if metric == wanted)

    def by_replica(self) -> list[tuple[str, float]]:
        """(edge replica, items sent to it)."""
        shares: dict[str, float] = {}
        for (metric, _, replica), value in self._sum.items():
            if metric == "fleetcast_published_items_total":
                shares[replica] = shares.get(replica, 0.0) + value
        return sorted(shares.items())

    def _total(self, what: str) -> float:
        return sum(value for _, value in self.by_process(what))


class _Simulator:
    """A simulator's process, and the JSON lines that it reports."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, line: Callable[[Mapping[str, Any]], None]
    ) -> None:
        self.name = name
        self._process = process
        self._line = line
        self._done = False
        self._reading = asyncio.create_task(self._read())

    @property
    def broke(self) -> bool:
        """Whether it ended without its last report."""
        return self._reading.done() and not self._done

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            report = msgspec.json.decode(line)
            self._done = self._done or bool(report.get("done"))
            self._line(report)

    async def finish(self) -> None:
        """Tells it to end in its own good order, and reads its last report."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        await self._reading
        await self._process.wait()

    async def kill(self) -> None:
        """Ends it at once, if it still runs."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


@asynccontextmanager
async def _simulator(
    command: list[str], line: Callable[[Mapping[str, Any]], None]
) -> AsyncIterator[_Simulator]:
    # In a session of its own: Ctrl-C must reach the demo alone, which then ends cars before phones.
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-m", "fleetcast", "simulate", *command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        limit=_LINE,
    )
    simulator = _Simulator(command[0], process, line)
    try:
        yield simulator
    finally:
        await simulator.kill()


async def _drained(connection: Connection) -> None:
    """Returns when the queue is empty, or after a bound (the verdict then says what was not applied)."""
    deadline = time.monotonic() + _DRAINED
    while time.monotonic() < deadline:
        with suppress(FleetcastError):
            info = await connection.api(f"STREAM.INFO.{PACKETS}")
            if info["state"]["messages"] == 0:
                return
        await asyncio.sleep(0.05)

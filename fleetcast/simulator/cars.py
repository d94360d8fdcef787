"""The fleet: N cars that send packets by HTTP or MQTT, each packet until it is acknowledged.

In: options and a stop event. Out: one `Acked` for each acknowledged packet. A car has one packet in flight, so its
packets are stored in the order in which it sends them; a packet that fails is sent again, the same bytes, before the next.
Nothing that was made is given up, except a packet that the platform refuses as bad (counted as an error) and what is still
unacknowledged half a minute after the stop (counted as such). A tick that comes while a packet is still in hand waits;
further ones are skipped, as a car's buffer is not endless. With trouble (see there) a car also sends late, again, and after
a tunnel.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fleetcast.settings import Noun
from fleetcast.simulator.car import Car
from fleetcast.simulator.door import (
    Answer,
    Batching,
    Door,
    DoorName,
    Failed,
    Receipt,
    Refused,
    TokenOf,
    no_token,
)
from fleetcast.simulator.drives import find_drives
from fleetcast.simulator.http_door import http_doors
from fleetcast.simulator.mqtt_door import MqttDoor, host_and_port
from fleetcast.simulator.phone import Packet
from fleetcast.simulator.samples import MAX_BYTES, Encoding, Form, Parcel, Samples, content_type, head_of
from fleetcast.simulator.trouble import Backlog, Make, Script, Send, Step, Trouble, Vanish, told

MixedForm = Literal["ndjson", "json", "mix"]
MixedDoor = Literal["http", "mqtt", "mix"]

FIRST_PAUSE, LAST_PAUSE = 0.2, 5.0
LONGEST_RETRY_AFTER = 60.0
GRACE = 30.0
"""Seconds after the stop in which the packets in hand may still be acknowledged."""
_MS = 0.001


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the fleet does. `boot` 0 means the current time in ms, so that a restart has a higher one.

    Sizes are inflated bytes of a packet, drawn evenly between the two. `speedup` is how many seconds the cars live in
    one second. `precompressed` is for load generators: see Samples.body. `mqtt` is HOST:PORT. With the door `mix` every
    second car goes by MQTT. `batches`: a backlog by HTTP is one request.
    """

    ingest: str = "http://127.0.0.1:8081"
    noun: Noun = "vehicles"
    door: MixedDoor = "http"
    mqtt: str = "127.0.0.1:1883"
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
    trouble: Trouble = Trouble()
    batches: bool = False

    def __post_init__(self) -> None:
        if self.min_bytes > self.max_bytes:
            raise ValueError("min_bytes is more than max_bytes")
        if self.precompressed and (self.form, self.encoding) != ("ndjson", "zstd"):
            raise ValueError("precompressed needs the form ndjson and the encoding zstd")
        if not self.ingest.startswith(("http://", "https://")):
            raise ValueError("ingest must be a URL, http:// or https://")
        try:
            host_and_port(self.mqtt)
        except ValueError as error:
            raise ValueError(f"mqtt: {error}") from None

    def vehicle(self, number: int) -> str:
        """The vehicle id of a car, numbered from 0."""
        return f"{self.prefix}{number:05d}"

    def by_mqtt(self, number: int) -> bool:
        """Which door that car uses."""
        return self.door == "mqtt" or (self.door == "mix" and number % 2 == 1)


class Acked(msgspec.Struct, frozen=True):
    """A packet that was acknowledged, for the first time. `sent` (first try) and `acked` are time.monotonic(), the same for
    all processes of a Linux machine; `stored` is its place in the queue and `duplicate` whether the queue knew it, None by
    MQTT, which does not say; sizes in bytes before and after compression.
    """

    vehicle: str
    boot: int
    seq: int
    stored: int | None
    duplicate: bool | None
    sent: float
    acked: float
    raw_bytes: int
    wire_bytes: int
    door: DoorName = "http"


class Totals(msgspec.Struct):
    """What happened so far; `run_cars` keeps it up to date. `error` is the last error's text.

    `acked` counts distinct packets, `mqtt` those of them that went by MQTT. `unacknowledged` are packets that were made,
    `unanswered` those of them that were sent: they may be stored. The last four are trouble that was made: `repeats` were
    acknowledged once more, `late` ones sent after newer ones.
    """

    acked: int = 0
    mqtt: int = 0
    duplicates: int = 0
    raw: int = 0
    wire: int = 0
    errors: int = 0
    retries: int = 0
    unacknowledged: int = 0
    unanswered: int = 0
    error: str = ""
    tunnels: int = 0
    repeats: int = 0
    late: int = 0
    reboots: int = 0


Report = Callable[[Acked], None]


async def run_cars(
    options: Options,
    *,
    report: Report,
    stop: asyncio.Event,
    totals: Totals | None = None,
    token_of: TokenOf = no_token,
) -> Totals:
    """Drive the fleet until `stop` is set and the packets in hand are acknowledged, at most GRACE seconds later.

    ValueError if the drives cannot be read.
    """
    totals = Totals() if totals is None else totals
    drives = find_drives(Path(options.drives) if options.drives else None)
    samples = Samples(options.seed)
    boot = options.boot or time.time_ns() // 1_000_000
    async with http_doors(options.ingest, options.noun, token_of) as http_door:
        senders = []
        for number in range(options.cars):
            vehicle = options.vehicle(number)
            rng = random.Random(f"post/{options.seed}/{vehicle}")
            drive = drives[number % len(drives)]
            car = Car(vehicle, drive, options.seed, rng.uniform(0, drive.period))
            door: Door
            batching: Batching | None = None
            if options.by_mqtt(number):
                door = MqttDoor(options.mqtt, vehicle, token_of)
            else:
                door = by_http = http_door(vehicle)
                batching = by_http if options.batches else None
            script = Script(options.trouble, options.seed, vehicle, boot)
            senders.append(_Sender(car, script, door, batching, rng, options, samples, report, stop, totals))
        begin = time.monotonic()
        tasks = [asyncio.create_task(one.drive(begin, n / options.cars)) for n, one in enumerate(senders)]
        stopped = asyncio.create_task(stop.wait())
        try:
            # A car ends before the stop only by a bug of ours: that must not go unseen.
            await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(tasks, timeout=GRACE if stop.is_set() else 0)
            totals.unacknowledged = sum(len(one.parcels) for one in senders)
            totals.unanswered = sum(one.in_hand for one in senders)
        finally:
            for task in (stopped, *tasks):
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(one.door.leave() for one in senders))
    for result in results:
        if isinstance(result, Exception):
            raise result
    return totals


class _Sender:
    """One car's computer: it makes packets at each tick, as its script says, and sends them through its door."""

    def __init__(
        self,
        car: Car,
        script: Script,
        door: Door,
        batching: Batching | None,
        rng: random.Random,
        options: Options,
        samples: Samples,
        report: Report,
        stop: asyncio.Event,
        totals: Totals,
    ) -> None:
        self.car, self.script, self.door, self.rng, self.options = car, script, door, rng, options
        self.samples, self.report, self.stop, self.totals = samples, report, stop, totals
        self.batching = batching
        self.parcels: dict[Packet, Parcel] = {}  # made, and not acknowledged
        self.in_hand = 0  # of these: sent, and not answered
        self._repeated: dict[Packet, Parcel] = {}  # acknowledged, and to be sent again
        self._lived = 0.0  # until when the car has lived: time.monotonic()
        self._boot, self._up, self._said = (
            -1,
            0.0,
            0.0,
        )  # of the clock: since when it runs, and what it said last
        self._newest = Packet(0, 0)  # that was sent

    async def drive(self, begin: float, share: float) -> None:
        """A tick each interval until the stop, the first after `share` (0 to 1) of one; then what is left to be sent."""
        interval = 60 / self.options.per_minute
        tick, self._lived = 0, begin
        while not await self._stopped_before(begin + (share + tick) * interval):
            await self._follow(self.script.tick())
            late = math.floor((time.monotonic() - begin) / interval - share)
            tick = max(tick + 1, late)
        await self._follow(self.script.end())

    async def _stopped_before(self, moment: float) -> bool:
        wait = moment - time.monotonic()
        if wait > 0 and not self.stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), wait)
        return self.stop.is_set()

    async def _follow(self, steps: Iterable[Step]) -> None:
        for step in steps:
            match step:
                case Make(packet):
                    self.parcels[packet] = self._made(packet)
                case Send():
                    await self._send(step)
                case Backlog(sends):
                    await self._deliver(sends)
                case Vanish():
                    self.totals.tunnels += 1
                    await self.door.leave()

    def _made(self, packet: Packet) -> Parcel:
        """The next packet, made once: whatever happens to it, these bytes are what is sent."""
        now, options = time.monotonic(), self.options
        self.car.advance((now - self._lived) * options.speedup)
        self._lived = now
        form: Form = ("ndjson", "json")[packet.seq % 2] if options.form == "mix" else options.form
        vehicle, boot, seq = self.car.vehicle, packet.boot, packet.seq
        body, raw = self.samples.body(
            head_of(vehicle, boot, seq, self._clock(boot, now), self.car.signals()),
            self.rng.randint(options.min_bytes, options.max_bytes),
            self.rng,
            form=form,
            encoding=options.encoding,
            precompressed=options.precompressed,
        )
        return Parcel(vehicle, boot, seq, content_type(form), options.encoding, body, raw)

    def _clock(self, boot: int, now: float) -> float:
        """When the packet is sent, as the car's clock has it: never the same millisecond twice."""
        if boot != self._boot:
            self.totals.reboots += self._boot >= 0
            self._boot, self._up, self._said = boot, now, 0.0
            self._repeated.clear()
        self._said = max(told(self.script.clock, time.time(), now - self._up), self._said + _MS)
        return self._said

    async def _send(self, step: Send) -> None:
        if not step.again:
            await self._deliver([step])
        elif (parcel := self._repeated.pop(step.packet, None)) is not None:  # None: it was refused
            await self._answers([parcel])
            self.totals.repeats += 1

    async def _deliver(self, sends: Sequence[Send]) -> None:
        """Send these in their order, each until it is acknowledged, or refused as bad."""
        left = deque(sends)
        while left:
            sent = time.monotonic()
            parcels = [self.parcels[step.packet] for step in left]
            self.in_hand = 1 if self.batching is None else len(parcels)
            for answer in await self._answers(parcels):
                step = left.popleft()
                self.totals.late += step.packet < self._newest
                self._newest = max(self._newest, step.packet)
                parcel = self.parcels.pop(step.packet)
                if isinstance(answer, Receipt):
                    self._acknowledged(parcel, answer, sent)
                    if step.repeated:
                        self._repeated[step.packet] = parcel
            self.in_hand = 0

    async def _answers(self, parcels: Sequence[Parcel]) -> list[Receipt | Refused]:
        """Tries until the first packet is answered for good; its answer, and those to the packets behind it, as far as there
        are any.
        """
        failures = 0
        while True:
            why: Failed | None = None
            final: list[Receipt | Refused] = []
            for answer in await self._try(parcels):
                if isinstance(answer, Failed):
                    why = answer
                    break
                final.append(answer)
                if isinstance(answer, Refused):
                    self.totals.errors += 1
                    self.totals.error = f"{self.car.vehicle}: {answer}"
            if why is None or final:
                return final
            self.totals.retries += 1
            self.totals.error = f"{self.car.vehicle}: {why}"
            await asyncio.sleep(pause_before(failures, why.retry_after, self.rng))
            failures += 1

    async def _try(self, parcels: Sequence[Parcel]) -> list[Answer]:
        try:
            if self.batching is not None and len(parcels) > 1:
                return await self.batching.send_all(parcels)
            return [await self.door.send(parcels[0])]
        except (Failed, Refused) as answer:
            return [answer]

    def _acknowledged(self, parcel: Parcel, receipt: Receipt, sent: float) -> None:
        self.totals.acked += 1
        self.totals.mqtt += self.door.name == "mqtt"
        self.totals.duplicates += bool(receipt.duplicate)
        self.totals.raw += parcel.raw_bytes
        self.totals.wire += len(parcel.body)
        self.report(
            Acked(
                parcel.vehicle,
                parcel.boot,
                parcel.seq,
                receipt.stored,
                receipt.duplicate,
                sent,
                time.monotonic(),
                parcel.raw_bytes,
                len(parcel.body),
                self.door.name,
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

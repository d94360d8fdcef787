"""One car's computer: makes packets as its script says, and sends each through its door until it is acknowledged.

In: a car, a script and a door. Out: one `Acked` for each packet, at its first acknowledgement. One packet is in flight at a
time (or one batch, after a tunnel), so packets are stored in the order in which they are sent; what fails is sent again,
the same bytes, before the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from fleetcast.simulator.car import Car
from fleetcast.simulator.door import Answer, Batching, Door, Failed, Receipt, Refused
from fleetcast.simulator.options import Acked, Options, Totals
from fleetcast.simulator.phone import Packet
from fleetcast.simulator.samples import Form, Parcel, Samples, content_type, head_of
from fleetcast.simulator.trouble import Backlog, Make, Script, Send, Step, Vanish, told

FIRST_PAUSE, LAST_PAUSE = 0.2, 5.0
LONGEST_RETRY_AFTER = 60.0
_MS = 0.001

Report = Callable[[Acked], None]


class Sender:
    """One car's. `drive` runs it; the two figures say what is left when it is stopped."""

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
            (answer,) = await self._answers([parcel])
            self.totals.repeats += 1
            self.totals.duplicates += isinstance(answer, Receipt) and bool(answer.duplicate)

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
                answers = await self.batching.send_all(parcels)
                self.totals.batches += 1
                return answers
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

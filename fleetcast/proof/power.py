"""Power cuts: nats-server in a virtual machine, under load, whose power goes, again and again.

The load is the platform's own code: `NatsQueue.put` by many vehicles at once, the consumer with its commits and acks, and
`NatsLive.commit` by others besides. After each boot everything that was ever acknowledged must be there (`ledger`). The same
is done with nats-server's own `sync_interval`, as a control: that must lose something, or the cuts are none.

`python -m fleetcast.proof.power --seed 1 --cuts 20` is the act alone.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gzip
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import msgspec
from backports import zstd

from fleetcast import enrich
from fleetcast.clock import SystemClock
from fleetcast.consume import Consumer
from fleetcast.edge import Item
from fleetcast.errors import FleetcastError, Unavailable
from fleetcast.jetstream import NO_MESSAGE, ApiError, Connection, connect, provision, stream_info
from fleetcast.live import Change, Fenced
from fleetcast.nats_live import NatsLive
from fleetcast.nats_queue import NatsQueue
from fleetcast.nats_rejected import NatsRejected
from fleetcast.packet import Signal
from fleetcast.proof.guest import Guest, emulated
from fleetcast.proof.ledger import Found, Ledger, View, say
from fleetcast.proof.oracle import Fold
from fleetcast.proof.packets import body, packet
from fleetcast.proof.ports import platform_settings, short_folder
from fleetcast.proof.rows import Row
from fleetcast.proof.table import broken, print_table
from fleetcast.queue import Delivery, Stored
from fleetcast.settings import Settings
from fleetcast.state import State
from fleetcast.subjects import LIVE, PACKETS, REJECTED, split_ingest
from fleetcast.update import Update
from fleetcast.wiring import configure_logging

Say = Callable[[str], None]

_SENDERS = [f"sender-{number:02d}" for number in range(24)]
_COMMITTERS = [[f"commit-{number}-{one}" for one in range(5)] for number in range(3)]
_CONTROLS = 3
_PROMISES = 300
_BOOT_BOUND = 240.0  # emulated, on a busy machine; with the processor's help it is some seconds
_WRITTEN_BACK = 40.0  # seconds in which Linux writes by itself what nobody flushes: 30, and a little
_STILL = 45.0  # seconds without progress, after which the consumer is at the end of what it is given
_READS = 64
_BATCH = 256


class _Gated:
    """The consumer's queue: nothing is pulled while the gate is shut."""

    def __init__(self, inner: NatsQueue, gate: asyncio.Event) -> None:
        self._inner = inner
        self._gate = gate

    async def put(self, vehicle: str, packet_id: str, body: bytes, form: str, encoding: str) -> Stored:
        return await self._inner.put(vehicle, packet_id, body, form, encoding)

    async def pull(self, most: int) -> Sequence[Delivery]:
        await self._gate.wait()
        return await self._inner.pull(most)

    async def ack(self, deliveries: Iterable[Delivery]) -> None:
        await self._inner.ack(deliveries)

    async def reject(self, delivery: Delivery, reason: str) -> None:
        await self._inner.reject(delivery, reason)

    async def reset(self, partitions: Iterable[int]) -> None:
        await self._inner.reset(partitions)


class _NoEdge:
    """Nobody watches."""

    async def ready(self) -> None: ...

    def listeners(self, channel: str) -> int:
        return 0

    def replicas(self, channel: str) -> Sequence[str]:
        return ()

    def channels(self) -> Sequence[str]:
        return ()

    async def publish(self, items: Sequence[Item]) -> None: ...

    async def close(self) -> None: ...


class Load:
    """Vehicles that send, the consumer, and committers; `go` and `consume` are their gates."""

    def __init__(self, connection: Connection, settings: Settings, seed: int) -> None:
        self.ledger = Ledger(seed, _SENDERS, [vehicle for group in _COMMITTERS for vehicle in group])
        self.go, self.consume, self.answered = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.busy = 0
        self._seed = seed
        self._queue = NatsQueue(connection, settings, SystemClock())
        self._live = NatsLive(connection, settings)
        self._consumer = Consumer(
            _Gated(self._queue, self.consume),
            self._live,
            _NoEdge(),
            enrich.load(settings.enrichers),
            settings,
            SystemClock(),
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        await self._queue.join()
        self._tasks = [
            asyncio.create_task(self._consumer.run()),
            *(asyncio.create_task(self._send(vehicle)) for vehicle in _SENDERS),
            *(asyncio.create_task(self._commit(number)) for number in range(len(_COMMITTERS))),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._queue.leave()

    def check(self) -> None:
        """Raises what ended one of them."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _send(self, vehicle: str) -> None:
        """One packet after the other, each until it is acknowledged."""
        dice = random.Random(f"{self._seed}/{vehicle}")
        for n in range(1_000_000):
            await self.go.wait()
            self.busy += 1
            data, form, encoding = body(self._seed, vehicle, n)
            self.ledger.sent[vehicle] = n + 1
            name = f"{vehicle}/{packet(self._seed, vehicle, n).name}"
            while True:
                with suppress(Unavailable):
                    await self._queue.put(vehicle, name, data, form, encoding)
                    break
                await asyncio.sleep(dice.uniform(0.05, 0.2))
            self.ledger.acked[vehicle] = n + 1
            self.answered.set()
            self.busy -= 1

    async def _commit(self, number: int) -> None:
        """Atomic batches, each of a few vehicles and a few updates of each."""
        dice = random.Random(f"{self._seed}/commit/{number}")
        folds = {vehicle: Fold(self._seed, vehicle) for vehicle in _COMMITTERS[number]}
        revisions = dict.fromkeys(folds, 0)
        while True:
            await self.go.wait()
            chosen = dice.sample(sorted(folds), dice.randint(2, len(folds)))
            after = {vehicle: folds[vehicle].copy() for vehicle in chosen}
            changes = [
                Change(_state(fold), revisions[vehicle], updates)
                for vehicle, fold in after.items()
                if (updates := [_update(fold) for _ in range(dice.randint(1, 8))])
            ]
            changes = [
                msgspec.structs.replace(change, state=_state(after[change.state.vehicle]))
                for change in changes
            ]
            self.ledger.open[number] = {vehicle: fold.version for vehicle, fold in after.items()}
            try:
                new = await self._live.commit(changes)
            except (Fenced, Unavailable):
                await self._reload(chosen, folds, revisions)
            else:
                folds |= after
                revisions |= dict(zip(after, new, strict=True))
                self.ledger.committed |= {vehicle: fold.version for vehicle, fold in after.items()}
                self.ledger.open.pop(number, None)

    async def _reload(self, vehicles: list[str], folds: dict[str, Fold], revisions: dict[str, int]) -> None:
        """What is there now, from the leader: a commit without an answer may have happened."""
        for vehicle in vehicles:
            while True:
                with suppress(Unavailable):
                    held = await self._live.latest(vehicle, leader=True)
                    break
                await asyncio.sleep(0.1)
            fold = Fold(self._seed, vehicle)
            while fold.version < held.state.version:
                fold.advance(later=False)
            folds[vehicle], revisions[vehicle] = fold, held.revision


def _update(fold: Fold) -> Update:
    """The vehicle's next one; the fold is after it."""
    _, patch = fold.advance(later=False)
    signals = {path: Signal(signal["value"], signal["at"]) for path, signal in patch.items()}
    return Update(fold.vehicle, fold.version, fold.version - 1, "", dict(signals))


def _state(fold: Fold) -> State:
    signals = {path: Signal(signal["value"], signal["at"]) for path, signal in fold.signals.items()}
    return State(fold.vehicle, fold.version, "", signals)


async def look(connection: Connection) -> Found:
    """All that is there, read from the streams as they are."""
    found = Found()
    if await stream_info(connection, PACKETS) is not None:
        found.queued = await _queued(connection)
    if await stream_info(connection, LIVE) is not None:
        found.views = await _views(connection)
    if await stream_info(connection, REJECTED) is not None:
        async for one in NatsRejected(connection).all():
            text = {"gzip": gzip.decompress, "zstd": zstd.decompress}.get(one.encoding, bytes)(one.body)
            head = msgspec.json.decode(text.partition(b"\n")[0])
            found.rejected.setdefault(one.vehicle, set()).add(f"{head['boot']}/{head['seq']}")
    return found


async def _views(connection: Connection) -> dict[str, View]:
    """States and updates by vehicle, some hundreds of messages at a time."""
    found: dict[str, View] = {}
    client, position, last = connection.client, 0, -1
    while position != last:
        last = position
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox, pending_bytes_limit=-1, pending_msgs_limit=-1)
        wanted = {"seq": position + 1, "batch": _BATCH, "next_by_subj": ">"}
        await client.publish(f"$JS.API.DIRECT.GET.{LIVE}", msgspec.json.encode(wanted), reply=inbox)
        while True:
            message = await answers.next_msg(timeout=30)
            headers: dict[str, str] = message.headers or {}
            if "Nats-Subject" not in headers:
                break
            position = int(headers["Nats-Sequence"])
            kind, vehicle, *_ = headers["Nats-Subject"].split(".")
            value = msgspec.json.decode(zstd.decompress(message.data))
            view = found.setdefault(vehicle, View())
            if kind == "update":
                view.updates.append((value["version"], value["prev"], value["signals"]))
            else:
                view.version, view.signals = value["version"], value.get("signals", {})
        await answers.unsubscribe()
    return found


async def _queued(connection: Connection) -> list[tuple[str, str, bytes]]:
    info = await connection.api(f"STREAM.INFO.{PACKETS}", {"deleted_details": True}, timeout=30)
    gone = set(info["state"].get("deleted") or ())
    slots = asyncio.Semaphore(_READS)

    async def read(number: int) -> tuple[str, str, bytes] | None:
        async with slots:
            try:
                answer = await connection.api(f"STREAM.MSG.GET.{PACKETS}", {"seq": number}, timeout=30)
            except ApiError as error:
                if error.err_code != NO_MESSAGE:
                    raise
                return None
        message = answer["message"]
        _, vehicle = split_ingest(message["subject"])
        lines = base64.b64decode(message["hdrs"]).decode().split("\r\n")
        name = next(line.partition(": ")[2] for line in lines if line.startswith("Nats-Msg-Id: "))
        return vehicle, name.partition("/")[2], base64.b64decode(message["data"])

    numbers = range(info["state"]["first_seq"], info["state"]["last_seq"] + 1)
    read_all = await asyncio.gather(*(read(number) for number in numbers if number not in gone))
    return [one for one in read_all if one is not None]


def _settings(folder: Path) -> Settings:
    return platform_settings(
        folder,
        partitions=16,
        window=7200.0,
        duplicate_window=1800.0,
        queue_bytes=1_000_000_000,
        live_bytes=1_000_000_000,
        rejected_bytes=100_000_000,
        member_timeout=30.0,
        enrichers=("fleetcast.proof.rules:enrich",),
    )


class Station:
    """A guest, and the load on it."""

    def __init__(self, folder: Path, seed: int, *, synced: bool = True) -> None:
        self.settings = _settings(folder)
        self.guest = Guest(folder, self.settings, synced=synced)
        self.load: Load
        self._seed = seed
        self._dice = random.Random(f"{seed}/power")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Station:
        try:
            await self._stack.enter_async_context(self.guest)
            await self.guest.boot()
            connection = await self.connected("fleetcast-proof")
            self._stack.push_async_callback(connection.close)
            await provision(connection, self.settings)
            self.load = await self._stack.enter_async_context(Load(connection, self.settings, self._seed))
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def connected(self, name: str) -> Connection:
        """A new connection, once the guest answers. Raises FleetcastError if it does not."""
        await self.until(lambda: self.guest.ready, "nats-server is ready")
        connecting = asyncio.create_task(connect(self.settings, name))
        try:
            await self.until(connecting.done, "the guest answers")
            return connecting.result()
        finally:
            connecting.cancel()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Waits for it. Raises FleetcastError after the bound, or if the guest is gone."""
        deadline = time.monotonic() + _BOOT_BOUND
        while not condition():
            self.guest.check()
            if time.monotonic() > deadline:
                raise FleetcastError(f"not within {_BOOT_BOUND:.0f} s: {what}; {self.guest.said()}")
            await asyncio.sleep(0.02)

    async def cut(self, least: int) -> None:
        """Load until so many more promises were given, and then for a random moment; the power goes under it."""
        load, before = self.load, self.load.ledger.promises
        load.answered.clear()
        load.go.set()
        load.consume.set()
        await self.until(lambda: load.ledger.promises >= before + least, f"{least} acknowledgements")
        if self._dice.random() < 0.5:  # so that much is queued that is not applied yet
            load.consume.clear()
        await asyncio.sleep(self._dice.uniform(0.5, 2.5))
        load.check()
        await self.guest.cut(self._dice)
        load.go.clear()
        load.consume.clear()

    async def again(self) -> float:
        """Boots; seconds until the first packet was acknowledged. All that was not answered is by then sent again."""
        self.load.answered.clear()
        began = time.monotonic()
        await self.guest.boot()
        await self.until(self.load.answered.is_set, "a packet is acknowledged after the boot")
        healed = time.monotonic() - began
        await self.until(lambda: self.load.busy == 0, "what was not answered is answered")
        return healed

    async def judge(self, row: Row) -> None:
        """Everything that was ever acknowledged against what is there."""
        connection = await self.connected("fleetcast-proof-look")
        try:
            found = await look(connection)
        finally:
            await connection.close()
        self.load.ledger.judge(found, row)

    async def finish(self, row: Row) -> None:
        """The last look: the consumer comes to the end of the queue, and everything is applied."""
        self.load.consume.set()
        connection = await self.connected("fleetcast-proof-look")
        try:
            left, since = -1, time.monotonic()
            while left and time.monotonic() - since < _STILL:
                self.load.check()
                now = (await connection.api(f"STREAM.INFO.{PACKETS}", timeout=30))["state"]["messages"]
                if now != left:
                    left, since = now, time.monotonic()
                await asyncio.sleep(0.2)
            found = await look(connection)
        finally:
            await connection.close()
            self.load.consume.clear()
        self.load.ledger.judge(found, row)
        self.load.ledger.settled(found, row)


async def prove(
    seed: int, cuts: int, say_line: Say, least: int = _PROMISES, controls: int = _CONTROLS
) -> list[Row]:
    """The cuts and the control. `least`: acknowledgements before each cut. Raises Unusable without what it needs."""
    row = Row("power cut")
    if emulated():
        row.notes.append(
            "without the processor's help for virtual machines: emulated, so slower than it would be"
        )
    with short_folder() as folder:
        async with Station(folder, seed) as station:
            ledger, disk = station.load.ledger, station.guest.disk
            for number in range(cuts):
                await station.cut(least)
                kept = ledger.promises
                row.times += 1
                healed = await station.again()
                row.worst_heal = max(healed, row.worst_heal or 0.0)
                await station.judge(row)
                row.acked, row.events = sum(ledger.acked.values()), sum(ledger.committed.values())
                bad = "" if row.clean else f"; LOST {row.lost}, TWICE {row.twice}, REORDERED {row.reordered}"
                say_line(
                    f"{number + 1:>3}/{cuts}  power cut after {kept:,} promises: answers after {healed:.1f} s{bad}"
                )
            await station.finish(row)
        row.notes.append(
            f"{disk.flushes:,} flushes; of the disk's blocks that were not flushed at a cut "
            f"{disk.dropped:,} were lost, {disk.kept:,} not"
        )
    await _control(seed, controls, say_line, least, row)
    return [row]


async def _control(seed: int, cuts: int, say_line: Say, least: int, row: Row) -> None:
    """The same with nats-server's own `sync_interval`, each time on a new disk."""
    lost, promised, lossy = 0, 0, 0
    for number in range(cuts):
        with short_folder() as folder:
            async with Station(folder, seed + number, synced=False) as station:
                await asyncio.sleep(_WRITTEN_BACK)  # so that the streams at least are on the disk
                await station.cut(least)
                found = Row("control")
                await station.load.__aexit__()
                await station.guest.boot()
                await station.judge(found)
                promises = station.load.ledger.promises
        lost, promised, lossy = lost + found.lost, promised + promises, lossy + (found.lost > 0)
        say_line(
            f"{number + 1:>3}/{cuts}  control, default sync_interval: lost {found.lost:,} of {promises:,}"
        )
    if cuts:
        row.notes.append(
            f"control: default sync_interval lost {lost:,} of {promised:,} acknowledged packets and updates, "
            f"in {lossy} of {cuts} cuts"
        )
    if lossy * 2 < cuts:
        row.unhealed += 1
        say(row, "NOTHING IS PROVED: the control must lose something at nearly each cut")


def main() -> int:
    """`python -m fleetcast.proof.power`: the act alone, with its table; exit status 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="fleetcast.proof.power", description="Power cuts under load.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--controls", type=int, default=_CONTROLS, help="cuts with the default sync_interval")
    parser.add_argument("--promises", type=int, default=_PROMISES, help="acknowledgements before each cut")
    given = parser.parse_args()
    configure_logging(Settings(log_level="error"), "prove")
    began = time.monotonic()

    def say_line(line: str) -> None:
        seconds = int(time.monotonic() - began)
        sys.stdout.write(f"{seconds // 60:3d}:{seconds % 60:02d}  {line}\n")
        sys.stdout.flush()

    try:
        rows = asyncio.run(prove(given.seed, given.cuts, say_line, given.promises, given.controls))
    except FleetcastError as why:
        sys.stderr.write(f"{why}\n")
        return 2
    print_table(rows, sys.stdout)
    return 1 if broken(rows) else 0


if __name__ == "__main__":
    sys.exit(main())

"""Power cuts: nats-server in a virtual machine, under load, whose power goes, again and again.

The load is the platform's own code: `NatsQueue.put` by many vehicles at once, the consumer with its commits and acks, and
`NatsLive.commit` by others besides. After each boot everything that was ever acknowledged must be there (`ledger`). The same
is done with nats-server's own `sync_interval`, as a control: that must lose something, or the cuts are none.

`python -m fleetcast.proof.power --seed 1 --cuts 20` is the act alone.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from fleetcast.errors import FleetcastError
from fleetcast.jetstream import Connection, connect, provision
from fleetcast.proof.guest import Guest, emulated
from fleetcast.proof.ledger import say
from fleetcast.proof.load import Load
from fleetcast.proof.look import look
from fleetcast.proof.ports import platform_settings, short_folder
from fleetcast.proof.rows import Row
from fleetcast.proof.table import broken, clocked, print_table
from fleetcast.settings import Settings
from fleetcast.subjects import PACKETS
from fleetcast.wiring import configure_logging

Say = Callable[[str], None]

_CONTROLS = 3
_PROMISES = 300
_BOOT_BOUND = 240.0  # emulated, on a busy machine; with the processor's help it is some seconds
_WRITTEN_BACK = 40.0  # seconds in which Linux writes by itself what nobody flushes: 30, and a little
_STILL = 45.0  # seconds without progress, after which the consumer is at the end of what it is given


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
        expected_every=0.0,  # what is committed here is packets, and nothing else
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
                await station.load.stop()
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
    try:
        rows = asyncio.run(prove(given.seed, given.cuts, clocked(sys.stdout), given.promises, given.controls))
    except FleetcastError as why:
        sys.stderr.write(f"{why}\n")
        return 2
    print_table(rows, sys.stdout)
    return 1 if broken(rows) else 0


if __name__ == "__main__":
    sys.exit(main())

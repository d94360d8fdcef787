"""The doorkeeper of the MQTT door: what nats-server cannot refuse by itself is noticed here, and the connection closed.

It runs in ingest, and only with identity. nats-server acknowledges and drops a QoS 1 publish that a vehicle has no permission
for: the log says so, and that is followed. It has no budgets: what each connection has sent is asked for every few seconds. A
connection outlives what the registry says of its vehicle: that is asked again. Each closing is logged with its reason and
counted. What a car has sent until then was taken, or dropped; nothing here undoes it.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import structlog

from fleetcast import metrics
from fleetcast.budget import Budgets
from fleetcast.ending import ended
from fleetcast.errors import FleetcastError, Refuse, Unavailable
from fleetcast.nats_callout import Welcome
from fleetcast.nats_system import Closed, Connected, System

log = structlog.get_logger()

_EVERY = 5.0
_LOG_EVERY = 0.1
_MOST = 4_000_000  # bytes of the log in one look
_FORBIDDEN = re.compile(
    r"^(?:\[\d+\] )?(?:\S+ \S+ )?\[ERR\] (?P<address>\S+) - mid(?:_ws)?:(?P<cid>\d+) - "
    r'"(?P<client>[^"\\]*)" - Publish Violation - Subject "(?P<subject>.*)"$'
)


class Forbidden(NamedTuple):
    """A publish that nats-server dropped: whose (the client id, which is the vehicle's), from where, to what."""

    vehicle: str
    address: str
    cid: int
    topic: str


def forbidden(line: str) -> Forbidden | None:
    """What a line of nats-server's log says, if it says that."""
    found = _FORBIDDEN.match(line)
    if found is None:
        return None
    topic = found["subject"].replace(".", "/")  # as nats-server makes a subject of a topic, but for escapes
    return Forbidden(found["client"], found["address"], int(found["cid"]), topic)


class Tail:
    """New lines of a log that is rotated, by renaming or by truncating; from its end on, or from its beginning if it comes
    later.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rest = b""
        self._file: IO[bytes] | None = None
        self._open(os.SEEK_END)

    def lines(self) -> list[str]:
        """Those that are whole by now; the oldest first."""
        if self._file is None and not self._open(os.SEEK_SET):
            return []
        assert self._file is not None
        new = self._file.read(_MOST)
        if not new:
            with suppress(OSError):
                now, ours = self._path.stat(), os.fstat(self._file.fileno())
                if now.st_ino != ours.st_ino:
                    self._open(os.SEEK_SET)
                elif now.st_size < self._file.tell():
                    self._file.seek(0)
                    self._rest = b""
            return []
        *whole, self._rest = (self._rest + new).split(b"\n")
        return [line.decode("utf-8", "replace") for line in whole]

    def _open(self, whence: int) -> bool:
        try:
            opened = self._path.open("rb")
        except OSError:
            return False
        self.close()
        self._file, self._rest = opened, b""
        opened.seek(0, whence)
        return True

    def close(self) -> None:
        """Nothing is read any more."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Doorkeeper:
    """`await Doorkeeper(…).run()` until `stop()`. `welcomes` are asked again of each vehicle that is connected."""

    def __init__(
        self,
        system: System,
        budgets: Budgets,
        log_file: Path | None,
        welcomes: Sequence[Welcome] = (),
        monotonic: Callable[[], float] = time.monotonic,
        every: float = _EVERY,
    ) -> None:
        self._system = system
        self._budgets = budgets
        self._log = log_file
        self._welcomes = welcomes
        self._monotonic = monotonic
        self._every = every
        self._stopped = asyncio.Event()
        self._sent: dict[tuple[str, int], tuple[int, int]] = {}

    def stop(self) -> None:
        """`run` returns soon."""
        self._stopped.set()

    async def welcome(self, vehicle: str) -> None:
        """For the callout: a vehicle that was closed for what it sent waits until its budget has filled. Raises Refuse."""
        if what := self._budgets.overdrawn(vehicle, self._monotonic()):
            raise Refuse(429, "Too many packets", f"{vehicle} has sent more {what} than it may")

    async def run(self) -> None:
        """Follows the log, and looks at the connections."""
        if self._log is None:
            log.warning(
                "nats_log is not set: what vehicles are forbidden by MQTT is acknowledged and dropped unseen"
            )
        elif not os.access(self._log, os.R_OK):
            log.error("nats_log cannot be read: what is forbidden by MQTT goes unseen", path=str(self._log))
        tasks = [asyncio.create_task(one()) for one in (self._watch, self._follow)]
        stopping = asyncio.create_task(self._stopped.wait())
        await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        early = [task for task in tasks if task.done()]
        await ended([*tasks, stopping])
        for task in early:
            task.result()  # a bug

    # What they have sent, and whether they are still welcome

    async def _watch(self) -> None:
        await self._system.on_closed(self._closed)
        while True:
            try:
                await self.look()
            except FleetcastError as why:
                log.warning("connections are not seen", error=str(why))
            await asyncio.sleep(self._every)

    async def look(self) -> None:
        """Once over all connections. Raises Unavailable."""
        seen: dict[tuple[str, int], tuple[int, int]] = {}
        connected: list[Connected] = []
        async for one in self._system.connections():
            seen[one.server, one.cid] = (one.in_msgs, one.in_bytes)
            connected.append(one)
            self._spent(one.vehicle, (one.server, one.cid), one.in_msgs, one.in_bytes)
        self._sent = seen
        metrics.MQTT_CONNECTIONS.set(len(connected))
        now = self._monotonic()
        for one in connected:
            if what := self._budgets.overdrawn(one.vehicle, now):
                await self._close(
                    one, "budget", f"more {what} than packets_per_minute and bytes_per_minute allow"
                )
                continue
            try:
                for welcome in self._welcomes:
                    await welcome(one.vehicle)
            except Refuse as why:
                if why.status != 503:  # the registry may be away
                    await self._close(one, "unwelcome", str(why))

    def _closed(self, closed: Closed) -> None:
        """What it had sent since the last look; those that come and go between two looks count too."""
        self._spent(closed.vehicle, (closed.server, closed.cid), closed.in_msgs, closed.in_bytes)
        self._sent.pop((closed.server, closed.cid), None)

    def _spent(self, vehicle: str, key: tuple[str, int], packets: int, size: int) -> None:
        before = self._sent.get(key, (0, 0))
        if packets > before[0]:
            self._budgets.spend(vehicle, packets - before[0], size - before[1], self._monotonic())

    # What they were forbidden

    async def _follow(self) -> None:
        if self._log is None:
            await self._stopped.wait()
            return
        tail = Tail(self._log)
        try:
            while True:
                for of_one in _by_connection(await asyncio.to_thread(tail.lines)):
                    await self._forbid(of_one)
                await asyncio.sleep(_LOG_EVERY)
        finally:
            tail.close()

    async def _forbid(self, seen: list[Forbidden]) -> None:
        first = seen[0]
        metrics.MQTT_FORBIDDEN.inc(len(seen))
        log.error(
            "a vehicle published to what is not its own: nats-server acknowledged it, and dropped it",
            vehicle=first.vehicle,
            topic=first.topic,
            times=len(seen),
            address=first.address,
        )
        try:
            found = await self._system.find(first.cid, first.address)
        except Unavailable as why:
            log.error("its connection is not closed", vehicle=first.vehicle, error=str(why))
            return
        if found is not None:  # else it is gone
            await self._close(found, "forbidden", f"it published to {first.topic}")

    async def _close(self, one: Connected, reason: str, text: str) -> None:
        try:
            closed = await self._system.close(one)
        except Unavailable as why:
            log.error("its connection is not closed", vehicle=one.vehicle, error=str(why))
            return
        if closed:  # else it is gone, or another ingest did it
            metrics.MQTT_CLOSED.labels(reason).inc()
            log.warning("the connection of a vehicle is closed", vehicle=one.vehicle, reason=text)


def _by_connection(lines: Sequence[str]) -> list[list[Forbidden]]:
    grouped: dict[tuple[str, int], list[Forbidden]] = defaultdict(list)
    for line in lines:
        if (one := forbidden(line)) is not None:
            grouped[one.address, one.cid].append(one)
    return list(grouped.values())

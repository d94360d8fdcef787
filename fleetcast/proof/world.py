"""A platform of the proof's own, with cars and phones on it, and the oracle that watches: what a fault is tried on.

`async with World(…) as world:` starts all of it; `world.settle()` ends the moods, waits until everything is level and holds the
last looks against the oracle. Where a fault needs a connection that can be cut, the platform is given one: `wires`.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from math import inf
from pathlib import Path
from typing import Any

import msgspec
from backports import zstd

from fleetcast.errors import FleetcastError
from fleetcast.jetstream import ACK_WAIT, Connection, connect
from fleetcast.nats_backup import Queue, backup, restore
from fleetcast.nats_rejected import NatsRejected
from fleetcast.natsserver import address
from fleetcast.platform import Platform
from fleetcast.proof import roles
from fleetcast.proof.client import get
from fleetcast.proof.drivers import Driven
from fleetcast.proof.fold import Silence
from fleetcast.proof.follow import Follower
from fleetcast.proof.oracle import Event, Mood, Oracle, Shown
from fleetcast.proof.packets import DEFINED, URGENT, VIEWS, body
from fleetcast.proof.phones import name
from fleetcast.proof.ports import free_ports, platform_settings
from fleetcast.proof.rows import Row
from fleetcast.proof.wire import Wire
from fleetcast.settings import Settings
from fleetcast.subjects import ENCODING, FORM, LIVE, PACKETS, put_subject, state_subject

HEAL_BOUND = 60.0
_LAG = 0.5
_STAYS = 1.5
_SAID = 10.0  # seconds in which a car must be said to be offline, once it is
_OPENS = 1.0  # seconds that a phone gets for its stream when it wakes up by itself: that is no fault's harm
RULES = "fleetcast.proof.rules"


class Size(msgspec.Struct, frozen=True):
    """How much of everything; `rate` is packets a second of all cars together, `window` seconds."""

    cars: int = 40
    phones: int = 60
    rate: float = 300.0
    window: float = 60.0
    moods: str = "mixed"
    """Of the phones; or `steady`."""
    many: int = 20
    """Vehicles of a phone that follows many."""
    by: str = "all"
    """Their transports; or `streams`, of one vehicle each."""


class _Acked(msgspec.Struct):
    acked: list[tuple[int, int]]
    retries: int
    unsure: int
    paused: bool
    refused: str


_SPARE = 2  # ports for so many edges, consumes and origins that are added while it runs


class _Seen(msgspec.Struct):
    events: list[Event]
    moods: list[Mood]
    connected: int
    closed: dict[str, int]
    refused: int
    final: list[tuple[int, int, int]] | None = None


class ProvenPlatform(Platform):
    """The platform, with roles that have traps, and connections that go by a wire."""

    def __init__(self, settings: Settings, notice: Callable[[str], None], wires: Mapping[str, Wire]) -> None:
        super().__init__(settings, notice)
        self._wires = wires

    def command(self, role: str) -> list[str]:
        """The same role, with traps."""
        return [sys.executable, "-m", "fleetcast.proof.roles"]

    def environment(self, name: str) -> Mapping[str, str]:
        """Ingest reaches the queue by a wire, consume each edge."""
        if name == "ingest" and "queue" in self._wires:
            return {"NATS": f"nats://127.0.0.1:{self._wires['queue'].port}"}
        if name.startswith("consume"):
            subs = []
            for number in self.layout.numbers("edge"):
                wire = self._wires.get(f"edge-{number}")
                subs.append(self.settings.edge_sub[number] if wire is None else f"127.0.0.1:{wire.port}")
            return {"EDGE_SUB": ",".join(subs)}
        return {}

    def edge_settings(self, number: int) -> Settings:
        """The edges reach the origins by a wire."""
        if "origins" not in self._wires:
            return self.settings
        return msgspec.structs.replace(self.settings, inner_port=self._wires["origins"].port)


class World:
    """All of it. `say` gets lines for a person. `wired`: connections can be cut; a roll of the edges asks after real ones."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        size: Size,
        say: Callable[[str], None],
        *,
        wired: bool = True,
        **changes: Any,
    ) -> None:
        self.seed = seed
        self.size = size
        self.say = say
        self.vehicles = [f"proof-{number:04d}" for number in range(size.cars)]
        given: dict[str, Any] = {
            "partitions": 16,
            "window": size.window,
            "enrichers": (f"{RULES}:enrich",),
            "views": DEFINED,
            "urgent": (URGENT,),
            # So that cars which sleep, and faults that keep packets back, make them quiet; and all are offline soon in the end.
            "expected_every": max(2.0, 1.5 * size.cars / size.rate),
            "offline_after": 2.5,
            "edge_connections": max(200, size.phones + 100),
            "log": "json",
        }
        self.settings = platform_settings(folder, _SPARE, **(given | changes))
        every = self.settings.expected_every
        silence = Silence(every * self.settings.quiet_after, every * self.settings.offline_after)
        self.oracle = Oracle(seed, self.vehicles, size.window, silence)
        self.notices: list[str] = []
        self.wires: dict[str, Wire] = {}
        self._wired = wired
        self.platform = self.make_platform()
        self.connection: Connection
        self.follower: Follower
        self.cars: Driven
        self.phones: Driven
        self.connected = self.phones_refused = 0
        self.closings: dict[str, int] = {}
        self.retries = self.unsure = 0
        self.paused = False
        self.laggards = ""
        self.refused = ""
        self._final: list[tuple[int, int, int]] | None = None
        self.ends_at_first = False
        self._resent = 0
        self._woke: dict[int, float] = {}
        self._queue_process: int | None = None
        self._first_epoch = ""
        self._stack = AsyncExitStack()
        self._following: asyncio.Task[None] | None = None

    def make_platform(self) -> ProvenPlatform:
        """What is proved."""
        if not self._wired:
            return ProvenPlatform(self.settings, self._notice, self.wires)
        ports = free_ports(2 + self.settings.edges)
        _, nats = address(self.settings)
        self.wires = {
            "queue": Wire(ports[0], nats),
            "origins": Wire(ports[1], self.settings.inner_port),
        } | {
            f"edge-{number}": Wire(port, int(self.settings.edge_sub[number].rpartition(":")[2]))
            for number, port in enumerate(ports[2:])
        }
        return ProvenPlatform(self.settings, self._notice, self.wires)

    def _notice(self, line: str) -> None:
        self.notices.append(f"{time.strftime('%H:%M:%S')} {line}")

    async def __aenter__(self) -> World:
        try:
            for wire in self.wires.values():
                await self._stack.enter_async_context(wire)
            await self._stack.enter_async_context(self.platform)
            self.settings = self.platform.settings
            self.connection = await connect(self.settings, "fleetcast-proof")
            self._stack.push_async_callback(self.connection.close)
            info = await self.connection.api(f"STREAM.INFO.{LIVE}")
            self._queue_process = self.pid("nats-server")
            self.oracle.begin(info["config"]["metadata"]["fleetcast.epoch"])
            self._first_epoch = self.oracle.epoch
            self.follower = Follower(self.connection, self.oracle.committed)
            self._follow()
            self.phones = await Driven.start(
                "fleetcast.proof.phones",
                self._arguments(
                    self.settings.front_port,
                    phones=self.size.phones,
                    window=self.size.window,
                    moods=self.size.moods,
                    by=self.size.by,
                    many=self.size.many,
                ),
                self._on_phones,
            )
            self._stack.push_async_callback(self.phones.stop)
            await self.until(lambda: self.connected >= self.size.phones * 0.5, "the phones are there", 90)
            self.cars = await Driven.start(
                "fleetcast.proof.cars",
                self._arguments(
                    self.settings.ingest_port,
                    mqtt=self.settings.mqtt_port,
                    rate=self.size.rate,
                    sleep=self.oracle.silence.quiet,
                ),
                self._on_cars,
            )
            self._stack.push_async_callback(self.cars.stop)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._unfollow()
        await self._stack.aclose()

    def _follow(self) -> None:
        self._following = asyncio.create_task(self.follower.run())

    async def _unfollow(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    def _arguments(self, port: int, **more: object) -> list[str]:
        vehicles = msgspec.json.encode(self.vehicles).decode()
        given = {"port": port, "seed": self.seed, "vehicles": vehicles, **more}
        return [part for name, value in given.items() for part in (f"--{name}", str(value))]

    def _on_cars(self, line: bytes) -> None:
        said = msgspec.json.decode(line, type=_Acked)
        for car, n in said.acked:
            self.oracle.acked(self.vehicles[car], n)
        self.retries, self.unsure, self.paused = said.retries, said.unsure, said.paused
        self.refused = said.refused or self.refused

    def _on_phones(self, line: bytes) -> None:
        said = msgspec.json.decode(line, type=_Seen)
        for mood in said.moods:
            if not mood.awake:
                self._woke.pop(mood.phone, None)
            else:
                self._woke.setdefault(mood.phone, time.monotonic())
            self.oracle.listens(mood)
        for event in said.events:
            self.oracle.event(event)
        self.connected, self.closings, self.phones_refused = said.connected, said.closed, said.refused
        if said.final is not None:
            self._final = said.final

    @property
    def closed(self) -> int:
        """How many streams were closed, but by their phones."""
        return sum(self.closings.values())

    # What faults use

    async def until(self, condition: Callable[[], Any], what: str, bound: float = 30.0) -> None:
        """Waits for it. Raises FleetcastError after the bound."""
        deadline = time.monotonic() + bound
        while not condition():
            if time.monotonic() > deadline:
                raise FleetcastError(f"not within {bound:.0f} s: {what}")
            await asyncio.sleep(0.02)

    def pid(self, name: str) -> int | None:
        """Its process now."""
        return self.platform.supervisor.pid(name)

    def pids(self) -> dict[str, int]:
        """All processes that run now, by name."""
        found = {name: self.pid(name) for name in self.platform.supervisor.names}
        return {name: pid for name, pid in found.items() if pid is not None}

    async def running(self, name: str) -> int:
        """Its process, once it runs."""
        await self.until(lambda: self.pid(name) is not None, f"{name} runs")
        pid = self.pid(name)
        assert pid is not None
        return pid

    async def kill(self, name: str, sign: signal.Signals = signal.SIGKILL) -> None:
        """kill -9 of a process; its children follow by the supervisor."""
        os.kill(await self.running(name), sign)

    async def hold(self, name: str, seconds: float) -> None:
        """SIGSTOP to it and its children, and after a while SIGCONT."""
        leader = await self.running(name)
        for pid in _session(leader):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        for pid in _session(leader):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    @staticmethod
    def kill_pid(pid: int) -> None:
        """kill -9, of a process that may be gone."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    async def put_again(self, vehicle: str, n: int) -> None:
        """Packet n once more into the queue, without the id that the queue would know it by. Raises FleetcastError."""
        content, kind, encoding = body(self.seed, vehicle, n)
        headers = {FORM: kind, ENCODING: encoding}
        self._resent += 1
        answer = await self.connection.request(put_subject(vehicle), content, headers, timeout=10)
        if "error" in msgspec.json.decode(answer):
            raise FleetcastError(f"the queue does not take {vehicle}'s packet again")

    async def wake(self, name: str) -> None:
        """SIGCONT, to one that a trap stopped."""
        with suppress(ProcessLookupError):
            os.kill(await self.running(name), signal.SIGCONT)

    def child(self, name: str, program: str) -> int | None:
        """A process of its session that runs this program."""
        leader = self.pid(name)
        if leader is None:
            return None
        for pid in _session(leader):
            with suppress(OSError):
                if program in Path(f"/proc/{pid}/cmdline").read_text():
                    return pid
        return None

    async def trap(self, name: str, word: dict[str, object]) -> None:
        """Sets a role's trap, or turns its clock. Raises OSError if it is not there."""
        config = Path(self.settings.data) / "run" / "fleetcast.toml"
        path = roles.socket_of(config, self.platform.admin_ports[name])
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(msgspec.json.encode(word) + b"\n")
        await reader.readline()
        writer.close()

    async def sprung(self, name: str, word: dict[str, object], bound: float = 15.0) -> bool:
        """Sets a trap that ends or stops the process, and waits until it did; False if it was not met."""
        pid = await self.running(name)
        with suppress(OSError):
            await self.trap(name, word)
        with suppress(FleetcastError):
            await self.until(lambda: self.pid(name) != pid or _stopped(pid), f"{name} meets a trap", bound)
            return True
        with suppress(OSError):
            await self.trap(name, {"at": ""})
        return False

    # Level

    @property
    def over(self) -> bool:
        """Whether a promise is broken, and that is all that was asked."""
        return self.ends_at_first and not all(row.clean for row in self.oracle.rows.values())

    async def heal(self, since: float, bound: float = HEAL_BOUND) -> float | None:
        """Seconds from `since` (monotonic) until the phones were level again, to stay so; None if not within the bound.

        Level: packets are acknowledged again, and what was half a second ago is in LIVE and on all phones that listen.
        """
        history: deque[tuple[float, Mapping[str, int]]] = deque()
        last_bad = since
        acked = self.oracle.all_acked
        while (now := time.monotonic()) - last_bad < _STAYS and not self.over:
            history.append((now, self.oracle.due()))
            while len(history) > 1 and history[1][0] <= now - _LAG:
                history.popleft()
            lags = history[0][0] <= now - _LAG and self._lags(history[0][1], now)
            if lags or self.oracle.all_acked == acked:
                last_bad = now
                self.laggards = self._who(history[0][1], time.time())
            if now - since > bound:
                return None
            await asyncio.sleep(0.05)
        return last_bad - since

    def _lags(self, due: Mapping[str, int], now: float) -> bool:
        behind = self.oracle.behind(due, time.time())
        return bool(self.oracle.uncommitted(due)) or any(now - self._woke[phone] > _OPENS for phone in behind)

    async def level(self, bound: float) -> bool:
        """Whether everything that is acknowledged now came to everybody within the bound."""
        due = self.oracle.due()
        with suppress(FleetcastError):
            await self.until(lambda: not self.oracle.lags(due), "all are level", bound)
            return True
        self.unhealed(bound)
        return False

    def unhealed(self, seconds: float) -> None:
        """Says on the oracle's row who is not level."""
        row = self.oracle.row
        row.unhealed += 1
        row.notes.append(f"not level after {seconds:.0f} s: {self._who(self.oracle.due())}")

    def _who(self, due: Mapping[str, int], now: float = inf) -> str:
        phones = self.oracle.behind(due, now)
        named = ", ".join(name(phone, self.size.by) for phone in phones[:10])
        return f"{self.oracle.uncommitted(due)} updates not in LIVE, {len(phones)} phones behind: {named}"

    async def pause(self) -> None:
        """Cars end what they have in hand, the queue is emptied, and everybody is level."""
        self.cars.tell({"rate": 0})
        self.paused = False
        with suppress(FleetcastError):
            await self.until(lambda: self.paused, "the cars are acknowledged", HEAL_BOUND)
        if not self.paused:
            self.oracle.row.unhealed += 1
            self.oracle.row.notes.append(f"packets were not acknowledged within {HEAL_BOUND:.0f} s")
        await self.level(HEAL_BOUND)

    async def silent(self) -> None:
        """Once cars are paused: each is said to be offline, and everybody is level with that."""
        bound = self.oracle.silence.offline + _SAID
        with suppress(FleetcastError):
            await self.until(lambda: not self.oracle.heard, "all cars are said to be offline", bound)
        if still := self.oracle.heard:
            self.oracle.row.unhealed += 1
            self.oracle.row.notes.append(
                f"not said to be offline after {bound:.0f} s: {', '.join(still[:10])}"
            )
        await self.level(HEAL_BOUND)

    async def rest(self) -> None:
        """`pause`, and the queue is empty: every packet is applied or rejected, and its ack arrived.

        What stays in the queue all the same was applied, or the oracle says otherwise; it is no promise, but worth a word.
        """
        await self.pause()
        deadline = time.monotonic() + ACK_WAIT + 10
        while left := (await self.connection.api(f"STREAM.INFO.{PACKETS}"))["state"]["messages"]:
            if time.monotonic() > deadline:
                self.oracle.row.notes.append(f"{left} packets stay in the queue, though all are handled")
                return
            await asyncio.sleep(0.1)

    async def backup(self, folder: Path) -> None:
        """At rest: what `fleetcast backup` makes. Once all are offline: until then LIVE goes on by itself."""
        await self.silent()
        await backup(self.connection, self.settings, folder)
        self.oracle.mark()

    async def restore(self, folder: Path, queue: Queue) -> None:
        """At rest: what `fleetcast restore --replace` does, under the running platform."""
        await self._unfollow()
        epoch = await restore(self.connection, self.settings, folder, queue=queue, replace=True)
        self.oracle.rewind(epoch, rejected=queue == "restore")
        self.follower = Follower(self.connection, self.oracle.committed)
        self.follower.position = (await self.connection.api(f"STREAM.INFO.{LIVE}"))["state"]["last_seq"]
        self._follow()

    def resume(self) -> None:
        """Cars go on."""
        self.cars.tell({"rate": self.size.rate})

    async def settle(self) -> Row:
        """The last looks; the row that they are on."""
        row = self.oracle.turn("at the end")
        self.phones.tell({"calm": True})
        await self.until(lambda: not self.oracle.asleep, "the phones are awake", 60)
        await self.rest()
        await self.silent()
        self.phones.tell({"final": True})
        await self.until(lambda: self._final is not None, "the phones say what they show")
        assert self._final is not None
        for phone, version, checksum in self._final:
            self.oracle.level(phone, version, checksum)
        self.oracle.finish(await self._states(), await self._rejected())
        await self._once_in_the_queue()
        await self._front()
        if self.refused:
            row.lost += 1
            row.notes.append(f"ingest refused a good packet: {self.refused}")
        return row

    async def _once_in_the_queue(self) -> None:
        """As many packets as were acknowledged, however often they were sent; by MQTT, which has no ids, perhaps some more."""
        # Started again, it knows no ids of packets that were acked before (a limit that the guarantees name); restored, none.
        if (self._queue_process, self._first_epoch) != (self.pid("nats-server"), self.oracle.epoch):
            return
        stored = (await self.connection.api(f"STREAM.INFO.{PACKETS}"))["state"]["last_seq"] - self._resent
        if not self.oracle.all_acked <= stored <= self.oracle.all_acked + self.unsure:
            self.oracle.row.twice += max(0, stored - self.oracle.all_acked - self.unsure)
            self.oracle.row.lost += max(0, self.oracle.all_acked - stored)
            self.oracle.row.notes.append(
                f"the queue took {stored} packets, and {self.oracle.all_acked} were acknowledged"
            )

    async def _states(self) -> dict[str, Shown]:
        """Of each vehicle, from the stream itself."""
        found = {}
        for vehicle in self.vehicles:
            answer = await self.connection.api(
                f"STREAM.MSG.GET.{LIVE}", {"last_by_subj": state_subject(vehicle)}
            )
            state = msgspec.json.decode(zstd.decompress(base64.b64decode(answer["message"]["data"])))
            found[vehicle] = _shown(state)
        return found

    async def _front(self) -> None:
        """The same, as an app gets it."""
        for vehicle, view in ((vehicle, view) for vehicle in self.vehicles for view in ("", *VIEWS)):
            query = f"?view={view}" if view else ""
            answer = await get(self.settings.front_port, f"/v1/{self.settings.noun}/{vehicle}{query}")
            shown = msgspec.json.decode(bytes(answer.body)) if answer.status == 200 else {}
            if answer.status != 200 or _shown(shown) != self.oracle.view(vehicle, view):
                self.oracle.row.lost += 1
                self.oracle.row.notes.append(
                    f"{vehicle}: the front door answers another state ({answer.status}{query})"
                )

    async def _rejected(self) -> dict[str, list[str]]:
        """Names of rejected packets by vehicle."""
        found: dict[str, list[str]] = {}
        async for one in NatsRejected(self.connection).all():
            text = {"gzip": gzip.decompress, "zstd": zstd.decompress}.get(one.encoding, bytes)(one.body)
            head = msgspec.json.decode(text.partition(b"\n")[0])
            found.setdefault(one.vehicle, []).append(f"{head['boot']}/{head['seq']}")
            if "poison" not in one.reason:
                self.oracle.row.notes.append(
                    f"{one.vehicle}: {head['boot']}/{head['seq']} rejected: {one.reason}"
                )
        return found


def _shown(said: dict[str, Any]) -> Shown:
    return Shown(said["version"], said["signals"], said.get("status", ""), said.get("since", ""))


def _session(leader: int) -> list[int]:
    """All processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # pid (name) state parent group session …; the name may hold anything
                if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) == leader:
                    found.append(int(entry.name))
    return found


def _stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return True

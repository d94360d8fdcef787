"""The platform seen from outside: a whole one, cars that send to it, and phones that watch through its front door.

Everything goes through HAProxy and Pushpin, as an app's requests do. A `Phone` reads its stream in the background and
keeps all that came, so that a test looks at what there is and waits for what is due.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from fleetcast import front, probes, sse
from fleetcast.jetstream import Connection
from fleetcast.platform import Platform
from fleetcast.settings import Settings
from fleetcast.subjects import REASON, REJECTED, partition, rejected_subject
from tests.servers import platform_settings, short_folder, until

SENT_AT = "2026-11-23T10:00:00.000Z"
PARTITIONS = 8
Signals = Mapping[str, Any]


class Phone:
    """A stream of one vehicle: `events` came so far, `take` waits for the next ones."""

    def __init__(self, vehicle: str, last: str = "") -> None:
        self.vehicle = vehicle
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.raw = b""
        self.events: list[sse.Event] = []
        self.ended = False
        self._taken = 0
        self._parser = sse.Parser(last)

    @property
    def last_id(self) -> str:
        """What to send as Last-Event-ID."""
        return self._parser.last_id

    async def read(self, client: httpx2.AsyncClient, url: str, headers: Mapping[str, str]) -> None:
        """Reads to the end of the stream; a cut is an end."""
        try:
            async with client.stream("GET", url, headers=headers) as response:
                self.headers = response.headers
                self.status = response.status_code
                async for chunk in response.aiter_raw():
                    self.raw += chunk
                    self.events += self._parser.feed(chunk)
        except httpx2.TransportError:
            pass
        finally:
            self.ended = True

    async def take(self, count: int = 1, bound: float = 30.0) -> list[sse.Event]:
        """The next so many events."""
        due = self._taken + count
        what = f"{count} more events of {self.vehicle}"
        await until(lambda: len(self.events) >= due, what, bound)
        taken, self._taken = self.events[self._taken : due], due
        return taken

    async def snapshot(self) -> dict[str, Any]:
        """The next event, which must be a snapshot: its data."""
        (event,) = await self.take()
        assert event.event == "snapshot", event
        return data(event)

    async def versions(self, count: int) -> list[int]:
        """The versions of the next so many events, which must be updates that follow each other."""
        updates = await self.take(count)
        assert [event.event for event in updates] == ["update"] * count
        for event in updates:
            assert data(event)["prev"] == data(event)["version"] - 1
            assert event.id.endswith(f"-{data(event)['version']}")
        return [data(event)["version"] for event in updates]

    @property
    def untaken(self) -> list[sse.Event]:
        """What came and nobody waited for."""
        return self.events[self._taken :]

    def view(self) -> dict[str, Any]:
        """What the phone shows: the last snapshot and the patches since, merged by RFC 7396 as far as signals need it."""
        shown: dict[str, Any] = {}
        for event in self.events:
            if event.event == "snapshot":
                shown = data(event)
            elif event.event in ("update", "status"):
                update = data(event)
                assert update["prev"] == shown["version"]
                signals = {**shown["signals"], **update["signals"]}
                for path, signal in update["signals"].items():
                    if signal is not None:  # it stands whole, and what is null in it is not there
                        signals[path] = {name: value for name, value in signal.items() if value is not None}
                shown |= {name: update[name] for name in ("version", "updated_at")}
                shown["signals"] = {path: signal for path, signal in signals.items() if signal is not None}
                if (
                    event.event == "status" or "status" not in shown
                ):  # nobody says that who sends is live from the first
                    shown["status"] = update.get("status", "live")
                    shown["since"] = update.get("since", update["updated_at"])
        return shown


class Site:
    """A running platform, and what can be asked of it from outside."""

    def __init__(self, platform: Platform, client: httpx2.AsyncClient) -> None:
        self.platform = platform
        self.settings: Settings = platform.settings
        self.client = client
        self.url = platform.url
        self.notes: list[str] = []

    async def post(
        self, vehicle: str, body: bytes, form: str = "application/json", encoding: str = "identity"
    ) -> httpx2.Response:
        """A packet, as these bytes."""
        url = f"{self.platform.ingest_url}/v1/{self.settings.noun}/{vehicle}/packets"
        headers = {"Content-Type": form, "Content-Encoding": encoding}
        return await self.client.post(url, content=body, headers=headers)

    async def send(self, vehicle: str, seq: int, signals: Signals | None = None) -> dict[str, Any]:
        """A small packet; its answer, which must be a 202. Without signals it carries its own number."""
        answer = await self.post(vehicle, packet(vehicle, seq, signals))
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        """By the front door."""
        return await self.client.get(f"{self.url}{path}", headers=headers)

    async def latest(self, vehicle: str) -> dict[str, Any]:
        """The latest state, asked for until it is there, as just after a kill it may not be."""

        async def told() -> httpx2.Response | None:
            answer = await self.get(f"/v1/{self.settings.noun}/{vehicle}")
            return None if answer.status_code == 503 else answer

        answer: httpx2.Response = await until(told, f"the state of {vehicle}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def reaches(self, vehicle: str, version: int) -> dict[str, Any]:
        """The latest state, once it is of this version."""

        async def there() -> dict[str, Any] | None:
            answer = await self.get(f"/v1/{self.settings.noun}/{vehicle}")
            shown: dict[str, Any] = answer.json() if answer.status_code == 200 else {"version": 0}
            assert shown["version"] <= version, shown
            return shown if shown["version"] == version else None

        found: dict[str, Any] = await until(there, f"{vehicle} reaches version {version}")
        return found

    @asynccontextmanager
    async def phone(
        self,
        vehicle: str,
        last: str = "",
        headers: Mapping[str, str] | None = None,
        view: str = "",
        every: str = "",
    ) -> AsyncIterator[Phone]:
        """A phone on this vehicle, its stream open."""
        phone = Phone(vehicle, last)
        sent = {"Accept": sse.MEDIA_TYPE, "Accept-Encoding": "identity", **(headers or {})}
        if last:
            sent["Last-Event-ID"] = last
        query = urlencode({name: value for name, value in (("view", view), ("every", every)) if value})
        url = f"{self.url}/v1/{self.settings.noun}/{vehicle}/events" + (f"?{query}" if query else "")
        task = asyncio.create_task(phone.read(self.client, url, sent))
        try:
            await until(lambda: phone.status or phone.ended, f"a stream of {vehicle}")
            yield phone
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def read(self, vehicle: str, last: str = "") -> list[sse.Event]:
        """What a phone gets at once: the events up to the first that says where the vehicle is now."""
        async with self.phone(vehicle, last) as phone:
            await until(lambda: any(one.event == "snapshot" for one in phone.events))
            return phone.events

    def kill(self, name: str, sign: signal.Signals = signal.SIGKILL) -> int:
        """Sends a signal to one of the platform's processes, and says which id it had."""
        pid = self.platform.supervisor.pid(name)
        assert pid is not None, f"{name} does not run"
        os.kill(pid, sign)
        return pid

    async def started_again(self, name: str, killed: int) -> None:
        """Waits until the supervisor has said and done it; and until phones are let onto an edge again."""
        await until(lambda: self.platform.supervisor.pid(name) not in (None, killed), f"{name} runs again")
        assert any(f"{name} died (signal 9)" in note for note in self.notes)
        if name.startswith("edge"):
            await self.platform.well(name)
            await until(partial(self._is_up, name.replace("-", "")), f"HAProxy uses {name} again")

    async def counts(self, name: str, role: str = "consume", *, label: str = "") -> float:
        """A counter (`fleetcast_<name>_total`), summed over this role's processes; of one label value if given."""
        total = 0.0
        for process, port in self.platform.admin_ports.items():
            if process.startswith(role):
                text = (await self.client.get(f"http://127.0.0.1:{port}/metrics")).text
                total += figure(text, f"{name}_total", label)
        return total

    def pids(self, *roles: str) -> dict[str, int | None]:
        """By name the processes of these roles (the beginnings of their names)."""
        supervisor = self.platform.supervisor
        return {name: supervisor.pid(name) for name in supervisor.names if name.startswith(roles)}

    async def sessions(self) -> list[int]:
        """Open streams of each edge replica, as HAProxy counts them."""
        found = {labels["server"]: int(value) for labels, value in await self._of_edges("current_sessions")}
        return [found[f"edge{number}"] for number in self.platform.layout.numbers("edge")]

    async def _is_up(self, server: str) -> bool:
        up = {"server": server, "state": "UP"}
        return any(value and up.items() <= labels.items() for labels, value in await self._of_edges("status"))

    async def _of_edges(self, name: str) -> list[tuple[Mapping[str, str], float]]:
        """What HAProxy says of the edges' streams: labels and value."""
        answer = await self.client.get(f"http://127.0.0.1:{self.settings.haproxy_port}/metrics")
        return [
            (sample.labels, sample.value)
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.name == f"haproxy_server_{name}" and sample.labels["proxy"] == "streams"
        ]


@asynccontextmanager
async def site(
    folder: Path | None = None, kind: type[Platform] = Platform, **changes: Any
) -> AsyncIterator[Site]:
    """`async with site(window=2.0) as here:` a whole platform, on free ports, in a folder of its own if none is given."""
    with short_folder() as own:
        settings = platform_settings(folder or own, **({"partitions": PARTITIONS} | changes))
        notes: list[str] = []
        async with kind(settings, notes.append) as platform, client(front.trust(settings)) as outside:
            here = Site(platform, outside)
            here.notes = notes
            yield here


def client(verify: ssl.SSLContext | None = None) -> httpx2.AsyncClient:
    """For many streams at once; each request has a connection of its own, so that none is tied to a killed server."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    timeout = httpx2.Timeout(30.0, read=90.0)
    return httpx2.AsyncClient(
        trust_env=False, limits=limits, timeout=timeout, verify=verify or probes.authorities()
    )


def packet(vehicle: str, seq: int, signals: Signals | None = None, boot: int = 1, **more: Any) -> bytes:
    """A packet as JSON; `signals` is path -> value."""
    values = {"Test.Number": seq} if signals is None else signals
    head = {
        "vehicle": vehicle,
        "boot": boot,
        "seq": seq,
        "sent_at": SENT_AT,
        "signals": {path: {"value": value} for path, value in values.items()},
    }
    return msgspec.json.encode(head | more)


def padded(head: bytes, size: int) -> bytes:
    """The same packet, made exactly this long by a `samples` member."""
    filled = head.removesuffix(b"}") + b',"samples":"' + b"x" * (size - len(head) - 13) + b'"}'
    assert len(filled) == size
    return filled


def data(event: sse.Event) -> dict[str, Any]:
    """What an event carries."""
    return dict(msgspec.json.decode(event.data))


def figure(text: str, name: str, label: str = "") -> float:
    """A metric in a metrics page: the sum over its labels, or of one label value."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"fleetcast_{name}" and (not label or label in sample.labels.values())
    )


async def rejection(connection: Connection, vehicle: str) -> tuple[str, bytes]:
    """Why the vehicle's last packet in REJECTED is there, and its bytes."""
    wanted = {"last_by_subj": rejected_subject(partition(vehicle, PARTITIONS), vehicle)}
    message = (await connection.api(f"STREAM.MSG.GET.{REJECTED}", wanted))["message"]
    headers = base64.b64decode(message["hdrs"]).decode()
    reason = headers.partition(f"{REASON}: ")[2].partition("\r\n")[0]
    return reason, base64.b64decode(message["data"])


def names(events: Sequence[sse.Event]) -> list[str]:
    """What kinds of events these are."""
    return [event.event for event in events]

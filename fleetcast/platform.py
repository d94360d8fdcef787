"""The whole platform on one machine: which processes, with which configurations, in which order.

Everything it writes is under the setting `data`: `nats/` (what must be kept), `run/` (configurations, made anew each time),
`log/`. One platform a folder at a time. While it runs, its processes can be replaced, added and removed (`rolling.py`).
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib
import os
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import httpx2
import msgspec

from fleetcast import (
    access,
    admission,
    auth,
    decode,
    enrich,
    front,
    haproxy,
    machine,
    natsserver,
    probes,
    pushpin,
    rolling,
)
from fleetcast.draining import Balancer
from fleetcast.errors import NotReady, Unavailable, Unusable
from fleetcast.fulldisk import FullDisk
from fleetcast.jetstream import connect, provisioned
from fleetcast.layout import FIXED, MANY, Layout, with_edges
from fleetcast.nats_jwt import new_seed
from fleetcast.settings import PREFIX, Settings, changed, dump
from fleetcast.supervisor import Notice, Program, Supervisor

_STARTING = 30.0


class Platform:
    """`async with Platform(settings, notice) as platform:` runs it; `platform.url` is the front door.

    `command`, `environment`, `edge_settings` and `start_queue` are there to be overridden by whoever runs it under other
    conditions than usual.
    """

    def __init__(self, settings: Settings, notice: Notice) -> None:
        self._folder = Path(settings.data).absolute()
        self.settings = with_edges(settings)
        self.layout = Layout(self.settings)
        self._notice = notice
        self.supervisor = Supervisor(self._folder / "log", notice)
        self.balancer = Balancer(self.run_folder / "haproxy" / "admin.sock")
        self._lock: IO[str] | None = None
        self._watching: asyncio.Task[None] | None = None
        self.front_connections = 0
        self._changing = False

    @property
    def run_folder(self) -> Path:
        """Where the configurations are."""
        return self._folder / "run"

    @property
    def url(self) -> str:
        """The front door: all that apps use."""
        return front.url(self.settings)

    @property
    def ingest_url(self) -> str:
        """Where vehicles send."""
        scheme = "https" if self.settings.tls_cert else "http"
        return f"{scheme}://{self.vehicle_host}:{self.settings.ingest_port}"

    @property
    def doors(self) -> str:
        """Where vehicles send, by either way."""
        settings = self.settings
        scheme = "mqtts" if settings.tls_cert else "mqtt"
        return f"{self.ingest_url}" + (
            f" and {scheme}://{self.vehicle_host}:{settings.mqtt_port}" if settings.mqtt_port else ""
        )

    @property
    def vehicle_host(self) -> str:
        """Where this machine itself finds the vehicles' doors."""
        host = self.settings.vehicle_host
        return "127.0.0.1" if host == "0.0.0.0" else host

    @property
    def admin_ports(self) -> dict[str, int]:
        """The admin port of each role's process."""
        return {name: one.admin for name, one in self.layout.processes.items() if one.admin}

    # What may be overridden

    def command(self, role: str) -> list[str]:
        """The program of a role, to which `--config FILE ROLE` is appended."""
        return [sys.executable, "-m", "fleetcast"]

    def environment(self, name: str) -> Mapping[str, str]:
        """Settings for this one process, in the environment's form without the prefix: `{"NATS": "nats://…"}`."""
        return {}

    def edge_settings(self, number: int) -> Settings:
        """What edge replica `number`'s configuration is rendered from."""
        return self.settings

    async def start_queue(self) -> None:
        """Starts nats-server, and waits for it: first without MQTT, so that no client comes before the streams."""
        conf = self.run_folder / "nats.conf"
        machine.write(conf, natsserver.configuration(self.settings, self._folder / "nats"))
        self.supervisor.start(
            self.program("nats-server", [machine.nats_server(), "-c", str(conf)], base=True)
        )
        await self._nats_answers()
        if self.settings.mqtt_port:
            connection = await connect(self.settings, "fleetcast-up")
            await provisioned(connection, self.settings)
            await connection.close()
            machine.write(conf, natsserver.configuration(self.settings, self._folder / "nats", mqtt=True))
            await self.supervisor.restart("nats-server")
            await self._nats_answers()
            await self.wait("nats-server", lambda: probes.tcp(self.vehicle_host, self.settings.mqtt_port))
        disk = FullDisk(
            self._folder / "nats",
            self.supervisor.log("nats-server"),
            partial(self.supervisor.end, "nats-server"),
            self._notice,
        )
        self._watching = asyncio.create_task(disk.watch())

    async def _nats_answers(self) -> None:
        await self.wait("nats-server", lambda: probes.tcp(*natsserver.address(self.settings)))

    # From start to end

    async def __aenter__(self) -> Platform:
        try:
            self._prepare()
            self._notice("starting nats-server, Pushpin, HAProxy, ingest, consume and origin …")
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Ends every process."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self.supervisor.stop()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # Changes while it runs

    async def configure(self, **changes: Any) -> None:
        """Processes that start from now on have these settings. Texts are read as the environment's. Raises Unusable."""
        if fixed := sorted(FIXED & changes.keys()):
            raise Unusable(f"{fixed[0]}: a roll cannot change it; operations.md says what can")
        settings = changed(self.settings, changes)
        importlib.invalidate_caches()  # a module may have come since we started
        enrich.load(settings.enrichers)
        decode.load(settings.decoders)
        self.settings = settings
        self.write_common()

    async def roll(self, what: str, say: Notice, **changes: Any) -> None:
        """Replaces `what`: a process (`consume-1`), a role, or `all`, one after the other; first changes these settings.

        Raises NotReady if one is not well again: those after it still are as they were.
        """
        names = self.layout.chosen(what)
        async with self._change():
            if changes:
                await self.configure(**changes)
            await rolling.roll(self, names, say)

    async def add(self, role: str, say: Notice | None = None) -> str:
        """One more consume, origin or edge; its name."""
        async with self._change():
            return await rolling.add(self, role, say or self._notice)

    async def remove(self, name: str, say: Notice | None = None) -> None:
        """Drains it as `roll` does, and ends it for good."""
        async with self._change():
            await rolling.remove(self, name, say or self._notice)

    async def scale(self, role: str, count: int, say: Notice) -> None:
        """Adds or removes until there are so many; the last ones first."""
        if role not in MANY:
            raise Unusable(f"{role}: only {', '.join(MANY)} can be added and removed")
        if count < 1:
            raise Unusable(f"{role}: there must be 1 or more")
        while (names := self.layout.named(role)) and len(names) != count:
            if len(names) < count:
                await self.add(role, say)
            else:
                await self.remove(f"{role}-{self.layout.numbers(role)[-1]}", say)
        say(f"{role}: {count}")

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[None]:
        """One at a time: two that drain at once could leave nobody."""
        if self._changing:
            raise Unusable("another change of this platform is under way")
        self._changing = True
        try:
            yield
        finally:
            self._changing = False

    # Making ready

    def _prepare(self) -> None:
        for binary in machine.missing_programs():
            raise Unusable(f"{binary} is missing; `make setup` installs it")
        # Said here in one line, not by processes that die again and again.
        enrich.load(self.settings.enrichers)
        decode.load(self.settings.decoders)
        auth.identity(self.settings)
        access.check(self.settings)
        admission.tls_context(self.settings)
        if self.settings.front_cert:
            front.bundle(self.settings)
        for folder in ("nats", "run", "log"):
            (self._folder / folder).mkdir(parents=True, exist_ok=True)
        if len(str(self._folder)) > 60:
            raise Unusable(
                f"data: {self._folder} is longer than 60 characters, too long for the edge's sockets in it"
            )
        if any(character.isspace() for character in str(self._folder)):
            raise Unusable(
                f"data: {self._folder} holds a space, which HAProxy's and Pushpin's configurations cannot"
            )
        self._lock = (self._folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Unusable(f"data: {self._folder} is in use by a running platform") from None
        self.layout.check_ports()
        self.front_connections = machine.raise_files(self.settings)
        self.settings = msgspec.structs.replace(self.settings, **self._secrets())
        (self.run_folder / "haproxy").mkdir(exist_ok=True)
        self.write_common()

    def write_common(self) -> None:
        """What roles and HAProxy read when they start, from the settings and the layout as they are now."""
        machine.write(self.run_folder / "fleetcast.toml", dump(self.layout.counted(self.settings)))
        origins = {
            one.number: (f"127.0.0.1:{one.port}", one.admin)
            for one in self.layout.processes.values()
            if one.role == "origin"
        }
        folder, edges = self.run_folder / "haproxy", self.layout.numbers("edge")
        texts = dict(haproxy.configuration(self.settings, origins, folder, edges, self.front_connections))
        if self.settings.front_cert:
            texts[front.BUNDLE] = front.bundle(self.settings)
        for name, text in texts.items():
            machine.write(folder / name, text)

    def _secrets(self) -> dict[str, str]:
        """What the settings leave to us: made once, and kept."""
        makers: dict[str, Callable[[], str]] = {"sig_key": partial(secrets.token_urlsafe, 32)}
        if self.settings.mqtt_identity:
            makers |= {"nats_password": partial(secrets.token_urlsafe, 32), "nats_seed": new_seed}
        if self.settings.app_keys:
            makers |= {"ticket_key": partial(secrets.token_urlsafe, 32)}
        found = {"nats_log": self.settings.nats_log or str(self.supervisor.log("nats-server"))}
        for name, make in makers.items():
            kept = self._folder / name
            if not getattr(self.settings, name):
                if not kept.exists():
                    machine.write(kept, make())
                found[name] = kept.read_text().strip()
        return found

    # Running

    async def _start(self) -> None:
        await self.start_queue()
        start = self.supervisor.start
        for name in self.layout.named("edge"):
            start(self.prepared(name))
        # The roles make the streams; one alone first, so that a stream that cannot be made is said once.
        start(self.prepared("ingest"))
        await self.well("ingest")
        roles = self.layout.named("origin", "consume")
        for name in roles:
            start(self.prepared(name))
        start(
            self.program(
                "haproxy", ["haproxy", "-db", "-f", str(self.run_folder / "haproxy" / "haproxy.cfg")]
            )
        )
        await asyncio.gather(*(self.well(name) for name in roles))
        closed = f"{self.url}/v1/{self.settings.noun}/ready"
        verify = front.trust(self.settings)
        closed_to_all = 401 if self.settings.app_keys else 404
        await self.wait("haproxy", partial(probes.http, closed, closed_to_all, verify=verify))

    def prepared(self, name: str) -> Program:
        """What runs under this name, its own configuration written anew."""
        one = self.layout.processes[name]
        if one.role == "edge":
            self.settings = with_edges(self.settings, max(one.number + 1, len(self.settings.edge_sub)))
            folder = self.run_folder / name
            (folder / "log").mkdir(parents=True, exist_ok=True)
            settings = self.edge_settings(one.number)
            for file, text in pushpin.configuration(settings, one.number, folder).items():
                machine.write(folder / file, text)
            return self.program(name, ["pushpin", "--config", str(folder / "pushpin.conf")])
        own = {"ADMIN_PORT": str(one.admin)}
        own |= {"MEMBER": name} if one.role == "consume" else {}
        own |= {"ORIGIN_PORT": str(one.port)} if one.role == "origin" else {}
        command = [*self.command(one.role), "--config", str(self.run_folder / "fleetcast.toml"), one.role]
        given = {**own, **self.environment(name)}
        return self.program(name, command, {PREFIX + key: value for key, value in given.items()})

    def program(
        self, name: str, command: list[str], more: Mapping[str, str] | None = None, *, base: bool = False
    ) -> Program:
        """A program for the supervisor, in our environment without our settings."""
        # The settings are in the file by now: what the environment says of them must not count twice.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
        environment["PATH"] = machine.search_path()
        return Program(name, command, {**environment, **(more or {})}, base)

    async def well(self, name: str) -> None:
        """Waits until this process is ready. Raises NotReady."""
        one = self.layout.processes[name]
        if one.role == "edge":
            # Answered by Pushpin itself; and its HTTP input, of which it says nothing when it cannot have the port.
            host, _, port = self.settings.edge_http[one.number].rpartition(":")
            url, itself = f"http://127.0.0.1:{one.port}/", {"Host": "alive.invalid"}
            await self.wait(name, partial(probes.http, url, headers=itself))
            await self.wait(name, partial(probes.tcp, host, int(port)))
        else:
            await self.wait(name, partial(probes.http, f"http://127.0.0.1:{one.admin}/ready"))

    async def wait(
        self, name: str, check: Callable[[], Awaitable[object]], bound: float | None = None
    ) -> None:
        """Waits until this check of a process passes; what it raises means "not yet". Raises NotReady."""
        bound = _STARTING if bound is None else bound
        deadline = asyncio.get_running_loop().time() + bound
        while True:
            try:
                await check()
            except (OSError, httpx2.HTTPError, Unavailable) as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise NotReady(
                        f"{name} is not ready after {bound:.0f} s: {error}; {self._tail(name)}"
                    ) from None
                await asyncio.sleep(0.05)
            else:
                return

    def _tail(self, name: str) -> str:
        log = self.supervisor.log(name)
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        return f"the last line of {log}: {lines[-1][:300]}" if lines else f"{log} is empty"

"""The whole platform on one machine: which processes, with which configurations, in which order.

Everything it writes is under the setting `data`: `nats/` (what must be kept), `run/` (configurations, made anew each time),
`log/`. One platform a folder at a time.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import secrets
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import IO

import httpx2
import msgspec

from fleetcast import enrich, haproxy, natsserver, pushpin
from fleetcast.errors import Unusable
from fleetcast.fulldisk import FullDisk
from fleetcast.settings import PREFIX, Settings, dump
from fleetcast.supervisor import Notice, Program, Supervisor

_STARTING = 30.0


class Platform:
    """`async with Platform(settings, notice) as platform:` runs it; `platform.url` is the front door."""

    def __init__(self, settings: Settings, notice: Notice) -> None:
        self._folder = Path(settings.data).absolute()
        self.settings = with_edges(settings)
        self._notice = notice
        self.supervisor = Supervisor(self._folder / "log", notice)
        self._lock: IO[str] | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The front door: all that apps use."""
        return f"http://{self.settings.host}:{self.settings.front_port}"

    @property
    def ingest_url(self) -> str:
        """Where vehicles send."""
        return f"http://{self.settings.host}:{self.settings.ingest_port}"

    @property
    def admin_ports(self) -> dict[str, int]:
        """The admin port of each role's process."""
        names = [*self._roles("ingest", 1), *self._roles("consume", self.settings.consumers)]
        names += self._roles("origin", self.settings.origins)
        return {name: self.settings.admin_port + number for number, name in enumerate(names)}

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

    # What the proof makes otherwise

    def command(self, role: str) -> list[str]:
        """What starts a role's process; its settings and its name are added."""
        return [sys.executable, "-m", "fleetcast"]

    def environment(self, name: str) -> Mapping[str, str]:
        """Settings of one process alone, by their names in capitals."""
        return {}

    def edge_settings(self, number: int) -> Settings:
        """What one edge replica's configuration is made from."""
        return self.settings

    # Making ready

    def _prepare(self) -> None:
        for binary in missing_programs():
            raise Unusable(f"{binary} is missing; `make setup` installs it")
        ports = self._ports()
        enrich.load(
            self.settings.enrichers
        )  # said here in one line, not by processes that die again and again
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
        self._check_ports(ports)
        self._raise_files()
        self.settings = msgspec.structs.replace(self.settings, sig_key=self._sig_key())
        run = self._folder / "run"
        _write(run / "fleetcast.toml", dump(self.settings))
        _write(run / "nats.conf", natsserver.configuration(self.settings, self._folder / "nats"))
        for number in range(self.settings.edges):
            edge = run / f"edge-{number}"
            (edge / "log").mkdir(parents=True, exist_ok=True)
            for name, text in pushpin.configuration(self.edge_settings(number), number, edge).items():
                _write(edge / name, text)
        origins = self._origin_ports()
        (run / "haproxy").mkdir(exist_ok=True)
        for name, text in haproxy.configuration(self.settings, origins, run / "haproxy").items():
            _write(run / "haproxy" / name, text)

    def _sig_key(self) -> str:
        kept = self._folder / "sig_key"
        if self.settings.sig_key:
            return self.settings.sig_key
        if not kept.exists():
            _write(kept, secrets.token_urlsafe(32))
        return kept.read_text().strip()

    def _ports(self) -> dict[str, tuple[str, int]]:
        """Every port that will be listened on, by the setting that gives it (or what it is)."""
        settings = self.settings
        ports = {
            "front_port": (settings.host, settings.front_port),
            "ingest_port": (settings.host, settings.ingest_port),
            "inner_port": ("127.0.0.1", settings.inner_port),
            "haproxy_port": ("127.0.0.1", settings.haproxy_port),
            "nats": natsserver.address(settings),
        }
        for name, admin in self.admin_ports.items():
            ports[f"admin_port (of {name})"] = ("127.0.0.1", admin)
        for number in range(settings.origins):
            ports[f"origin_port (of origin-{number})"] = ("127.0.0.1", settings.origin_port + number)
        for number in range(settings.edges):
            for offset in range(3):
                port = settings.edge_port + 10 * number + offset
                ports[f"edge_port (edge-{number}, +{offset})"] = ("127.0.0.1", port)
            for setting in ("edge_sub", "edge_http"):
                host, _, port_text = getattr(settings, setting)[number].rpartition(":")
                ports[f"{setting} (of edge-{number})"] = (host, int(port_text))
        return ports

    @staticmethod
    def _check_ports(ports: Mapping[str, tuple[str, int]]) -> None:
        seen: dict[tuple[str, int], str] = {}
        for name, address in ports.items():
            if address in seen:
                raise Unusable(f"{name}: port {address[1]} is also {seen[address]}'s")
            seen[address] = name
            with closing(socket.socket()) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(address)
                except OverflowError:
                    raise Unusable(f"{name}: there is no port {address[1]}; begin lower") from None
                except OSError as error:
                    raise Unusable(
                        f"{name}: port {address[1]} on {address[0]}: {error.strerror}; set another"
                    ) from None

    def _raise_files(self) -> None:
        needed = max(haproxy.files_needed(self.settings), pushpin.client_maxconn(self.settings) + 200)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise Unusable(
                f"edge_connections: needs {needed} open files a process, and this machine allows {hard}"
            )
        if soft != resource.RLIM_INFINITY and soft < needed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))

    # Running

    async def start_queue(self) -> None:
        """Starts nats-server and waits for it."""
        nats = self._program("nats-server", [nats_server(), "-c", str(self._folder / "run" / "nats.conf")])
        self.supervisor.start(nats)
        host, port = natsserver.address(self.settings)
        await self._wait("nats-server", lambda: _tcp(host, port))
        disk = FullDisk(
            self._folder / "nats",
            self.supervisor.log("nats-server"),
            partial(self.supervisor.end, "nats-server"),
            self._notice,
        )
        self._watching = asyncio.create_task(disk.watch())

    async def _start(self) -> None:
        await self.start_queue()
        for number in range(self.settings.edges):
            folder = self._folder / "run" / f"edge-{number}"
            program = self._program(f"edge-{number}", ["pushpin", "--config", str(folder / "pushpin.conf")])
            self.supervisor.start(program)
        # The roles make the streams; one alone first, so that a stream that cannot be made is said once.
        ports = self.admin_ports
        self.supervisor.start(self._role("ingest", "ingest", ports["ingest"]))
        await self._wait("ingest", lambda: _http(f"http://127.0.0.1:{ports['ingest']}/ready"))
        for number, name in enumerate(self._roles("origin", self.settings.origins)):
            environment = {"ORIGIN_PORT": str(self.settings.origin_port + number)}
            self.supervisor.start(self._role("origin", name, ports[name], environment))
        for name in self._roles("consume", self.settings.consumers):
            self.supervisor.start(self._role("consume", name, ports[name], {"MEMBER": name}))
        haproxy_ = ["haproxy", "-db", "-f", str(self._folder / "run" / "haproxy" / "haproxy.cfg")]
        self.supervisor.start(self._program("haproxy", haproxy_))
        ready = [
            self._wait(name, partial(_http, f"http://127.0.0.1:{port}/ready")) for name, port in ports.items()
        ]
        await asyncio.gather(*ready)
        await self._wait("haproxy", lambda: _http(f"{self.url}/v1/{self.settings.noun}/ready", expect=404))

    def _roles(self, role: str, count: int) -> list[str]:
        return [role] if role == "ingest" else [f"{role}-{number}" for number in range(count)]

    def _origin_ports(self) -> list[tuple[str, int]]:
        ports = self.admin_ports
        return [
            (f"127.0.0.1:{self.settings.origin_port + number}", ports[name])
            for number, name in enumerate(self._roles("origin", self.settings.origins))
        ]

    def _role(self, role: str, name: str, admin: int, more: dict[str, str] | None = None) -> Program:
        config = str(self._folder / "run" / "fleetcast.toml")
        own = {"ADMIN_PORT": str(admin), **(more or {}), **self.environment(name)}
        command = [*self.command(role), "--config", config, role]
        return self._program(name, command, {PREFIX + key: value for key, value in own.items()})

    def _program(self, name: str, command: list[str], more: dict[str, str] | None = None) -> Program:
        # The settings are in the file by now: what the environment says of them must not count twice.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
        environment["PATH"] = search_path()
        return Program(name, command, environment | (more or {}))

    async def _wait(self, name: str, check: Callable[[], Awaitable[None]]) -> None:
        deadline = asyncio.get_running_loop().time() + _STARTING
        while True:
            try:
                await check()
            except (OSError, httpx2.HTTPError) as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise Unusable(
                        f"{name} is not ready after {_STARTING:.0f} s: {error}; {self._tail(name)}"
                    ) from None
                await asyncio.sleep(0.05)
            else:
                return

    def _tail(self, name: str) -> str:
        log = self.supervisor.log(name)
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        return f"the last line of {log}: {lines[-1][:300]}" if lines else f"{log} is empty"


def missing_programs() -> list[str]:
    """The programs that are not installed."""
    path = search_path()
    missing = [
        name for name in ("pushpin", "condure", "zurl", "haproxy") if shutil.which(name, path=path) is None
    ]
    return missing + ([] if Path(nats_server()).exists() or shutil.which(nats_server()) else ["nats-server"])


def search_path() -> str:
    """Where programs are looked for: HAProxy's folder is not on the path of an ordinary user."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def nats_server() -> str:
    """The one of our virtual environment, else the one on the path."""
    ours = Path(sys.executable).parent / "nats-server"
    return str(ours) if ours.exists() else "nats-server"


def with_edges(settings: Settings) -> Settings:
    """The settings with an address for each edge replica: those given, then the first one's with ports ten apart."""
    given: dict[str, tuple[str, ...]] = {}
    for name in ("edge_sub", "edge_http"):
        addresses = list(getattr(settings, name))[: settings.edges]
        host, _, port = addresses[0].rpartition(":")
        addresses += [f"{host}:{int(port) + 10 * number}" for number in range(len(addresses), settings.edges)]
        given[name] = tuple(addresses)
    return msgspec.structs.replace(settings, **given)


def _write(path: Path, text: str) -> None:
    """Readable by us alone: configurations hold the signing key."""
    path.touch(mode=0o600, exist_ok=True)
    path.write_text(text)


async def _tcp(host: str, port: int) -> None:
    _, writer = await asyncio.open_connection(host, port)
    writer.close()


async def _http(url: str, expect: int = 200) -> None:
    async with httpx2.AsyncClient(timeout=2) as client:
        answer = await client.get(url)
    if answer.status_code != expect:
        raise OSError(f"{url}: {answer.status_code} {answer.text[:200]}")

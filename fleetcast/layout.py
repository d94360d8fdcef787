"""Which processes a platform on one machine has, and the ports of each: those of its start, and those added since.

The ports of the start follow from the settings, by position. A process that is added gets the lowest free number of its role
and free ports after those; nobody else's move, so what was written down of the others stays true.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import NamedTuple

import msgspec

from fleetcast import natsserver
from fleetcast.errors import Unusable
from fleetcast.settings import Settings

MANY = ("consume", "origin", "edge")
"""The roles of which there can be more or fewer, in the order in which they are rolled."""
FIXED = frozenset(
    {
        "data",
        "host",
        "app_keys",
        "vehicle_keys",
        "vehicle_ca",
        "vehicle_host",
        "tls_cert",
        "tls_key",
        "nats_user",
        "nats_password",
        "nats_seed",
        "nats_log",
        "front_port",
        "front_cert",
        "front_key",
        "front_plain",
        "ingest_port",
        "mqtt_port",
        "origin_port",
        "admin_port",
        "inner_port",
        "edge_port",
        "haproxy_port",
        "edge_sub",
        "edge_http",
        "edges",
        "consumers",
        "origins",
        "partitions",
        "sig_key",
        "ticket_key",
        "keep_alive",
        "new_streams",
        "edge_connections",
    }
)
"""Settings that a roll cannot change: they are of the layout, of the streams, or of processes that are not rolled."""
_COUNTS = {"consume": "consumers", "origin": "origins", "edge": "edges"}
_MOST = {"consume": 64, "origin": 64, "edge": 16}
_TRIES = 200

Port = tuple[str, int]


class Process(NamedTuple):
    """`port` is where it serves (0: nowhere), `admin` its admin port (0: an edge has none)."""

    role: str
    number: int
    port: int
    admin: int


class Layout:
    """The processes by name: `ingest`, `consume-0`, …, `origin-0`, …, `edge-0`, …"""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.processes: dict[str, Process] = {"ingest": Process("ingest", 0, settings.ingest_port, 0)}
        for role in MANY:
            for number in range(getattr(settings, _COUNTS[role])):
                base = {"consume": 0, "origin": settings.origin_port + number}
                self._put(role, number, base.get(role, settings.edge_port + 10 * number), 0)
        # Admin ports go by position, whatever the roles: what `docs/operations.md` says of them.
        for position, name in enumerate(self.named("ingest", "consume", "origin")):
            admin = settings.admin_port + position
            self.processes[name] = self.processes[name]._replace(admin=admin)

    def _put(self, role: str, number: int, port: int, admin: int) -> str:
        self.processes[f"{role}-{number}"] = Process(role, number, port, admin)
        return f"{role}-{number}"

    def named(self, *roles: str) -> list[str]:
        """The names of these roles' processes, a role after the other."""
        return [name for role in roles for name, one in self.processes.items() if one.role == role]

    def numbers(self, role: str) -> list[int]:
        """The numbers of a role's processes."""
        return sorted(self.processes[name].number for name in self.named(role))

    def counted(self, settings: Settings) -> Settings:
        """The settings with the counts and the edges' addresses as they are now: what a role is given."""
        edges = self.numbers("edge")
        given = {setting: len(self.named(role)) for role, setting in _COUNTS.items()}
        subs, https = ([getattr(settings, name)[n] for n in edges] for name in ("edge_sub", "edge_http"))
        return msgspec.structs.replace(settings, **given, edge_sub=tuple(subs), edge_http=tuple(https))

    def chosen(self, what: str) -> list[str]:
        """`all`, a role or a name -> names, in the order in which they are replaced. Raises Unusable."""
        if what == "all":
            return self.named("ingest", *MANY)
        if what in ("ingest", *MANY):
            return self.named(what)
        if what in self.processes:
            return [what]
        if what == "haproxy":
            raise Unusable(
                "haproxy: its restart cuts every stream, so it is not rolled; phones come back with their ids"
            )
        if what == "nats-server":
            raise Unusable("nats-server: there is one here, so it cannot be rolled; restart it with `up`")
        raise Unusable(f"{what}: no such process; there are {', '.join(self.processes)}")

    # Adding and removing

    def add(self, role: str) -> str:
        """Its name. Raises Unusable."""
        if role not in MANY:
            raise Unusable(f"{role}: only {', '.join(MANY)} can be added and removed")
        taken = self.numbers(role)
        for number in range(_MOST[role]):
            if number in taken:
                continue
            if role == "edge":
                ports = edge_ports(with_edges(self._settings, number + 1), number)
                if all(_bindable(port) is None for port in ports.values()):
                    return self._put(role, number, self._settings.edge_port + 10 * number, 0)
                continue
            port = self._free(self._settings.origin_port) if role == "origin" else 0
            return self._put(role, number, port, self._free(self._settings.admin_port, port))
        raise Unusable(f"{role}: {len(taken)} is as many as can be")

    def remove(self, name: str) -> None:
        """Forgets it."""
        del self.processes[name]

    def _free(self, first: int, *more: int) -> int:
        taken = {number for one in self.processes.values() for number in (one.port, one.admin)} | set(more)
        for port in range(first, first + _TRIES):
            if port not in taken and _bindable(("127.0.0.1", port)) is None:
                return port
        raise Unusable(f"no port is free between {first} and {first + _TRIES}")

    # The ports of the start

    def ports(self) -> dict[str, Port]:
        """Every port that will be listened on, by the setting that gives it (or what it is)."""
        settings = self._settings
        ports = {
            "front_port": (settings.host, settings.front_port),
            "ingest_port": (settings.vehicle_host, settings.ingest_port),
            "inner_port": ("127.0.0.1", settings.inner_port),
            "haproxy_port": ("127.0.0.1", settings.haproxy_port),
        }
        if settings.mqtt_port:
            ports["mqtt_port"] = (settings.vehicle_host, settings.mqtt_port)
        if len(own := natsserver.addresses(settings)) == 1:
            ports["nats"] = own[0]
        for name in self.named("ingest", "consume", "origin"):
            ports[f"admin_port (of {name})"] = ("127.0.0.1", self.processes[name].admin)
        for name in self.named("origin"):
            ports[f"origin_port (of {name})"] = ("127.0.0.1", self.processes[name].port)
        for number in self.numbers("edge"):
            ports |= edge_ports(settings, number)
        return ports

    def check_ports(self) -> None:
        """Raises Unusable if one is taken, or two are the same."""
        seen: dict[Port, str] = {}
        for name, address in self.ports().items():
            if address in seen:
                raise Unusable(f"{name}: port {address[1]} is also {seen[address]}'s")
            seen[address] = name
            if (why := _bindable(address)) is not None:
                raise Unusable(f"{name}: {why}")


def with_edges(settings: Settings, count: int = 0) -> Settings:
    """The settings with an address for each edge replica (or the first `count`): those given, then the first one's with
    ports ten apart.
    """
    count = count or settings.edges
    given: dict[str, tuple[str, ...]] = {}
    for name in ("edge_sub", "edge_http"):
        addresses = list(getattr(settings, name))[:count]
        host, _, port = addresses[0].rpartition(":")
        addresses += [f"{host}:{int(port) + 10 * number}" for number in range(len(addresses), count)]
        given[name] = tuple(addresses)
    return msgspec.structs.replace(settings, **given)


def edge_ports(settings: Settings, number: int) -> Mapping[str, Port]:
    """Those of one edge replica, by what gives them."""
    return dict(_edge_ports(settings, number))


def _edge_ports(settings: Settings, number: int) -> Iterator[tuple[str, Port]]:
    for offset in range(3):
        yield (
            f"edge_port (edge-{number}, +{offset})",
            ("127.0.0.1", settings.edge_port + 10 * number + offset),
        )
    for setting in ("edge_sub", "edge_http"):
        host, _, port = getattr(settings, setting)[number].rpartition(":")
        yield f"{setting} (of edge-{number})", (host, int(port))


def _bindable(address: Port) -> str | None:
    """None, or why nothing can listen there."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OverflowError:
            return f"there is no port {address[1]}; begin lower"
        except OSError as error:
            return f"port {address[1]} on {address[0]}: {error.strerror}; set another"
    return None

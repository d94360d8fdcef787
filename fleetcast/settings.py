"""Every setting, in one frozen struct: defaults, then a TOML file, then the environment, then the command line.

The environment's names are `FLEETCAST_` and the setting's name in capitals; lists are separated by commas. An unknown
key or a bad value raises `Unusable` with one line that names it.
"""

from __future__ import annotations

import ast
import inspect
import ipaddress
import re
import socket
import tomllib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from fleetcast.errors import Unusable
from fleetcast.views import Views

Address = Annotated[str, msgspec.Meta(pattern=r"^[^:\s]+:[0-9]{1,5}\Z")]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Noun = Annotated[str, msgspec.Meta(pattern=r"^[a-z]{1,20}\Z")]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e8)]
Addresses = Annotated[tuple[Address, ...], msgspec.Meta(min_length=1)]

PREFIX = "FLEETCAST_"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See each field's text; sizes are bytes, times seconds."""

    # Where things are
    data: str = ".fleetcast"
    """The folder of everything that is kept: the queue and the live state, configurations, logs."""
    host: str = "127.0.0.1"
    """What the front door listens on: an IPv4 address, or a name. Other than loopback only with `app_keys` and `front_cert`
    (or `front_plain`)."""
    front_port: Port = 8080
    """The front door: all that apps use."""
    front_cert: str = ""
    """The front door speaks TLS, with HTTP/2, with this certificate (PEM, with its chain). Empty: plain HTTP. `up --tls` sets
    both to a development certificate."""
    front_key: str = ""
    """Its private key (PEM, without a password)."""
    front_plain: bool = False
    """Apps' tokens may cross the network as they are: `host` may be other than loopback without `front_cert`. For a network
    that is yours alone, such as the one behind a proxy that speaks TLS."""
    ingest_port: Port = 8081
    """Where vehicles send packets by HTTP."""
    mqtt_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 1883
    """Where vehicles send packets by MQTT 3.1.1, QoS 1; nats-server itself listens there. 0: nowhere."""
    noun: Noun = "vehicles"
    """What the addresses and the page call the things that send, in the plural: /v1/vehicles. 1 to 20 of a-z. In packets
    and events the field is `vehicle` whatever they are."""
    nats: str = "nats://127.0.0.1:4222"
    """The message queue: nats://host:port. Several servers of one cluster are separated by commas."""
    edge_sub: Addresses = ("127.0.0.1:5562", "127.0.0.1:5572")
    """host:port of each edge replica's ZeroMQ input. A name that resolves to several addresses is as many replicas."""
    edge_http: Addresses = ("127.0.0.1:5561", "127.0.0.1:5571")
    """host:port of each edge replica's HTTP input, used when `publish` is "http"."""
    origin_port: Port = 8090
    """Where an origin listens; only the edge talks to it."""
    admin_port: Port = 8070
    """Where a role answers /live, /ready and /metrics, on loopback."""

    # `up` and `demo` only: how many of each, and the ports between them
    edges: Annotated[int, msgspec.Meta(ge=1, le=16)] = 2
    """Edge replicas that `up` starts."""
    consumers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    """Consume processes that `up` starts."""
    origins: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    """Origin processes that `up` starts."""
    inner_port: Port = 8085
    """HAProxy's inner side: where the edge replicas find the origins."""
    edge_port: Port = 8100
    """The first edge replica listens here, the next one 10 higher; each uses the two ports after it too."""
    haproxy_port: Port = 8086
    """HAProxy's own health and metrics, on loopback."""

    # Identity of vehicles: with neither keys nor a CA any id is welcome, on loopback only
    vehicle_keys: str = ""
    """The file of the keys that vehicles' tokens (JWT) are checked with: public keys in PEM (RSA: RS256, P-256: ES256), a
    JWKS, or, if its name ends in .secret, 32 bytes of text or more (HS256). Read again when it changes."""
    vehicle_issuer: str = ""
    """What a token's `iss` must be; empty: anything."""
    vehicle_audience: str = ""
    """What a token's `aud` must be, or hold; empty: anything."""
    vehicle_ca: str = ""
    """The certificates (PEM) of who signs vehicles' certificates: mutual TLS, the subject's CN is the vehicle. HTTP takes a
    certificate or a token. MQTT demands a certificate, unless there is `vehicle_keys`: then it demands a token."""
    tls_cert: str = ""
    """The vehicles' doors speak TLS with this certificate (PEM, with its chain)."""
    tls_key: str = ""
    """Its private key (PEM)."""
    vehicle_host: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9.-]{1,253}\Z")] = "127.0.0.1"
    """What the vehicles' doors listen on. Other than loopback only with TLS, and `vehicle_keys` or `vehicle_ca`."""
    nats_user: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")] = "fleetcast.roles"
    """With identity nats-server knows our own processes by this name; no vehicle's id holds a dot."""
    nats_password: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9_-]{32,})?\Z")] = ""
    """The password of `nats_user`. 32 or more of A-Z a-z 0-9 _ -. Empty: `up` makes one and keeps it in `data`."""
    nats_seed: Annotated[str, msgspec.Meta(pattern=r"^(SA[A-Z2-7]{56})?\Z")] = ""
    """The account key (nkey seed) by which ingest signs who may connect by MQTT. Empty: `up` makes one and keeps it in
    `data`."""
    nats_log: str = ""
    """nats-server's log, in which ingest finds what vehicles were forbidden by MQTT. `up` sets it to its own nats-server's."""

    # The queue
    partitions: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16
    """Units of ownership, so the most consume processes that can share the work; each costs nats-server and consume some
    work of its own. Fixed once the packet stream exists."""
    queue_bytes: Count = 10_000_000_000
    """What the packet stream may hold before it refuses: size it for the longest outage of the consumers."""
    live_bytes: Count = 10_000_000_000
    """What states and windows together may take before commits wait: 10 minutes of updates, and the states."""
    rejected_bytes: Count = 1_000_000_000
    """What REJECTED may hold before consumption waits for somebody to look at it."""
    streams_bytes: Count = 256_000_000
    """What the streams of many vehicles that apps asked for may take before the oldest give way: some 80 kB the largest."""
    duplicate_window: Seconds = 120.0
    """How long the queue itself recognises a repeated packet; nats-server forgets it when it restarts. The states recognise
    the last 64 of a vehicle for ever."""
    replicas: Literal[1, 3, 5] = 1
    """Copies of each stream, on as many nats-servers."""
    member: str = ""
    """This consume process's steady name; empty: host name and process id."""
    member_timeout: Seconds = 3.0
    """How long a consume process may be silent before the others take over its partitions."""
    batch_packets: Annotated[int, msgspec.Meta(ge=1, le=400)] = 64
    """Packets a commit covers at most."""
    state_cache: Count = 50_000
    """States a consume process keeps decoded."""
    enrichers: tuple[str, ...] = (
        "fleetcast.enrich.motion",
        "fleetcast.enrich.tyres",
        "fleetcast.enrich.belts",
        "fleetcast.enrich.doors",
    )
    """Business logic, in order: `module` (its `enrich`) or `module:function`."""

    # Time and poison
    clock_ahead: Seconds = 10.0
    """How far a vehicle's time may be ahead of the moment in which its packet is stored. What is beyond is shown as of that
    moment, and marked `skewed`."""
    clock_behind: Seconds = 604_800.0
    """The same for times behind it: the longest that vehicles keep packets to send them later. The default is 7 days."""
    poison_packets: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 200
    """A consume process stops before nine tenths of the last so many packets that it handled are rejected; some so many are
    in REJECTED then, all others still in the queue. 0: it never stops."""
    poison_vehicles: Count = 10
    """It stops only if the rejected ones are from at least so many vehicles."""
    # The registry
    registry: str = ""
    """Where it is kept which vehicles there are: empty for the bucket VEHICLES in nats-server, or `module:function`, which
    makes one from these settings."""
    unknown_vehicles: Literal["", "welcome", "refuse"] = ""
    """Whether a vehicle that is not in the registry may send. Empty: welcome as long as vehicles need not prove who they are
    (open for development), refused otherwise. One that is disabled there is refused in any case."""

    # Status: live, quiet, offline
    expected_every: Annotated[float, msgspec.Meta(ge=0, le=1e8)] = 60.0
    """How often a vehicle is expected to send, in seconds, if the registry does not say. 0: a vehicle that is not in the
    registry has no status."""
    quiet_after: Annotated[float, msgspec.Meta(ge=1, le=1000)] = 1.5
    """A vehicle is quiet after so many expected intervals without a packet."""
    offline_after: Annotated[float, msgspec.Meta(ge=1, le=100_000)] = 10.0
    """And offline after so many; not less than `quiet_after`."""

    # Limits
    max_packet: Annotated[int, msgspec.Meta(ge=1024, le=8_000_000)] = 1_048_576
    """A packet's size, as sent and when inflated."""
    max_state: Annotated[int, msgspec.Meta(ge=1024, le=8_000_000)] = 4_000_000
    """A state's and an update's size as JSON; a packet that would exceed it goes to REJECTED."""
    max_batch: Annotated[int, msgspec.Meta(ge=1024, le=1_000_000_000)] = 16_777_216
    """The size of a request that carries many packets, as sent; ingest holds that much of each such request."""
    packets_per_minute: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 1_200
    """What a vehicle may send by HTTP to one ingest process, a minute's worth at once; then 429. By MQTT, with identity, the
    same; then its connection is closed. 0: no limit."""
    bytes_per_minute: Annotated[int, msgspec.Meta(ge=0, le=10**15)] = 1_500_000_000
    """The same in bytes of packets, as sent. 0: no limit, else at least `max_packet`."""
    decoders: tuple[str, ...] = (
        "fleetcast.decode.json",
        "fleetcast.decode.ndjson",
        "fleetcast.decode.msgpack",
        "fleetcast.decode.auto",
    )
    """The forms that packets may come in: `module` (its `DECODER`) or `module:NAME`."""

    # Who may see what: without keys everybody sees everything, on loopback only
    app_keys: str = ""
    """The file of the keys that apps' tokens (JWT) are checked with, as `vehicle_keys` has them. Empty: everything is open."""
    app_issuer: str = ""
    """What an app token's `iss` must be; empty: anything."""
    app_audience: str = ""
    """What an app token's `aud` must be, or hold; empty: anything."""
    app_resolver: str = ""
    """`module:function`, an `async` one that gets a token's claims and a vehicle's id and says whether it may be seen: it
    alone decides then. Empty: the token's claims `vehicles` and `fleets` say it."""
    resolver_seconds: Seconds = 300.0
    """How long an open stream may live on one answer of `app_resolver`; then it is closed, and asked for when it is back."""
    ticket_seconds: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 60.0
    """How long a ticket can open streams. A stream that it opened lives as long as the token that the ticket is of."""
    ticket_key: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9_-]{32,})?\Z")] = ""
    """The key by which origins sign tickets. 32 or more of A-Z a-z 0-9 _ -. Empty: `up` makes one and keeps it in `data`."""
    revoked_seconds: Seconds = 2_592_000.0
    """How long a revocation is kept, and so the most that an app token may have left: 30 days."""
    streams_seconds: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 3600.0
    """How long a stream of many vehicles can be opened after it was asked for. One that is open goes on."""

    # The edge
    window: Seconds = 600.0
    """How long an update can be replayed to a phone that comes back."""
    views: tuple[str, ...] = (
        (
            "summary: Vehicle.LowVoltageSystemState Vehicle.IsMoving Vehicle.Speed Vehicle.TraveledDistance"
            " Vehicle.StartTime Vehicle.TraveledDistanceSinceStart Vehicle.Powertrain.Range"
            " Vehicle.Powertrain.FuelSystem.RelativeLevel Vehicle.Powertrain.TractionBattery.StateOfCharge.Displayed"
            " Vehicle.Powertrain.TractionBattery.Charging.IsCharging Vehicle.Exterior.AirTemperature"
            " Vehicle.Diagnostics.DTCCount Fleetcast.*.*"
        ),
        "tyres: Vehicle.Chassis.Axle.*.Wheel.*.Tire.* Fleetcast.Tyres.*",
        (
            "security: Vehicle.LowVoltageSystemState Vehicle.IsMoving Vehicle.Cabin.Door.*.*.IsOpen"
            " Vehicle.Cabin.Door.*.*.IsLocked Vehicle.Cabin.Door.*.*.Window.IsOpen Vehicle.Body.Trunk.*.IsOpen"
            " Vehicle.Body.Trunk.*.IsLocked Vehicle.Body.Hood.IsOpen Fleetcast.Doors.*"
        ),
        "location: Vehicle.CurrentLocation.**",
    )
    """Named sets of signals that an app can ask for (`?view=`), beside `all`, which is every signal: `name: glob glob …`, where
    `*` is one level of a path, `**` any number. Where the car is, is only in views that name Vehicle.CurrentLocation."""
    urgent: tuple[str, ...] = (
        "Fleetcast.Belts.Unbelted",
        "Fleetcast.Tyres.Low",
        "Fleetcast.Doors.OpenWhileMoving",
    )
    """Signals that calm streams (`?every=`) do not hold back: globs as in `views`. An update that brings another value of one
    passes at once, with what waited before it."""
    publish: Literal["zmq", "http"] = "zmq"
    """By ZeroMQ to the replicas that listen, or by HTTP POST to all of them."""
    sig_key: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9_-]{32,})?\Z")] = ""
    """The key by which the edge signs its requests to origin. 32 or more of A-Z a-z 0-9 _ -. Empty: `up` makes
    one and keeps it in `data`."""
    next_poll: Annotated[int, msgspec.Meta(ge=5, le=600)] = 25
    """A lost last update is healed after at most this many seconds, plus 15 (the links differ a little)."""
    keep_alive: Annotated[int, msgspec.Meta(ge=1, le=60)] = 25
    """A comment is sent on an idle stream this often. HAProxy's timeouts are three times as long."""
    new_streams: Count = 1000
    """New streams a second that the front lets through. It also lets at most 64 wait for their answer, so this
    bounds no more than what fast machines do at once."""
    edge_connections: Annotated[int, msgspec.Meta(ge=20, le=500_000)] = 3_500
    """Phones a replica takes. Pushpin itself is given more, since it stops altogether at its own limit."""

    log: Literal["auto", "text", "json"] = "auto"
    """Logs for people or for machines; auto: text on a terminal."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """debug says each packet."""

    @property
    def nats_servers(self) -> list[str]:
        """Each address of the setting `nats`."""
        return [part.strip() for part in self.nats.split(",") if part.strip()]

    @property
    def identity(self) -> bool:
        """Whether vehicles must prove who they are."""
        return bool(self.vehicle_keys or self.vehicle_ca)

    @property
    def mqtt_identity(self) -> bool:
        """Whether nats-server asks ingest who may connect by MQTT, and knows our own processes by a password."""
        return self.identity and self.mqtt_port > 0

    @property
    def mqtt_certificates(self) -> bool:
        """Whether the MQTT door demands a certificate of each vehicle: nats-server can demand one, or not ask for it."""
        return bool(self.vehicle_ca) and not self.vehicle_keys

    def checked(self) -> Settings:
        """Itself, if what goes together goes together. Raises Unusable."""
        self._check_front()
        Views(self.views, self.urgent)
        self._check_identity()
        for name in ("app_issuer", "app_audience", "app_resolver"):
            if getattr(self, name) and not self.app_keys:
                raise Unusable(f"{name}: is about apps' tokens, which nothing can check without app_keys")
        if self.max_state < self.max_packet:
            raise Unusable(f"max_state: {self.max_state} is less than max_packet ({self.max_packet})")
        if self.offline_after < self.quiet_after:
            raise Unusable(
                f"offline_after: {self.offline_after} is less than quiet_after ({self.quiet_after}): nobody is offline first"
            )
        if 0 < self.poison_packets < self.poison_vehicles:
            raise Unusable(
                f"poison_packets: {self.poison_packets} packets are never from {self.poison_vehicles} vehicles"
                " (poison_vehicles); 0 turns it off"
            )
        if 0 < self.bytes_per_minute < self.max_packet:
            raise Unusable(
                f"bytes_per_minute: {self.bytes_per_minute} is less than max_packet ({self.max_packet}): packets that"
                " large could never be sent"
            )
        return self

    def _check_front(self) -> None:
        if ":" in self.host:
            raise Unusable(f"host: {self.host}: only IPv4 yet, such as 127.0.0.1")
        if re.fullmatch(r"[A-Za-z0-9.-]{1,253}", self.host) is None:
            raise Unusable(f"host: {self.host!r} is no address to listen on, such as 127.0.0.1")
        if bool(self.front_cert) != bool(self.front_key):
            raise Unusable("front_cert and front_key: there is one without the other")
        if is_loopback(self.host):
            return
        if not self.app_keys:
            raise Unusable(
                f"host: {self.host} is not loopback, and without app_keys everybody sees everything: set app_keys, so that"
                " apps must show tokens, and front_cert and front_key; or keep 127.0.0.1"
            )
        if not (self.front_cert or self.front_plain):
            raise Unusable(
                f"host: {self.host} is not loopback, and tokens would cross the network unencrypted: set front_cert and"
                " front_key, or front_plain = true if that is meant"
            )

    def _check_identity(self) -> None:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise Unusable("tls_cert and tls_key: there is one without the other")
        if self.vehicle_ca and not self.tls_cert:
            raise Unusable(
                "vehicle_ca: a vehicle shows its certificate by TLS only; set tls_cert and tls_key too"
            )
        for name in ("vehicle_issuer", "vehicle_audience"):
            if getattr(self, name) and not self.vehicle_keys:
                raise Unusable(f"{name}: is of tokens, which nothing can check without vehicle_keys")
        if not is_loopback(self.vehicle_host) and not (self.identity and self.tls_cert):
            raise Unusable(
                f"vehicle_host: {self.vehicle_host} is not loopback, and who sends is not known, or not encrypted: set"
                " vehicle_keys or vehicle_ca, and tls_cert and tls_key"
            )


def is_loopback(host: str) -> bool:
    """Whether every address of this host is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        return all(ipaddress.ip_address(info[4][0]).is_loopback for info in socket.getaddrinfo(host, None))
    except OSError:
        return False


def load(
    path: Path | None, environment: Mapping[str, str], given: Mapping[str, Any] | None = None
) -> Settings:
    """The effective settings. `given` comes from the command line. Raises Unusable."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values |= _known(tomllib.loads(path.read_text()), str(path))
        except FileNotFoundError:
            raise Unusable(f"{path}: no such settings file") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise Unusable(f"{path}: {error}") from None
        _converted(values, f"{path}: ", strict=True)
    named = {
        name[len(PREFIX) :].lower(): text for name, text in environment.items() if name.startswith(PREFIX)
    }
    named.pop("config", None)
    texts = _known(named, "environment")
    texts = {key: _split(key, text) for key, text in texts.items()}
    _converted(texts, "environment: ", strict=False)
    values |= texts
    values |= {key: value for key, value in (given or {}).items() if value is not None}
    return _converted(values, "", strict=False).checked()


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The settings with these values in place of theirs; texts are read as the environment's are. Raises Unusable."""
    values = {key: getattr(settings, key) for key in Settings.__struct_fields__}
    for key, value in _known(changes, "--set").items():
        values[key] = _split(key, value) if isinstance(value, str) else value
    return _converted(values, "", strict=False).checked()


def dump(settings: Settings, *, explain: bool = False) -> str:
    """As TOML, each setting on a line; with what it means above it if asked to explain."""
    texts = _meanings() if explain else {}
    lines = []
    for key in Settings.__struct_fields__:
        lines += [
            f"\n# {line}" if number == 0 else f"# {line}" for number, line in enumerate(texts.get(key, ()))
        ]
        lines.append(f"{key} = {_toml(getattr(settings, key))}")
    return "\n".join(lines).lstrip() + "\n"


def _toml(value: object) -> str:
    """JSON's form is TOML's too, but for DEL, which TOML wants escaped."""
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")


def _meanings() -> dict[str, list[str]]:
    """Each field's text, as it stands below the field in this file: one place for what a setting means."""
    tree = ast.parse(inspect.getsource(Settings))
    assert isinstance(tree.body[0], ast.ClassDef)
    texts: dict[str, list[str]] = {}
    for field, text in pairwise(tree.body[0].body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match text:
                case ast.Expr(value=ast.Constant(value=str() as words)):
                    texts[field.target.id] = [line.strip() for line in words.splitlines()]
    return texts


def _known(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    for key in values:
        if key not in Settings.__struct_fields__:
            raise Unusable(f"{source}: {key} is not a setting; `fleetcast settings` prints them all")
    return dict(values)


def _split(key: str, text: str) -> Any:
    many = isinstance(_DEFAULTS[key], tuple)
    return [part.strip() for part in text.split(",") if part.strip()] if many else text


def _converted(values: Mapping[str, Any], source: str, *, strict: bool) -> Settings:
    try:
        return msgspec.convert(values, Settings, strict=strict)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise Unusable(f"{source}{where.rstrip('`')}: {what}") from None


_DEFAULTS = dict(zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True))

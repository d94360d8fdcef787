"""The traps of the engines' configurations, as checks on their text. Pure.

Each was reproduced: docs/architecture.md has the table with the figures. `fleetcast doctor` runs them on what we render and
on configurations that operators wrote themselves, since production has its own files.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from fleetcast.many import MOST
from fleetcast.nats_jwt import AccountKey
from fleetcast.pushpin import client_maxconn
from fleetcast.settings import Settings

_EPHEMERAL = 32768
_HEAD = 73_000  # bytes of the longest head between edge and origin: a stream of 400 vehicles
_PAGE = 200  # streams that a page may well have


class Finding(msgspec.Struct, frozen=True):
    """One thing looked at: whether it is well, what it is, and if not, how to mend it."""

    well: bool
    what: str
    mend: str = ""


def pushpin(text: str, routes: str, settings: Settings) -> Iterator[Finding]:
    """Findings on a pushpin.conf and its routes file."""
    config = configparser.ConfigParser(
        interpolation=None, strict=False, delimiters=("=",), comment_prefixes=("#",)
    )
    try:
        config.read_string(text)
    except configparser.Error as error:
        yield Finding(well=False, what="pushpin.conf can be read", mend=str(error).splitlines()[0])
        return

    def value(section: str, key: str, default: str = "") -> str:
        return config.get(section, key, fallback=default).strip()

    def number(section: str, key: str, default: int) -> int:
        found = value(section, key, str(default))
        return int(found) if found.lstrip("-").isdigit() else default

    def check(well: object, what: str, mend: str) -> Finding:
        return Finding(bool(well), f"pushpin: {what}", "" if well else mend)

    services = [name.strip() for name in value("runner", "services").split(",")]
    zurl = [value("proxy", key) for key in ("zurl_out_specs", "zurl_out_stream_specs", "zurl_in_specs")]
    key, listen = value("proxy", "sig_key", "changeme"), value("runner", "http_port")
    body = number("handler", "push_in_max_body_size", 1_000_000)
    first = next((line for line in routes.splitlines() if line.strip() and not line.startswith("#")), "")
    yield check(
        number("handler", "message_rate", 2500) == 0,
        "message_rate=0",
        "with a rate, messages closer together than 25 ms wait for a pause: set message_rate=0",
    )
    yield check(
        number("handler", "message_hwm", 25000) == 0,
        "message_hwm=0",
        "beyond it messages are dropped: set message_hwm=0",
    )
    yield check(
        "zurl" in services and all("{rundir}" in spec for spec in zurl),
        "its own zurl",
        "every request hangs unless a system zurl runs: add zurl to services, the zurl specs below {rundir}",
    )
    yield check(
        value("global", "port_offset", "0") == "0",
        "port_offset=0",
        "it shifts the ports of other instances too: set 0 and give each port",
    )
    yield check(
        number("runner", "log_level", 2) == 1,
        "log_level=1",
        "level 2 writes each URL with its query, tokens included, into the log",
    )
    yield check(
        number("runner", "client_maxconn", 50_000) >= client_maxconn(settings),
        f"client_maxconn above HAProxy's limit ({settings.edge_connections})",
        f"Pushpin stops altogether when it is reached: set at least {client_maxconn(settings)}",
    )
    yield check(
        not value("proxy", "stats_spec", "of internal.conf"),
        "no stats_spec of its proxy",
        "beyond 2 * client_maxconn requests held in a minute it ends, and all streams: set stats_spec= under [proxy]",
    )
    yield check(
        number("handler", "connection_subscription_max", 20) >= MOST + 10,
        "connection_subscription_max=500",
        "channels beyond it are cut silently",
    )
    yield check(
        body >= settings.max_state,
        f"push_in_max_body_size of at least {settings.max_state}",
        "larger states are refused when publishing by HTTP (push_in_http_max_body_size is ignored in 1.36)",
    )
    yield check(
        key not in ("", "changeme"),
        "sig_key is a secret",
        "anybody could sign as the edge: set a random sig_key, the same in setting sig_key",
    )
    yield check(
        settings.sig_key in ("", key),
        "sig_key is the setting's",
        "origins refuse every request: set the same key in both",
    )
    yield check(
        ":" in listen,
        "http_port names an address",
        "a bare port listens on all addresses, past the front: write 127.0.0.1:PORT, or firewall it",
    )
    yield check(
        all(port < _EPHEMERAL for port in _ports(text)),
        "ports below 32768",
        "the kernel gives ports from 32768 on to clients: use lower ones",
    )
    yield check(
        first.split() == ["alive.invalid", "test"],
        "the first route answers the health check",
        "an origin outage would mark the edge down and cut its streams: make `alive.invalid test` the first route",
    )
    yield check(
        all(",over_http" in line for line in routes.splitlines() if line.startswith("*")),
        "WebSockets reach origins as requests",
        "origins speak no WebSocket, so none would open: end each target with `,over_http`",
    )
    yield check(
        value("proxy", "auto_cross_origin", "false") == "false",
        "auto_cross_origin=false",
        "it reflects any origin with credentials",
    )


_SECTION = re.compile(r"^(?=(?:global|defaults|frontend|backend|listen)\b)", re.MULTILINE)
_ASKS_LIVE = re.compile(
    r"^\s*(?:option httpchk|http-check send)\b.*/live\b", re.MULTILINE
)  # an origin's check


def haproxy(text: str, settings: Settings) -> Iterator[Finding]:
    """Findings on a haproxy.cfg."""

    def check(pattern: str, what: str, mend: str) -> Finding:
        well = re.search(pattern, text, re.MULTILINE) is not None
        return Finding(well, f"haproxy: {what}", "" if well else mend)

    def seconds(name: str) -> float:
        found = [
            _seconds(amount) for amount in re.findall(rf"^\s*timeout {name}\s+(\S+)", text, re.MULTILINE)
        ]
        return max(found, default=0.0)

    yield check(
        r"^\s*option http-no-delay", "option http-no-delay", "each small event waits 200 ms without it"
    )
    yield check(
        r"^\s*option abortonclose",
        "option abortonclose",
        "streams of phones that went away live on without it",
    )
    yield check(
        r"^\s*http-check .*alive\.invalid",
        "the health check ends inside Pushpin",
        "a check that reaches an origin cuts all streams when an origin is down: send Host alive.invalid",
    )
    yield check(
        r"on-marked-down shutdown-sessions",
        "a dead edge's streams are cut",
        "phones on a hung edge never move: default-server … on-marked-down shutdown-sessions",
    )
    yield check(
        r"lua\.pace",
        "new streams are paced",
        "1,000 connects at once end in hundreds of errors: load pace.lua, http-request lua.pace on /events",
    )
    yield check(
        r"^\s*http-after-response set-status 200",
        "failures of streams are told in band",
        "an EventSource gives up for good on a 503: answer 200 with an unavailable event",
    )
    yield check(
        r"^[^#\n]*\burlp?(_param)?\(wait\)",
        "long-polls have a backend of their own",
        "held among the plain requests they fill that pool: use_backend polls if … { url_param(wait) -m found }",
    )
    yield check(
        r"^\s*tune\.pool-high-fd-ratio\s+(9\d|100)",
        "connections to origins are kept",
        "with a quarter of its files in use each request opens one: tune.pool-low-fd-ratio 95, tune.pool-high-fd-ratio 98",
    )
    origins = [section for section in _SECTION.split(text) if _ASKS_LIVE.search(section)]
    well = bool(origins) and all(re.search(r"\bmaxconn \d", section) for section in origins)
    yield Finding(
        well,
        "haproxy: origins are asked so many requests at a time",
        "" if well else "one that is only busy is taken for dead, then the next: default-server … maxconn 32",
    )
    for name, default, least in (("http.maxhdr", 101, MOST + 50), ("bufsize", 16_384, _HEAD)):
        found = re.search(rf"^\s*tune\.{name}\s+(\d+)", text, re.MULTILINE)
        well = (int(found[1]) if found else default) >= least
        mend = (
            ""
            if well
            else f"a stream of {MOST} vehicles does not pass, where it balances origins: set at least {least}"
        )
        yield Finding(well, f"haproxy: tune.{name} of at least {least}", mend)
    edges = re.findall(r"^\s*default-server check .*on-marked-down.*", text, re.MULTILINE)
    limits = [int(found[1]) for line in edges if (found := re.search(r"\bmaxconn (\d+)", line))]
    well = 0 < len(limits) == len(edges) and sum(limits) < client_maxconn(settings)
    yield Finding(
        well,
        "haproxy: maxconn of the edge below Pushpin's own",
        ""
        if well
        else f"Pushpin stops altogether at its limit: together less than {client_maxconn(settings)}",
    )
    yield from _tls(text, settings)
    for name in ("client", "server"):
        well = seconds(name) >= 2 * settings.keep_alive
        mend = (
            "" if well else f"idle streams are cut between keep-alives: at least {2 * settings.keep_alive} s"
        )
        yield Finding(well, f"haproxy: timeout {name} above the keep-alive", mend)


def _tls(text: str, settings: Settings) -> Iterator[Finding]:
    binds = re.findall(r"^\s*bind\s.*\bssl\b.*", text, re.MULTILINE)
    if settings.front_cert:
        well = any(f":{settings.front_port} " in line for line in binds)
        mend = "" if well else "the setting front_cert says so: bind … ssl crt FILE alpn h2,http/1.1"
        yield Finding(well, f"haproxy: port {settings.front_port} speaks TLS", mend)
    if binds:
        well = all(re.search(r"\balpn\s+\S*\bh2\b", line) for line in binds)
        mend = (
            "" if well else "over HTTP/1.1 a page's seventh stream hangs without an error: alpn h2,http/1.1"
        )
        yield Finding(well, "haproxy: HTTP/2 where it speaks TLS", mend)
        found = re.search(r"^\s*tune\.h2\.max-concurrent-streams\s+(\d+)", text, re.MULTILINE)
        well = (int(found[1]) if found else 100) >= _PAGE
        mend = "" if well else f"a page's streams beyond it hang without an error: set at least {_PAGE}"
        yield Finding(well, "haproxy: tune.h2.max-concurrent-streams above a page's streams", mend)


def nats(text: str, settings: Settings) -> Iterator[Finding]:
    """Findings on a nats.conf."""
    well = re.search(r"sync_interval\s*[:=]?\s*\"?always", text) is not None
    yield Finding(
        well,
        "nats: sync_interval always",
        "" if well else "acknowledged packets are lost in a power cut: set it in jetstream {}",
    )
    payload = re.search(r"max_payload\s*[:=]?\s*\"?(\d+)\s*([kKmM]?)[bB]?", text)
    size = int(payload[1]) * {"": 1, "k": 1000, "m": 1_000_000}[payload[2].lower()] if payload else 1_048_576
    well = size >= settings.max_packet + 65_536
    mend = "" if well else f"a packet of {settings.max_packet} bytes and its headers do not pass: 2MB"
    yield Finding(well, "nats: max_payload above the largest packet", mend)
    well = re.search(r"max_buffered_size", text) is not None
    mend = (
        ""
        if well
        else "a burst of large packets ends the connections: set max_buffered_size: 1GB in jetstream {}"
    )
    yield Finding(well, "nats: max_buffered_size", mend)
    if re.search(r"^\s*mqtt\s*\{", text, re.MULTILINE):
        for key, why in (
            ("js_api_timeout", 'a burst of large packets ends the connections: set "20s"'),
            ("reject_qos2_publish", "QoS 2 is stored in another stream, and never comes: set true"),
        ):
            well = re.search(rf"^\s*{key}\b", text, re.MULTILINE) is not None
            yield Finding(well, f"nats: mqtt {key}", "" if well else why)
    if settings.mqtt_identity:
        yield from authorization(text, settings)


def authorization(text: str, settings: Settings) -> Iterator[Finding]:
    """Findings on a nats.conf whose vehicles prove who they are. Without one of these anybody is let in, or nobody."""
    try:
        issuer = AccountKey(settings.nats_seed).public
    except ValueError:
        issuer = ""
    users = rf'user\s*[:=]?\s*"?{re.escape(settings.nats_user)}'
    for pattern, what, why in (
        (
            r"^\s*auth_callout\s*[:=]?\s*\{",
            "asks ingest who may connect (auth_callout)",
            "any client is let in: take the authorization block from run/nats.conf of an `up` with these settings",
        ),
        (
            rf"\bissuer\s*[:=]?\s*\"?{issuer}\b" if issuer else r"\Z.",
            "auth_callout trusts the key nats_seed",
            "no vehicle is let in: `issuer` must be the public key of nats_seed, the same for all",
        ),
        (
            rf'{users}"?[\s,}}]',
            "knows nats_user",
            "our own processes are not let in: name it in authorization",
        ),
        (
            r"^\s*system_account\b",
            "has a system account",
            "connections are neither counted nor closed: set system_account, and a user in it",
        ),
    ):
        well = re.search(pattern, text, re.MULTILINE) is not None
        yield Finding(well, f"nats: {what}", "" if well else why)
    well = re.search(r"^[^#\n]*\bno_auth_user\b", text, re.MULTILINE) is None
    mend = "" if well else "whoever shows nothing is let in as that user: take it out"
    yield Finding(well, "nats: nobody is let in without credentials", mend)


def stream(name: str, config: dict[str, object], wanted: dict[str, object]) -> Iterator[Finding]:
    """Findings on a stream as it exists, against what it must be."""
    for key, value in wanted.items():
        if key in ("name", "metadata") or (found := config.get(key, False)) == value:
            continue
        loses = key in (
            "retention",
            "discard",
            "subject_transform",
            "allow_atomic",
            "allow_msg_ttl",
            "max_msgs_per_subject",
        )
        mend = (
            "it must not run like this: back up, delete the stream, start again"
            if loses
            else "edit the stream, or the setting"
        )
        yield Finding(well=False, what=f"stream {name}: {key} is {found!r}, not {value!r}", mend=mend)


def copies(name: str, info: Mapping[str, Any]) -> Iterator[Finding]:
    """Findings on a replicated stream's copies, from its STREAM.INFO."""
    for copy in (info.get("cluster") or {}).get("replicas") or ():
        if copy.get("offline") or not copy.get("current"):
            how = "is away" if copy.get("offline") else f"lags by {copy.get('lag', 0)} operations"
            mend = "see that server's log; while it lasts, one more that fails stops everything"
            yield Finding(well=False, what=f"stream {name}: the copy on {copy.get('name')} {how}", mend=mend)


def _ports(text: str) -> list[int]:
    return [int(port) for port in re.findall(r"(?:tcp://[^\s,]*:|_port=(?:[^\s:]*:)?)(\d{2,5})\b", text)]


def _seconds(amount: str) -> float:
    match = re.fullmatch(r"(\d+)(us|ms|s|m|h|d)?", amount)
    units: dict[str | None, float] = {
        "us": 1e-6,
        "ms": 1e-3,
        None: 1e-3,
        "s": 1,
        "m": 60,
        "h": 3600,
        "d": 86400,
    }
    return int(match[1]) * units[match[2]] if match else 0.0

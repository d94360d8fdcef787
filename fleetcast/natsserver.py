"""nats-server's configuration: JetStream in the data folder, every acknowledgement on disk; alone, or one of a cluster."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from fleetcast.errors import Unusable
from fleetcast.nats_jwt import AccountKey
from fleetcast.settings import Settings

_FEWEST_CONNECTIONS, _MOST_CONNECTIONS = 100, 1_000_000


class Node(msgspec.Struct, frozen=True):
    """One nats-server of a cluster: its name there, what it listens on, and host:port of all nodes for each other."""

    name: str
    host: str
    port: int
    cluster_port: int
    routes: Sequence[str]


def addresses(settings: Settings) -> list[tuple[str, int]]:
    """Host and port of each server of the setting `nats`. Raises Unusable."""
    found = [_address(server) for server in settings.nats_servers]
    if not found:
        raise Unusable("nats: is empty, and not nats://host:port")
    return found


def address(settings: Settings) -> tuple[str, int]:
    """The one of a platform that runs its own nats-server. Raises Unusable."""
    first, *others = addresses(settings)
    if others or settings.replicas > 1:
        raise Unusable(
            "nats: `up` runs one nats-server, with one address and replicas = 1. Of a cluster, run the servers and the"
            ' roles yourself: "Three nats-servers" in docs/operations.md'
        )
    return first


def _address(server: str) -> tuple[str, int]:
    try:
        parts = urlsplit(server)
        port = parts.port
    except ValueError:
        port = None
    if port is None or parts.scheme != "nats" or not parts.hostname:
        raise Unusable(f"nats: {server} is not nats://host:port")
    return parts.hostname, port


def configuration(settings: Settings, store: Path, node: Node | None = None, *, mqtt: bool = False) -> str:
    """The text of nats.conf. `mqtt`: with the vehicles' door. Not before the packet stream is made: the first MQTT client
    would make one itself, which acknowledges what it loses.

    `sync_interval: always`: by default an acknowledged message may sit in the page cache for two minutes, and a power cut
    takes it. `max_payload` leaves room for a packet's headers, and for a state, which may be larger than a packet.
    """
    host, port = address(settings) if node is None else (node.host, node.port)
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = _connections(allowed)
    payload = max(2_000_000, settings.max_packet + 65_536)
    files = settings.queue_bytes + settings.live_bytes + settings.rejected_bytes + 1_000_000_000
    return (
        f"""\
listen: "{host}:{port}"
server_name: {"fleetcast" if node is None else node.name}
max_payload: {payload}
max_pending: 256MB
max_connections: {connections}
write_deadline: "30s"
jetstream {{
  store_dir: {str(store)!r}
  sync_interval: always
  max_file_store: {files}
  max_buffered_size: 1GB
}}
"""
        + (_authorization(settings) if settings.mqtt_identity else "")
        + (_mqtt(settings) if mqtt and settings.mqtt_port else "")
        + ("" if node is None else _cluster(node))
    )


def _connections(files: int) -> int:
    """Fewer than the files that it may open, or it could not write, and all would stand still. What is above is refused."""
    if files == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(_FEWEST_CONNECTIONS, min(_MOST_CONNECTIONS, files - max(200, files // 10)))


def _mqtt(settings: Settings) -> str:
    """`js_api_timeout`: how long a publish may wait for its store; by default a burst of large packets ends connections.

    QoS 2 is refused: it is stored in a stream of its own first, and acknowledged in another way.
    """
    return f"""\
mqtt {{
  listen: "{settings.vehicle_host}:{settings.mqtt_port}"
  js_api_timeout: "20s"
  stream_replicas: {settings.replicas}
  reject_qos2_publish: true
{_tls(settings) if settings.tls_cert else ""}}}
"""


def _tls(settings: Settings) -> str:
    """TLS 1.2 is nats-server's least by itself."""
    paths = {"cert_file": settings.tls_cert, "key_file": settings.tls_key}
    if settings.mqtt_certificates:
        paths["ca_file"] = settings.vehicle_ca
    lines = [f"    {name}: {_quoted(Path(path).absolute())}\n" for name, path in paths.items()]
    verify = "    verify: true\n" if settings.mqtt_certificates else ""
    return f"  tls {{\n{''.join(lines)}{verify}    timeout: 5\n  }}\n"


def system_user(settings: Settings) -> str:
    """Who may look at connections and close them; the password is that of `nats_user`."""
    return f"{settings.nats_user}.system"


def _authorization(settings: Settings) -> str:
    """Our own processes have a password; of everybody else ingest is asked (auth callout), which answers for vehicles by MQTT.

    All of them are in the default account, where the streams are with and without identity. `timeout`: what a connection
    waits for ingest's answer. The callout is not encrypted (xkey): it stays within nats-server and our own connections.
    """
    try:
        issuer = AccountKey(settings.nats_seed).public
    except ValueError:
        raise Unusable("nats_seed: missing, or no seed of an account key; `up` makes one") from None
    if not settings.nats_password:
        raise Unusable("nats_password: missing; `up` makes one")
    ours, system = (
        f'{{ user: "{user}", password: "{settings.nats_password}", allowed_connection_types: ["STANDARD"] }}'
        for user in (settings.nats_user, system_user(settings))
    )
    return f"""\
system_account: SYS
accounts {{
  SYS {{ users: [{system}] }}
}}
authorization {{
  timeout: 5
  users: [{ours}]
  auth_callout {{
    issuer: {issuer}
    auth_users: ["{settings.nats_user}", "{system_user(settings)}"]
  }}
}}
"""


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _cluster(node: Node) -> str:
    """`no_advertise`: clients know all servers from their settings, and reach them as those say.

    `ping_interval`: a node that hangs, or is cut off, goes on being asked by the others until they close their connections to
    it; by default that takes minutes, here 6 s.
    """
    routes = ", ".join(f'"nats://{route}"' for route in node.routes)
    return f"""\
cluster {{
  name: fleetcast
  listen: "{node.host}:{node.cluster_port}"
  routes: [{routes}]
  no_advertise: true
  ping_interval: "2s"
  ping_max: 2
}}
"""

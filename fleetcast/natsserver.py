"""nats-server's configuration, for one machine: JetStream in the data folder, every acknowledgement on disk."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from fleetcast.errors import Unusable
from fleetcast.settings import Settings


def address(settings: Settings) -> tuple[str, int]:
    """Host and port of the setting `nats`. Raises Unusable."""
    try:
        parts = urlsplit(settings.nats)
        port = parts.port
    except ValueError:
        port = None
    if port is None or parts.scheme != "nats" or not parts.hostname:
        raise Unusable(f"nats: {settings.nats} is not nats://host:port")
    return parts.hostname, port


def configuration(settings: Settings, store: Path) -> str:
    """The text of nats.conf.

    `sync_interval: always`: by default an acknowledged message may sit in the page cache for two minutes, and a power cut
    takes it. `max_payload` leaves room for a packet's headers, and for a state, which may be larger than a packet.
    """
    host, port = address(settings)
    payload = max(2_000_000, settings.max_packet + 65_536)
    files = settings.queue_bytes + settings.live_bytes + settings.rejected_bytes + 1_000_000_000
    return f"""\
listen: "{host}:{port}"
server_name: fleetcast
max_payload: {payload}
max_pending: 256MB
write_deadline: "30s"
jetstream {{
  store_dir: {str(store)!r}
  sync_interval: always
  max_file_store: {files}
  max_buffered_size: 1GB
}}
"""

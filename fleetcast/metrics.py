"""Every metric, with what it means when it rises. Served by each role at /metrics, in Prometheus' format."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# Ingest; each packet of a batch counts. Acked rises with the fleet; refused rising means vehicles send what the protocol
# forbids (the log has the reason), or, of status 429, more than they may; unavailable rising means that the queue is full, or
# gone: vehicles keep their packets and try again.
ACKED = Counter("fleetcast_acked_total", "Packets acknowledged, after the durable store")
DUPLICATES = Counter("fleetcast_duplicates_total", "Packets acknowledged that had been stored before")
REFUSED = Counter("fleetcast_refused_total", "Packets and requests refused with a 4xx", ["status"])
UNAVAILABLE = Counter("fleetcast_unavailable_total", "Packets answered with 503")
UNIDENTIFIED = Counter(
    "fleetcast_unidentified_total",
    "Vehicles turned away because they did not prove who they are, or are another",
    ["door", "reason"],
)
MQTT_CONNECTIONS = Gauge("fleetcast_mqtt_connections", "Vehicles connected by MQTT, with identity")
MQTT_FORBIDDEN = Counter(
    "fleetcast_mqtt_forbidden_total",
    "Publishes to what is not the vehicle's own: nats-server acknowledges and drops them",
)
MQTT_CLOSED = Counter(
    "fleetcast_mqtt_closed_total",
    "Connections of vehicles that ingest had closed: forbidden, budget, unwelcome (the registry)",
    ["reason"],
)
STORED_BYTES = Counter("fleetcast_stored_bytes_total", "Bytes of packets as stored")
STORE_SECONDS = Histogram(
    "fleetcast_store_seconds",
    "From the packet read to its durable store: the disk's fsync, mostly",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5),
)

# Consume. Applied follows acked; if it falls behind, add consume processes. Repeated rises after a takeover, a little.
# Rejected rising means bad packets, or a bad deploy of an enricher: look into REJECTED. Recoveries rise with each
# takeover; many without one mean that two processes fight, or that messages get lost on the way. Late and skewed are about
# the vehicles: `fleetcast explain VEHICLE` counts them for one; skewed rising after a release of theirs is a broken clock.
# Poisoned 1: look into REJECTED, roll back, restart; if the last good process is gone too, the queue fills until it refuses.
APPLIED = Counter("fleetcast_applied_total", "Packets applied to a state: one version, one update each")
REPEATED = Counter(
    "fleetcast_repeated_total", "Packets that a state already included, and that were only acked"
)
# Statuses follows the fleet's comings and goings; quiet rising for all at once is an outage, ours or the network's.
STATUSES = Counter("fleetcast_statuses_total", "Changes of vehicles' status that were committed", ["status"])
REJECTED = Counter("fleetcast_rejected_total", "Packets put into REJECTED")
LATE = Counter("fleetcast_late_total", "Packets applied after a newer one of their vehicle")
SKEWED = Counter("fleetcast_skewed_total", "Packets applied with a time that was not believed")
POISONED = Gauge(
    "fleetcast_poisoned", "1: this process consumes nothing more, since nearly all would be rejected"
)
RECOVERIES = Counter(
    "fleetcast_recoveries_total", "Times that what was held of partitions was thrown away and reloaded"
)
PARTITIONS = Gauge(
    "fleetcast_partitions", "Partitions that this process owns; the sum over all is the setting's"
)
AGE_SECONDS = Histogram(
    "fleetcast_age_seconds",
    "From a packet's store to its update's publishing, by the platform's clock: the backlog when it rises",
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 15, 60),
)

# The edge, as consume sees it. Published and skipped add up to the updates: skipped is what nobody listened to. Failed
# rising means that a replica does not take what it is sent: its phones are healed by the chain, late. Connected below
# the number of replicas means that one is away, or that an address is wrong.
PUBLISHED = Counter(
    "fleetcast_published_total", "Updates published to at least one edge replica, of whichever view"
)
PUBLISHED_ITEMS = Counter("fleetcast_published_items_total", "Items sent, one a replica", ["replica"])
PUBLISHED_BYTES = Counter("fleetcast_published_bytes_total", "Bytes of items sent", ["replica"])
SKIPPED = Counter(
    "fleetcast_skipped_total", "Updates that no replica had a listener for: no bytes, no encoding"
)
PUBLISH_FAILED = Counter("fleetcast_publish_failed_total", "Items that a replica did not take", ["replica"])
EDGES_CONNECTED = Gauge("fleetcast_edges_connected", "Edge replicas that this process is connected to")
EDGE_SINCE = Gauge(
    "fleetcast_edge_connected_since_seconds",
    "When the connection to a replica began, by our clock; 0: away",
    ["replica"],
)
CHANNELS = Gauge("fleetcast_channels", "Channels with listeners, over all replicas")

# Origin. Snapshots rise with new phones, replays with returning ones. Resets are losses that a phone was told of: its
# window had gone by, or its id was not ours. Next rises with new channels and by the poll of idle streams.
LATEST = Counter("fleetcast_latest_total", "Answers with the latest state", ["status"])
SNAPSHOTS = Counter("fleetcast_snapshots_total", "Streams that began with a snapshot")
REPLAYS = Counter(
    "fleetcast_replays_total", "Streams that came back and got exactly what they missed", ["by"]
)
REPLAYED = Counter(
    "fleetcast_replayed_updates_total", "Updates replayed: by a phone's return, or by the next link", ["by"]
)
RESETS = Counter("fleetcast_resets_total", "Streams told that something was lost", ["reason", "by"])
TURNED_AWAY = Counter(
    "fleetcast_turned_away_total", "Streams answered `unavailable`: the live state did not answer"
)
MANY = Counter("fleetcast_many_total", "Streams of many vehicles that were asked for")
POLLS = Counter(
    "fleetcast_polls_total", "Long-polls that were answered at once, or are held by the edge", ["how"]
)
# Resumed rises by each open socket twice a minute; far more is updates that are lost on the way to them. Error: apps that do
# not keep to the protocol.
SOCKETS = Counter(
    "fleetcast_sockets_total",
    "WebSockets opened, resumes answered, and messages answered by an error",
    ["what"],
)
NOT_THROUGH_EDGE = Counter(
    "fleetcast_not_through_edge_total", "Requests without the edge's signature: someone goes round it"
)
# Refused rising by `expired` is apps that do not renew their tokens in time; by `other`, an app that asks for what it may not
# see; by `signature` or `key`, keys that were changed on one side only, or somebody who tries. Ended follows the tokens' life.
UNSEEN = Counter(
    "fleetcast_unseen_total", "Apps turned away: not identified, or may not see this vehicle", ["reason"]
)
ENDED = Counter(
    "fleetcast_ended_total",
    "Streams that the next link ended: credential over, revoked, or without the right",
    ["reason"],
)
CLOSED = Counter(
    "fleetcast_closed_channels_total",
    "Channels by which consume closed streams: expired, revoked",
    ["reason"],
)

"""Every name of a stream, subject, consumer and channel, in one place.

vehicle id     1 to 64 of A-Z a-z 0-9 - _ (so an id can stand in a subject, a URL, a channel and a log as it is)
packets        $MQTT.msgs.vehicles.<vehicle>.packets[.<form>] -> ingest.<partition>.<vehicle>.packets[.<form>]
                                                                                       in stream $MQTT_msgs
live state     state.<vehicle>, update.<vehicle>.<version>                             in stream LIVE
commits        live.<epoch>.<either of these>: nobody listens there any more once a restore has renewed the epoch
rejected       rejected.<partition>.<vehicle>                                          in stream REJECTED
registry       $KV.VEHICLES.<vehicle>                                                  in stream KV_VEHICLES, a KV bucket
channel        v/<vehicle>/<view>/   ends in a slash because ZeroMQ matches by prefix (v/1 would also pull v/10)
calm           v/<vehicle>/<view>.<seconds>/   of a calm stream of that class (`calm`)
long-polls     poll/<channel>        of those who long-poll what that channel carries
WebSockets     ws/<channel>          of those who follow it by WebSocket
control        ctl/<NN>/             every stream's second channel, without a chain, so that it can be closed
revocations    $KV.REVOKED.<kind>.<digest>                                             in stream KV_REVOKED, a KV bucket
many vehicles  $KV.STREAMS.<id>     what a stream was asked to hold                     in stream KV_STREAMS, a KV bucket
credential     as/<who>.<token>.<issued>.<until>.<by>/   with a chain that never goes on: so the edge's next link names it
               who/<digest>/, tok/<digest>/, exp/<second>/   without one: what the streams of a credential are closed by
"""

from __future__ import annotations

import re
import zlib

PACKETS = "$MQTT_msgs"
LIVE = "LIVE"
REJECTED = "REJECTED"
REGISTRY = "KV_VEHICLES"
REVOKED = "KV_REVOKED"
STREAMS = "KV_STREAMS"
RETAINED = "$MQTT_rmsgs"
"""nats-server's own, if it has an MQTT door: the last message of each topic that was published to be retained. Made by us, so
that there are none.
"""
RESTORING = "RESTORING"
"""A stream that is there while a restore is under way, or after one that did not finish; it holds nothing."""
RESTORING_SUBJECTS = ("fleetcast.restoring", "$MQTT.msgs.fleetcast.restoring")
"""The second is one that a packet stream made by nats-server itself would hold too, and ours does not: so while the packet
stream is away nats-server cannot make one, and turns MQTT clients away.
"""
PRIORITY_GROUP = "owner"
PARTITION_CONSUMERS = "consume-"
MEMBERS = "fleetcast.members"
EXPLAIN = "fleetcast.explain"
FORGET = "fleetcast.forget"

ALL = "all"
"""The view of all signals. The others are in the settings, see `views`."""

# Headers of messages: of a packet, and what is added to it in REJECTED.
FORM = "Content-Type"
ENCODING = "Content-Encoding"
REASON = "Fleetcast-Reason"
POSITION = "Fleetcast-Position"
STORED = "Fleetcast-Stored"

CONTROL_CHANNELS = 64
NEXT_LINKS = 16

_POLL, _WS = "poll/", "ws/"
_VEHICLE = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_CHANNEL = re.compile(r"v/([A-Za-z0-9_-]{1,64})/([a-z]+)(?:\.([1-9][0-9]{0,4}))?/\Z", re.ASCII)


def is_vehicle(text: str) -> bool:
    """Whether this is a vehicle id."""
    return _VEHICLE.match(text) is not None


def put_subject(vehicle: str) -> str:
    """Where a packet is published, by ingest as by MQTT (NATS turns the topic's slashes into dots)."""
    return f"$MQTT.msgs.vehicles.{vehicle}.packets"


def own_subjects(vehicle: str) -> str:
    """All that a vehicle may publish to by MQTT. More than its packets' subjects: to what lies beside them nothing listens, and
    a QoS 1 publish there is never acknowledged, where one without permission is.
    """
    return f"vehicles.{vehicle}.>"


def put_subjects() -> list[str]:
    """All that the packet stream takes. Any other topic is in no stream, so nats-server acknowledges nothing on it."""
    return [put_subject("*"), f"{put_subject('*')}.*"]


def queue_transform(partitions: int) -> dict[str, str]:
    """How nats-server makes a subject of the queue of one that was published to."""
    return {
        "src": "$MQTT.msgs.vehicles.*.>",
        "dest": f"ingest.{{{{partition({partitions},1)}}}}.{{{{wildcard(1)}}}}.>",
    }


def partition(vehicle: str, partitions: int) -> int:
    """The partition NATS's own `partition()` gives this vehicle: FNV-1a (32 bits) of the id, modulo.

    Source: nats-server, server/subject_transform.go. The queue's contract suite holds it against the server.
    """
    digest = 0x811C9DC5
    for byte in vehicle.encode():
        digest = ((digest ^ byte) * 0x01000193) & 0xFFFFFFFF
    return digest % partitions


def partition_filter(number: int) -> str:
    """The subjects of one partition."""
    return f"ingest.{number}.>"


def partition_consumer(number: int, generation: str) -> str:
    """The durable consumer of one partition, in this generation of the streams (`jetstream.Generation`)."""
    return f"{PARTITION_CONSUMERS}{number}-{generation}"


def queued_subjects(number: int, vehicle: str) -> str:
    """Where a vehicle's packets are in the queue, of every form."""
    return f"ingest.{number}.{vehicle}.>"


def split_ingest(subject: str) -> tuple[int, str, str]:
    """`ingest.<partition>.<vehicle>.packets[.<form>]` -> (partition, vehicle, form or "")."""
    _, number, vehicle, _, *form = subject.split(".")
    return int(number), vehicle, form[0] if form else ""


def state_subject(vehicle: str) -> str:
    """Where the vehicle's latest state is."""
    return f"state.{vehicle}"


def update_subject(vehicle: str, version: int | str) -> str:
    """Where one update of the window is."""
    return f"update.{vehicle}.{version}"


def commit_subject(epoch: str, subject: str) -> str:
    """Where a state or an update is published to: it is stored under `subject`, and only in this epoch."""
    return f"live.{epoch}.{subject}"


def rejected_subject(number: int, vehicle: str) -> str:
    """Where a packet that can never be applied goes."""
    return f"rejected.{number}.{vehicle}"


def registry_subject(vehicle: str) -> str:
    """Where the registry's entry of a vehicle is, as `nats kv get VEHICLES <vehicle>` finds it."""
    return f"$KV.VEHICLES.{vehicle}"


def revoked_subject(key: str) -> str:
    """Where a revocation is, as `nats kv get REVOKED <key>` finds it."""
    return f"$KV.REVOKED.{key}"


def stream_subject(name: str) -> str:
    """Where it is kept what a stream of many vehicles holds, as `nats kv get STREAMS <id>` finds it."""
    return f"$KV.STREAMS.{name}"


def everything_of(vehicle: str) -> tuple[tuple[str, str, str], ...]:
    """(what it is, stream, subjects) of all that streams hold of a vehicle, but for the registry's entry."""
    return (
        ("queue", PACKETS, f"ingest.*.{vehicle}"),
        ("queue", PACKETS, f"ingest.*.{vehicle}.>"),
        ("retained", RETAINED, f"$MQTT.rmsgs.vehicles.{vehicle}.>"),
        ("state", LIVE, state_subject(vehicle)),
        ("window", LIVE, update_subject(vehicle, "*")),
        ("rejected", REJECTED, f"rejected.*.{vehicle}"),
    )


def channel(vehicle: str, view: str = ALL, every: int = 0) -> str:
    """The channel that carries the view of a vehicle; `every`, if it is calm, is its class."""
    return f"v/{vehicle}/{view}.{every}/" if every else f"v/{vehicle}/{view}/"


def split_channel(name: str) -> tuple[str, str, int] | None:
    """(vehicle, view, class or 0) of a channel, or None if it is not a vehicle's."""
    match = _CHANNEL.match(name)
    return (match[1], match[2], int(match[3] or 0)) if match else None


def poll_channel(name: str) -> str:
    """The sibling of a channel on which those are answered who long-poll what it carries."""
    return f"{_POLL}{name}"


def ws_channel(name: str) -> str:
    """The sibling of a channel for those who follow by WebSocket what it carries."""
    return f"{_WS}{name}"


def sibling_of(name: str) -> str:
    """The channel whose sibling this is; one that is nobody's sibling is itself."""
    return name.removeprefix(_POLL).removeprefix(_WS)


def control_channel(number: int) -> str:
    """One of the channels by which streams can be closed."""
    return f"ctl/{number % CONTROL_CHANNELS:02d}/"


def control_number(text: str) -> int:
    """A steady number of a control channel for this text."""
    return zlib.crc32(text.encode()) % CONTROL_CHANNELS


def user_channel(digest: str) -> str:
    """By which all streams of an app's user are closed."""
    return f"who/{digest}/"


def token_channel(digest: str) -> str:
    """By which all streams of one token are closed."""
    return f"tok/{digest}/"


def expiry_channel(second: int) -> str:
    """By which all streams whose credential ends in this second since 1970 are closed."""
    return f"exp/{second}/"

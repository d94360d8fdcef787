"""What the two NATS adapters share: the connection, the JSON API, and the streams as they must be.

The packet stream is NATS's own `$MQTT_msgs`, made by us before any MQTT client can connect, so that an MQTT PUBACK and an
HTTP 202 mean the same durable store. Only this file knows. `provision` is idempotent and raises `Unusable` for a stream
that exists with another configuration where that would lose data.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import nats
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from fleetcast.errors import FleetcastError, Unavailable, Unusable
from fleetcast.settings import Settings
from fleetcast.subjects import (
    LIVE,
    PACKETS,
    PARTITION_CONSUMERS,
    PRIORITY_GROUP,
    REGISTRY,
    REJECTED,
    RESTORING,
    RETAINED,
    REVOKED,
    STREAMS,
    commit_subject,
    partition_consumer,
    partition_filter,
    put_subjects,
    queue_transform,
    registry_subject,
    revoked_subject,
    state_subject,
    stream_subject,
    update_subject,
)

log = structlog.get_logger()

PIN_TIMEOUT = 10.0
"""Seconds without a pull after which the server gives a partition away by itself; a pull lasts less than half of it."""
ACK_WAIT = 60.0
PENDING = 64 * 1024 * 1024
_PING = 1.0
_PONG = 60
_SILENT = 5.0
"""Seconds without a PONG after which a server is left: hung, or cut off. More than a busy machine's pauses."""
_FORSAKEN = 10.0
"""Seconds in which no leader answered after which another server of a cluster is tried: this one may be cut off from the
others. More than they take to elect a leader (4 to 9 s)."""
AGAIN = 1.5
"""Seconds after which a cluster is asked again: a leader that died, or hangs, swallows what it was asked."""
_REPEATABLE = (
    "STREAM.INFO.",
    "STREAM.MSG.GET.",
    "CONSUMER.NAMES.",
    "CONSUMER.INFO.",
    "CONSUMER.CREATE.",
    "CONSUMER.RESET.",
)
"""Requests that do no harm when they are done twice. A second reset that comes late is seen as a hole is, and means another."""
_HEARD = 2.5
"""Seconds since a leader's last word from another copy, which answers each second. An origin asks each second too: so it
serves nothing by a leader that was cut off, from before the others may elect another one, after 4 s at the earliest."""
EPOCH = "fleetcast.epoch"
"""Metadata of LIVE; absent while it is being restored: nothing is to be served from it, or committed, until then."""
LINEAGE = "fleetcast.lineage"
"""Metadata of the packet stream once it was restored: from which position on it is which incarnation."""
RESTORED = "fleetcast.restored"
"""Metadata of the registry once it was restored, random: so that nobody takes it for what it was before."""

_MAY_CHANGE = ("max_bytes", "num_replicas", "duplicate_window")
_MAY_CHANGE_IN_RETAINED = (*_MAY_CHANGE, "max_msg_size")
_MAY_CHANGE_IN_LIVE = (*_MAY_CHANGE, "subjects", "subject_transform")

_LOSES_IF_OTHER = ("subjects", "retention", "discard", "subject_transform")
"""Of the packet stream: as an MQTT client makes it that comes before us, acknowledged packets are lost."""

NOT_FOUND = 10059
NO_MESSAGE = 10037
NAME_IN_USE = 10058
NO_ROOM = 10047
NAME_TAKEN = 10130  # of a stream that is to be restored


class ApiError(FleetcastError):
    """JetStream's own refusal: `code` is like an HTTP status, `err_code` the precise reason."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{description} ({code}, {err_code})")
        self.code, self.err_code = code, err_code


class Connection:
    """A connection to nats-server that stays for ever: it reconnects by itself, and tells `on_reconnect` listeners.

    `several`: to a cluster, of which another server may answer what this one does not.
    """

    def __init__(self, client: Client, *, several: bool = False) -> None:
        self.client = client
        self.several = several
        self.on_reconnect: list[Callable[[], None]] = []
        self.closing = False
        self._lost = asyncio.Event()
        self._vain_since: float | None = None
        self._watching: asyncio.Task[None] | None = None
        self._pinging: set[asyncio.Future[None]] = set()

    @property
    def server(self) -> str:
        """The version of the server it is connected to."""
        return str(self.client.connected_server_version)

    async def close(self) -> None:
        """Sends what is buffered, then closes."""
        self.closing = True
        if self._watching is not None:
            self._watching.cancel()
        with suppress(TimeoutError, nats.errors.Error, OSError):
            async with asyncio.timeout(2):
                await self.client.flush()
        with suppress(OSError):  # it writes once more what is left, to a server that may have died since
            await self.client.close()
        for pinging in self._pinging.copy():
            pinging.cancel()

    async def api(self, subject: str, body: object = None, timeout: float = 5.0) -> dict[str, Any]:  # noqa: ASYNC109
        """A request to `$JS.API.<subject>`. Raises ApiError, or Unavailable if there is no answer.

        Nor is it an answer if who leads a stream hears too few of the others: they may have another leader soon, and what is
        read here may be old then.
        """
        payload = b"" if body is None else msgspec.json.encode(body)
        again = subject.startswith(_REPEATABLE)
        answer = msgspec.json.decode(
            await self.request(f"$JS.API.{subject}", payload, timeout=timeout, again=AGAIN if again else None)
        )
        if (error := answer.get("error")) is not None:
            if error.get("code") == 503:  # no leader, as far as this server knows
                self._in_vain()
            raise ApiError(
                error.get("code", 500), error.get("err_code", 0), error.get("description", "refused")
            )
        if subject.startswith("STREAM.INFO."):
            if not heard(answer):
                self._in_vain()
                raise Unavailable(f"stream {subject.rpartition('.')[2]}: its leader does not hear the others")
            self._vain_since = None
        return dict(answer)

    async def request(
        self,
        subject: str,
        payload: bytes,
        headers: dict[str, str] | None = None,
        timeout: float = 5.0,  # noqa: ASYNC109
        again: float | None = None,
    ) -> bytes:
        """A request whose answer is bytes. Raises Unavailable."""
        return (await self.ask(subject, payload, headers, timeout, again)).data

    async def ask(
        self,
        subject: str,
        payload: bytes,
        headers: dict[str, str] | None = None,
        timeout: float = 5.0,  # noqa: ASYNC109
        again: float | None = None,
    ) -> Msg:
        """A request whose answer is the message.

        Raises Unavailable, at once if the connection is lost meanwhile: the client alone would wait out the time. What was
        asked may have been done all the same. `again`: a cluster that is silent for so many seconds is asked the same once
        more, and again, within `timeout`; the first answer counts. Only for what does the same when it is done twice.
        """
        if not self.client.is_connected:
            raise Unavailable("nats-server is away")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        losing: asyncio.Future[Any] = asyncio.ensure_future(self._lost.wait())
        asking: set[asyncio.Future[Any]] = set()
        try:
            while True:
                left = max(0.01, deadline - loop.time())
                asked = self.client.request(subject, payload, timeout=left, headers=headers)
                asking.add(asyncio.ensure_future(asked))
                pause = again if self.several and again is not None and again < left else None
                await asyncio.wait({*asking, losing}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                if answered := [one for one in asking if one.done()]:
                    answer: Msg = answered[0].result()
                    # Stored, by a majority. An error may be a leader's that hears no others: then nothing is stored.
                    if not subject.startswith("$JS.API.") and b'"error"' not in answer.data:
                        self._vain_since = None
                    elif not subject.startswith("$JS.API."):
                        self._in_vain()
                    return answer
                if losing.done():
                    raise Unavailable(f"nats-server was lost while {subject} was asked")
        except (nats.errors.Error, OSError, TimeoutError) as error:
            self._in_vain()
            raise Unavailable(f"nats-server: {type(error).__name__} on {subject}") from error
        finally:
            for one in (losing, *asking):
                _forget(one)

    def _in_vain(self) -> None:
        if self._vain_since is None:
            self._vain_since = asyncio.get_running_loop().time()

    def watch(self) -> None:
        """Begins to see to it that a server that is silent, or of no use, is left."""
        self._watching = asyncio.create_task(self._keep_watching())

    async def _keep_watching(self) -> None:
        """The client has pings of its own, but they wait behind what cannot be sent, and then so does its closing."""
        while True:
            await asyncio.sleep(_PING)
            if not self.client.is_connected:
                continue
            this = self._lost
            # Not cancelled while its PONG may still come, which the client would choke on; it ends by itself.
            pinging = asyncio.ensure_future(self.client.flush(_PONG))
            self._pinging.add(pinging)
            pinging.add_done_callback(self._ponged)
            losing = asyncio.ensure_future(this.wait())
            try:
                # In two steps: after this process itself stood still, the PONG may be there and not be read yet.
                for seconds in (_SILENT - _PING, _PING):
                    await asyncio.wait(
                        {pinging, losing}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
                    )
            finally:
                losing.cancel()
            vain = self._vain_since
            if this.is_set():
                continue
            if not pinging.done():
                log.warning("nats-server is silent: leaving it", seconds=_SILENT)
                self._leave()
            elif self.several and vain is not None and asyncio.get_running_loop().time() - vain > _FORSAKEN:
                log.warning("nats-server answers nothing: trying another", seconds=_FORSAKEN)
                self._leave()

    def _ponged(self, pinging: asyncio.Future[None]) -> None:
        self._pinging.discard(pinging)
        _forget(pinging)

    def _leave(self) -> None:
        """The connection ends at once; closed in order it would wait until the server took what was sent."""
        transport = self.client._transport
        if (writer := getattr(transport, "_io_writer", None)) is not None:
            writer.transport.abort()

    def lost(self) -> None:
        """The connection is gone, for now."""
        self._lost.set()
        self._lost = asyncio.Event()  # for what is asked from now on
        self._vain_since = None

    def found(self) -> None:
        """It is back: whoever holds something of the server's learns it."""
        for listener in self.on_reconnect:
            listener()


def _forget(future: asyncio.Future[Any]) -> None:
    """Ends it, and whatever came of it is of no interest."""
    if not future.cancel() and not future.cancelled():
        future.exception()


def heard(info: dict[str, Any]) -> bool:
    """Whether the stream's leader, whose STREAM.INFO this is, heard a majority a moment ago, itself included."""
    copies = (info.get("cluster") or {}).get("replicas") or ()
    there = 1 + sum(0 < copy.get("active", 0) < _HEARD * 1e9 for copy in copies)
    return bool(there * 2 > 1 + len(copies))


def password(settings: Settings) -> str | None:
    """Of `nats_user`: as set, or as `up` keeps it in `data`; None if there is none, which is right for an open nats-server."""
    kept = Path(settings.data) / "nats_password"
    return settings.nats_password or (kept.read_text().strip() if kept.exists() else None)


async def connect(settings: Settings, name: str, user: str | None = None) -> Connection:
    """Connects, waiting for nats-server as long as it takes; says so every few seconds. `user`: instead of `nats_user`."""
    secret = password(settings)
    connection: Connection | None = None

    async def reconnected() -> None:
        log.info("reconnected to nats-server")
        if connection is not None:
            connection.found()

    async def disconnected() -> None:
        if connection is None or not connection.closing:
            log.warning("lost nats-server; trying again", url=settings.nats)
        if connection is not None:
            connection.lost()

    async def failed(error: Exception) -> None:
        log.debug("nats", error=repr(error))

    servers = settings.nats_servers
    # In an order of our own: the client, left to itself, would go back to a server that it has just left.
    random.shuffle(servers)
    client = Client()
    while True:
        try:
            await client.connect(
                servers,
                name=name,
                user=(user or settings.nats_user) if secret else None,
                password=secret,
                dont_randomize=True,
                reconnect_time_wait=0.25,  # type: ignore[arg-type]  # it is only slept
                max_reconnect_attempts=-1,
                ping_interval=5,
                max_outstanding_pings=2,
                pending_size=PENDING,
                reconnected_cb=reconnected,
                disconnected_cb=disconnected,
                error_cb=failed,
                allow_reconnect=True,
                connect_timeout=2,
            )
        except (OSError, nats.errors.Error) as error:
            log.warning("nats-server does not answer; is it running?", url=settings.nats, error=str(error))
            await asyncio.sleep(1)
            client = Client()
        else:
            connection = Connection(client, several=len(servers) > 1)
            connection.watch()
            return connection


def packets_config(settings: Settings) -> dict[str, Any]:
    """The packet stream: a work queue that refuses when full, partitioned by vehicle."""
    return {
        "name": PACKETS,
        "subjects": put_subjects(),
        "subject_transform": queue_transform(settings.partitions),
        "retention": "workqueue",
        "discard": "new",
        "storage": "file",
        "max_bytes": settings.queue_bytes,
        "num_replicas": settings.replicas,
        "duplicate_window": int(settings.duplicate_window * 1e9),
    }


def live_config(settings: Settings, epoch: str) -> dict[str, Any]:
    """State and window in one stream, so that one atomic batch covers both.

    It is written to by subjects with the epoch in them: so a process that slept through a restore can commit nothing.
    """
    return {
        "name": LIVE,
        "subjects": [
            commit_subject(epoch, state_subject("*")),
            commit_subject(epoch, update_subject("*", "*")),
        ],
        "subject_transform": {"src": commit_subject(epoch, ">"), "dest": ">"},
        "max_msgs_per_subject": 1,
        "allow_atomic": True,
        "allow_msg_ttl": True,
        "allow_direct": True,
        "discard": "new",
        "storage": "file",
        "max_bytes": settings.live_bytes,
        "num_replicas": settings.replicas,
    }


def retained_config(settings: Settings) -> dict[str, Any]:
    """Where nats-server keeps the last message of each topic that was published to be retained: it is to keep none.

    Made by itself it has no bound, and a packet of each vehicle would stay there for ever, for nobody. A packet that is
    published so is queued and acknowledged as any other; nats-server's log says that it is not retained.
    """
    return {
        "name": RETAINED,
        "subjects": ["$MQTT.rmsgs.>"],
        "max_msgs_per_subject": 1,
        "max_msg_size": 1,
        "max_bytes": 1_000_000,
        "storage": "file",
        "num_replicas": settings.replicas,
    }


def rejected_config(settings: Settings) -> dict[str, Any]:
    """What could not be applied, until somebody looks at it."""
    return {
        "name": REJECTED,
        "subjects": ["rejected.*.*"],
        "discard": "new",
        "storage": "file",
        "max_bytes": settings.rejected_bytes,
        "num_replicas": settings.replicas,
    }


def registry_config(settings: Settings) -> dict[str, Any]:
    """A KV bucket as every NATS client knows them: the registry's last word on each vehicle, and no word before it."""
    return {
        "name": REGISTRY,
        "subjects": [registry_subject(">")],
        "max_msgs_per_subject": 1,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "discard": "new",
        "storage": "file",
        "num_replicas": settings.replicas,
    }


def revoked_config(settings: Settings) -> dict[str, Any]:
    """A KV bucket whose entries end by themselves: who may not see anything more, though the token says so."""
    return registry_config(settings) | {
        "name": REVOKED,
        "subjects": [revoked_subject(">")],
        "allow_msg_ttl": True,
    }


def streams_config(settings: Settings) -> dict[str, Any]:
    """A KV bucket whose entries end by themselves, and the oldest before their time when it is full: streams asked for."""
    return registry_config(settings) | {
        "name": STREAMS,
        "subjects": [stream_subject(">")],
        "allow_msg_ttl": True,
        "discard": "old",
        "max_bytes": settings.streams_bytes,
    }


class Generation(msgspec.Struct, frozen=True):
    """Which packet stream and which LIVE these are. `name` is another one after either was restored or made anew.

    The partitions' consumers are named after it: deliveries and acks of one generation never mix with another's, so the
    incarnation that a delivery is given is always that of the stream that it came from.
    """

    name: str
    lineage: Sequence[tuple[int, str]]

    def incarnation(self, position: int) -> str:
        """The incarnation of the packet at this position: packets that a restore brought back keep the one they had."""
        return [which for first, which in self.lineage if first <= position][-1]


def generation(packets: dict[str, Any], epoch: str) -> Generation:
    """Of the packet stream with this STREAM.INFO and of LIVE in this epoch."""
    text = packets["config"].get("metadata", {}).get(LINEAGE)
    lineage = (
        [(0, packets["created"])] if text is None else msgspec.json.decode(text, type=list[tuple[int, str]])
    )
    digest = hashlib.blake2b(f"{packets['created']} {lineage} {epoch}".encode(), digest_size=6)
    return Generation(digest.hexdigest(), lineage)


async def current_generation(connection: Connection) -> Generation:
    """As the streams are now. Raises ApiError or Unavailable."""
    packets = await connection.api(f"STREAM.INFO.{PACKETS}")
    return generation(packets, epoch_of(await connection.api(f"STREAM.INFO.{LIVE}")))


def epoch_of(live: dict[str, Any]) -> str:
    """The epoch in LIVE's STREAM.INFO. Raises Unavailable."""
    epoch = live["config"].get("metadata", {}).get(EPOCH)
    if epoch is None:
        raise Unavailable(f"stream {LIVE} is being restored")
    return str(epoch)


def consumer_config(number: int, generation: str) -> dict[str, Any]:
    """One partition's consumer: the server pins it to one client at a time.

    Its place in the queue is kept in memory: what is acked is removed from the queue, so a consumer that begins anew begins
    at the right packet, and one that is gone is made again when it is reset. In a file, with `sync_interval: always`, each of
    64 consumers would write, sync and rename one after every few packets: a third of all that nats-server did.
    """
    return {
        "mem_storage": True,
        "durable_name": partition_consumer(number, generation),
        "filter_subject": partition_filter(number),
        "ack_policy": "explicit",
        "ack_wait": int(ACK_WAIT * 1e9),
        "max_deliver": -1,
        "max_ack_pending": 10_000,
        "priority_groups": [PRIORITY_GROUP],
        "priority_policy": "pinned_client",
        "priority_timeout": int(PIN_TIMEOUT * 1e9),
    }


async def provision(connection: Connection, settings: Settings) -> None:
    """Makes the streams and consumers that are missing. Raises Unusable, or Unavailable."""
    if await stream_info(connection, RESTORING) is not None:
        raise Unavailable("a restore is under way, or did not finish: then run `fleetcast restore` again")
    await make_streams(connection, settings)
    await make_consumers(connection, settings)


async def make_streams(connection: Connection, settings: Settings) -> None:
    """Those that are missing; what may change follows the settings."""
    packets = await _stream(connection, packets_config(settings))
    wanted = packets_config(settings)
    for key in _LOSES_IF_OTHER:
        if packets["config"].get(key) != wanted[key]:
            raise Unusable(
                f"stream {PACKETS}: {key} is {packets['config'].get(key)}, not {wanted[key]}; was it made by an MQTT"
                " client before Fleetcast, or with another number of partitions? See docs/architecture.md"
            )
    if settings.mqtt_port:
        await _stream(connection, retained_config(settings), _MAY_CHANGE_IN_RETAINED)
    await _stream(connection, rejected_config(settings))
    await _stream(connection, registry_config(settings))
    await _stream(connection, revoked_config(settings))
    await _stream(connection, streams_config(settings))
    info = await stream_info(connection, LIVE)
    epoch = new_epoch() if info is None else epoch_of(info)
    made = await _stream(
        connection, live_config(settings, epoch) | {"metadata": {EPOCH: epoch}}, _MAY_CHANGE_IN_LIVE
    )
    epoch_of(made)


async def takes_packets(connection: Connection, settings: Settings) -> None:
    """Returns if the packet stream is there, and as it must be. Raises Unavailable: then nothing is to be acknowledged."""
    if not connection.client.is_connected:
        raise Unavailable("not connected to nats-server")
    try:
        info = await connection.api(f"STREAM.INFO.{PACKETS}", timeout=2)
    except ApiError as error:
        raise Unavailable(f"stream {PACKETS}: {error}") from error
    wanted = packets_config(settings)
    if wrong := [key for key in _LOSES_IF_OTHER if info["config"].get(key) != wanted[key]]:
        raise Unavailable(
            f"stream {PACKETS}: {', '.join(wrong)} not as it must be; `fleetcast doctor` says more"
        )


async def make_consumers(connection: Connection, settings: Settings) -> Generation:
    """The partitions' consumers of this generation; those of others are removed. Raises ApiError or Unavailable."""
    now = await current_generation(connection)
    wanted = {partition_consumer(number, now.name): number for number in range(settings.partitions)}
    known = {name async for name in _consumers(connection) if name.startswith(PARTITION_CONSUMERS)}
    for name in known - wanted.keys():
        with suppress(ApiError):  # another role did it in this moment
            await connection.api(f"CONSUMER.DELETE.{PACKETS}.{name}")
    await asyncio.gather(
        *(
            connection.api(
                f"CONSUMER.CREATE.{PACKETS}.{name}",
                {"stream_name": PACKETS, "config": consumer_config(number, now.name), "action": ""},
            )
            for name, number in wanted.items()
            if name not in known
        )
    )
    if await current_generation(connection) != now:  # restored meanwhile: these may be on the wrong stream
        raise Unavailable("the streams were restored in this moment")
    return now


def new_epoch() -> str:
    """A random one."""
    return secrets.token_hex(4)


async def stream_info(connection: Connection, name: str) -> dict[str, Any] | None:
    """STREAM.INFO, or None if there is no such stream. Raises ApiError or Unavailable."""
    try:
        return await connection.api(f"STREAM.INFO.{name}")
    except ApiError as error:
        if error.err_code == NOT_FOUND:
            return None
        raise


async def provisioned(connection: Connection, settings: Settings) -> None:
    """`provision`, for as long as nats-server is not ready to."""
    while True:
        try:
            await provision(connection, settings)
        except (Unavailable, ApiError) as error:
            log.warning("streams are not ready yet", error=str(error))
            await asyncio.sleep(0.5)
        else:
            return


async def _stream(
    connection: Connection, config: dict[str, Any], may_change: Sequence[str] = _MAY_CHANGE
) -> dict[str, Any]:
    name = config["name"]
    try:
        info = await connection.api(f"STREAM.INFO.{name}")
        changed = {
            key: config[key] for key in may_change if key in config and info["config"].get(key) != config[key]
        }
        if not changed:
            return info
        log.info("stream follows its settings", stream=name, **changed)
        return await connection.api(f"STREAM.UPDATE.{name}", info["config"] | changed)
    except ApiError as error:
        if error.err_code != NOT_FOUND:
            raise
    try:
        return await connection.api(f"STREAM.CREATE.{name}", config)
    except ApiError as error:
        if error.err_code != NAME_IN_USE:  # another role made it in this moment
            raise
        return await connection.api(f"STREAM.INFO.{name}")


async def _consumers(connection: Connection) -> Any:
    offset = 0
    while True:
        page = await connection.api(f"CONSUMER.NAMES.{PACKETS}", {"offset": offset})
        names = page.get("consumers") or []
        for name in names:
            yield name
        offset += len(names)
        if not names or offset >= page.get("total", 0):
            return

"""The edge on Pushpin: publishing to its replicas, the answers that make it hold a stream, and its configuration.

`ZmqEdge` keeps one XPUB socket a replica: what that replica's phones listen to arrives on it as subscriptions, so an item
goes only where somebody listens. `HttpEdge` posts each item to every replica. The figures and traps behind each setting
are in docs/architecture.md; Pushpin 1.36 is what Debian 12 ships.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import compress
from pathlib import Path

import httpx2
import jwt
import msgspec
import structlog
import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from fleetcast import longpoll, metrics, wsevents
from fleetcast.edge import Item
from fleetcast.listeners import Listeners
from fleetcast.settings import Settings
from fleetcast.subjects import NEXT_LINKS, control_channel, poll_channel, split_channel, ws_channel

log = structlog.get_logger()

GRIP_SIG = "grip-sig"
_SETTLE = 0.3  # seconds in which a replica tells its subscriptions; 1.3 ms were seen
_WAIT_FOR_REPLICA = 3.0
_ASK_AGAIN = 5.0
_HIGH_WATER = 100_000
_SOON = 3  # seconds
_POLL_HEADERS = {"Content-Type": longpoll.MEDIA_TYPE, "Cache-Control": "no-store"}
_MORE = int(zmq.SNDMORE | zmq.NOBLOCK)


def _payload(item: Item) -> dict[str, object]:
    """`no-seq`: without it an item whose `prev-id` is unknown waits for the one before it instead of being asked for."""
    return {
        "id": item.id,
        "prev-id": item.prev,
        "no-seq": True,
        "formats": {"http-stream": {"content": item.content.decode()}},
    }


def _closing(channel: str) -> dict[str, object]:
    """What ends whatever is held by a channel without a chain, in each way of holding it."""
    problem = {
        "type": "about:blank",
        "status": 401,
        "title": "Not identified",
        "detail": "the token ended or was revoked",
    }
    answer = {
        "code": 401,
        "reason": "Unauthorized",
        "headers": {
            "Content-Type": "application/problem+json",
            "WWW-Authenticate": 'Bearer realm="fleetcast"',
        },
        "body": json.dumps(problem),
    }
    socket = {
        "action": "close",
        "code": wsevents.NOT_IDENTIFIED,
        "reason": problem["detail"],
    }
    formats = {"http-stream": {"action": "close"}, "http-response": answer, "ws-message": socket}
    return {"channel": channel, "formats": formats}


def _poll_payload(item: Item) -> dict[str, object]:
    """The same event, as the answer of long-polls. Without `no-seq`: only then does Pushpin remember the channel's last id, by
    which it notices, when it begins to hold a poll, that an item came while the origin answered.

    Calm ones have it: their polls are mostly at an id between two items of the channel, and would be asked again in vain. Which
    is not without risk: now and then Pushpin loses one that it asks again as soon as it holds it. (The front asks for it then.)
    """
    body = longpoll.answer(item.content, item.id).decode()
    answer = {"code": 200, "reason": "OK", "headers": _POLL_HEADERS, "body": body}
    payload: dict[str, object] = {"id": item.id, "prev-id": item.prev, "formats": {"http-response": answer}}
    found = split_channel(item.channel)
    return payload | ({"no-seq": True} if found is not None and found[2] else {})


def _ws_payloads(item: Item) -> list[dict[str, object]]:
    """The same for WebSockets, a message an event. Nothing recovers there: the app keeps to the chain, by ids and versions."""
    return [
        {"formats": {"ws-message": {"content": one.message.decode()}}}
        for one in wsevents.told(item.content, item.prev)
    ]


def _named(item: Item) -> Iterator[tuple[str, Callable[[], list[dict[str, object]]]]]:
    """The channels that an item is for, and what it is there."""
    yield item.channel, lambda: [_payload(item)]
    yield poll_channel(item.channel), lambda: [_poll_payload(item)]
    yield ws_channel(item.channel), lambda: _ws_payloads(item)


async def addresses(specs: Sequence[str]) -> frozenset[str]:
    """`host:port`, … -> `address:port`, …; a name is as many replicas as it has addresses. An unknown name is none."""
    loop = asyncio.get_running_loop()
    found: set[str] = set()
    for spec in specs:
        host, _, port = spec.rpartition(":")
        try:
            infos = await loop.getaddrinfo(host, int(port), family=socket.AF_INET, type=socket.SOCK_STREAM)
        except OSError as error:
            log.warning("edge replica's name does not resolve", name=host, error=str(error))
        else:
            found |= {f"{info[4][0]}:{port}" for info in infos}
    return frozenset(found)


class _Replica:
    """One edge replica, as its XPUB socket knows it."""

    def __init__(self, context: zmq.asyncio.Context, address: str, listeners: Listeners) -> None:
        self.address = address
        self._listeners = listeners
        self.connected = asyncio.Event()
        self.socket: zmq.asyncio.Socket = context.socket(zmq.XPUB)
        self.socket.set(zmq.SNDHWM, _HIGH_WATER)
        self.socket.set(zmq.RCVHWM, 0)
        self.socket.set(zmq.XPUB_NODROP, 1)  # a full socket is said, not silently passed over
        self.socket.set(zmq.LINGER, 1000)
        # Without it a replica that dies keeps its subscriptions here: phantom listeners, whose items pile up until it is back.
        self.socket.set(zmq.IMMEDIATE, 1)
        self.socket.set(zmq.RECONNECT_IVL, 100)
        self.socket.set(zmq.RECONNECT_IVL_MAX, 1000)
        self.socket.set(zmq.HEARTBEAT_IVL, 2000)
        self.socket.set(zmq.HEARTBEAT_TIMEOUT, 6000)
        self.monitor: zmq.asyncio.Socket = self.socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self.socket.connect(f"tcp://{address}")
        self._direct: zmq.Socket[bytes] = zmq.Socket.shadow(self.socket.underlying)
        self.tasks = [asyncio.create_task(self._hear()), asyncio.create_task(self._watch())]

    async def _hear(self) -> None:
        while True:
            (message,) = await self.socket.recv_multipart()
            name = message[1:].decode("utf-8", "replace")
            if message[:1] == b"\x01":
                self._listeners.add(self.address, name)
            elif message[:1] == b"\x00":
                self._listeners.discard(self.address, name)

    async def _watch(self) -> None:
        while True:
            event = await recv_monitor_message(self.monitor)
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.connected.set()
                metrics.EDGE_SINCE.labels(self.address).set_to_current_time()
                log.info("edge replica connected", replica=self.address)
            elif (
                self.connected.is_set()
            ):  # else it was accepted by what is in between, and closed: said already
                self.connected.clear()
                metrics.EDGE_SINCE.labels(self.address).set(0)
                log.warning("edge replica lost", replica=self.address)

    async def send(self, batch: Sequence[list[bytes]]) -> None:
        """All of it, or what it takes: it never waits."""
        sent = 0
        try:
            # Past the event loop's wrapper, which costs three times as much as the sending. Only the last goes through it, for
            # what that brings along: it looks for subscriptions that came, of which the others may have taken the signal.
            for channel, payload in batch[:-1]:
                self._direct.send(channel, _MORE)
                self._direct.send(payload, zmq.NOBLOCK)
                sent += 1
            await self.socket.send_multipart(batch[-1], flags=zmq.NOBLOCK)
            sent += 1
        except zmq.ZMQError as error:
            metrics.PUBLISH_FAILED.labels(self.address).inc(len(batch) - sent)
            log.warning("edge replica does not take an item", replica=self.address, error=str(error))
        metrics.PUBLISHED_ITEMS.labels(self.address).inc(sent)
        size = sum(len(channel) + len(payload) for channel, payload in batch[:sent])
        metrics.PUBLISHED_BYTES.labels(self.address).inc(size)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self._listeners.gone(self.address)
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close()


class ZmqEdge:
    """`edge.Edge` by ZeroMQ, to the replicas that listen and only then."""

    hears = True

    def __init__(self, settings: Settings) -> None:
        self._specs = settings.edge_sub
        self._context = zmq.asyncio.Context()
        self._replicas: dict[str, _Replica] = {}
        self._listeners = Listeners()
        self._task: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Connects, waits for each replica's handshake and 300 ms of its subscriptions; at most 3 s for one that is away."""
        await self._ask()
        self._task = asyncio.create_task(self._keep_asking())
        waits = [
            asyncio.wait_for(replica.connected.wait(), _WAIT_FOR_REPLICA)
            for replica in self._replicas.values()
        ]
        away = [
            r for r in await asyncio.gather(*waits, return_exceptions=True) if isinstance(r, BaseException)
        ]
        if away:
            log.warning(
                "edge replicas are away; their phones will be served when they are back", replicas=len(away)
            )
        await asyncio.sleep(_SETTLE)

    def listeners(self, channel: str) -> int:
        """By the subscriptions seen."""
        return len(self._listeners.of(channel))

    def replicas(self, channel: str) -> Sequence[str]:
        """Their addresses; those who long-poll listen too, and those by WebSocket."""
        return list(self._listeners.of(channel))

    def channels(self) -> Sequence[str]:
        """All channels of all replicas, control channels among them; one that is only listened to by a sibling too."""
        return self._listeners.channels()

    async def publish(self, items: Sequence[Item]) -> None:
        """An item is encoded once for each way of listening to it, and only if somebody listens so."""
        batches: dict[_Replica, list[list[bytes]]] = {}
        for item in items:
            for name, payloads in _named(item):
                frames: list[list[bytes]] = []
                for address, replica in self._replicas.items():
                    if self._listeners.hears(address, name):
                        frames = frames or [
                            [name.encode(), b"J" + msgspec.json.encode(one)] for one in payloads()
                        ]
                        batches.setdefault(replica, []).extend(frames)
        for replica, batch in batches.items():
            await replica.send(batch)

    async def end(self, channels: Sequence[str]) -> None:
        """Closes the streams that these channels hold, where there are any."""
        frames = [[name.encode(), b"J" + json.dumps(_closing(name)).encode()] for name in channels]
        for address, replica in list(self._replicas.items()):
            heard = [self._listeners.hears(address, name) for name in channels]
            if due := list(compress(frames, heard)):
                await replica.send(due)

    async def close(self) -> None:
        """Lingers at most a second for what is on its way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(replica.close() for replica in self._replicas.values()))
        await asyncio.to_thread(self._context.term)  # blocks for what lingers

    async def _keep_asking(self) -> None:
        while True:
            await asyncio.sleep(_ASK_AGAIN)
            await self._ask()
            metrics.EDGES_CONNECTED.set(
                sum(replica.connected.is_set() for replica in self._replicas.values())
            )
            metrics.CHANNELS.set(len(self.channels()))

    async def _ask(self) -> None:
        wanted = await addresses(self._specs)
        for address in wanted - self._replicas.keys():
            self._replicas[address] = _Replica(self._context, address, self._listeners)
        for address in self._replicas.keys() - wanted:
            if wanted:  # a name server that fails must not cost us the replicas that we have
                await self._replicas.pop(address).close()


class HttpEdge:
    """`edge.Edge` by HTTP POST to every replica: the article's first way, kept to be compared."""

    hears = False

    def __init__(self, settings: Settings) -> None:
        self._specs = settings.edge_http
        self._most = 2 * settings.max_state  # half of what the replicas are configured to take
        self._replicas: frozenset[str] = frozenset()
        self._client = httpx2.AsyncClient(timeout=5)

    async def ready(self) -> None:
        """Resolves the names."""
        self._replicas = await addresses(self._specs)

    def listeners(self, channel: str) -> int:
        """It cannot know: all."""
        return len(self._replicas)

    def replicas(self, channel: str) -> Sequence[str]:
        """It cannot know: all."""
        return sorted(self._replicas)

    def channels(self) -> Sequence[str]:
        """It cannot know: none. After a takeover the poll of the next link heals what this leaves."""
        return ()

    async def publish(self, items: Sequence[Item]) -> None:
        """One request a replica, with as many items as it takes at once. Each is there for those who long-poll, and for
        WebSockets, too, since it cannot be known that there are none.
        """
        part: list[bytes] = []
        for name, payload in (
            (n, one) for item in items for n, payloads in _named(item) for one in payloads()
        ):
            encoded = json.dumps({"channel": name, **payload}).encode()
            if part and sum(map(len, part)) + len(encoded) > self._most:
                await self._post_all(part)
                part = []
            part.append(encoded)
        if part:
            await self._post_all(part)

    async def end(self, channels: Sequence[str]) -> None:
        """Closes the streams that these channels hold."""
        await self._post_all([json.dumps(_closing(name)).encode() for name in channels])

    async def close(self) -> None:
        """Nothing is ever on its way."""
        await self._client.aclose()

    async def _post_all(self, items: Sequence[bytes]) -> None:
        body = b'{"items":[' + b",".join(items) + b"]}"
        await asyncio.gather(*(self._post(replica, body, len(items)) for replica in self._replicas))

    async def _post(self, replica: str, body: bytes, items: int) -> None:
        try:
            answer = await self._client.post(f"http://{replica}/publish/", content=body)
            answer.raise_for_status()
        except httpx2.HTTPError as error:
            metrics.PUBLISH_FAILED.labels(replica).inc(items)
            log.warning(
                "edge replica does not take items", replica=replica, error=str(error) or type(error).__name__
            )
        else:
            metrics.PUBLISHED_ITEMS.labels(replica).inc(items)
            metrics.PUBLISHED_BYTES.labels(replica).inc(len(body))


def hold(
    channel: str, at: str, control: int, link: int, settings: Settings, *, begins: bool = False
) -> list[tuple[str, str]]:
    """The headers that make Pushpin hold this answer as a stream of `channel`, which has had everything up to id `at`.

    The second channel has no chain, so that the stream can be closed by it. The next link is one of a few constant ones:
    Pushpin asks for at most ten unlike links a second, and polls all idle streams of one link at the same moment, so
    each has a timeout of its own. One that `begins` is asked for soon: the edge itself asks one second after a channel's
    first listener, but what falls between a later listener's snapshot and its hold would wait for the next poll.
    """
    link %= NEXT_LINKS
    timeout = min(_SOON, settings.next_poll) if begins else settings.next_poll + link
    return [
        ("Grip-Hold", "stream"),
        ("Grip-Channel", f"{channel}; prev-id={at}"),
        ("Grip-Channel", control_channel(control)),
        ("Grip-Link", f"</next/{link}>; rel=next; timeout={timeout}"),
        ("Grip-Keep-Alive", f":\\n\\n; format=cstring; timeout={settings.keep_alive}; mode=interval"),
    ]


def hold_poll(channel: str, at: str, wait: int) -> list[tuple[str, str]]:
    """The headers that make Pushpin hold this answer until there is an item, and else for `wait` seconds; then it is given.

    An item whose `prev-id` is not `at` makes it ask the origin again, as the app asked it. So does an item that came while the
    origin answered, and the first second of a channel: what falls between is answered, not waited for.
    """
    return [
        ("Grip-Hold", "response"),
        ("Grip-Channel", f"{poll_channel(channel)}; prev-id={at}"),
        ("Grip-Timeout", str(wait)),
    ]


def last_ids(values: Sequence[str]) -> dict[str, str]:
    """`Grip-Last: <channel>; last-id=<id>` headers -> id by channel. What does not look like one is left out."""
    found: dict[str, str] = {}
    for value in values:
        channel, _, rest = value.partition(";")
        name, _, last = rest.strip().partition("=")
        if name == "last-id":
            found[channel.strip()] = last.strip().strip('"')
    return found


def signed_by_edge(signature: str | None, key: str) -> bool:
    """Whether this `Grip-Sig` is our edge's and has not expired: the request came through it."""
    return bool(signature) and _expires(signature, key) > time.time()


@lru_cache(maxsize=256)
def _expires(signature: str, key: str) -> float:
    """When, in seconds since 1970; 0 for one that is not our edge's. A replica's are all alike within a second."""
    try:
        token = jwt.decode(signature, key, algorithms=["HS256"], options={"require": ["exp"]})
    except jwt.InvalidTokenError:
        return 0.0
    return float(token["exp"])


def configuration(settings: Settings, number: int, folder: Path) -> Mapping[str, str]:
    """File name -> text of everything that edge replica `number` runs with, under `folder`.

    Ports: `edge_port + 10 * number` for phones (by way of HAProxy), then one more each for commands, PULL; its HTTP and
    ZeroMQ inputs are those of `edge_http` and `edge_sub`.
    """
    port = settings.edge_port + 10 * number
    http_host, _, http_port = settings.edge_http[number].rpartition(":")
    zurl = "ipc://{rundir}/{ipc_prefix}zurl-"
    # message_rate and message_hwm 0: with the default rate of 2500, messages closer together than 25 ms wait for a pause.
    # client_maxconn: Pushpin stops altogether when it is reached, so HAProxy's limit (edge_connections) lies below it.
    # stats_spec of the proxy, none: it would keep an account of each request for a minute after it was held, has room for
    # 2 * client_maxconn of them, and ends itself, and with it all streams, when one more comes.
    # message_wait: how long an item for long-polls waits for the one before it, which is lost if it does not come at once.
    # log_level 1: level 2 writes every URL with its query, and so tokens, into the log.
    text = f"""\
[global]
include={{libdir}}/internal.conf
rundir={folder}
ipc_prefix=p{number}-
port_offset=0
stats_connection_ttl=120

[runner]
services=condure,zurl,pushpin-proxy,pushpin-handler
http_port=127.0.0.1:{port}
logdir={folder}/log
log_level=1
client_buffer_size=8192
client_maxconn={client_maxconn(settings)}

[proxy]
routesfile={folder}/routes
zurl_out_specs={zurl}in
zurl_out_stream_specs={zurl}in-stream
zurl_in_specs={zurl}out
debug=false
auto_cross_origin=false
sig_iss=fleetcast-edge
sig_key={settings.sig_key}
updates_check=off
stats_spec=

[handler]
push_in_spec=tcp://127.0.0.1:{port + 2}
push_in_sub_specs=tcp://{settings.edge_sub[number]}
push_in_sub_connect=false
push_in_http_addr={http_host}
push_in_http_port={http_port}
push_in_max_body_size={4 * settings.max_state}
push_in_http_max_headers_size=10000
stats_spec=ipc://{{rundir}}/{{ipc_prefix}}stats
stats_format=json
command_spec=tcp://127.0.0.1:{port + 1}
message_rate=0
message_hwm=0
message_wait=100
id_cache_ttl=60
connection_subscription_max=500
subscription_linger=60
"""
    # The first route answers HAProxy's health check inside Pushpin: an origin that is down must not look like a dead edge.
    # WebSockets come to the origins as requests; plain ones are not concerned.
    routes = f"alive.invalid test\n* 127.0.0.1:{settings.inner_port},over_http\n"
    return {"pushpin.conf": text, "routes": routes}


def client_maxconn(settings: Settings) -> int:
    """Pushpin's own limit: above HAProxy's, which has three pools of connections, by a margin for its health checks."""
    phones = settings.edge_connections
    return phones + phones // 4 + phones // 10 + 100

"""The message queue on JetStream: one packet stream, a durable pull consumer a partition, pinned to one process.

The server pins a partition to whoever pulls it first and sends its `Nats-Pin-Id` with each message. A new pin, a jump in
the consumer's sequence or a lost pin mean that messages may be missing or out of order here: everything held of the
partition is thrown away and `pull` raises `Recover`; `reset` then starts it anew, from the oldest message not acked.
Safe against two owners; what is lost at most is the time of a repeat. A consumer belongs to one generation of the streams
and is named after it: when the streams are restored or made anew its pulls and acks lead nowhere, which is a Recover too.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from os import getpid

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from fleetcast import metrics
from fleetcast.clock import Clock, rfc3339, seconds
from fleetcast.ending import ended
from fleetcast.errors import Recover, Unavailable
from fleetcast.inflate import sniffed
from fleetcast.jetstream import (
    AGAIN,
    NO_MESSAGE,
    PIN_TIMEOUT,
    ApiError,
    Connection,
    Generation,
    make_consumers,
)
from fleetcast.members import Members, owned
from fleetcast.nats_left import first_stored, left_behind, remove
from fleetcast.queue import Delivery, Stored
from fleetcast.settings import Settings
from fleetcast.subjects import (
    ENCODING,
    FORM,
    MEMBERS,
    PACKETS,
    POSITION,
    PRIORITY_GROUP,
    REASON,
    STORED,
    partition_consumer,
    put_subject,
    queued_subjects,
    rejected_subject,
    split_ingest,
)
from fleetcast.subjects import partition as partition_of

log = structlog.get_logger()


_PULL_SECONDS = PIN_TIMEOUT * 0.4
_HEARTBEAT = 1.0
_PULL_BYTES = 6_000_000  # above the server's max_payload, or a large message could never be delivered
_HELLO = 0.3
_LEAVE = 2.0
_TIME = 10.0
_TRANSIT = 0.1  # seconds that what is stored may need to come to us


_NONE = Generation("none", [(0, "")])


class _Lost(Exception):
    """A partition's deliveries may have a hole."""


class _Partition:
    """One partition while it is ours: the pull under way, and what came but was not handled yet."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.buffer: deque[Delivery] = deque()
        self.pin = ""
        self.subscription: Subscription | None = None
        self.expected = 1
        self.last_position = 0
        self.outstanding = 0
        self.heard = 0.0
        self.broken: str | None = "newly ours"
        self.fresh = True
        self.reset = False
        self.session = 0
        self.generation = _NONE
        self.level = False  # whether nothing was left in the queue when it was heard of last
        self.given = 0.0  # when what was given out last was stored

    def waits(self, now: float) -> bool:
        """Whether all that is in the queue was given out: nothing was left, and anything that is new would have come."""
        return self.level and not self.buffer and self.outstanding > 0 and now - self.heard < 3 * _HEARTBEAT

    def hold(self, delivery: Delivery, sequence: int, pin: str) -> None:
        """Takes a delivery in. Raises _Lost."""
        if pin != self.pin:
            known, self.pin = self.pin, pin
            # The first pin, with the first delivery since our own reset: nobody else was given anything in between.
            if known or not self.reset or sequence != 1:
                raise _Lost("pinned anew")
        if sequence != self.expected or delivery.position <= self.last_position:
            raise _Lost(f"delivery {sequence} where {self.expected} was due")
        self.expected += 1
        self.last_position = delivery.position
        self.outstanding -= 1
        self.buffer.append(delivery)


class NatsQueue:
    """`queue.Queue` on stream `$MQTT_msgs`. Putting needs only the connection; pulling needs `join` first."""

    def __init__(self, connection: Connection, settings: Settings, clock: Clock) -> None:
        self._connection = connection
        self._settings = settings
        self._clock = clock
        self._partitions: dict[int, _Partition] = {}
        self._ahead = clock.now() - clock.monotonic()
        self._wake = asyncio.Event()
        self._tend = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._member = settings.member or f"{socket.gethostname()}-{getpid()}"
        self._members = Members(self._member, clock, settings.member_timeout, self._tend.set)
        self._hearing: Subscription | None = None

    # Putting

    async def put(self, vehicle: str, packet_id: str, body: bytes, form: str, encoding: str) -> Stored:
        """One publish; JetStream answers when it is on disk. By its id it is stored once however often it is sent."""
        headers = {"Nats-Msg-Id": packet_id, FORM: form, ENCODING: encoding}
        answer = msgspec.json.decode(
            await self._connection.request(put_subject(vehicle), body, headers, timeout=10, again=2 * AGAIN)
        )
        if (error := answer.get("error")) is not None:
            raise Unavailable(f"the queue refuses: {error.get('description')}")
        return Stored(answer["seq"], bool(answer.get("duplicate")))

    async def reject(self, delivery: Delivery, reason: str) -> None:
        """Keeps the bytes as they were stored, with the reason and where they came from in the headers."""
        headers = {
            "Nats-Msg-Id": f"{delivery.incarnation}/{delivery.position}",
            FORM: delivery.form,
            ENCODING: delivery.encoding,
            REASON: " ".join(reason.split())[:500],
            POSITION: str(delivery.position),
            STORED: rfc3339(delivery.stored if delivery.received is None else delivery.received),
        }
        subject = rejected_subject(delivery.partition, delivery.vehicle)
        answer = msgspec.json.decode(
            await self._connection.request(subject, delivery.body, headers, again=2 * AGAIN)
        )
        if (error := answer.get("error")) is not None:
            raise Unavailable(f"REJECTED refuses: {error.get('description')}")

    # Owning

    async def join(self) -> None:
        """Begins to take part: hears the others first, so as not to grab what is theirs."""
        self._connection.on_reconnect.append(self._reconnected)
        self._hearing = await self._connection.client.subscribe(MEMBERS, cb=self._on_member)
        await self._say(joining=True)
        await asyncio.sleep(_HELLO)
        self._tend.set()
        keeping = (self._keep_saying(), self._keep_tending(), self._keep_time())
        self._tasks = [asyncio.create_task(one) for one in keeping]

    async def leave(self) -> None:
        """Hands the partitions over at once. What was not acked comes again, to the next owner."""
        if self._hearing is not None:  # or we would go on answering newcomers, who would take us for alive
            with suppress(nats.errors.Error, OSError):
                await self._hearing.unsubscribe()
        await ended(self._tasks)
        self._tasks.clear()
        left = {number: await self._drop(number) for number in list(self._partitions)}
        metrics.PARTITIONS.set(0)
        # With a server that hangs this must not take longer than whoever stops us waits.
        with suppress(Unavailable, ApiError, TimeoutError):
            async with asyncio.timeout(_LEAVE):
                await asyncio.gather(
                    *(self._unpin(number, generation) for number, generation in left.items())
                )
        with suppress(nats.errors.Error, OSError):
            await self._say(leaving=True)

    @property
    def partitions(self) -> frozenset[int]:
        """Those that are ours now, as far as we know."""
        return frozenset(self._partitions)

    async def settled(self) -> None:
        """Returns if the partitions that are ours can be pulled from. Raises Unavailable."""
        if not self._tasks:
            raise Unavailable("it takes no part")
        missing = (
            owned(self._member, self._settings.partitions, self._members.names) - self._partitions.keys()
        )
        waiting = [number for number, partition in self._partitions.items() if partition.broken is not None]
        if missing or waiting:
            raise Unavailable(f"{len(missing) + len(waiting)} partitions are being taken over")

    async def _say(self, *, leaving: bool = False, joining: bool = False) -> None:
        word = msgspec.json.encode({"member": self._member, "leaving": leaving, "joining": joining})
        with suppress(nats.errors.Error, OSError):
            await self._connection.client.publish(MEMBERS, word)

    async def _on_member(self, message: Msg) -> None:
        word = msgspec.json.decode(message.data)
        news = self._members.heard(word["member"], leaving=word["leaving"])
        # One that was started again within seconds is no news, and knows nobody all the same: unanswered it would take
        # all partitions from everybody.
        if news or (word.get("joining") and word["member"] != self._member):
            await self._say()

    async def _keep_saying(self) -> None:
        while True:
            await asyncio.sleep(self._settings.member_timeout / 3)
            await self._say()
            self._members.expire()
            self._tend.set()

    def _reconnected(self) -> None:
        for partition in self._partitions.values():
            self._break(partition, "reconnected")
        self._tend.set()

    async def _keep_tending(self) -> None:
        while True:
            with suppress(TimeoutError):  # a pull that is silent for too long is noticed by nothing else
                # Not wait_for, which in Python 3.11 can swallow the cancelling that ends this loop.
                async with asyncio.timeout(_HEARTBEAT):
                    await self._tend.wait()
            self._tend.clear()
            try:
                await self._own()
                for partition in list(self._partitions.values()):
                    await self._keep_pulling(partition)
            except (Unavailable, ApiError, nats.errors.Error, OSError) as error:
                log.debug("tending partitions", error=str(error))

    async def _own(self) -> None:
        mine = owned(self._member, self._settings.partitions, self._members.names)
        for number in self._partitions.keys() - mine:
            log.info("partition given up", partition=number)
            await self._unpin(number, await self._drop(number))
        for number in sorted(mine - self._partitions.keys()):
            self._partitions[number] = _Partition(number)
            self._wake.set()
        metrics.PARTITIONS.set(len(self._partitions))

    async def _drop(self, number: int) -> Generation:
        partition = self._partitions.pop(number)
        await self._unsubscribe(partition)
        return partition.generation

    async def _unpin(self, number: int, generation: Generation) -> None:
        """The server then serves whoever pulls next, instead of waiting for a silent owner."""
        with suppress(ApiError):
            subject = f"CONSUMER.UNPIN.{PACKETS}.{partition_consumer(number, generation.name)}"
            await self._connection.api(subject, {"group": PRIORITY_GROUP}, timeout=_LEAVE)

    # Pulling

    async def pull(self, most: int) -> Sequence[Delivery]:
        """A share of what has come, over all partitions, in order within each."""
        while True:
            broken = {p.number: p.broken for p in self._partitions.values() if p.broken is not None}
            if broken:
                raise Recover(", ".join(sorted(set(broken.values()))), broken)
            full = [p for p in self._partitions.values() if p.buffer]
            if full:
                share = max(1, most // len(full))
                taken: list[Delivery] = []
                for partition in full:
                    count = min(share, len(partition.buffer), most - len(taken))
                    taken += [partition.buffer.popleft() for _ in range(count)]
                    if count:
                        partition.given = taken[-1].stored
                    if not partition.buffer:
                        self._tend.set()
                return taken
            self._wake.clear()
            await self._wake.wait()

    def handed(self) -> Mapping[int, float]:
        """Up to now where a pull is under way and the server has nothing to answer it with; else up to what was given last."""
        monotonic = self._clock.monotonic()
        now = self._ahead + monotonic - _TRANSIT
        return {
            number: 0.0
            if partition.broken is not None
            else max(now, partition.given)
            if partition.waits(monotonic)
            else partition.given
            for number, partition in self._partitions.items()
        }

    async def newest(self, vehicle: str) -> tuple[str, int] | None:
        """Asked of the leader. In a cluster what it stamped but has not stored yet is not seen."""
        number = partition_of(vehicle, self._settings.partitions)
        try:
            which = {"last_by_subj": queued_subjects(number, vehicle)}
            answer = await self._connection.api(f"STREAM.MSG.GET.{PACKETS}", which)
        except ApiError as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise Unavailable(f"packet stream: {error}") from error
        ours = self._partitions.get(number)
        position = int(answer["message"]["seq"])
        return (ours.generation if ours is not None else _NONE).incarnation(position), position

    async def _keep_time(self) -> None:
        """The server's clock, which stamps what it stores: ours may be wrong, and all cars would be taken for silent."""
        while True:
            with suppress(Unavailable, ApiError, KeyError, ValueError):
                info = await self._connection.api(f"STREAM.INFO.{PACKETS}")
                self._ahead = seconds(info["ts"]) - self._clock.monotonic()
            await asyncio.sleep(_TIME)

    async def ack(self, deliveries: Iterable[Delivery]) -> None:
        """Sent, not waited for: a lost ack means a redelivery, which the state recognises."""
        with suppress(nats.errors.Error, OSError):
            for delivery in deliveries:
                if delivery.token:
                    await self._connection.client.publish(delivery.token, b"+ACK")
                else:
                    await remove(self._connection, delivery.position)

    async def reset(self, partitions: Iterable[int]) -> None:
        """Those that are not ours any more are left to their owner."""
        try:
            # Each time: a reset of a consumer that is missing is never answered.
            now = await make_consumers(self._connection, self._settings)
            ours = [self._partitions[number] for number in partitions if number in self._partitions]
            # All are waited for: one still under way must not meet the next attempt's.
            ends = await asyncio.gather(
                *(self._reset(partition, now) for partition in ours), return_exceptions=True
            )
            if errors := [end for end in ends if end is not None]:
                raise errors[0]
        except ApiError as error:
            raise Unavailable(f"packet stream: {error}") from error
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"nats-server: {type(error).__name__}") from error
        self._tend.set()

    async def _reset(self, partition: _Partition, now: Generation) -> None:
        partition.broken = partition.broken or "reset not finished"  # and no pull begins meanwhile
        await self._unsubscribe(partition)
        if partition.generation != now:
            partition.generation, partition.pin, partition.fresh = now, "", True
        if partition.fresh:
            await self._unpin(partition.number, now)
        # Without a pin somebody else may own it still, and a reset would disturb that one: our first message brings a
        # pin, and with it the reset. In a cluster a new leader knows no pins: the same happens.
        partition.reset = partition.fresh or bool(partition.pin)
        left: list[Delivery] = []
        if partition.reset:
            consumer = partition_consumer(partition.number, now.name)
            info = await self._connection.api(f"CONSUMER.RESET.{PACKETS}.{consumer}", {})
            left = await left_behind(self._connection, partition.number, info, now)
        partition.fresh = False
        # Always 1, whatever the answer says was delivered by now: that went to an older pull, and must not be skipped.
        partition.expected = 1
        partition.buffer.clear()
        partition.buffer.extend(left)
        partition.last_position = 0
        partition.outstanding = 0
        partition.level, partition.given = False, 0.0
        partition.broken = None

    async def _unsubscribe(self, partition: _Partition) -> None:
        if partition.subscription is not None:
            with suppress(nats.errors.Error, OSError):
                await partition.subscription.unsubscribe()
            partition.subscription = None
            partition.session += 1

    async def _keep_pulling(self, partition: _Partition) -> None:
        now = self._clock.monotonic()
        if partition.broken is not None or partition.buffer:
            return
        if partition.outstanding > 0 and now - partition.heard < 3 * _HEARTBEAT:
            return
        client = self._connection.client
        # A new inbox for each reset: what an older pull still sends must not be taken for the new one's.
        if partition.subscription is None:
            partition.session += 1
            session = partition.session

            async def on_message(message: Msg) -> None:
                if session == partition.session:
                    self._on_message(partition, message)

            partition.subscription = await client.subscribe(
                client.new_inbox(), cb=on_message, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
        request = {
            "batch": self._settings.batch_packets,
            "max_bytes": _PULL_BYTES,
            "expires": int(_PULL_SECONDS * 1e9),
            "idle_heartbeat": int(_HEARTBEAT * 1e9),
            "group": PRIORITY_GROUP,
        }
        if partition.pin:
            request["id"] = partition.pin
        partition.outstanding = self._settings.batch_packets
        partition.heard = now
        consumer = partition_consumer(partition.number, partition.generation.name)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{PACKETS}.{consumer}"
        await client.publish(subject, msgspec.json.encode(request), reply=partition.subscription.subject)

    def _on_message(self, partition: _Partition, message: Msg) -> None:
        if partition.broken is not None or self._partitions.get(partition.number) is not partition:
            return
        partition.heard = self._clock.monotonic()
        headers: dict[str, str] = message.headers or {}
        try:
            if "Status" in headers and not message.data and not message.reply.startswith("$JS.ACK"):
                self._on_status(partition, headers)
            else:
                delivery, sequence, pending = _delivery(message, headers, partition.generation)
                partition.hold(delivery, sequence, headers.get("Nats-Pin-Id", ""))
                partition.level = pending == 0
                self._wake.set()
        except _Lost as why:
            self._break(partition, str(why))

    def _on_status(self, partition: _Partition, headers: dict[str, str]) -> None:
        status = headers["Status"]
        if status == "100":
            last = headers.get("Nats-Last-Consumer")
            if partition.pin and last is not None and int(last) >= partition.expected:
                raise _Lost(f"delivery {last} never came")
            partition.level = True  # it says so only while it has nothing to give
            return
        # No consumer there, or no longer: the streams were made anew or restored, and what is held is of the old ones.
        if status == "503" or headers.get("Description", "").lower() == "consumer deleted":
            partition.pin, partition.fresh = "", True
            raise _Lost("its consumer is gone")
        partition.outstanding = 0
        self._tend.set()
        if status == "423":
            partition.pin = ""
            raise _Lost("pin lost")

    def _break(self, partition: _Partition, why: str) -> None:
        partition.broken = why
        partition.buffer.clear()
        partition.outstanding = 0
        self._wake.set()


def _delivery(message: Msg, headers: dict[str, str], generation: Generation) -> tuple[Delivery, int, int]:
    """The delivery, its number in the consumer, and how many wait behind it."""
    # $JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<stored, ns>.<pending>
    tokens = message.reply.split(".")
    number, vehicle, form = split_ingest(message.subject)
    position = int(tokens[-4])
    delivery = Delivery(
        vehicle=vehicle,
        partition=number,
        incarnation=generation.incarnation(position),
        position=position,
        stored=int(tokens[-2]) / 1e9,
        form=headers.get(FORM) or form,
        encoding=headers.get(ENCODING) or sniffed(message.data),
        body=message.data,
        token=message.reply,
        received=first_stored(headers.get(STORED, "")),
    )
    return delivery, int(tokens[-3]), int(tokens[-1])

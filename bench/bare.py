"""The same work twice: by the platform's own module, and by one bare script, which is the limit of this machine and language.

`python -m bench.bare WORK OPTIONS` does it on a nats-server and streams that are there, and prints one line: items, seconds,
CPU seconds. Each work is a pair of functions, `…_ours` and `…_bare`: what the comparison is can be read here.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import nats
import zmq
import zmq.asyncio
from backports import zstd
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench.cars import Bodies, Options, vehicle
from fleetcast.clock import SystemClock, rfc3339
from fleetcast.decode import load
from fleetcast.edge import Item
from fleetcast.errors import Recover
from fleetcast.jetstream import connect, current_generation
from fleetcast.live import Change
from fleetcast.nats_live import NatsLive
from fleetcast.nats_queue import NatsQueue
from fleetcast.packet import JSON, Signal
from fleetcast.pushpin import ZmqEdge
from fleetcast.settings import Settings
from fleetcast.simulator.samples import content_type
from fleetcast.state import State
from fleetcast.subjects import (
    ENCODING,
    FORM,
    PACKETS,
    PRIORITY_GROUP,
    commit_subject,
    partition_consumer,
    put_subject,
)
from fleetcast.update import Update

_decode = load(Settings().decoders).decode

_SIGNALS_TEXT = 40  # bytes of one signal, more or less


class Work(msgspec.Struct, frozen=True):
    """So many items of so many bytes; `batch` to a commit; `flight` publishes at once; `turn` keeps ids apart."""

    settings: Settings
    count: int
    size: int
    turn: int
    batch: int = 64
    flight: int = 64
    sink: str = ""


class Spent:
    """The time of the work itself, on the clock and of the processor; what prepares it does not count."""

    def __init__(self) -> None:
        self.seconds = self.cpu = 0.0
        self._began: tuple[float, float] | None = None

    def begin(self) -> None:
        """Nothing if it has begun."""
        self._began = self._began or (time.perf_counter(), time.process_time())

    def end(self) -> None:
        """It may begin again."""
        assert self._began is not None
        (seconds, cpu), self._began = self._began, None
        self.seconds += time.perf_counter() - seconds
        self.cpu += time.process_time() - cpu


Done = tuple[int, Spent]


def options(work: Work) -> Options:
    """How packets of this size are made: heads alone if they are small."""
    bulk = work.size if work.size > 2_000 else 0
    return Options(
        port=0, cars=1_000, rate=1, size=bulk, form="ndjson" if bulk else "json", boot=1_000 + work.turn
    )


async def _client(work: Work) -> Client:
    return await nats.connect(work.settings.nats_servers, pending_size=64 * 1024 * 1024)


# Store packets: what ingest does


async def publish_bare(work: Work) -> Done:
    """Publishes and waits for each acknowledgement, `flight` at a time."""
    form = content_type(options(work).form)
    client, bodies, each = await _client(work), Bodies(options(work)), iter(range(work.count))

    async def one() -> None:
        for number in each:
            name, seq = number % 1_000, number // 1_000 + 1
            body = bodies.body(name, seq)
            headers = {
                "Nats-Msg-Id": f"{vehicle(name)}/{work.turn}/{seq}",
                FORM: form,
                ENCODING: "zstd" if work.size > 2_000 else "identity",
            }
            answer = await client.request(put_subject(vehicle(name)), body, timeout=30, headers=headers)
            assert b'"seq"' in answer.data, answer.data

    spent = Spent()
    spent.begin()
    await asyncio.gather(*(one() for _ in range(work.flight)))
    spent.end()
    await client.close()
    return work.count, spent


# Fetch, decode, ack: what consume does with the queue


async def fetch_ours(work: Work) -> Done:
    """`NatsQueue`, with its partitions, pins, and the one way back."""
    connection = await connect(work.settings, "bench")
    queue = NatsQueue(connection, work.settings, SystemClock())
    await queue.join()
    done, spent = 0, Spent()
    while done < work.count:
        try:
            batch = await queue.pull(work.settings.batch_packets)
        except Recover as why:
            await queue.reset(why.partitions)
            continue
        spent.begin()
        for delivery in batch:
            _decode(delivery.body, delivery.form, delivery.encoding, work.settings.max_packet)
        await queue.ack(batch)
        done += len(batch)
    await connection.client.flush()
    spent.end()
    await queue.leave()
    await connection.close()
    return done, spent


async def fetch_bare(work: Work) -> Done:
    """Pulls from the same consumers, in one request each."""
    connection = await connect(work.settings, "bench")
    generation = (await current_generation(connection)).name
    names = [partition_consumer(number, generation) for number in range(work.settings.partitions)]
    for name in names:
        await connection.api(f"CONSUMER.UNPIN.{PACKETS}.{name}", {"group": PRIORITY_GROUP})
    await connection.close()
    client, done, spent, finished = await _client(work), 0, Spent(), asyncio.Event()

    async def take(message: Msg) -> None:
        nonlocal done
        if not message.reply:
            return  # a status
        spent.begin()
        headers = message.headers or {}
        _decode(
            message.data,
            headers.get(FORM, JSON),
            headers.get(ENCODING, "identity"),
            1_048_576,
        )
        await client.publish(message.reply, b"+ACK")
        done += 1
        if done >= work.count:
            finished.set()

    inbox = client.new_inbox()
    await client.subscribe(inbox, cb=take, pending_msgs_limit=-1, pending_bytes_limit=-1)
    request = msgspec.json.encode({"batch": work.count, "expires": 60_000_000_000, "group": PRIORITY_GROUP})
    for name in names:
        await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{PACKETS}.{name}", request, reply=inbox)
    await finished.wait()
    await client.flush()
    spent.end()
    await client.close()
    return done, spent


# Commit: a batch of updates and states


def _changes(work: Work, version: int, held: Sequence[int]) -> list[Change]:
    """One packet of each of `batch` vehicles; the update is a fifth of the state."""
    at = rfc3339(time.time())
    signals = {f"Vehicle.Signal{n}": Signal(n / 7, at) for n in range(max(2, work.size // _SIGNALS_TEXT))}
    changed = dict(list(signals.items())[: max(1, len(signals) // 5)])
    return [
        Change(
            State(f"turn-{work.turn}-{n}", version, at, signals, boot=1, seq=version, position=version),
            held[n],
            [Update(f"turn-{work.turn}-{n}", version, version - 1, at, dict(changed))],
        )
        for n in range(work.batch)
    ]


async def commit_ours(work: Work) -> Done:
    """`NatsLive.commit`, batch after batch, each fenced by the revisions that the one before returned."""
    connection = await connect(work.settings, "bench")
    live = NatsLive(connection, work.settings)
    epoch = await live.epoch()
    held: Sequence[int] = [0] * work.batch
    rounds, spent = work.count // work.batch, Spent()
    for version in range(1, rounds + 1):
        changes = _changes(work, version, held)
        spent.begin()
        held = await live.commit(changes, epoch)
        spent.end()
    await connection.close()
    return rounds * work.batch, spent


async def commit_bare(work: Work) -> Done:
    """The same values, encoded and published as one atomic batch."""
    connection = await connect(work.settings, "bench")
    epoch = await NatsLive(connection, work.settings).epoch()
    await connection.close()
    client = await _client(work)
    held = [0] * work.batch
    rounds, spent = work.count // work.batch, Spent()
    for version in range(1, rounds + 1):
        changes = _changes(work, version, held)
        spent.begin()
        batch, number, last = uuid.uuid4().hex, 0, 2 * work.batch
        for change in changes:
            name = change.state.vehicle
            for subject, value, extra in (
                (f"update.{name}.{version}", change.updates[0], {"Nats-TTL": "600s"}),
                (
                    f"state.{name}",
                    change.state,
                    {"Nats-Expected-Last-Subject-Sequence": str(change.revision)},
                ),
            ):
                number += 1
                data = zstd.compress(msgspec.json.encode(value), 1)
                headers = {**extra, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
                if number < last:
                    await client.publish(commit_subject(epoch, subject), data, headers=headers)
                else:
                    headers["Nats-Batch-Commit"] = "1"
                    reply = await client.request(
                        commit_subject(epoch, subject), data, headers=headers, timeout=30
                    )
        answer = msgspec.json.decode(reply.data)
        spent.end()
        held = [answer["seq"] - 2 * (work.batch - 1 - n) for n in range(work.batch)]
    await client.close()
    return rounds * work.batch, spent


# Publish to the edge


def _items(work: Work) -> list[Item]:
    content = b'id: 1\nevent: update\ndata: {"version":1,"signals":"' + b"x" * work.size + b'"}\n\n'
    return [Item("v/car/all/", f"e-{n + 1}", f"e-{n}", content) for n in range(work.batch)]


async def edge_ours(work: Work) -> Done:
    """`ZmqEdge.publish`, to a replica that listens."""
    edge = ZmqEdge(msgspec.structs.replace(work.settings, edge_sub=(work.sink,)))
    await edge.ready()
    while not edge.listeners("v/car/all/"):  # noqa: ASYNC110 - it has no event of its own
        await asyncio.sleep(0.01)
    items, rounds = _items(work), work.count // work.batch
    spent = Spent()
    spent.begin()
    for _ in range(rounds):
        await edge.publish(items)
    spent.end()
    await edge.close()
    return rounds * work.batch, spent


async def edge_bare(work: Work) -> Done:
    """The same payloads, encoded and sent."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as sock:
        sock.set(zmq.SNDHWM, 100_000)
        sock.set(zmq.XPUB_NODROP, 1)
        sock.connect(f"tcp://{work.sink}")
        sock.recv()  # its subscription
        items, rounds = _items(work), work.count // work.batch
        spent = Spent()
        spent.begin()
        for _ in range(rounds):
            for item in items:
                payload = {
                    "id": item.id,
                    "prev-id": item.prev,
                    "no-seq": True,
                    "formats": {"http-stream": {"content": item.content.decode()}},
                }
                sock.send_multipart([item.channel.encode(), b"J" + msgspec.json.encode(payload)])
        spent.end()
        sock.close(linger=1000)
    return rounds * work.batch, spent


WORKS: dict[str, Callable[[Work], Awaitable[Done]]] = {
    "publish_bare": publish_bare,
    "fetch_ours": fetch_ours,
    "fetch_bare": fetch_bare,
    "commit_ours": commit_ours,
    "commit_bare": commit_bare,
    "edge_ours": edge_ours,
    "edge_bare": edge_bare,
}


async def main() -> None:
    """The process."""
    work = msgspec.json.decode(sys.argv[2], type=Work)
    items, spent = await WORKS[sys.argv[1]](work)
    line = {"items": items, "seconds": spent.seconds, "cpu": spent.cpu}
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")


if __name__ == "__main__":
    asyncio.run(main())

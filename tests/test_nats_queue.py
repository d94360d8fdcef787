"""What `nats_queue` does beyond its contract: how it notices that JetStream gave its messages to somebody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from fleetcast.clock import SystemClock
from fleetcast.errors import Recover, Unavailable
from fleetcast.jetstream import Connection, current_generation, provision, provisioned
from fleetcast.nats_queue import NatsQueue
from fleetcast.packet import JSON
from fleetcast.queue import Delivery
from fleetcast.settings import Settings
from fleetcast.subjects import MEMBERS, PACKETS, PRIORITY_GROUP, partition, partition_consumer
from tests.conftest import Connect
from tests.servers import until

Member = Callable[[str], Awaitable[NatsQueue]]


@pytest.fixture
async def member(connected: Connect, settings: Settings) -> AsyncIterator[Member]:
    """Makes members of one partition, each by its own connection."""
    settings = msgspec.structs.replace(settings, partitions=1, member_timeout=300.0)
    await provision(await connected(), settings)
    made: list[NatsQueue] = []

    async def make(name: str) -> NatsQueue:
        queue = NatsQueue(await connected(), msgspec.structs.replace(settings, member=name), SystemClock())
        made.append(queue)
        await queue.join()
        return queue

    yield make
    for queue in made:
        await queue.leave()


async def put(queue: NatsQueue, numbers: range) -> None:
    for number in numbers:
        await queue.put("car-1", f"car-1/1/{number}", str(number).encode(), JSON, "identity")


async def pulled(queue: NatsQueue, count: int, recovered: list[Recover] | None = None) -> list[Delivery]:
    """So many in one unbroken run; every Recover begins it anew."""
    found: list[Delivery] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            try:
                found += await queue.pull(count - len(found))
            except Recover as why:
                if recovered is not None:
                    recovered.append(why)
                found = []
                await until(partial(is_reset, queue, why))
    return found


async def is_reset(queue: NatsQueue, why: Recover) -> bool:
    try:
        await queue.reset(why.partitions)
    except Unavailable:
        return False
    return True


async def first_consumer(connection: Connection) -> str:
    return partition_consumer(0, (await current_generation(connection)).name)


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [int(delivery.body) for delivery in deliveries]


async def stolen(connection: Connection, pin: str, most: int) -> list[Msg]:
    """What another pull with the same pin gets: as an older one of the same process would that lives on in a cluster."""
    got: list[Msg] = []

    async def keep(message: Msg) -> None:
        if message.reply:
            got.append(message)

    inbox = connection.client.new_inbox()
    await connection.client.subscribe(inbox, cb=keep)
    request = {"batch": most, "expires": 20_000_000_000, "group": PRIORITY_GROUP, "id": pin}
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{PACKETS}.{await first_consumer(connection)}"
    await connection.client.publish(subject, json.dumps(request).encode(), reply=inbox)
    await connection.client.flush()
    return got


async def test_a_message_that_another_pull_swallowed_is_noticed(member: Member, connected: Connect) -> None:
    queue, recovered = await member("a"), list[Recover]()
    await put(queue, range(1, 4))
    await queue.ack(await pulled(queue, 3))
    thief = await connected()
    got = await stolen(thief, queue._partitions[0].pin, 5)
    await put(queue, range(4, 14))
    await until(lambda: len(got) == 5)
    found = await pulled(queue, 10, recovered)
    assert numbers(found) == list(range(4, 14)), "whole, from the oldest that was not acked"
    assert any("was due" in str(why) for why in recovered)


async def test_the_last_message_that_was_swallowed_is_noticed_without_another(
    member: Member, connected: Connect
) -> None:
    """By the heartbeat of the pull, which says what was delivered last."""
    queue = await member("a")
    await put(queue, range(1, 4))
    await queue.ack(await pulled(queue, 3))
    thief = await connected()
    got = await stolen(thief, queue._partitions[0].pin, 1)
    last = 3
    while not got:
        last += 1
        await put(queue, range(last, last + 1))
        await until(lambda: got or queue._partitions[0].buffer)
        if not got:
            await queue.ack(await pulled(queue, 1))
    with pytest.raises(Recover, match="never came"):
        async with asyncio.timeout(30):
            await queue.pull(1)
    assert numbers(await pulled(queue, 1)) == [last]


async def test_a_reset_by_another_is_noticed(member: Member, connected: Connect) -> None:
    queue, other = await member("a"), await connected()
    await put(queue, range(1, 6))
    found = await pulled(queue, 5)
    await queue.ack(found[:2])
    await until(lambda: _held(other, 3))
    await other.api(f"CONSUMER.RESET.{PACKETS}.{await first_consumer(other)}", {})
    recovered: list[Recover] = []
    await put(queue, range(6, 8))
    assert numbers(await pulled(queue, 5, recovered)) == [3, 4, 5, 6, 7]
    assert recovered


async def _held(connection: Connection, count: int) -> bool:
    return bool((await connection.api(f"STREAM.INFO.{PACKETS}"))["state"]["messages"] == count)


async def test_a_lost_pin_is_noticed(member: Member, connected: Connect) -> None:
    queue, other = await member("a"), await connected()
    await put(queue, range(1, 6))
    await pulled(queue, 5)
    await other.api(f"CONSUMER.UNPIN.{PACKETS}.{await first_consumer(other)}", {"group": PRIORITY_GROUP})
    recovered: list[Recover] = []
    await put(queue, range(6, 8))
    assert numbers(await pulled(queue, 7, recovered)) == list(range(1, 8))
    assert recovered


async def test_two_that_both_believe_they_own_it(member: Member, connected: Connect) -> None:
    """They do not hear each other. Whoever gets a later packet had the earlier ones, or was told to begin anew."""
    a = await member("a")
    await put(a, range(1, 301))
    b = await member("b")
    for queue in (a, b):
        queue._members._heard.clear()  # each believes that it is alone
        queue._tend.set()
    both: dict[str, list[int]] = {"a": [], "b": []}

    async def read(name: str, queue: NatsQueue) -> None:
        run: list[int] = []
        while True:
            try:
                batch = await queue.pull(7)
            except Recover as why:
                run = []
                await queue.reset(why.partitions)
                continue
            run += numbers(list(batch))
            first = acked + 1
            assert run == list(range(run[0], run[0] + len(run)))
            assert run[0] <= first
            both[name] = run

    acked = 0  # nothing is ever acked: every run begins at the oldest
    reading = [asyncio.create_task(read("a", a)), asyncio.create_task(read("b", b))]
    await until(lambda: any(run and run[-1] == 300 for run in both.values()))
    for task in reading:
        assert not task.done()
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)


async def test_a_reset_that_fails_leaves_the_partition_to_recover(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await member("a")
    await put(queue, range(1, 6))
    await pulled(queue, 2)
    real = queue._connection.api

    async def fails(subject: str, *arguments: Any, **named: Any) -> object:
        if subject.startswith("CONSUMER.RESET"):
            raise Unavailable("lost on its way")
        return await real(subject, *arguments, **named)

    monkeypatch.setattr(queue._connection, "api", fails)
    with pytest.raises(Unavailable):
        await queue.reset([0])
    with pytest.raises(Recover) as why:
        await queue.pull(5)
    assert why.value.partitions == {0}
    monkeypatch.undo()
    assert numbers(await pulled(queue, 5)) == [1, 2, 3, 4, 5]


async def test_a_missing_consumer_is_noticed_and_made_again(member: Member, connected: Connect) -> None:
    queue, other, recovered = await member("a"), await connected(), list[Recover]()
    await put(queue, range(1, 2))
    await queue.ack(await pulled(queue, 1))
    await other.api(f"CONSUMER.DELETE.{PACKETS}.{await first_consumer(other)}")
    await put(queue, range(2, 3))
    assert numbers(await pulled(queue, 1, recovered)) == [2]
    assert [str(why) for why in recovered] == ["its consumer is gone"]


async def test_a_missing_stream_is_recovered_from_when_it_is_there_again(
    member: Member, connected: Connect, settings: Settings
) -> None:
    queue, other = await member("a"), await connected()
    await put(queue, range(1, 2))
    await queue.ack(await pulled(queue, 1))
    await other.api(f"STREAM.DELETE.{PACKETS}")
    with pytest.raises(Recover, match="gone") as why:
        async with asyncio.timeout(30):
            await queue.pull(1)
    with pytest.raises(Unavailable):
        await queue.reset(why.value.partitions)
    await provision(other, msgspec.structs.replace(settings, partitions=1))
    await put(queue, range(2, 3))
    assert numbers(await pulled(queue, 1)) == [2]


async def test_a_silent_partition_labels_nothing_with_the_incarnation_of_a_stream_that_was_made_anew(
    member: Member, connected: Connect, settings: Settings
) -> None:
    """It has no pin by which it could notice: the first packet of the new stream is its first delivery."""
    queue, other = await member("a"), await connected()
    settings = msgspec.structs.replace(settings, partitions=1)
    reading = asyncio.create_task(pulled(queue, 1))
    await until(lambda: queue._partitions[0].broken is None and queue._partitions[0].outstanding)
    before = queue._partitions[0].generation
    await other.api(f"STREAM.DELETE.{PACKETS}")
    await provision(other, settings)
    await put(queue, range(1, 2))
    (delivery,) = await reading
    created = (await other.api(f"STREAM.INFO.{PACKETS}"))["created"]
    assert delivery.position == 1
    assert delivery.incarnation == created != before.incarnation(1)


async def test_an_ack_of_another_generation_acks_nothing(
    member: Member, connected: Connect, settings: Settings
) -> None:
    queue, other = await member("a"), await connected()
    settings = msgspec.structs.replace(settings, partitions=1)
    await put(queue, range(1, 2))
    old = await pulled(queue, 1)
    await other.api(f"STREAM.DELETE.{PACKETS}")
    await provision(other, settings)
    await put(queue, range(1, 2))
    (new,) = await pulled(queue, 1)
    await queue.ack(old)
    await queue._connection.client.flush()
    assert new.position == old[0].position
    await queue.reset([0])
    assert numbers(await pulled(queue, 1)) == [1]


async def test_a_strange_word_among_the_members_does_no_harm(member: Member, connected: Connect) -> None:
    queue, other = await member("a"), await connected()
    await other.client.publish(MEMBERS, b"\xff not json")
    await other.client.publish(MEMBERS, b'{"member": 1}')
    await other.client.flush()
    await put(queue, range(1, 4))
    assert numbers(await pulled(queue, 3)) == [1, 2, 3]


@pytest.mark.parametrize("partitions", [1, 3, 64, 200])
async def test_partitions_of_any_number(connected: Connect, settings: Settings, partitions: int) -> None:
    connection = await connected()
    settings = msgspec.structs.replace(settings, partitions=partitions)
    await provisioned(connection, settings)
    queue = NatsQueue(connection, settings, SystemClock())
    vehicles = [f"car_{number}" for number in range(200)]
    for vehicle in vehicles:
        stored = await queue.put(vehicle, vehicle, b"", JSON, "identity")
        message = (await connection.api(f"STREAM.MSG.GET.{PACKETS}", {"seq": stored.position}))["message"]
        assert message["subject"] == f"ingest.{partition(vehicle, partitions)}.{vehicle}.packets"

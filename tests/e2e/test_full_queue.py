"""A queue that is full refuses with 503, alone and in batches, keeps all it acknowledged, and takes packets again by itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
import pytest

from fleetcast.clock import SystemClock
from fleetcast.errors import Recover
from fleetcast.ingest import application
from fleetcast.jetstream import provision
from fleetcast.nats_queue import NatsQueue
from fleetcast.settings import Settings
from tests.conftest import Connect
from tests.servers import http_server, until

pytestmark = pytest.mark.anyio

PATH = "/v1/vehicles/car-1/packets"


@pytest.fixture
async def client(connected: Connect, settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    """Of an ingest server before a queue that holds some 300 kB."""
    settings = msgspec.structs.replace(settings, queue_bytes=300_000)
    connection = await connected()
    await provision(connection, settings)
    app = application(NatsQueue(connection, settings, SystemClock()), settings)
    base = f"http://127.0.0.1:{settings.ingest_port}"
    async with (
        http_server(app, settings.ingest_port),
        httpx2.AsyncClient(base_url=base, timeout=30) as opened,
    ):
        yield opened


def packet(seq: int) -> bytes:
    document = {"vehicle": "car-1", "boot": 1, "seq": seq, "sent_at": "2026-11-23T10:00:00Z", "signals": {}}
    return json.dumps({**document, "samples": "x" * 20_000}).encode()


async def send(client: httpx2.AsyncClient, seq: int) -> httpx2.Response:
    return await client.post(PATH, content=packet(seq), headers={"content-type": "application/json"})


async def send_all(client: httpx2.AsyncClient, seqs: range) -> list[dict[str, Any]]:
    parts = (b"--b\r\nContent-Type: application/json\r\n\r\n" + packet(seq) + b"\r\n" for seq in seqs)
    headers = {"content-type": "multipart/mixed; boundary=b"}
    answer = await client.post(PATH, content=b"".join(parts) + b"--b--\r\n", headers=headers)
    assert answer.status_code == 207
    return list(answer.json())


async def drained(queue: NatsQueue, count: int) -> list[int]:
    """Pulls and acks so many: their seqs."""
    found: list[int] = []
    while len(found) < count:
        try:
            pulled = await queue.pull(64)
        except Recover as why:
            await queue.reset(why.partitions)
            continue
        found += [json.loads(delivery.body)["seq"] for delivery in pulled]
        await queue.ack(pulled)
    return found


async def test_a_full_queue_is_503_until_there_is_room(
    client: httpx2.AsyncClient, connected: Connect, settings: Settings
) -> None:
    acked = 0
    while (answer := await send(client, acked + 1)).status_code == 202:
        acked += 1
        assert acked < 20
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["content-type"] == "application/problem+json"
    assert [one["status"] for one in await send_all(client, range(acked + 1, acked + 4))] == [503] * 3

    queue = NatsQueue(await connected(), settings, SystemClock())
    await queue.join()
    try:
        assert await drained(queue, acked) == list(range(1, acked + 1)), "all that was acknowledged, in order"

        async def taken() -> bool:
            return (await send(client, acked + 1)).status_code == 202

        await until(taken)
        answers = await send_all(client, range(acked + 2, acked + 22))
        statuses = [one["status"] for one in answers]
        more = statuses.count(202)
        assert 0 < more < 20
        assert statuses == [202] * more + [503] * (20 - more), (
            "those behind one that must come again are not tried"
        )
        assert await drained(queue, more + 1) == list(range(acked + 1, acked + more + 2))
        # What was told 503 is sent again, as it is, and nothing is missing.
        again = range(acked + more + 2, acked + 22)

        async def all_taken() -> bool:
            return {one["status"] for one in await send_all(client, again)} == {202}

        await until(all_taken)
        assert await drained(queue, len(again)) == list(again)
    finally:
        await queue.leave()

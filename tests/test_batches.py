"""Many packets in one request, each answered on its own; and what a vehicle may send, alone or in batches."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterable
from typing import Any

import httpx2
import msgspec
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast import metrics
from fleetcast.clock import SystemClock
from fleetcast.errors import Unavailable, Unusable
from fleetcast.packet import JSON, MSGPACK, NDJSON
from fleetcast.queue import Stored
from fleetcast.settings import Settings
from tests.test_ingest import LIMIT, Queue, a_packet, ingest, is_problem, post

pytestmark = pytest.mark.anyio

MIXED = "multipart/mixed; boundary=b"


class Clock(SystemClock):
    """Time as a test wants it."""

    def __init__(self) -> None:
        self.time = 1_000.0

    def monotonic(self) -> float:
        return self.time


Part = tuple[bytes, dict[str, str]]


def part(body: bytes, form: str = JSON, **headers: str) -> Part:
    return body, {"content-type": form, **{name.replace("_", "-"): value for name, value in headers.items()}}


def written(parts: Iterable[Part]) -> bytes:
    text = b""
    for body, headers in parts:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        text += b"--b\r\n" + lines.encode() + b"\r\n" + body + b"\r\n"
    return text + b"--b--\r\n"


def packets(*seqs: int) -> list[Part]:
    return [part(a_packet(seq=seq)) for seq in seqs]


def stored(seq: int, position: int, duplicate: bool = False) -> dict[str, Any]:
    return {"status": 202, "packet": f"car-1/3/{seq}", "stored": position, "duplicate": duplicate}


async def send(client: httpx2.AsyncClient, parts: Iterable[Part], **headers: str) -> list[dict[str, Any]]:
    answer = await post(client, written(parts), form=MIXED, **headers)
    assert answer.status_code == 207, answer.text
    assert answer.headers["content-type"] == "application/json"
    answers = answer.json()
    assert isinstance(answers, list)
    return answers


# Batches


async def test_each_is_stored_in_its_order_as_it_was_sent() -> None:
    queue, head = Queue(), a_packet(seq=3) + b'\n{"t":1}\n'
    bodies = [a_packet(seq=9), zstd.compress(head), gzip.compress(a_packet(seq=1))]
    bodies.append(msgspec.msgpack.encode(json.loads(a_packet(seq=4))))
    forms = [(JSON, "identity"), (NDJSON, "zstd"), (JSON, "gzip"), (MSGPACK, "identity")]
    sent = [part(body, form, content_encoding=said) for body, (form, said) in zip(bodies, forms, strict=True)]
    async with ingest(queue) as client:
        assert await send(client, sent) == [stored(9, 1), stored(3, 2), stored(1, 3), stored(4, 4)]
        assert await send(client, [sent[1]]) == [stored(3, 2, duplicate=True)]
    assert [one[2] for one in queue.stored] == bodies
    assert [(one[3], one[4]) for one in queue.stored] == forms


async def test_one_that_is_refused_stops_none_of_the_others() -> None:
    queue = Queue()
    before = metrics.REFUSED.labels("400")._value.get()
    sent = [
        part(a_packet(seq=1)),
        part(a_packet(seq=0)),
        part(a_packet(seq=2, vehicle="car-2")),
        part(a_packet(seq=2), "text/plain"),
        (a_packet(seq=2), {}),
        part(a_packet(seq=2), MIXED),
        part(a_packet(seq=2), content_encoding="br"),
        part(a_packet(seq=2), content_encoding="zstd"),
        part(a_packet(LIMIT + 1, seq=2)),
        part(zstd.compress(a_packet(LIMIT + 1, seq=2)), content_encoding="zstd"),
        part(b""),
        part(a_packet(LIMIT, seq=3)),
    ]
    async with ingest(queue) as client:
        first, *refused, last = await send(client, sent)
    assert (first, last) == (stored(1, 1), stored(3, 2))
    assert [one["status"] for one in refused] == [400, 400, 415, 415, 415, 415, 400, 413, 413, 400]
    for one in refused:
        assert one.keys() == {"status", "title", "detail"}
        assert one["title"]
        assert one["detail"]
    assert "seq" in refused[0]["detail"]
    assert "car-2" in refused[1]["detail"]
    assert [one[1] for one in queue.stored] == ["car-1/3/1", "car-1/3/3"]
    assert metrics.REFUSED.labels("400")._value.get() == before + 4


async def test_after_a_503_the_rest_is_not_tried() -> None:
    """What is behind it would overtake it."""
    tried: list[str] = []

    class Full(Queue):
        async def put(self, vehicle: str, packet_id: str, body: bytes, form: str, encoding: str) -> Stored:
            tried.append(packet_id)
            if packet_id == "car-1/3/2":
                raise Unavailable("full at 10.0.0.1")
            return await super().put(vehicle, packet_id, body, form, encoding)

    before = metrics.UNAVAILABLE._value.get()
    async with ingest(Full()) as client:
        first, *refused = await send(client, packets(1, 2, 3, 4))
    assert first == stored(1, 1)
    detail = "the queue does not take it now; keep the packet and send it again"
    assert refused == [{"status": 503, "title": "Not stored", "detail": detail, "retry_after": 1}] * 3
    assert tried == ["car-1/3/1", "car-1/3/2"]
    assert metrics.UNAVAILABLE._value.get() == before + 3


@pytest.mark.parametrize(
    "body", [b"", b"--b--\r\n", written(packets(1))[:-6], b"preamble\r\n" + written(packets(1)), a_packet()]
)
async def test_of_a_malformed_batch_nothing_is_stored(body: bytes) -> None:
    queue = Queue()
    async with ingest(queue) as client:
        is_problem(await post(client, body, form=MIXED), 400)
        is_problem(await post(client, written(packets(1)), form="multipart/mixed"), 400, "boundary")
        is_problem(
            await post(client, written(packets(1)), form=MIXED, content_encoding="gzip"), 415, "each part"
        )
        is_problem(
            await post(client, written(packets(1)), form="multipart/form-data; boundary=b"),
            415,
            "multipart/mixed",
        )
    assert not queue.stored


async def test_a_batch_is_bounded() -> None:
    queue, most = Queue(), 5_000
    async with ingest(queue, max_batch=most) as client:
        fits = written([part(a_packet(most - len(written([part(b"")]))))])
        assert len(fits) == most
        assert (await post(client, fits, form=MIXED)).status_code == 207
        is_problem(await post(client, fits + b" ", form=MIXED), 413, f"more than {most} bytes")

        async def unannounced() -> Any:
            for start in range(0, most, 100):
                yield fits[start : start + 100]
            yield b" "

        is_problem(await post(client, unannounced(), form=MIXED), 413, f"more than {most} bytes")
        assert len(await send(client, [part(b"")] * 100)) == 100
        is_problem(await post(client, written([part(b"")] * 101), form=MIXED), 413, "more than 100 parts")
    assert len(queue.stored) == 1


async def test_an_id_that_is_none_is_refused_as_a_whole() -> None:
    queue = Queue()
    async with ingest(queue) as client:
        is_problem(await post(client, written(packets(1)), vehicle="car%0A", form=MIXED), 400, "A-Z a-z")
    assert not queue.stored


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.binary(max_size=60) | st.integers(1, 5).map(lambda seq: a_packet(seq=seq)),
            st.sampled_from([JSON, NDJSON, MSGPACK, "text/plain", "", MIXED]),
            st.sampled_from(["identity", "identity", "gzip", "br"]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_whatever_the_parts_are_each_is_stored_or_refused(parts: list[tuple[bytes, str, str]]) -> None:
    parts = [one for one in parts if b"\r\n--b" not in b"\r\n" + one[0]] or [(b"", JSON, "identity")]

    async def ask() -> None:
        queue = Queue()
        async with ingest(queue) as client:
            answers = await send(
                client, [part(body, form, content_encoding=said) for body, form, said in parts]
            )
        assert len(answers) == len(parts)
        new = [one for one in answers if one["status"] == 202 and not one["duplicate"]]
        assert [one["packet"] for one in new] == [one[1] for one in queue.stored]
        assert {one["status"] for one in answers} <= {202, 400, 413, 415}

    asyncio.run(ask())


# What a vehicle may send


async def test_beyond_its_packets_a_vehicle_is_told_when_to_come_again() -> None:
    queue, clock = Queue(), Clock()
    before = metrics.REFUSED.labels("429")._value.get()
    async with ingest(queue, clock=clock, packets_per_minute=3) as client:
        for seq in (1, 2, 3):
            assert (await post(client, a_packet(seq=seq))).status_code == 202
        refused = await post(client, a_packet(seq=4))
        is_problem(refused, 429, "keep the packet")
        assert refused.headers["retry-after"] == "20"
        assert (await post(client, a_packet(vehicle="car-2"), vehicle="car-2")).status_code == 202
        clock.time += 19.5
        assert (await post(client, a_packet(seq=4))).headers["retry-after"] == "1"
        clock.time += 1
        assert (await post(client, a_packet(seq=4))).status_code == 202
        is_problem(await post(client, a_packet(seq=5)), 429)
        clock.time += 3_600
        for seq in (5, 6, 7):  # a minute's worth, not an hour's
            assert (await post(client, a_packet(seq=seq))).status_code == 202
        is_problem(await post(client, a_packet(seq=8)), 429)
    assert metrics.REFUSED.labels("429")._value.get() == before + 4
    assert len(queue.stored) == 8


async def test_beyond_its_bytes_too_as_they_were_sent() -> None:
    queue, clock = Queue(), Clock()
    async with ingest(
        queue, clock=clock, max_packet=1024, max_state=1024, bytes_per_minute=1024, packets_per_minute=0
    ) as client:
        small = zstd.compress(a_packet(1024))
        for _ in range(1024 // len(small)):
            assert (await post(client, small, content_encoding="zstd")).status_code == 202
        is_problem(await post(client, small, content_encoding="zstd"), 429)
        clock.time += 60
        assert (await post(client, a_packet(1024))).status_code == 202
        refused = await post(client, a_packet(512))
        is_problem(refused, 429)
        assert refused.headers["retry-after"] == "30"


async def test_bad_packets_cost_as_much_as_good_ones() -> None:
    async with ingest(Queue(), clock=Clock(), packets_per_minute=2) as client:
        is_problem(await post(client, b"nonsense"), 400)
        is_problem(await post(client, b"nonsense"), 400)
        is_problem(await post(client, a_packet()), 429)


async def test_of_who_may_send_nothing_nothing_is_read() -> None:
    async with ingest(Queue(), clock=Clock(), packets_per_minute=1) as client:
        await post(client, a_packet())
        taken = []

        async def body() -> Any:
            taken.append(1)
            yield a_packet()

        is_problem(await post(client, body()), 429)
        is_problem(await post(client, body(), form=MIXED), 429)
    assert not taken


async def test_zero_is_no_limit() -> None:
    queue = Queue()
    async with ingest(queue, clock=Clock(), packets_per_minute=0, bytes_per_minute=0) as client:
        for seq in range(1, 1_500):
            assert (await post(client, a_packet(seq=seq))).status_code == 202


async def test_by_default_it_is_1200_at_once() -> None:
    queue = Queue()
    async with ingest(queue, clock=Clock()) as client:
        for turn in range(12):
            assert {
                one["status"] for one in await send(client, packets(*range(turn * 100 + 1, turn * 100 + 101)))
            } == {202}
        is_problem(await post(client, a_packet(seq=1_201)), 429)


async def test_in_a_batch_what_is_beyond_is_told_each() -> None:
    queue, clock = Queue(), Clock()
    async with ingest(queue, clock=clock, packets_per_minute=6) as client:
        *first, five, six = await send(client, [*packets(1, 2, 3, 4, 5), part(b"nonsense")])
        assert first == [stored(seq, seq) for seq in (1, 2, 3, 4)]
        assert (five, six["status"]) == (stored(5, 5), 400)
        clock.time += 20
        answers = await send(client, packets(6, 7, 8, 9))
        assert answers[:2] == [stored(6, 6), stored(7, 7)]
        assert [one["status"] for one in answers[2:]] == [429, 429]
        assert [one["retry_after"] for one in answers[2:]] == [10, 10]
        clock.time += 10
        assert await send(client, packets(8)) == [stored(8, 8)]
    assert len(queue.stored) == 8


async def test_what_is_behind_a_429_does_not_overtake_it() -> None:
    queue = Queue()
    async with ingest(
        queue, clock=Clock(), max_packet=1024, max_state=1024, bytes_per_minute=1500, packets_per_minute=0
    ) as client:
        sent = [part(a_packet(1000, seq=1)), part(a_packet(1000, seq=2)), part(a_packet(seq=3))]
        assert [one["status"] for one in await send(client, sent)] == [202, 429, 429]
    assert len(queue.stored) == 1


def test_bytes_that_no_packet_would_fit_in_are_no_setting() -> None:
    with pytest.raises(Unusable, match="bytes_per_minute: 1000 is less than max_packet"):
        Settings(bytes_per_minute=1000).checked()
    Settings(bytes_per_minute=0).checked()

"""A packet is stored as it was sent and then acknowledged, or refused with the reason and not stored."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, unquote

import httpx2
import msgspec
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from fleetcast.admission import Admit
from fleetcast.clock import Clock, SystemClock
from fleetcast.errors import Refuse, Unavailable
from fleetcast.inflate import ENCODINGS
from fleetcast.ingest import application
from fleetcast.packet import JSON, NDJSON
from fleetcast.queue import Stored
from fleetcast.settings import Settings
from fleetcast.tally import Tallies, Tally

LIMIT = 1_048_576
FORMS = (JSON, NDJSON)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
}


class Queue:
    """The put side of the queue, in memory. `broken` is raised instead."""

    def __init__(self) -> None:
        self.stored: list[tuple[str, str, bytes, str, str]] = []
        self.broken: Exception | None = None

    async def put(self, vehicle: str, packet_id: str, body: bytes, form: str, encoding: str) -> Stored:
        if self.broken is not None:
            raise self.broken
        for position, (_, stored, *_) in enumerate(self.stored, 1):
            if stored == packet_id:
                return Stored(position, True)
        self.stored.append((vehicle, packet_id, body, form, encoding))
        return Stored(len(self.stored), False)


@asynccontextmanager
async def ingest(
    queue: Queue, admit: Admit | None = None, clock: Clock | None = None, **changes: Any
) -> AsyncIterator[httpx2.AsyncClient]:
    settings = Settings(**changes)
    app = application(queue, settings, admit=admit, clock=clock or SystemClock())  # type: ignore[arg-type] # only put is asked
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://ingest") as client:
        yield client


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
async def client(queue: Queue) -> AsyncIterator[httpx2.AsyncClient]:
    async with ingest(queue) as opened:
        yield opened


def a_packet(size: int = 0, **changes: Any) -> bytes:
    document: dict[str, Any] = {
        "vehicle": "car-1",
        "boot": 3,
        "seq": 4,
        "sent_at": "2026-11-23T10:00:00Z",
        "signals": {"Vehicle.Speed": {"value": 50.5}},
    }
    text = json.dumps(document | changes).encode()
    return text + b" " * (size - len(text))


async def post(
    client: httpx2.AsyncClient, body: Any, vehicle: str = "car-1", form: str = JSON, **headers: str
) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(
        f"/v1/vehicles/{vehicle}/packets", content=body, headers={"content-type": form, **named}
    )


def is_problem(answer: httpx2.Response, status: int, detail: str = "") -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == "about:blank"
    assert body["status"] == status
    assert body["title"]
    assert detail in body.get("detail", "")
    assert ("retry-after" in answer.headers) == (status in (429, 503))


# Stored


@pytest.mark.parametrize("form", [*FORMS, "Application/JSON; charset=utf-8"])
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_is_stored_as_it_was_sent(
    client: httpx2.AsyncClient, queue: Queue, form: str, encoding: str
) -> None:
    body = COMPRESS[encoding](a_packet())
    answer = await post(client, body, form=form, content_encoding=encoding)
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"packet": "car-1/3/4", "stored": 1, "duplicate": False}
    assert queue.stored == [("car-1", "car-1/3/4", body, form.partition(";")[0].lower(), encoding)]


async def test_duplicates_are_counted_for_their_vehicle(queue: Queue) -> None:
    tallies = Tallies(10)
    transport = httpx2.ASGITransport(app=application(queue, Settings(), tallies=tallies))  # type: ignore[arg-type] # only put is asked
    async with httpx2.AsyncClient(transport=transport, base_url="http://ingest") as client:
        for seq in (1, 1, 2, 1):
            assert (await post(client, a_packet(seq=seq))).status_code == 202
    assert tallies.get("car-1") == Tally(duplicate=2)


@pytest.mark.parametrize("form", ["application/msgpack", "application/vnd.msgpack", "application/x-msgpack"])
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_messagepack_is_stored_as_it_was_sent(
    client: httpx2.AsyncClient, queue: Queue, form: str, encoding: str
) -> None:
    body = COMPRESS[encoding](msgspec.msgpack.encode(json.loads(a_packet())))
    answer = await post(client, body, form=form, content_encoding=encoding)
    assert (answer.status_code, answer.json()["packet"]) == (202, "car-1/3/4")
    assert queue.stored == [("car-1", "car-1/3/4", body, form, encoding)]


async def test_sent_again_it_is_a_duplicate(client: httpx2.AsyncClient, queue: Queue) -> None:
    await post(client, a_packet())
    answer = await post(client, zstd.compress(a_packet()), content_encoding="zstd")
    assert answer.status_code == 202
    assert answer.json() == {"packet": "car-1/3/4", "stored": 1, "duplicate": True}
    assert len(queue.stored) == 1
    assert (await post(client, a_packet(seq=5))).json()["duplicate"] is False


async def test_the_acknowledgement_waits_for_the_store(
    client: httpx2.AsyncClient, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable, asked = asyncio.Event(), asyncio.Event()
    put = queue.put

    async def slowly(*args: Any) -> Stored:
        asked.set()
        await durable.wait()
        return await put(*args)

    monkeypatch.setattr(queue, "put", slowly)
    answering = asyncio.create_task(post(client, a_packet()))
    await asked.wait()
    assert not answering.done()
    durable.set()
    assert (await answering).status_code == 202


async def test_only_the_head_is_read(client: httpx2.AsyncClient, queue: Queue) -> None:
    """Shown by a bulk that nobody could read: what it holds is not ingest's to say."""
    body = zstd.compress(a_packet() + b"\n") + b"no zstd at all"
    assert (await post(client, body, form=NDJSON, content_encoding="zstd")).status_code == 202
    assert queue.stored[0][2] == body


# Limits


async def pieces(body: bytes, taken: list[int] | None = None) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 65_536):
        if taken is not None:
            taken.append(start)
        yield body[start : start + 65_536]


@pytest.mark.parametrize("form", FORMS)
async def test_the_limit_passes_and_a_byte_more_does_not(
    client: httpx2.AsyncClient, queue: Queue, form: str
) -> None:
    assert (await post(client, a_packet(LIMIT), form=form)).status_code == 202
    assert (await post(client, pieces(a_packet(LIMIT, seq=5)), form=form)).status_code == 202
    is_problem(await post(client, a_packet(LIMIT + 1, seq=6), form=form), 413, f"more than {LIMIT} bytes")
    is_problem(
        await post(client, pieces(a_packet(LIMIT + 1, seq=7)), form=form), 413, f"more than {LIMIT} bytes"
    )
    assert [len(body) for _, _, body, _, _ in queue.stored] == [LIMIT, LIMIT]


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_the_limit_holds_for_what_is_inflated(
    client: httpx2.AsyncClient, queue: Queue, encoding: str
) -> None:
    fits, exceeds = COMPRESS[encoding](a_packet(LIMIT)), COMPRESS[encoding](a_packet(LIMIT + 1))
    assert (await post(client, fits, content_encoding=encoding)).status_code == 202
    is_problem(
        await post(client, exceeds, content_encoding=encoding), 413, f"more than {LIMIT} bytes when inflated"
    )
    assert len(queue.stored) == 1


async def test_a_size_that_is_declared_is_enough(client: httpx2.AsyncClient, queue: Queue) -> None:
    """Of the head alone it could not be seen: the bulk behind it is what is too large."""
    body = zstd.compress(a_packet() + b"\n" + b" " * LIMIT)
    is_problem(await post(client, body, form=NDJSON, content_encoding="zstd"), 413, "when inflated")
    assert not queue.stored


async def test_a_body_that_is_announced_too_large_is_not_read(
    client: httpx2.AsyncClient, queue: Queue
) -> None:
    taken: list[int] = []
    answer = await post(client, pieces(a_packet(), taken), content_length=str(LIMIT + 1))
    is_problem(answer, 413)


async def test_an_endless_body_is_read_no_further_than_the_limit(queue: Queue) -> None:
    asked = 0

    async def receive() -> Message:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b" " * 65_536, "more_body": True}

    answer = await raw(queue, receive)
    assert answer[0]["status"] == 413
    assert asked == LIMIT // 65_536 + 1


async def test_a_body_that_breaks_off_is_not_stored(queue: Queue) -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": a_packet(), "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    answer = await raw(queue, receive)
    assert answer[0]["status"] == 400
    assert not queue.stored


async def raw(queue: Queue, receive: Callable[[], Any]) -> list[Any]:
    """The application, spoken to as a server does."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/vehicles/car-1/packets",
        "query_string": b"",
        "headers": [(b"content-type", JSON.encode())],
    }
    await application(queue, Settings())(scope, receive, send)  # type: ignore[arg-type] # only put is asked
    return sent


@pytest.mark.parametrize("length", ["many", "1e3", "", "²", "9" * 5000])
async def test_a_length_that_is_no_number(client: httpx2.AsyncClient, queue: Queue, length: str) -> None:
    """A server in front answers that itself; if it does not, it is no bug of ours."""
    answer = await client.post(
        "/v1/vehicles/car-1/packets",
        content=pieces(a_packet()),
        headers=[(b"content-type", JSON.encode()), (b"content-length", length.encode("latin-1"))],
    )
    is_problem(answer, 413 if answer.status_code == 413 else 400)
    assert not queue.stored


# Refused


@pytest.mark.parametrize(
    "vehicle",
    [
        *(
            "car%201",
            "car.1",
            "a" * 65,
            "car%0A",
            "%0Acar",
            "%00",
            "ç",
            "car*",
            "car%3E",
            "$SYS",
            "%24MQTT",
            "car%2E1",
        ),
        *("car%25", "%252F", "car%2B", "car%23", "+", "car%7F", "%FF", "car%C2%A0", "car%D9%A1", "%EF%BD%81"),
    ],
)
async def test_an_id_that_is_none(client: httpx2.AsyncClient, queue: Queue, vehicle: str) -> None:
    for body in (a_packet(), a_packet(vehicle=unquote(vehicle))):
        is_problem(await post(client, body, vehicle=vehicle), 400, "A-Z a-z 0-9 - _")
    assert not queue.stored


@pytest.mark.parametrize("vehicle", ["a%2Fb", "%2F", "..", "a/../b", "%2E%2E%2Fcar-1", "", "a//b"])
async def test_an_id_with_a_slash_is_another_path(
    client: httpx2.AsyncClient, queue: Queue, vehicle: str
) -> None:
    answer = await post(client, a_packet(), vehicle=vehicle)
    is_problem(answer, 404 if answer.status_code == 404 else 400)
    assert not queue.stored


async def test_a_packet_of_another_vehicle(client: httpx2.AsyncClient, queue: Queue) -> None:
    is_problem(await post(client, a_packet(vehicle="car-2")), 400, "car-2")
    assert not queue.stored


@pytest.mark.parametrize("form", ["", "text/plain", "application/jsonx", "application/octet-stream", "json"])
async def test_a_content_type_that_is_none_of_ours(
    client: httpx2.AsyncClient, queue: Queue, form: str
) -> None:
    is_problem(await post(client, a_packet(), form=form), 415, "application/x-ndjson, application/msgpack")
    assert not queue.stored


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, zstd", "x-gzip", ""])
async def test_a_content_encoding_that_is_none_of_ours(
    client: httpx2.AsyncClient, queue: Queue, encoding: str
) -> None:
    is_problem(await post(client, a_packet(), content_encoding=encoding), 415, "zstd")
    assert not queue.stored


@pytest.mark.parametrize(
    ("body", "encoding", "detail"),
    [
        (b"", "identity", "truncated"),
        (b"{}", "identity", "vehicle"),
        (a_packet(seq=0), "identity", "seq"),
        (a_packet(signals={"x": {"value": None}}), "identity", "null"),
        (a_packet(), "zstd", "zstd"),
        (a_packet(), "gzip", "gzip"),
        (zstd.compress(a_packet())[:-3], "zstd", "truncated zstd"),
        (gzip.compress(a_packet(), mtime=0)[:-3], "gzip", "truncated gzip"),
        (b'{"vehicle": "\xff"}', "identity", "UTF-8"),
        (a_packet(sent_at="0001-01-01T00:00:00+23:59"), "identity", ""),
        (a_packet()[:-1], "identity", "truncated"),
        (a_packet() + b"{}", "identity", "malformed"),
        (a_packet() + b"\0", "identity", "malformed"),
        (zstd.compress(a_packet()) + b"garbage", "zstd", "damaged zstd"),
        (gzip.compress(a_packet(), mtime=0) + b"garbage", "gzip", "damaged gzip"),
        (zstd.compress(a_packet()), "gzip", "damaged gzip"),
        (zstd.compress(a_packet()), "identity", "malformed"),
        (a_packet(signals={"x": {"value": float("nan")}}), "identity", "malformed"),
        (a_packet(signals={"x": {"value": float("-inf")}}), "identity", "malformed"),
        (a_packet(signals={"x" * 300_000: {"value": 1}}), "identity", "length <= 256"),
        (
            a_packet(deep="DEEP").replace(b'"DEEP"', b"[" * 200_000 + b"]" * 200_000),
            "identity",
            "nested too deeply",
        ),
        (a_packet(vehicle="car-1\n"), "identity", "vehicle"),
        (a_packet(vehicle="car-1/../car-2"), "identity", "vehicle"),
    ],
    ids=range(23),
)
@pytest.mark.parametrize("form", FORMS)
async def test_a_bad_packet_is_refused_with_the_reason(
    client: httpx2.AsyncClient, queue: Queue, form: str, body: bytes, encoding: str, detail: str
) -> None:
    is_problem(await post(client, body, form=form, content_encoding=encoding), 400, detail)
    assert not queue.stored


async def test_other_paths_and_methods_are_problems(client: httpx2.AsyncClient) -> None:
    is_problem(await client.post("/v1/vehicles/car-1"), 404)
    wrong = await client.get("/v1/vehicles/car-1/packets")
    is_problem(wrong, 405)
    assert wrong.headers["allow"] == "POST"


@settings(deadline=None, max_examples=100)
@given(
    st.binary(max_size=300) | st.just(a_packet()),
    st.sampled_from([*FORMS, "text/plain"]),
    st.sampled_from([*ENCODINGS, "br"]),
    st.text(min_size=1, max_size=4) | st.just("car-1"),
)
def test_whatever_comes_is_stored_or_refused(body: bytes, form: str, encoding: str, vehicle: str) -> None:
    async def ask() -> None:
        queue = Queue()
        async with ingest(queue) as client:
            answer = await post(client, body, quote(vehicle, safe=""), form, content_encoding=encoding)
        if answer.status_code == 202:
            assert [stored[0] for stored in queue.stored] == [vehicle]
        else:
            is_problem(answer, answer.status_code)
            assert answer.status_code in (400, 404, 405, 413, 415)
            assert not queue.stored

    asyncio.run(ask())


async def test_the_noun_of_the_address_is_a_setting(queue: Queue) -> None:
    json_ = {"content-type": JSON}
    async with ingest(queue, noun="devices") as client:
        sent = await client.post("/v1/devices/car-1/packets", content=a_packet(), headers=json_)
        assert sent.status_code == 202
        is_problem(await post(client, a_packet()), 404)
    async with ingest(queue) as client:
        is_problem(await client.post("/v1/devices/car-1/packets", content=a_packet(), headers=json_), 404)


# Not stored


async def test_a_queue_that_does_not_take_it_is_503(client: httpx2.AsyncClient, queue: Queue) -> None:
    queue.broken = Unavailable("stream is full at 10.0.0.1")
    answer = await post(client, a_packet())
    is_problem(answer, 503, "send it again")
    assert answer.headers["retry-after"] == "1"
    assert "10.0.0.1" not in answer.text  # what is behind us is not the vehicle's to know
    queue.broken = None
    assert (await post(client, a_packet())).json()["duplicate"] is False


async def test_a_bug_is_a_problem_that_tells_nothing(client: httpx2.AsyncClient, queue: Queue) -> None:
    queue.broken = RuntimeError("secret of the house")
    answer = await post(client, a_packet())
    is_problem(answer, 500)
    assert "secret" not in answer.text


# Who may send


async def test_who_is_not_admitted_is_told_so_before_the_packet_is_read(queue: Queue) -> None:
    asked: list[tuple[str, str]] = []

    async def admit(request: Request, vehicle: str) -> None:
        asked.append((request.url.path, vehicle))
        if vehicle != "car-1":
            raise Refuse(403, "Vehicle disabled", f"{vehicle} is disabled in the registry")

    async with ingest(queue, admit) as client:
        assert (await post(client, a_packet())).status_code == 202
        is_problem(await post(client, b"no packet at all", "car-2"), 403, "car-2 is disabled")
        is_problem(await post(client, a_packet(), "car 3"), 400)
    assert asked == [("/v1/vehicles/car-1/packets", "car-1"), ("/v1/vehicles/car-2/packets", "car-2")]
    assert [vehicle for vehicle, *_ in queue.stored] == ["car-1"]

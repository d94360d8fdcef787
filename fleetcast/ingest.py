"""Where vehicles send packets by HTTP: `POST /v1/vehicles/{vehicle}/packets` (the noun is the setting `noun`).

In: a packet in one of the forms of the setting `decoders`, zstd, gzip or plain; or many, as `multipart/mixed`, each
answered on its own. Out: 202 only after the durable store; the same packet sent again is answered `duplicate: true`. What
can be seen without the bulk is refused with a 4xx and not stored; of an x-ndjson packet only the head is inflated. 503 and
429 mean: keep the packet, try again later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from fleetcast import decode, metrics
from fleetcast.admission import Admit
from fleetcast.budget import Budgets
from fleetcast.clock import Clock, SystemClock
from fleetcast.errors import Refuse, Reject, TooLarge, Unavailable
from fleetcast.health import on_bug, on_http_exception, on_refuse
from fleetcast.inflate import ENCODINGS, bound_size
from fleetcast.multipart import MIXED, boundary_of, read_parts
from fleetcast.queue import Queue
from fleetcast.settings import Settings
from fleetcast.subjects import is_vehicle
from fleetcast.tally import Tallies

log = structlog.get_logger()

_CLOCK = SystemClock()


def application(
    queue: Queue,
    settings: Settings,
    *,
    admit: Admit | None = None,
    tallies: Tallies | None = None,
    clock: Clock = _CLOCK,
) -> Starlette:
    """The ASGI application. `admit` is asked before a body is read; `tallies` counts each vehicle's duplicates.

    Raises Unusable if a decoder of the settings does not load.
    """
    decoders = decode.load(settings.decoders)
    budgets = Budgets(settings.packets_per_minute, settings.bytes_per_minute)

    async def accept(request: Request) -> Response:
        """identify, admit, bound, check, store, 202."""
        vehicle = _identify(request)
        if admit is not None:
            await admit(request, vehicle)
        _affordable(budgets.wait(vehicle, 0, clock.monotonic()))
        if (boundary := boundary_of(request.headers.get("content-type", ""))) is not None:
            return await accept_all(request, vehicle, boundary)
        form, encoding = _form(request.headers, decoders.content_types), _encoding(request.headers)
        body = b"".join([piece async for piece in _pieces(request, settings.max_packet, "Packet too large")])
        answer = await take(vehicle, form, encoding, body)
        return Response(msgspec.json.encode(answer), 202, media_type="application/json")

    async def accept_all(request: Request, vehicle: str, boundary: bytes) -> Response:
        """The same for each part of a batch, one after the other, so that they are stored in their order; 207.

        One that is refused stops none of the others, but for those that are to be sent again later: what comes behind them
        would overtake them.
        """
        if _encoding(request.headers) != "identity":
            raise Refuse(
                415, "Unsupported content encoding", "each part has its own; the batch as a whole has none"
            )
        parts = await read_parts(_pieces(request, settings.max_batch, "Batch too large"), boundary)
        answers: list[dict[str, Any]] = []
        later: Refuse | None = None
        for part in parts:
            await asyncio.sleep(0)  # for others: one that is refused waits for nothing
            try:
                if later is not None:
                    raise later
                form, encoding = _form(part.headers, decoders.content_types), _encoding(part.headers)
                if len(part.body) > settings.max_packet:
                    raise Refuse(413, "Packet too large", f"more than {settings.max_packet} bytes")
                answers.append({"status": 202, **await take(vehicle, form, encoding, part.body)})
            except Refuse as why:
                _count(why, request)
                later = None if why.retry_after is None else why
                answers.append(_as_part(why))
        return Response(msgspec.json.encode(answers), 207, media_type="application/json")

    async def take(vehicle: str, form: str, encoding: str, body: bytes) -> dict[str, Any]:
        """One packet: what is answered once it is stored. Raises Refuse."""
        _affordable(budgets.take(vehicle, len(body), clock.monotonic()))
        try:
            bound_size(body, encoding, settings.max_packet)
            packet = decoders.decode(body, form, encoding, settings.max_packet)
        except TooLarge as why:
            raise Refuse(413, "Packet too large", str(why)) from None
        except Reject as why:
            raise Refuse(400, "Bad packet", str(why)) from None
        if packet.vehicle != vehicle:
            raise Refuse(400, "Bad packet", f"vehicle {packet.vehicle} in a packet sent as {vehicle}")
        began = time.perf_counter()
        try:
            stored = await queue.put(vehicle, packet.id, body, form, encoding)
        except Unavailable as why:
            log.warning("packet not stored", vehicle=vehicle, packet=packet.id, error=str(why))
            raise Refuse(
                503, "Not stored", "the queue does not take it now; keep the packet and send it again"
            ) from why
        metrics.STORE_SECONDS.observe(time.perf_counter() - began)
        metrics.ACKED.inc()
        metrics.DUPLICATES.inc(stored.duplicate)
        if stored.duplicate and tallies is not None:
            tallies.duplicate(vehicle)
        metrics.STORED_BYTES.inc(0 if stored.duplicate else len(body))
        log.debug(
            "packet stored",
            vehicle=vehicle,
            packet=packet.id,
            position=stored.position,
            again=stored.duplicate,
        )
        return {"packet": packet.id, "stored": stored.position, "duplicate": stored.duplicate}

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refuse)
        _count(error, request)
        return await on_refuse(request, error)

    return Starlette(
        routes=[Route(f"/v1/{settings.noun}/{{vehicle}}/packets", accept, methods=["POST"])],
        exception_handlers={Refuse: refused, HTTPException: on_http_exception, Exception: on_bug},
    )


def _identify(request: Request) -> str:
    vehicle = str(request.path_params["vehicle"])
    if not is_vehicle(vehicle):
        raise Refuse(400, "Bad id", "an id is 1 to 64 of A-Z a-z 0-9 - _")
    return vehicle


def _affordable(seconds: int) -> None:
    if seconds:
        raise Refuse(
            429,
            "Too many packets",
            "more than a vehicle may send; keep the packet and send it later",
            seconds,
        )


def _form(headers: Mapping[str, str], known: Sequence[str]) -> str:
    form = headers.get("content-type", "").partition(";")[0].strip().lower()
    if form not in known:
        raise Refuse(415, "Unsupported content type", f"send {', '.join(known)}, or many packets as {MIXED}")
    return form


def _encoding(headers: Mapping[str, str]) -> str:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ENCODINGS:
        raise Refuse(415, "Unsupported content encoding", f"send {', '.join(ENCODINGS)}")
    return encoding


def _count(why: Refuse, request: Request) -> None:
    if why.status == 503:
        metrics.UNAVAILABLE.inc()
    else:
        metrics.REFUSED.labels(str(why.status)).inc()
        log.info("packet refused", path=request.url.path, status=why.status, reason=str(why))


def _as_part(why: Refuse) -> dict[str, Any]:
    """A problem within the answer to a batch."""
    answer: dict[str, Any] = {"status": why.status, "title": why.title, "detail": why.detail}
    return answer if why.retry_after is None else {**answer, "retry_after": why.retry_after}


async def _pieces(request: Request, limit: int, title: str) -> AsyncIterator[bytes]:
    """The body as it comes, or 413 as soon as it is known to be longer."""
    too_large = Refuse(413, title, f"more than {limit} bytes")
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or len(length) > 20:
        raise Refuse(400, "Bad Content-Length", "not a number of bytes")
    if int(length) > limit:
        raise too_large
    size = 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                raise too_large
            yield piece
    except ClientDisconnect:
        raise Refuse(400, "Bad packet", "the connection ended before the body did") from None

"""Where vehicles send packets by HTTP: `POST /v1/vehicles/{vehicle}/packets` (the noun is the setting `noun`).

In: a packet, as JSON or x-ndjson, zstd, gzip or plain. Out: 202 only after the durable store; the same packet sent again is
answered `duplicate: true`. What can be seen without the bulk is refused with a 4xx and not stored; of an x-ndjson packet
only the head is inflated. 503 means: keep the packet, try again.
"""

from __future__ import annotations

import time

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from fleetcast import metrics
from fleetcast.errors import Refuse, Reject, TooLarge, Unavailable
from fleetcast.health import on_bug, on_http_exception, on_refuse
from fleetcast.packet import ENCODINGS, FORMS, bound_size, decode
from fleetcast.queue import Queue
from fleetcast.settings import Settings
from fleetcast.subjects import is_vehicle
from fleetcast.tally import Tallies

log = structlog.get_logger()


def application(queue: Queue, settings: Settings, tallies: Tallies | None = None) -> Starlette:
    """The ASGI application. `tallies` counts each vehicle's duplicates."""

    async def accept(request: Request) -> Response:
        """identify, bound, check, store, 202."""
        vehicle = _identify(request)
        form, encoding = _form(request), _encoding(request)
        body = await _bounded(request, settings.max_packet)
        try:
            bound_size(body, encoding, settings.max_packet)
            packet = decode(body, form, encoding, settings.max_packet)
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
        answer = {"packet": packet.id, "stored": stored.position, "duplicate": stored.duplicate}
        return Response(msgspec.json.encode(answer), 202, media_type="application/json")

    async def refused(request: Request, error: Exception) -> Response:
        response = await on_refuse(request, error)
        if response.status_code == 503:
            metrics.UNAVAILABLE.inc()
        else:
            metrics.REFUSED.labels(str(response.status_code)).inc()
            log.info("packet refused", path=request.url.path, status=response.status_code, reason=str(error))
        return response

    return Starlette(
        routes=[Route(f"/v1/{settings.noun}/{{vehicle}}/packets", accept, methods=["POST"])],
        exception_handlers={Refuse: refused, HTTPException: on_http_exception, Exception: on_bug},
    )


def _identify(request: Request) -> str:
    vehicle = str(request.path_params["vehicle"])
    if not is_vehicle(vehicle):
        raise Refuse(400, "Bad id", "an id is 1 to 64 of A-Z a-z 0-9 - _")
    return vehicle


def _form(request: Request) -> str:
    form = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if form not in FORMS:
        raise Refuse(415, "Unsupported content type", f"send {' or '.join(FORMS)}")
    return form


def _encoding(request: Request) -> str:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ENCODINGS:
        raise Refuse(415, "Unsupported content encoding", f"send {', '.join(ENCODINGS)}")
    return encoding


async def _bounded(request: Request, limit: int) -> bytes:
    """The body, or 413 as soon as it is known to be longer."""
    too_large = Refuse(413, "Packet too large", f"more than {limit} bytes")
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or len(length) > 20:
        raise Refuse(400, "Bad Content-Length", "not a number of bytes")
    if int(length) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise too_large
            parts.append(part)
    except ClientDisconnect:
        raise Refuse(400, "Bad packet", "the connection ended before the body did") from None
    return b"".join(parts)

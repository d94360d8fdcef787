"""What a token is changed for where headers cannot be set, as by a browser's EventSource. Only one in the header counts.

    POST /v1/tickets     {"vehicles": […]}? -> {"ticket", "expires_at"}: for ?ticket=, good for some seconds to open streams
    POST /v1/session     -> 204, and the token as a cookie that no script can read, sent to this site's own requests alone
    DELETE /v1/session   -> 204, and the cookie is gone

A long-lived token is never to stand in a URL, where logs and histories keep it; so a ticket is short-lived, and takes no part
in getting another one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fleetcast.access import COOKIE, Guarded
from fleetcast.clock import Clock, rfc3339
from fleetcast.errors import Refuse, Unavailable
from fleetcast.health import whole_body
from fleetcast.subjects import is_vehicle

MOST_VEHICLES = 400
_MOST_BODY = 64_000
_MOST_COOKIE = 4_000
_NO_STORE = {"Cache-Control": "no-store"}


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request for a ticket: what it is narrowed to."""

    vehicles: list[str] | None = None


def routes(access: Guarded, clock: Clock, *, secure: bool) -> Sequence[Route]:
    """Of the origin. `secure`: the front speaks TLS, so a browser is to send the cookie over nothing else."""

    async def ticket(request: Request) -> Response:
        _, who = access.owner(request.headers)
        wanted = _wanted(await whole_body(request, _MOST_BODY))
        if wanted is not None:
            try:
                await asyncio.gather(*(access.sees(who, vehicle) for vehicle in wanted))
            except Unavailable as why:
                raise Refuse(
                    503, "Not available now", "it is not known now what may be seen; try again"
                ) from why
        made, until = access.ticket(who, wanted)
        body = {"ticket": made, "expires_at": rfc3339(until)}
        return Response(msgspec.json.encode(body), 201, headers=_NO_STORE, media_type="application/json")

    def with_cookie(value: str, seconds: int) -> Response:
        response = Response(status_code=204, headers=_NO_STORE)
        response.set_cookie(
            COOKIE, value, max_age=seconds, path="/", httponly=True, samesite="strict", secure=secure
        )
        return response

    async def begin(request: Request) -> Response:
        token, who = access.owner(request.headers)
        if len(token) > _MOST_COOKIE:
            raise Refuse(400, "Too long", f"a token of more than {_MOST_COOKIE} characters is no cookie")
        return with_cookie(token, max(0, math.floor(who.until - clock.now())))

    async def end(request: Request) -> Response:
        return with_cookie("", 0)

    return (
        Route("/v1/tickets", ticket, methods=["POST"]),
        Route("/v1/session", begin, methods=["POST"]),
        Route("/v1/session", end, methods=["DELETE"]),
    )


def _wanted(body: bytes) -> list[str] | None:
    """The vehicles, or None for all that the token lets see. Raises Refuse."""
    if not body.strip():
        return None
    try:
        wanted = msgspec.json.decode(body, type=Wanted).vehicles
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Refuse(400, "Bad request", f'not {{"vehicles": […]}}: {error}') from None
    if wanted is None:
        return None
    if not 1 <= len(wanted) <= MOST_VEHICLES or not all(map(is_vehicle, wanted)):
        raise Refuse(
            400, "Bad request", f"vehicles: 1 to {MOST_VEHICLES} ids, each 1 to 64 of A-Z a-z 0-9 - _"
        )
    return wanted

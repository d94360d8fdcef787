"""The live state by WebSocket, behind the edge's WebSocket-over-HTTP: nothing of a socket is kept here.

    GET /v1/vehicles/{vehicle}/ws       426, or why a socket would be refused: what a browser does not tell its page
    POST, by the edge, with events      OPEN is answered with what the edge is to hold and to keep alive; `resume` with the
                                        snapshot, or the updates since; then what is published comes by `ws/<channel>`

A socket is opened as a stream is, by a token, ticket or cookie. What it may see, and how much it may still say, the edge brings
along with each message, signed by us (a `Meta-` header, which no app can set): so the end of a credential or of a right holds
for each message too, and a ticket may end while its socket lives. A socket has no next link: an update that is lost is noticed
by the app, by the chain, and asked for by `resume`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import jwt
import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response

from fleetcast import metrics, wsevents
from fleetcast.access import Guarded, Open
from fleetcast.clock import Clock
from fleetcast.errors import Refuse, Unavailable
from fleetcast.events import unavailable
from fleetcast.following import Following
from fleetcast.health import problem
from fleetcast.settings import Settings
from fleetcast.subjects import channel, control_channel, control_number, ws_channel
from fleetcast.views import View
from fleetcast.wsevents import Budget, Event, Wrong, close, control, message

log = structlog.get_logger()

T = TypeVar("T")

_META = "Socket"
_AUDIENCE = "socket"
_PATIENCE = 3.0  # seconds that a resume waits for the live state to be back
_GRIP = {"Sec-WebSocket-Extensions": "grip", "Cache-Control": "no-store"}


class _Held(msgspec.Struct):
    """What the edge brings along of a socket that is open."""

    vehicle: str
    credential: str
    """The name of its channel (`rights`), or empty."""
    left: float
    since: float
    aud: str = _AUDIENCE


class Sockets:
    """`vehicle_of` and `followed` (the view, and the class of a calm stream) read a request, or raise Refuse."""

    def __init__(
        self,
        access: Open,
        following: Following,
        settings: Settings,
        clock: Clock,
        vehicle_of: Callable[[Request], str],
        followed: Callable[[Request], tuple[View, int]],
    ) -> None:
        self._access = access
        self._following = following
        self._settings = settings
        self._clock = clock
        self._vehicle_of = vehicle_of
        self._followed = followed

    async def endpoint(self, request: Request) -> Response:
        """What an edge posts, and what comes that is no socket. Raises Refuse, and before a socket is open Unavailable."""
        vehicle = self._vehicle_of(request)
        if "grip" not in request.headers.get("sec-websocket-extensions", ""):
            await self._sees(request, vehicle)
            if request.method == "POST":
                raise Refuse(
                    405, "Method Not Allowed", "a WebSocket begins with GET", headers={"Allow": "GET"}
                )
            detail = "this is a WebSocket: ask with Upgrade, or follow …/events"
            return problem(426, "Upgrade Required", detail, {"Upgrade": "websocket", "Connection": "Upgrade"})
        events = wsevents.parse(await request.body())
        if events and events[0].kind == "OPEN":
            return await self._opened(request, vehicle)
        held = self._held(request, vehicle)
        if held is None:  # our key is another one now
            return _answer([close(wsevents.REPLACED, "open it anew")])
        answer = await self._said(request, held, events)
        return _answer(answer, self._signed(held))

    # Opening

    async def _sees(self, request: Request, vehicle: str) -> Sequence[tuple[str, str]]:
        """The channels besides its own that a socket must be held by. Raises Refuse or Unavailable."""
        who = await self._access.who(request.headers)
        seen = await self._access.sees(who, vehicle)
        self._followed(request)
        return seen.channels

    async def _opened(self, request: Request, vehicle: str) -> Response:
        """Raises Refuse or Unavailable."""
        if _foreign(request) and not (
            isinstance(self._access, Guarded) and request.headers.get("authorization")
        ):
            # Of its own accord a browser asks other sites by WebSocket too, cookies among it, whatever its page is.
            raise Refuse(403, "Foreign origin", "a page of another site must show a ticket")
        channels = await self._sees(request, vehicle)
        metrics.SOCKETS.labels("opened").inc()
        alive = {"message-type": "text", "content": wsevents.KEEP_ALIVE.decode(), "mode": "interval"}
        held = _Held(
            vehicle, next((name for name, at in channels if at), ""), wsevents.MOST, self._clock.now()
        )
        answer = [
            Event("OPEN"),
            *(control("subscribe", channel=name) for name, at in channels if not at),
            control("subscribe", channel=control_channel(control_number(vehicle))),
            control("keep-alive", timeout=self._settings.keep_alive, **alive),
        ]
        return _answer(answer, self._signed(held))

    # What is said on it

    async def _said(self, request: Request, held: _Held, events: Sequence[Event]) -> list[Event]:
        """The answer; `held` is what is left of its budget. Of several resumes that come together the last one counts."""
        budget = Budget(held.left, held.since)
        answer, last = list[Event](), None
        for said in events:
            if said.kind == "CLOSE":
                return [said]
            if said.kind == "DISCONNECT":
                return []
            budget = budget.after(1, self._clock.now())
            held.left, held.since = budget
            try:
                if budget.left < 0:
                    raise Wrong("too many", "messages come faster than they may", wsevents.TOO_MANY)
                if said.kind == "PING":
                    answer.append(Event("PONG", said.content))
                elif said.kind != "PONG":
                    last = wsevents.resumed(said)
            except Wrong as why:
                metrics.SOCKETS.labels("error").inc()
                answer.append(message(wsevents.error(why.reason, str(why))))
                if why.code:
                    return [*answer, close(why.code, why.reason)]
        return answer if last is None else [*answer, *await self._resumed(request, held, last)]

    async def _resumed(self, request: Request, held: _Held, last: str) -> list[Event]:
        try:
            view, every = self._followed(request)
            shown = [held.credential] if held.credential else []
            seen, gone = await self._patiently(partial(self._access.go_on, shown, [held.vehicle]))
            if seen is None or gone:
                return [close(wsevents.NOT_IDENTIFIED, "the token ended or was revoked")]
            if last:
                follows = partial(self._following.since, held.vehicle, view, last, by="phone", every=every)
            else:
                follows = partial(self._following.begun, held.vehicle, view)
            body, at = await self._patiently(follows)
        except Refuse:  # a deploy took the view away
            return [_unavailable("view"), close(wsevents.TRY_AGAIN, "view")]
        except Unavailable as error:
            log.warning("live state does not answer", path=request.url.path, error=str(error))
            metrics.TURNED_AWAY.inc()
            return [_unavailable("live state")]
        metrics.SOCKETS.labels("resumed").inc()
        told = wsevents.told(body)
        fit = wsevents.fitting(told)
        if len(fit) == len(told):
            end = wsevents.at("resumed", at)
        elif fit:
            end = wsevents.at("more", fit[-1].id)
            held.left += 1  # it is to come again
        else:
            end = wsevents.fetch(f"{request.url.path.removesuffix('/ws')}?view={view.name}")
        name = ws_channel(channel(held.vehicle, view.name, every))
        return [
            control("subscribe", channel=name),
            *wsevents.messages([*(one.message for one in fit), end]),
        ]

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Raises Unavailable if that goes on."""
        patient = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            try:
                return await ask()
            except Unavailable:
                if asyncio.get_running_loop().time() > patient:
                    raise
            await asyncio.sleep(0.1)

    # What the edge brings along

    def _signed(self, held: _Held) -> str:
        return jwt.encode(msgspec.to_builtins(held), self._settings.sig_key, "HS256")

    def _held(self, request: Request, vehicle: str) -> _Held | None:
        try:
            claims = jwt.decode(
                request.headers.get(f"meta-{_META}", ""),
                self._settings.sig_key,
                algorithms=["HS256"],
                audience=_AUDIENCE,
            )
            held = msgspec.convert(claims, _Held)
        except (jwt.InvalidTokenError, msgspec.ValidationError):
            return None
        return held if held.vehicle == vehicle else None


def _unavailable(reason: str) -> Event:
    (told,) = wsevents.told(unavailable(reason))
    return message(told.message)


def _answer(events: Sequence[Event], held: str = "") -> Response:
    headers = {f"Set-Meta-{_META}": held} if held else {}
    return Response(wsevents.encode(events), headers=_GRIP | headers, media_type=wsevents.MEDIA_TYPE)


def _foreign(request: Request) -> bool:
    """Whether a page of another site asks."""
    shown = request.headers.get("origin")
    return shown is not None and _site(shown.partition("://")[2]) != _site(request.headers.get("host", ""))


def _site(host: str) -> str:
    return host.lower().removesuffix(":80").removesuffix(":443")

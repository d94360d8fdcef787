"""The app-facing API behind the edge. Stateless: it reads the live state, and tells the edge what to hold.

    GET /                                the page, and what it needs below /static/
    GET /v1/vehicles                     the vehicles, by id: ?search=, after=, limit=, signals=, view=
    GET /v1/vehicles/{vehicle}           the latest state, with ETag; also the article's polling endpoint
    GET /v1/vehicles/{vehicle}/events    SSE: snapshot, or with Last-Event-ID the updates since; then held by the edge
                                         with ?wait= the same as one answer, held only if there is nothing to say
    POST /v1/streams, GET …/{id}         the same of many vehicles at once (`streams`)
    GET /v1/vehicles/{vehicle}/ws        the same by WebSocket (`websocket`)
    POST /v1/tickets, /v1/session        with a token: what opens streams where headers cannot be set (`tickets`)
    GET /next/{link}                     the edge asks: what follows the ids it has?

"vehicles" in the addresses is the setting `noun`. The first four take `?view=`: a named set of signals, all if it is left out.
The events', by whichever way, take `?every=`: at most one update in so many seconds (`calm`).

Every request must carry the edge's signature, and with keys (`access`) show, before all else, that it may see what it asks
for. A stream that cannot be served now is answered 200 with an `unavailable` event, because a browser's EventSource gives up
for good on any other status; one that is refused is 401 or 403, which trying again cannot mend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from fleetcast import longpoll, metrics, page, sse, streams, tickets
from fleetcast.access import Guarded, Open
from fleetcast.calm import CLASSES, every_of
from fleetcast.clock import Clock, SystemClock
from fleetcast.errors import Refuse, Unavailable
from fleetcast.events import gone_event, unavailable
from fleetcast.following import Following, id_of
from fleetcast.health import on_bug, on_http_exception, on_refuse, problem
from fleetcast.live import Live
from fleetcast.many import Streams, each
from fleetcast.rights import Seen
from fleetcast.settings import Settings
from fleetcast.subjects import ALL, NEXT_LINKS, channel, control_number, is_vehicle, split_channel
from fleetcast.update import Snapshot
from fleetcast.views import View, Views
from fleetcast.websocket import Sockets

log = structlog.get_logger()

Signed = Callable[[str | None], bool]
"""Whether this `Grip-Sig` is our edge's."""
Hold = Callable[[str, str, int, int, bool], Sequence[tuple[str, str]]]
"""(channel, id it is at, control channel, next link) -> the headers that make the edge hold the stream."""
HoldPoll = Callable[[str, str, int], Sequence[tuple[str, str]]]
"""(channel, id it is at, seconds) -> the headers that make the edge hold a long-poll."""
LastIds = Callable[[Sequence[str]], dict[str, str]]
"""`Grip-Last` headers -> id by channel."""

_PATIENCE = {"next": 8.0, "events": 3.0}
"""Seconds that a question waits for the live state to be back. The edge, answered in vain, asks again only after 1, 2, 4, 8 s,
and its phones' updates wait meanwhile; a phone stays away for seconds. Below the inner balancer's own limit (15 s)."""
_VEHICLES_SECONDS = 3.0
_MOST = 100
_NO_STORE = {"Cache-Control": "no-store"}


class Origin:
    """The handlers, over the live seam and the edge's own headers."""

    def __init__(
        self,
        live: Live,
        settings: Settings,
        hold: Hold,
        hold_poll: HoldPoll,
        last_ids: LastIds,
        clock: Clock,
        access: Open,
        classes: Sequence[int] = CLASSES,
    ) -> None:
        self._live = live
        self._access = access
        self._settings = settings
        self._hold = hold
        self._hold_poll = hold_poll
        self._last_ids = last_ids
        self._clock = clock
        self._classes = classes
        self._views = Views(settings.views).named
        self._following = Following(live, clock)
        self._vehicles: tuple[Sequence[str], float] = ((), -_VEHICLES_SECONDS)
        self.sockets = Sockets(access, self._following, settings, clock, _vehicle, self._followed)

    async def fleet(self, request: Request) -> Response:
        """A page of what may be seen of the fleet, each vehicle with the signals or the view asked for; `next` begins the one
        after.
        """
        who = await self._access.who(request.headers)
        view, whole = self._view(request), "view" in request.query_params
        search, after = request.query_params.get("search", ""), request.query_params.get("after", "")
        limit = request.query_params.get("limit", "50")
        if not limit.isascii() or not limit.isdigit() or len(limit) > 3 or not 1 <= int(limit) <= _MOST:
            raise Refuse(400, "Bad limit", f"limit is 1 to {_MOST}")
        wanted = [path for path in request.query_params.get("signals", "").split(",") if path]
        everyone = await self._all_vehicles()
        shown, following = await self._access.page(who, everyone, after, search, int(limit))
        states = await asyncio.gather(*(self._live.latest(vehicle) for vehicle in shown))
        body = {
            # A version 0 is of one that was forgotten since the ids were read.
            "vehicles": [
                view.snapshot(held.state)
                if whole and not wanted
                else _only(view.snapshot(held.state), wanted)
                for held in states
                if held.state.version
            ],
            "next": following,
        }
        return Response(msgspec.json.encode(body), headers=_NO_STORE, media_type="application/json")

    async def _all_vehicles(self) -> Sequence[str]:
        """Ids only, and seldom: with a fleet of 300,000 this is the one answer that grows with the fleet."""
        vehicles, when = self._vehicles
        now = self._clock.monotonic()
        if now - when >= _VEHICLES_SECONDS:
            vehicles = await self._live.vehicles()
            self._vehicles = (vehicles, now)
        return vehicles

    async def latest(self, request: Request) -> Response:
        """200 with the snapshot, 304 if the app has it, 404 for a vehicle that never sent."""
        vehicle = _vehicle(request)
        await self._sees(request, vehicle)
        view = self._view(request)
        epoch = await self._following.epoch()
        state = (await self._live.latest(vehicle)).state
        if state.version == 0:
            metrics.LATEST.labels("404").inc()
            raise Refuse(404, "No such id", f"{vehicle} has never sent a packet")
        headers = {"ETag": f'"{id_of(epoch, state, view)}"', "Cache-Control": self._access.cache}
        wanted = [tag.strip().removeprefix("W/") for tag in _list(request, "if-none-match")]
        if headers["ETag"] in wanted or "*" in wanted:
            metrics.LATEST.labels("304").inc()
            return Response(status_code=304, headers=headers)
        metrics.LATEST.labels("200").inc()
        body = msgspec.json.encode(view.snapshot(state))
        return Response(body, headers=headers, media_type="application/json")

    async def events(self, request: Request) -> Response:
        """The beginning of a stream; what follows comes by the channel."""
        vehicle = _vehicle(request)
        seen = await self._sees(request, vehicle)
        view, every = self._followed(request)
        wait = longpoll.wait_of(request.query_params["wait"]) if _is_poll(request) else 0
        last = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
        if last:
            body, at = await self._following.since(vehicle, view, last, by="phone", every=every)
        else:
            body, at = await self._following.begun(vehicle, view)
        name = channel(vehicle, view.name, every)
        if wait:
            left = longpoll.left(wait, request.headers.get(longpoll.WAITED))
            held = left > 0 and not body
            metrics.POLLS.labels("held" if held else "at once").inc()
            waits = [*self._hold_poll(name, at, left), *_closing(seen)] if held else []
            return _held(longpoll.answer(body, at), waits, longpoll.MEDIA_TYPE)
        return self.begun(body, [(name, at)], seen)

    def begun(self, body: bytes, chains: streams.Chains, seen: Seen) -> Response:
        """The answer that begins a stream."""
        # The edge asks for ten unlike links a second, a hundred sessions of one link at a time, and asks for each new channel
        # within a second: so phones that come together share a link, and over time all links are used alike.
        link = int(self._clock.now()) % NEXT_LINKS
        # The comment: so that the phone knows at once that the stream is open.
        return _held(body or sse.comment(), self._holds(chains, seen, link, begins=True))

    def _holds(self, chains: streams.Chains, seen: Seen, link: int, *, begins: bool) -> list[tuple[str, str]]:
        (name, at), *others = chains
        found = split_channel(name)
        assert found is not None
        held = self._hold(name, at, control_number(found[0]), link, begins)
        return [*held, *_also(Seen(tuple(others))), *_also(seen)]

    async def next(self, request: Request) -> Response:
        """What the edge missed on a channel, or on several that it asks for at once."""
        lasts = self._last_ids(request.headers.getlist("grip-last"))
        known = [
            (name, *found, last) for name, last in lasts.items() if (found := split_channel(name)) is not None
        ]
        if not known:
            raise Refuse(404, "Nothing to follow", "a next link is the edge's to ask, with Grip-Last")
        seen, gone = await self._access.go_on(list(lasts), [vehicle for _, vehicle, *_ in known])
        kept = [one for one in known if one[1] not in gone]
        if seen is None or (not kept and len(known) == 1):
            return _held(b"", ())  # held no longer: it ends
        if not all(named in self._views and every in (0, *self._classes) for _, _, named, every, _ in kept):
            # A deploy took it away. Not held: the stream ends, and the phone that comes back is answered 400. An error
            # would be asked again for half a minute first.
            return _held(unavailable("view"), ())

        async def since(one: tuple[str, str, str, int, str]) -> tuple[bytes, str]:
            _, vehicle, named, every, last = one
            return await self._following.since(vehicle, self._views[named], last, by="edge", every=every)

        parts = await each(since, kept)
        # A stream of many goes on without those that may be seen no longer, and says so; without any it ends.
        body = b"".join(gone_event(vehicle, "access") for _, vehicle, *_ in known if vehicle in gone)
        body += b"".join(part for part, _ in parts)
        if not kept:
            return _held(body, ())
        chains = [(name, at) for (name, *_), (_, at) in zip(kept, parts, strict=True)]
        return _held(body, self._holds(chains, seen, int(request.path_params["link"]), begins=False))

    def many(self, asked: Streams) -> Sequence[Route]:
        """The routes of streams of many vehicles."""
        seconds = self._settings.streams_seconds
        handlers = streams.ManyVehicles(
            asked, self._following, self._access, self._views, self._classes, seconds, self._clock, self.begun
        )
        return (
            Route("/v1/streams", self.served(handlers.ask, "ask"), methods=["POST"]),
            Route("/v1/streams/{stream}", self.served(handlers.events, "events")),
        )

    async def _sees(self, request: Request, vehicle: str) -> Seen:
        """Raises Refuse before anything is read of a vehicle, whether it exists or not."""
        return await self._access.sees(await self._access.who(request.headers), vehicle)

    def _view(self, request: Request) -> View:
        name = request.query_params.get("view", ALL)
        if (view := self._views.get(name)) is None:
            raise Refuse(400, "No such view", f"view is one of {', '.join(self._views)}")
        return view

    def _followed(self, request: Request) -> tuple[View, int]:
        """The view, and the class of a calm stream or 0."""
        return self._view(request), every_of(request.query_params.get("every", ""), self._classes)

    def served(
        self, handler: Callable[[Request], Awaitable[Response]], kind: str
    ) -> Callable[[Request], Awaitable[Response]]:
        """Turns a live state that does not answer into the word for it."""

        async def endpoint(request: Request) -> Response:
            patient = asyncio.get_running_loop().time() + _PATIENCE.get(kind, 0.0)
            while True:
                try:
                    return await handler(request)
                except Unavailable as error:
                    why = error
                if asyncio.get_running_loop().time() > patient or await request.is_disconnected():
                    break
                await asyncio.sleep(0.1)
            log.warning("live state does not answer", path=request.url.path, error=str(why))
            stream = kind == "events" and not _is_poll(request)
            if stream and "text/event-stream" in request.headers.get("accept", ""):
                metrics.TURNED_AWAY.inc()
                return Response(unavailable("live state"), headers=_NO_STORE, media_type=sse.MEDIA_TYPE)
            headers = {"Retry-After": "1"}
            return problem(503, "Not available now", "the live state does not answer; try again", headers)

        return endpoint


def application(
    live: Live,
    settings: Settings,
    signed: Signed,
    hold: Hold,
    hold_poll: HoldPoll,
    last_ids: LastIds,
    clock: Clock = SystemClock(),  # noqa: B008 - it has no state
    access: Open = Open(),  # noqa: B008 - nor has it
    classes: Sequence[int] = CLASSES,
    asked: Streams | None = None,
) -> ASGIApp:
    """The ASGI application; without `asked` there are no streams of many vehicles."""
    origin = Origin(live, settings, hold, hold_poll, last_ids, clock, access, classes)
    things = f"/v1/{settings.noun}"
    sockets = origin.served(origin.sockets.endpoint, "ws")
    app = Starlette(
        routes=[
            Route(things, origin.served(origin.fleet, "fleet")),
            Route(f"{things}/{{vehicle}}", origin.served(origin.latest, "latest")),
            Route(f"{things}/{{vehicle}}/events", origin.served(origin.events, "events")),
            *(origin.many(asked) if asked is not None else ()),
            *(Route(f"{things}/{{vehicle}}/ws", sockets, methods=[method]) for method in ("GET", "POST")),
            Route("/next/{link:int}", origin.served(origin.next, "next")),
            *(
                tickets.routes(access, clock, secure=bool(settings.front_cert))
                if isinstance(access, Guarded)
                else ()
            ),
            *page.routes(settings.noun),
        ],
        exception_handlers={Refuse: on_refuse, HTTPException: on_http_exception, Exception: on_bug},
    )
    return _OnlyEdge(app, signed)


class _OnlyEdge:
    """Lets in what came through the edge, and refuses all else: an origin has no other protection."""

    def __init__(self, app: Starlette, signed: Signed) -> None:
        self.app = app
        self._signed = signed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._signed(Headers(scope=scope).get("grip-sig")):
            metrics.NOT_THROUGH_EDGE.inc()
            detail = "apps use the front door; an origin serves only the edge"
            await problem(403, "Not through the edge", detail)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _only(view: Snapshot, paths: Sequence[str]) -> Snapshot:
    signals = {path: view.signals[path] for path in paths if path in view.signals}
    return msgspec.structs.replace(view, signals=signals)


def _is_poll(request: Request) -> bool:
    return "wait" in request.query_params


def _held(body: bytes, held: Sequence[tuple[str, str]], media_type: str = sse.MEDIA_TYPE) -> Response:
    response = Response(body, headers=_NO_STORE, media_type=media_type)
    for name, value in held:
        response.headers.append(name, value)
    return response


def _closing(seen: Seen) -> list[tuple[str, str]]:
    """Those of them that close it: a poll asks for nothing by a next link, which is what the other one is for."""
    return [("Grip-Channel", name) for name, at in seen.channels if not at]


def _also(seen: Seen) -> list[tuple[str, str]]:
    """The further channels of a stream, as `hold` has its own."""
    return [("Grip-Channel", f"{name}; prev-id={at}" if at else name) for name, at in seen.channels]


def _vehicle(request: Request) -> str:
    vehicle = str(request.path_params["vehicle"])
    if not is_vehicle(vehicle):
        raise Refuse(400, "Bad id", "an id is 1 to 64 of A-Z a-z 0-9 - _")
    return vehicle


def _list(request: Request, header: str) -> list[str]:
    return ",".join(request.headers.getlist(header)).split(",")

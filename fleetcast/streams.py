"""Streams of many vehicles: asked for by POST, which answers an address; opened by GET; held by the edge for all at once.

    POST /v1/streams        {"vehicles": […] | "fleet", "view"?, "every"?, "versions"?} -> 201 {"url", "expires_at", "vehicles"}
    GET /v1/streams/{id}    SSE: of each vehicle its snapshot, or with `versions` what it missed since; then held by the edge

Each vehicle keeps the chain, and the ids, that a stream of its own has, so `Last-Event-ID`, which is of one of them, cannot say
where the others are: who comes back by it gets a reset of all, and their snapshots. One who posts anew with the ids that it has
gets what it missed of each, and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fleetcast import metrics
from fleetcast.access import Open
from fleetcast.calm import every_of
from fleetcast.clock import Clock, rfc3339
from fleetcast.errors import Refuse
from fleetcast.events import reset_event
from fleetcast.following import Following
from fleetcast.health import whole_body
from fleetcast.many import MOST, MOST_BODY, Stream, Streams, asked, each, is_name, known_of, new_name
from fleetcast.rights import Seen
from fleetcast.subjects import channel
from fleetcast.views import View

MANY = "many"
"""The reason of the reset that is of all vehicles."""

Chains = Sequence[tuple[str, str]]
"""(channel, id it is at) of each vehicle."""


class ManyVehicles:
    """The handlers. `held` makes the answer that the edge holds by these chains, for who may see what they are of."""

    def __init__(
        self,
        streams: Streams,
        following: Following,
        access: Open,
        views: Mapping[str, View],
        classes: Sequence[int],
        seconds: float,
        clock: Clock,
        held: Callable[[bytes, Chains, Seen], Response],
    ) -> None:
        self._streams = streams
        self._following = following
        self._access = access
        self._views = views
        self._classes = classes
        self._seconds = seconds
        self._clock = clock
        self._held = held

    async def ask(self, request: Request) -> Response:
        """Keeps what is asked for, if all of it may be seen. Nothing is read of the vehicles."""
        who = await self._access.who(request.headers)
        wanted = asked(await whole_body(request, MOST_BODY))
        self._view(wanted.view)
        every = every_of(wanted.every, self._classes)
        if wanted.vehicles is None:
            vehicles = await self._access.of_fleet(who, wanted.fleet)
            if not vehicles:
                raise Refuse(404, "No such fleet", "there is no vehicle in it that may be seen")
            if len(vehicles) > MOST:
                raise Refuse(
                    400,
                    "Too many",
                    f"the fleet has {len(vehicles)} vehicles, a stream {MOST}: name those to be seen",
                )
        else:
            vehicles = wanted.vehicles
        await self._access.sees_all(who, vehicles)
        name = new_name()
        stream = Stream(who.user, tuple(vehicles), wanted.view, every, known_of(wanted.versions, vehicles))
        until = self._clock.now() + self._seconds
        await self._streams.put(name, stream, self._seconds)
        metrics.MANY.inc()
        url = f"/v1/streams/{name}"
        body = {"url": url, "expires_at": rfc3339(until), "vehicles": len(vehicles)}
        headers = {"Cache-Control": "no-store", "Location": url}
        return Response(msgspec.json.encode(body), 201, headers=headers, media_type="application/json")

    async def events(self, request: Request) -> Response:
        """The beginning of such a stream. What may be seen is asked again: it was asked for some time ago."""
        who = await self._access.who(request.headers)
        name = str(request.path_params["stream"])
        stream = await self._streams.get(name) if is_name(name) else None
        if stream is None or stream.user != who.user:  # another's is as good as none
            raise Refuse(
                404, "No such stream", "there never was one, or it is over: post the list of vehicles again"
            )
        if "wait" in request.query_params:
            raise Refuse(400, "No long-poll", "a stream of many vehicles cannot be polled")
        seen = await self._access.sees_all(who, stream.vehicles)
        view, every = self._view(stream.view), stream.every
        if every not in (0, *self._classes):
            raise Refuse(400, "No such class", "there is none of so many seconds any more")
        last = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
        versions = {} if last else stream.versions

        async def begun(vehicle: str) -> tuple[bytes, str]:
            if (known := versions.get(vehicle)) is not None:
                return await self._following.since(vehicle, view, known, by="phone", every=every)
            return await self._following.begun(vehicle, view)

        parts = await each(begun, stream.vehicles)
        body = b"".join(part for part, _ in parts)
        if last:
            metrics.RESETS.labels(MANY, "phone").inc()
            body = reset_event(MANY, last, "") + body
        chains = [
            (channel(one, view.name, every), at) for one, (_, at) in zip(stream.vehicles, parts, strict=True)
        ]
        return self._held(body, chains, seen)

    def _view(self, name: str) -> View:
        if (view := self._views.get(name)) is None:
            raise Refuse(400, "No such view", f"view is one of {', '.join(self._views)}")
        return view

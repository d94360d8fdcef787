"""WebSockets: `GET …/ws`, the events of a stream, one message each, after a `resume`."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import websockets

from fleetcast.conform import story
from fleetcast.conform.events import Event
from fleetcast.conform.shapes import View
from fleetcast.conform.story import Story
from fleetcast.conform.target import Shown, Target
from fleetcast.conform.words import Failed, NotTried, short

_BAD = ("?view=nonsense", "?every=7s")
_ANSWERS = ("resumed", "more", "fetch", "unavailable", "error")


class Socket:
    """An open one. `events` are as a stream would have had them; `told` is everything."""

    def __init__(self, connection: Any, within: float) -> None:
        self._connection = connection
        self._within = within
        self.events: list[Event] = []
        self.told: list[dict[str, Any]] = []
        self.last = ""

    async def resume(self, last: str = "") -> dict[str, Any]:
        """Says it, and returns what ends the answer."""
        self.last = last
        await self._connection.send(json.dumps({"type": "resume", "last_event_id": last}))
        return await self.until(lambda one: one["event"] in _ANSWERS, "an answer to a resume")

    async def until(self, wanted: Any, what: str) -> dict[str, Any]:
        """Reads to the first message that is wanted."""
        try:
            async with asyncio.timeout(self._within):
                while True:
                    one = json.loads(await self._connection.recv())
                    if not isinstance(one, dict) or not isinstance(one.get("event"), str):
                        raise Failed(f"a message is {short(one, 60)}")
                    self.told.append(one)
                    if one["event"] in ("snapshot", "update", "status", "reset"):
                        own = one.get("id")
                        at = own or (self.events[-1].last_id if self.events else "")
                        self.events.append(Event(one["event"], json.dumps(one.get("data")), at, own))
                    if wanted(one):
                        return one
        except TimeoutError:
            raise Failed(f"{what}: not within {self._within:.0f} s; {len(self.told)} messages came") from None

    async def level(self, target: Target, at: View | None = None) -> Story:
        """Until it has what is polled: what its events add up to must be that. It resumes as the protocol asks for."""
        for _ in range(5):
            polled, _ = await target.latest()
            told = story.tell(_once(self.events), target.vehicle, at)
            shown = told.views.get(
                polled.version, at if at is not None and at.version == polled.version else None
            )
            if shown is not None:
                if not story.same(shown, polled):
                    raise Failed(f"version {polled.version} is not as it is polled")
                return told
            await self.resume(self.events[-1].last_id if self.events else self.last)
        raise Failed(
            f"the polled state is version {polled.version}, the WebSocket at {max(told.views, default=-1)}"
        )


async def follows(target: Target) -> str:
    """Nothing comes before the first resume; then the snapshot, `resumed` with its id, and each update as on a stream."""
    async with _socket(target) as socket:
        answer = await socket.resume()
        if answer["event"] == "fetch":
            raise NotTried("this vehicle's state is too large for a message")
        names = [one["event"] for one in socket.told if one["event"] != "keep-alive"]
        if names[:1] != ["snapshot"] or names[-1] != "resumed" or answer.get("id") != socket.events[-1].id:
            raise Failed(f"{', '.join(one['event'] for one in socket.told)}, resumed at {answer.get('id')}")
        await socket.resume(
            socket.events[-1].last_id
        )  # a second time, as is asked for: what fell before the hold
        if target.sender is None:
            told = await socket.level(target)
        else:
            await target.sender.send()
            await socket.until(
                lambda one: one["event"] == "update" and target.sender.is_last(one["data"]), "the update"
            )
            await target.arrived()
            told = await socket.level(target)
            _, tag = await target.latest()
            if tag != f'"{socket.events[-1].id}"':
                raise Failed(f"ETag {tag}, id {socket.events[-1].id}")
    return f"{len(told.updates)} updates"


async def resumes(target: Target) -> str:
    """With an id, of a stream too, the answer is what was missed, each once, and no reset; a foreign one is reset."""
    async with target.follow() as stream:
        await stream.first()
        at = (await target.level(stream)).at
        last = stream.last_id
    await target.change(3)
    async with _socket(target) as socket:
        await socket.resume(last)
        told = await socket.level(target, at)
        if told.resets or told.snapshots:
            raise Failed("a reset or a snapshot, not what was missed")
    async with _socket(target) as socket:
        await socket.resume("garbage")
        names = [event.name for event in socket.events[:2]]
        if names != ["reset", "snapshot"]:
            raise Failed(f"{', '.join(names)} to a foreign id, not reset and snapshot")
        again = await socket.level(target)
    return f"{len(told.updates)} updates; foreign: version {again.at.version if again.at else 0}"


async def refused(target: Target) -> str:
    """What is no WebSocket is a 426, a view or class that is none a 400, without credentials (if they are asked for) a 401."""
    path = target.path(tail="/ws")
    plain = await target.ask("GET", path)
    if plain.status == 404:
        raise NotTried("404: is it older than WebSockets?")
    plain.problem(426)
    for query in _BAD:
        if (status := await _status(target, query)) != 400:
            raise Failed(f"{status} for {query}")
    if not target.wish.token or (await target.ask("GET", target.path(), shown=())).status != 401:
        return "426 and 400; no credentials are asked for"
    if (status := await _status(target, "", shown=())) != 401:
        raise Failed(f"{status} without credentials")
    return "426, 400 and 401"


async def _status(target: Target, query: str, shown: Shown | None = None) -> int:
    """What it is refused with; 101 if it is not."""
    try:
        async with _socket(target, query, shown):
            return 101
    except _Refused as why:
        return why.status


class _Refused(Failed):
    def __init__(self, status: int) -> None:
        super().__init__(f"{status} for a WebSocket")
        self.status = status


@asynccontextmanager
async def _socket(target: Target, query: str = "", shown: Shown | None = None) -> AsyncIterator[Socket]:
    """One that is open. Raises NotTried if there are none here."""
    url = f"{target.wish.front.replace('http', 'ws', 1)}{target.path(tail='/ws')}{query}"
    secure = ssl.create_default_context(cafile=target.wish.ca or None) if url.startswith("wss") else None
    headers = target.credentials if shown is None else shown
    try:
        async with websockets.connect(
            url, proxy=None, max_size=None, additional_headers=list(headers), ssl=secure
        ) as connection:
            yield Socket(connection, target.wish.within)
    except websockets.InvalidStatus as why:
        if why.response.status_code == 404:
            raise NotTried("404: is it older than WebSockets?") from None
        raise _Refused(why.response.status_code) from None
    except websockets.ConnectionClosed as why:
        raise Failed(f"it was closed: {why}") from None


def _once(events: list[Event]) -> list[Event]:
    """Without updates of a version that is had, which come by a resume and by themselves: the protocol says so."""
    kept: list[Event] = []
    at = -1
    for event in events:
        if event.name in ("update", "status") and story.version(event) <= at:
            continue
        at = max(at, story.version(event)) if event.name != "snapshot" else story.version(event)
        kept.append(event)
    return kept


CHECKS = (follows, resumes, refused)

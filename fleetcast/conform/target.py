"""What every check is given: a deployment, asked and followed through its front door as an app does.

`Target.ask` is one request, `Target.follow` a stream that is read in the background while a check waits for what is due.
Nothing here knows how the answers are made.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import httpx2
import msgspec

from fleetcast.conform import shapes, story
from fleetcast.conform.events import Event, Reader
from fleetcast.conform.sender import Sender
from fleetcast.conform.shapes import View
from fleetcast.conform.story import Story
from fleetcast.conform.words import Failed, NotTried, short

if TYPE_CHECKING:
    from fleetcast.conform.recording import Recording

STREAM = "text/event-stream"
_ANSWER = 20.0  # seconds for an answer to begin: HAProxy lets a crowd's streams in one after the other
_SLOW_BUFFER = (
    65_536  # bytes of a slow reader's socket: the kernel's own, megabytes, would hide that it does not read
)


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says. Times are in seconds; `token` is the app's, "" for none."""

    front: str
    vehicle: str
    noun: str = "vehicles"
    token: str = ""
    send: str = ""
    send_token: str = ""
    only: tuple[str, ...] = ()
    patience: float = 60.0
    """For a vehicle of somebody else's to change."""
    within: float = 45.0
    """For a stream to be level with the polled state: docs/guarantees.md names 40 s for a lost last update."""
    keep_alive: float = 25.0
    window: float = 600.0
    quiet: float = 90.0
    streams: int = 24
    ca: str = ""


Shown = Sequence[tuple[str, str]]
"""Headers that show a credential; empty shows none."""


class Turned(NotTried):
    """The stream said `unavailable`: a temporary failure, not a broken promise."""


class Answer(msgspec.Struct, frozen=True):
    """To one request. Header names are in small letters; the values of one that came twice are joined by commas."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def said(self) -> str:
        """For a table."""
        kind = self.headers.get("content-type", "no content type")
        return f"{self.status} {kind} {short(self.body.decode('utf-8', 'replace'), 60)}"

    @property
    def json(self) -> dict[str, Any]:
        """The body, a JSON object."""
        return shapes.parsed(self.body, f"the body of a {self.status}")

    def problem(self, *statuses: int) -> str:
        """It must be this error, told as problem+json; what it says."""
        if self.status not in statuses:
            raise Failed(f"{self.said}, not {' or '.join(map(str, statuses))}")
        if self.headers.get("content-type", "").partition(";")[0] != "application/problem+json":
            raise Failed(f"{self.said}, not application/problem+json")
        return f"{self.status} {shapes.problem(self.json, self.status)}"


class Stream:
    """A stream as it comes. `events` are all so far; `answered` is set once there are a status and headers."""

    def __init__(self, vehicle: str, last: str, within: float, view: str = "") -> None:
        self.vehicle = vehicle
        self.view = view
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.events: list[Event] = []
        self.size = 0
        self.ended = ""
        self.reads = asyncio.Event()  # cleared, it is a reader that does not read
        self.reads.set()
        self._within = within
        self._reader = Reader(last)
        self._news = asyncio.Event()

    @property
    def last_id(self) -> str:
        """What to come back with."""
        return self._reader.last_id

    @property
    def retry(self) -> int | None:
        """The reconnection time that it named last, in ms."""
        return self._reader.retry

    @property
    def comments(self) -> int:
        """How many came."""
        return self._reader.comments

    @property
    def version(self) -> int:
        """Where an app is after all that came; -1 at the beginning."""
        return next((at for event in reversed(self.events) if (at := story.version(event)) >= 0), -1)

    async def until(self, condition: Callable[[], object], what: str, bound: float = 0.0) -> None:
        """Waits; raises Failed if it does not come within the bound (`within`, if not given), or the stream ended."""
        bound = bound or self._within
        with suppress(TimeoutError):
            async with asyncio.timeout(bound):
                while not condition() and not self.ended:
                    self._news.clear()
                    await self._news.wait()
        if condition():
            return
        if (word := next((event for event in self.events if event.name == "unavailable"), None)) is not None:
            raise Turned(f"temporarily unavailable ({short(word.text, 40)}): try again when it is well")
        if self.ended:
            raise Failed(f"{what}: the stream ended ({self.ended})")
        raise Failed(f"{what}: not within {bound:.0f} s; {len(self.events)} events came")

    async def opened(self) -> None:
        """Waits for the answer, which must be a 200."""
        await self.until(lambda: self.status, f"a stream of {self.vehicle}", _ANSWER)
        if self.status in (401, 403):
            raise NotTried(f"{self.status} for {self.vehicle}: the token does not allow it")
        if self.status != 200:
            raise Failed(f"{self.status} for a stream of {self.vehicle}")

    async def first(self, count: int = 1) -> list[Event]:
        """The first so many events."""
        await self.until(lambda: len(self.events) >= count, f"event {count}")
        return self.events[:count]

    async def read(
        self, client: httpx2.AsyncClient, url: str, headers: Sequence[tuple[str, str | bytes]]
    ) -> None:
        """To its end."""
        try:
            async with client.stream("GET", url, headers=_encoded(headers)) as answer:
                self.headers, self.status = _headers(answer), answer.status_code
                self._news.set()
                parts = answer.aiter_raw().__aiter__()
                while True:
                    await self.reads.wait()
                    data = await anext(parts, b"")
                    if not data:
                        break
                    self.size += len(data)
                    self.events += self._reader.feed(data)
                    self._news.set()
            self.ended = "its end"
        except httpx2.HTTPError as error:
            self.ended = type(error).__name__
        except OSError as error:
            self.ended = str(error)
        finally:
            self.ended = self.ended or "given up"
            self._news.set()


class Target:
    """The deployment. `vehicle` changes, by itself or since `sender` (which may be None) makes it."""

    def __init__(self, wish: Wish, client: httpx2.AsyncClient, slow: httpx2.AsyncClient) -> None:
        self.wish = wish
        self.vehicle = wish.vehicle
        self.unavailable: list[Stream] = []
        self.sender = (
            Sender(wish.send, wish.noun, wish.vehicle, wish.send_token, client) if wish.send else None
        )
        self._recording: Recording | None = None
        self._client = client
        self._slow = slow
        self._client_headers = [("Authorization", f"Bearer {wish.token}")] if wish.token else []

    @property
    def recording(self) -> Recording:
        """What `suite` made before the checks. Raises Failed if there was no stream to record."""
        assert self._recording is not None
        if not self._recording.status:
            raise Failed(self._recording.wrong)
        return self._recording

    @recording.setter
    def recording(self, made: Recording) -> None:
        self._recording = made

    def path(self, vehicle: str = "", tail: str = "", **query: object) -> str:
        """Of a vehicle's state, or of what is below it. What is empty in the query is left out."""
        asked = urlencode({name: value for name, value in query.items() if value != ""}, quote_via=quote)
        path = f"/v1/{self.wish.noun}/{quote(vehicle or self.vehicle, safe='')}{tail}"
        return f"{path}?{asked}" if asked else path

    @property
    def credentials(self) -> Shown:
        """The headers that show the token."""
        return self._client_headers

    def neighbour(self, more: str = "0") -> Sender:
        """Another vehicle of the suite's own, whose id begins like this one's."""
        wish = self.wish
        return Sender(wish.send, wish.noun, f"{wish.vehicle[:63]}{more}", wish.send_token, self._client)

    def stranger(self) -> str:
        """The id of a vehicle that never sent."""
        return f"conform-never-{secrets.token_hex(8)}"

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        shown: Shown | None = None,
        body: bytes = b"",
        bound: float = _ANSWER,
    ) -> Answer:
        """One request; of a stream that begins only the beginning. `shown` instead of the token that the suite was given.

        Raises Failed if there is no answer, or none that ends.
        """
        sent = [*(self._client_headers if shown is None else shown), *(headers or {}).items()]
        try:
            async with asyncio.timeout(bound):
                request = self._client.build_request(
                    method, self.wish.front + path, headers=_encoded(sent), content=body or None
                )
                answer = await self._client.send(request, stream=True)
                try:
                    if answer.headers.get("content-type", "").startswith(STREAM):
                        content = await anext(answer.aiter_raw(), b"")
                    else:
                        content = await answer.aread()
                finally:
                    await answer.aclose()
        except TimeoutError:
            raise Failed(f"{method} {short(path, 60)}: no answer within {bound:.0f} s") from None
        except httpx2.HTTPError as error:
            raise Failed(f"{method} {short(path, 60)}: {type(error).__name__} {short(error, 60)}") from None
        return Answer(answer.status_code, _headers(answer), content)

    async def latest(
        self, headers: Mapping[str, str] | None = None, *, view: str = "", vehicle: str = ""
    ) -> tuple[View, str]:
        """The polled state, and its ETag. Of a vehicle that never sent, the empty one."""
        answer = await self.ask("GET", self.path(vehicle, view=view), headers)
        if answer.status == 503:
            raise Turned("503: temporarily unavailable; try again when it is well")
        if answer.status == 404:  # whether rightly, and in which form, is for other checks to say
            return View(vehicle or self.vehicle, 0, "", {}), ""
        if answer.status != 200:
            raise Failed(f"{answer.said} for the latest state")
        return shapes.snapshot(answer.json, "the latest state"), answer.headers.get("etag", "")

    @asynccontextmanager
    async def follow(
        self,
        vehicle: str = "",
        last: str | bytes = "",
        *,
        query: str | None = None,
        headers: Mapping[str, str] | None = None,
        slow: bool = False,
        shown: Shown | None = None,
        path: str = "",
        **asked: object,
    ) -> AsyncIterator[Stream]:
        """A stream, answered with 200. `last` goes as Last-Event-ID, `query` as `?last_event_id=`; `asked` is the rest of the
        query, such as the view; `shown` as in `ask`. `path` is another address than the vehicle's.
        """
        vehicle = vehicle or self.vehicle
        given = last.decode("latin-1") if isinstance(last, bytes) else last
        stream = Stream(vehicle, given or query or "", self.wish.within, str(asked.get("view", "")))
        sent: dict[str, str | bytes] = {"Accept": STREAM, "Accept-Encoding": "identity", **(headers or {})}
        if last:
            sent["Last-Event-ID"] = last
        url = self.wish.front + (path or self.path(vehicle, "/events", **asked))
        if query is not None:
            url += f"{'&' if '?' in url else '?'}last_event_id={quote(query, safe='')}"
        client = self._slow if slow else self._client
        credentials = self._client_headers if shown is None else shown
        reading = asyncio.create_task(stream.read(client, url, [*credentials, *sent.items()]))
        try:
            await stream.opened()
            yield stream
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
            if any(event.name == "unavailable" for event in stream.events):
                self.unavailable.append(stream)

    async def change(self, count: int = 1) -> None:
        """The vehicle changes, if it is ours to make it: then the polled state must follow. Else nothing."""
        if self.sender is None:
            return
        for _ in range(count):
            await self.sender.send()
        await self.arrived()

    async def arrived(self) -> None:
        """Waits until the polled state has all that was sent."""
        assert self.sender is not None
        deadline = asyncio.get_running_loop().time() + self.wish.within
        while (version := (await self.latest())[0].version) < self.sender.version:
            if asyncio.get_running_loop().time() > deadline:
                raise Failed(
                    f"acknowledged as version {self.sender.version}, but the latest state is {version}"
                )
            await asyncio.sleep(0.05)
        if version > self.sender.version:
            raise NotTried(f"{self.vehicle} is at {version}: somebody else sends as it too")

    async def level(self, stream: Stream, at: View | None = None) -> Story:
        """Waits until the stream has what is polled now, and holds it against that: each update, and what they add up to.

        `at` is the view that came back with an id. Raises Failed for whatever does not follow or is not the same.
        """
        had = -1 if at is None else at.version
        while True:
            polled, _ = await self.latest(view=stream.view, vehicle=stream.vehicle)
            await stream.until(
                lambda: max(had, stream.version) >= polled.version,  # noqa: B023 - it is waited for within the loop
                f"the polled state is version {polled.version}, the stream at {stream.version}",
            )
            told = story.tell(stream.events, stream.vehicle, at)
            if self.sender is not None and not stream.view and stream.vehicle == self.vehicle:
                self.sender.judge(told)
            if polled.version in told.views or (at is not None and at.version == polled.version):
                shown = told.views.get(polled.version, at)
                if not story.same(shown, polled):
                    raise Failed(difference(shown, polled))
                return told
            if polled.version > min(told.views, default=0):
                raise Failed(f"version {polled.version} was polled, and the stream passed over it")
            # An older copy was polled than the stream began with.
            await asyncio.sleep(0.1)


def difference(shown: View | None, polled: View) -> str:
    """In what a folded view differs from the polled one of the same version."""
    assert shown is not None
    for name in ("vehicle", "updated_at", "status", "since"):
        if getattr(shown, name) != getattr(polled, name):
            return f"{name} is {getattr(shown, name)} by the stream, {getattr(polled, name)} when polled"
    both = {**shown.signals, **polled.signals}
    path = next((path for path in both if shown.signals.get(path) != polled.signals.get(path)), "")
    ours, theirs = shown.signals.get(path), polled.signals.get(path)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        path += f"'s {(name := next(name for name in (ours | theirs) if ours.get(name) != theirs.get(name)))}"
        ours, theirs = ours.get(name), theirs.get(name)
    return f"version {polled.version}: {path} is {short(ours, 60)} by the stream, {short(theirs, 60)} when polled"


@asynccontextmanager
async def reach(wish: Wish) -> AsyncIterator[Target]:
    """For `async with`: the target; its connections are closed afterwards."""
    context = ssl.create_default_context(cafile=wish.ca or None)
    times = httpx2.Timeout(30.0, read=None)
    # Each request has a connection of its own: as many phones have, and so that many replicas are met.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    small = [(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER)]
    slow = httpx2.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits, socket_options=small)
    # A cookie is shown where a check means to, and nowhere else.
    none = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    async with (
        httpx2.AsyncClient(
            verify=context, trust_env=False, limits=limits, timeout=times, cookies=none
        ) as client,
        httpx2.AsyncClient(transport=slow, trust_env=False, timeout=times) as slowly,
    ):
        yield Target(wish, client, slowly)


def _encoded(headers: Sequence[tuple[str, str | bytes]]) -> list[tuple[bytes, bytes]]:
    return [
        (name.encode(), value if isinstance(value, bytes) else value.encode("latin-1"))
        for name, value in headers
    ]


def _headers(answer: httpx2.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items()}

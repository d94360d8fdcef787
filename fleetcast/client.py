"""Fleetcast in an app: follows a vehicle's event stream and keeps its state. docs/apps.md shows it in use.

    async with Client("https://cars.example") as client:
        async for change in client.follow("car-1"):
            match change:
                case Snapshot() | Update():
                    print(change.state.value("Vehicle.Speed"))

Of Fleetcast it needs `sse.py` alone; beside it httpx2 and msgspec. The contract that it keeps to is docs/protocol.md:

- Every update must follow the version before it. One that does not is a `Gap`: the stream is opened anew after the last one
  that did, and if that does not mend it, from a snapshot.
- Whatever ends a stream, it is opened again with the last id, after a pause that grows, with jitter. Only what trying again
  cannot mend (a status 4xx, but 408, 425 and 429) raises: `Refused`.
- The platform says something (a comment, if nothing else) each 25 s. Longer silence is a dead line.
- What cannot be read never raises: the stream is opened anew.
"""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Literal, NotRequired, Self, TypedDict
from urllib.parse import quote

import httpx2
import msgspec

from fleetcast import sse

Status = Literal["connecting", "live", "waiting", "ended"]

_SETTLED = 10.0  # s: a stream that lived this long was a good one, the pauses begin anew
_MOST_PAUSE = 300.0  # s, whatever a server asks for
_MOST_BYTES = 64 << 20  # of one event; a state is at most 4 MB unless it is set otherwise
_MOST_PROBLEM = 65_536
_MOST_LATEST = 1024  # latest states kept for their ETag
_TRY_AGAIN = frozenset({408, 425, 429})


# What comes


class State(msgspec.Struct, frozen=True):
    """A vehicle at a version; 0, without signals, is one that never sent. Never changed: each change makes a new one.

    `signals` is path -> {"value", "at"}; `at` is the vehicle's clock, `updated_at` the platform's, RFC 3339 UTC. `status` is
    `live`, `quiet` or `offline`, and `since` when; empty as long as nobody said.
    """

    vehicle: str
    version: int
    updated_at: str
    signals: Mapping[str, Mapping[str, Any]]
    status: str = ""
    since: str = ""

    def value(self, path: str, default: Any = None) -> Any:
        """The signal's value, or the default if it was never sent."""
        return self.signals.get(path, {}).get("value", default)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Something that came; `raw` is the event as text."""

    raw: sse.Event


class Snapshot(Change, frozen=True, kw_only=True):
    """The whole state: the first of all, and what follows a reset."""

    state: State


class Update(Change, frozen=True, kw_only=True):
    """What one packet changed: `signals` is a JSON Merge Patch (RFC 7396), `state` is what it led to.

    Of a change of the vehicle's status no signal, but `status` and `since`. `state` is None only where `follow` was given an id
    without the state it belongs to.
    """

    vehicle: str
    version: int
    prev: int
    updated_at: str
    signals: Mapping[str, Any]
    state: State | None
    status: str = ""
    since: str = ""


class Reset(Change, frozen=True, kw_only=True):
    """Updates of a vehicle were lost between the ids `since` and `to`; a snapshot follows. Reasons: `expired`, `foreign`."""

    vehicle: str
    reason: str
    since: str
    to: str


class Unavailable(Change, frozen=True, kw_only=True):
    """A temporary failure, told in band. What was last known holds; it is tried again."""

    reason: str


class Gap(Change, frozen=True, kw_only=True):
    """An event did not follow version `have`, or could not be read (`prev` is None): the stream is opened anew.

    `fresh`: what was missed is given up, and a snapshot follows; otherwise it is asked for.
    """

    have: int | None
    prev: int | None
    fresh: bool


class Gone(Change, frozen=True, kw_only=True):
    """One of many vehicles that may be seen no longer: the stream goes on without it, and so does whoever opens it again."""

    vehicle: str
    reason: str


class Other(Change, frozen=True, kw_only=True):
    """An event of a kind that is not known here: something of a later platform."""


# What is raised


class ClientError(Exception):
    """What this module raises."""


class Refused(ClientError):
    """The platform says no, and trying again will not help: `status` 4xx, `detail` for a person."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


class NotAvailable(ClientError):
    """`latest` had no answer; trying again may help."""


class Grant(TypedDict):
    """What `authorize` gives: headers, or what is to stand in the query."""

    headers: NotRequired[Mapping[str, str]]
    query: NotRequired[Mapping[str, str]]


Authorize = Callable[[], Awaitable[Grant]]


class ServerClock:
    """The platform's time, by the Date header of its answers: a device's own clock may be minutes off."""

    def __init__(self) -> None:
        self._offset = 0.0
        self._best = 5.0

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time() + self._offset

    def learn(self, date: str, asked: float) -> None:
        """From an answer that was asked for at `asked` (time.time())."""
        took = time.time() - asked
        try:
            said = parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError):
            return
        if 0 <= took <= self._best:
            self._best = took
            difference = said + 0.5 - (asked + took / 2)
            self._offset = difference if abs(difference) > 3 else 0.0  # Date has whole seconds


class Client:
    """A platform's front door. `authorize` is asked before each request, and once more after a 401.

    `silence`, `opening`: seconds without a byte, and until a stream begins, after which it is opened anew. `pause` is that
    after the first failure, doubled up to `longest`, each times 0.5 to 1. `http`: a client of your own (proxies,
    certificates), which is not closed here; its timeouts must not be below `silence`.
    """

    def __init__(
        self,
        base: str,
        *,
        noun: str = "vehicles",
        authorize: Authorize | None = None,
        silence: float = 60.0,
        opening: float = 25.0,
        pause: float = 1.0,
        longest: float = 30.0,
        http: httpx2.AsyncClient | None = None,
    ) -> None:
        self.clock = ServerClock()
        self.silence, self.opening, self.pause, self.longest = silence, opening, pause, longest
        self._base = base.rstrip("/")
        self._things = f"{self._base}/v1/{noun}"
        self._authorize = authorize
        self._own = http is None
        limits = httpx2.Limits(max_connections=None)
        self._http = http or httpx2.AsyncClient(timeout=None, limits=limits)
        self._latest: OrderedDict[str, tuple[str, State]] = OrderedDict()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends all streams."""
        if self._own:
            await self._http.aclose()

    def follow(
        self,
        vehicle: str,
        *,
        last_id: str = "",
        state: State | None = None,
        every: str = "",
        query: Mapping[str, str] | None = None,
    ) -> Following:
        """The vehicle's changes, without an end. `last_id` and `state`, of an earlier `Following`: go on from there.

        `every`: at most one update in so long, `5s`, `30s` or `60s`; what is urgent comes at once all the same.
        """
        asked = {**(query or {}), **({"every": every} if every else {})}
        return Following(self, vehicle, last_id, state, asked)

    def follow_many(
        self,
        vehicles: Sequence[str] = (),
        *,
        fleet: str = "",
        view: str = "",
        every: str = "",
        last_ids: Mapping[str, str] | None = None,
        states: Mapping[str, State] | None = None,
    ) -> FollowingMany:
        """The changes of up to 400 vehicles, or of a fleet as it is whenever the stream is opened, on one stream.

        `last_ids` and `states`, of an earlier `FollowingMany`: go on from there.
        """
        asked = {"fleet": fleet} if fleet else {"vehicles": list(vehicles)}
        more = {name: value for name, value in (("view", view), ("every", every)) if value}
        return FollowingMany(self, {**asked, **more}, last_ids or {}, states or {})

    async def latest(self, vehicle: str) -> State | None:
        """The latest state, or None if it never sent; asked with the ETag of the one before. Raises Refused, NotAvailable."""
        tag, known = self._latest.get(vehicle, ("", None))
        headers = {"Accept": "application/json"} | ({"If-None-Match": tag} if tag else {})
        try:
            async with asyncio.timeout(self.opening):
                answer = await self._ask(f"{self._things}/{_quoted(vehicle)}", headers, {})
                try:
                    if answer.status_code == 304 and known is not None:
                        return known
                    if answer.status_code == 404:
                        return None
                    if answer.status_code != 200:
                        raise await _refusal(answer)
                    found = msgspec.json.decode(await answer.aread(), type=State)
                finally:
                    await answer.aclose()
        except _Ended as error:
            raise NotAvailable(error.detail) from error
        except (httpx2.HTTPError, OSError, msgspec.MsgspecError, ValueError) as error:
            raise NotAvailable(str(error) or type(error).__name__) from error
        self._latest.pop(vehicle, None)
        if "etag" in answer.headers:
            self._latest[vehicle] = (answer.headers["etag"], found)
            while len(self._latest) > _MOST_LATEST:
                self._latest.popitem(last=False)
        return found

    def age(self, at: str) -> float | None:
        """How old a time is, in seconds by the platform's clock; None for what is not a time."""
        try:
            then = datetime.fromisoformat(at)
        except ValueError:
            return None
        return self.clock.now() - (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp()

    async def _ask(
        self, address: str, headers: Mapping[str, str], query: Mapping[str, str], body: bytes | None = None
    ) -> httpx2.Response:
        """The answer, of which nothing is read yet; who asked closes it. Raises what httpx2 does, and _Ended."""
        for last in (False, True):
            try:
                grant: Grant = await self._authorize() if self._authorize else {}
            except (httpx2.HTTPError, OSError) as error:
                raise _Ended("authorize", repr(error)) from error
            request = self._http.build_request(
                "GET" if body is None else "POST",
                address,
                headers={**headers, **grant.get("headers", {})},
                params={**query, **grant.get("query", {})},
                content=body,
            )
            asked = time.time()
            answer = await self._http.send(request, stream=True)
            self.clock.learn(answer.headers.get("date", ""), asked)
            if answer.status_code != 401 or not self._authorize or last:
                break
            await answer.aclose()  # what was granted may have expired
        return answer


class _Ended(Exception):
    """How a stream ended: `least` is what the server asks to wait, in s; `at_once`: without a pause."""

    def __init__(self, reason: str, detail: str = "", least: float = 0.0, *, at_once: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.least, self.at_once = reason, detail, least, at_once


def _no_stream(answer: httpx2.Response, error: NotAvailable) -> _Ended:
    least = answer.headers.get("retry-after", "")
    return _Ended(
        "no stream",
        str(error),
        float(least) if least.isascii() and least.isdigit() and len(least) < 7 else 0.0,
    )


class _Line:
    """One stream, read chunk by chunk. Everything raises _Ended, and `open` Refused too."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._answer: httpx2.Response | None = None
        self._chunks: AsyncGenerator[bytes] | None = None
        self._until = asyncio.get_running_loop().time() + client.opening

    async def ask(self, address: str, body: bytes) -> dict[str, Any]:
        """For what is to be opened then, by POST: the answer."""
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        try:
            async with asyncio.timeout_at(self._until):
                answer = await self._client._ask(address, headers, {}, body)
                try:
                    if answer.status_code != 201:
                        raise await _refusal(answer)
                    return msgspec.json.decode(await answer.aread(), type=dict[str, Any])
                finally:
                    await answer.aclose()
        except TimeoutError:
            raise _Ended("no answer") from None
        except NotAvailable as error:
            raise _no_stream(answer, error) from error
        except (httpx2.HTTPError, OSError, msgspec.MsgspecError, ValueError) as error:
            raise _Ended("unreachable", repr(error)) from error

    async def open(self, address: str, query: Mapping[str, str]) -> None:
        headers = {"Accept": sse.MEDIA_TYPE, "Cache-Control": "no-cache", "Accept-Encoding": "identity"}
        try:
            async with asyncio.timeout_at(self._until):
                answer = self._answer = await self._client._ask(address, headers, query)
                kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
                if answer.status_code != 200:
                    raise await _refusal(answer)
        except TimeoutError:
            raise _Ended("no answer") from None
        except NotAvailable as error:
            raise _no_stream(answer, error) from error
        except (httpx2.HTTPError, OSError, ValueError) as error:
            raise _Ended("unreachable", repr(error)) from error
        if kind != sse.MEDIA_TYPE:
            raise _Ended("no stream", f"the answer is {kind or 'of no type'}")
        self._chunks = answer.aiter_raw()

    async def read(self, *, live: bool) -> bytes:
        """The next bytes. Until it is live the time for the opening runs, then that for silence."""
        assert self._chunks is not None
        until = asyncio.get_running_loop().time() + self._client.silence if live else self._until
        try:
            async with asyncio.timeout_at(until):
                return await anext(self._chunks)
        except StopAsyncIteration:
            raise _Ended("cut") from None
        except TimeoutError:
            raise _Ended("silent" if live else "no answer") from None
        except (httpx2.HTTPError, OSError, ValueError) as error:
            raise _Ended("cut", repr(error)) from error

    async def close(self) -> None:
        if self._chunks is not None:
            await self._chunks.aclose()
        if self._answer is not None:
            await self._answer.aclose()


class _Stream(ABC):
    """What following one vehicle and following many have in common: opening, and opening again."""

    def __init__(self, client: Client) -> None:
        self.status: Status = "connecting"
        self.reason = self.detail = ""
        self._client = client
        self._changes: weakref.ref[AsyncGenerator[Change]] | None = None

    @abstractmethod
    def _from(self) -> str:
        """The id that the next stream goes on from, if that is one."""

    @abstractmethod
    async def _open(self, line: _Line) -> None: ...

    @abstractmethod
    def _has(self) -> bool:
        """Whether there is all that a stream begins with."""

    @abstractmethod
    def _take(self, event: sse.Event) -> Change | None:
        """Takes an event in; None for one that is there already."""

    @abstractmethod
    def _asks_at_once(self, gap: Gap) -> bool:
        """Whether the stream is opened anew without a pause."""

    def __aiter__(self) -> AsyncIterator[Change]:
        changes = self._run()
        self._changes = weakref.ref(
            changes
        )  # which holds this: a cycle would keep the stream of who breaks off open
        return changes

    async def aclose(self) -> None:
        """Ends the stream, in the task that iterates; from another one, cancel that. Iterated again, it goes on from here."""
        if self._changes is not None and (changes := self._changes()) is not None:
            await changes.aclose()

    async def _run(self) -> AsyncGenerator[Change]:
        tries = 0
        try:
            while True:
                line, parser = _Line(self._client), sse.Parser(self._from())
                live_since: float | None = None
                try:
                    await self._open(line)
                    unfinished = 0
                    while True:
                        chunk = await line.read(live=live_since is not None)
                        comments, unfinished = parser.comments, unfinished + len(chunk)
                        for event in parser.feed(chunk):
                            unfinished = 0
                            change = self._take(event)
                            if (
                                live_since is None
                                and self._has()
                                and not isinstance(change, Unavailable | Gap)
                            ):
                                live_since = self._live()
                            if change is not None:
                                yield change
                            if isinstance(change, Unavailable):
                                raise _Ended("unavailable", change.reason)
                            if isinstance(change, Gap):
                                reason = "unreadable" if change.prev is None else "gap"
                                raise _Ended(reason, at_once=self._asks_at_once(change))
                        # A stream that goes on with nothing missed says so by a comment.
                        if live_since is None and self._has() and parser.comments > comments:
                            live_since = self._live()
                        if unfinished > _MOST_BYTES:
                            raise _Ended("unreadable")
                except _Ended as how:
                    ended = how
                finally:
                    await line.close()
                if live_since is not None and time.monotonic() - live_since > _SETTLED:
                    tries = 0
                if not ended.at_once:
                    self._says("waiting", ended.reason, ended.detail)
                    pause = min(self._client.pause * 2**tries, self._client.longest) * random.uniform(0.5, 1)
                    tries = min(tries + 1, 30)
                    least = max(ended.least, (parser.retry or 0) / 1000)
                    await asyncio.sleep(min(max(least, pause), _MOST_PAUSE))
                self._says("connecting", ended.reason, ended.detail)
        except Refused as error:
            self._says("ended", "refused", error.detail)
            raise
        finally:
            if self.status != "ended":
                self._says("ended", "closed")

    def _live(self) -> float:
        self._says("live")
        return time.monotonic()

    def _says(self, status: Status, reason: str = "", detail: str = "") -> None:
        self.status, self.reason, self.detail = status, reason, detail


class Following(_Stream):
    """An async iterator over a vehicle's changes that keeps its `state`, and `last_id` to come back with.

    `status` is that of the stream (connecting, live, waiting, ended), `reason` why it is not live: cut, silent, no answer,
    unreachable, unavailable, no stream, gap, unreadable, authorize, refused, closed; `detail` is for a person.
    """

    def __init__(
        self, client: Client, vehicle: str, last_id: str, state: State | None, query: Mapping[str, str]
    ) -> None:
        super().__init__(client)
        self.vehicle = vehicle
        self.last_id = last_id
        self.state = state if last_id else None
        self._query = query
        self._version = self.state.version if self.state else None  # None, with an id: not known
        self._gaps = 0  # since the last update

    def age(self, path: str | None = None) -> float | None:
        """How old a signal is, in seconds by the platform's clock; without a path, how long ago the last change came there.

        None if it was never sent.
        """
        if self.state is None:
            return None
        at = self.state.updated_at if path is None else self.state.signals.get(path, {}).get("at")
        return self._client.age(at) if isinstance(at, str) else None

    def _from(self) -> str:
        return self.last_id

    async def _open(self, line: _Line) -> None:
        query = {**self._query, **({"last_event_id": self.last_id} if self.last_id else {})}
        await line.open(f"{self._client._things}/{_quoted(self.vehicle)}/events", query)

    def _has(self) -> bool:
        return bool(self.last_id)

    def _asks_at_once(self, gap: Gap) -> bool:
        return self._gaps == 1

    def _take(self, event: sse.Event) -> Change | None:
        try:
            if event.event == "snapshot":
                state = msgspec.json.decode(event.data, type=State)
                self.state, self.last_id, self._version = state, event.id, state.version
                return Snapshot(raw=event, state=state)
            if event.event in ("update", "status"):
                return self._updated(event, msgspec.json.decode(event.data, type=_Patch))
            if event.event == "reset":
                words = msgspec.json.decode(event.data, type=_Words)
                self._forget()
                return Reset(
                    raw=event, vehicle=self.vehicle, reason=words.reason, since=words.since, to=words.to
                )
            if event.event == "unavailable":
                return Unavailable(raw=event, reason=msgspec.json.decode(event.data, type=_Words).reason)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return self._gap(event, None)
        if self.last_id:
            self.last_id = event.id
        return Other(raw=event)

    def _updated(self, event: sse.Event, patch: _Patch) -> Change | None:
        if not self.last_id:
            return self._gap(event, patch.prev)
        state = self.state
        if self._version is not None:
            if patch.version <= self._version:
                return None
            if patch.prev != self._version:
                return self._gap(event, patch.prev)
        if state is not None:
            if patch.vehicle != state.vehicle:
                return self._gap(event, patch.prev)
            signals = merge_patch(state.signals, patch.signals)
            status, since = patch.status or state.status, patch.since if patch.status else state.since
            if not status and patch.prev == 0:  # that it is live from its first packet on, nobody says
                status, since = "live", patch.updated_at
            state = State(patch.vehicle, patch.version, patch.updated_at, signals, status, since)
        self.state, self.last_id, self._version, self._gaps = state, event.id, patch.version, 0
        return Update(
            raw=event,
            vehicle=patch.vehicle,
            version=patch.version,
            prev=patch.prev,
            updated_at=patch.updated_at,
            signals=patch.signals,
            state=state,
            status=patch.status,
            since=patch.since,
        )

    def _forget(self) -> None:
        """Until the snapshot is here there is nothing to go on from, should the line break between the two."""
        self.last_id, self._version = "", None

    def _gap(self, event: sse.Event, prev: int | None) -> Gap:
        """Once, it is asked for what was missed; then it is given up. Who is answered so again and again asks less often."""
        self._gaps += 1
        have, fresh = self._version, self._gaps > 1 or not self.last_id
        if fresh:
            self.last_id, self._version = "", None
        return Gap(raw=event, have=have, prev=prev, fresh=fresh)


class FollowingMany(_Stream):
    """The same of many vehicles on one stream: `states` and `last_ids` by vehicle. Each has a chain of its own.

    The list is posted anew whenever the stream is opened, with the ids of all that is known, so what was missed of each is
    what comes. `Refused` with 403 is raised if one of them may be seen no longer that was not `Gone` on an open stream.
    """

    def __init__(
        self,
        client: Client,
        asked: Mapping[str, Any],
        last_ids: Mapping[str, str],
        states: Mapping[str, State],
    ) -> None:
        super().__init__(client)
        self._asked = dict(asked)
        self._cars = {
            one: Following(client, one, last, states.get(one), {}) for one, last in last_ids.items()
        }
        self._count = 0

    @property
    def states(self) -> Mapping[str, State]:
        """As far as they have come."""
        return {one: car.state for one, car in self._cars.items() if car.state is not None}

    @property
    def last_ids(self) -> Mapping[str, str]:
        """Where to go on, of each vehicle."""
        return {one: car.last_id for one, car in self._cars.items() if car.last_id}

    def age(self, vehicle: str, path: str | None = None) -> float | None:
        """As `Following.age`, of one of them."""
        return self._cars[vehicle].age(path) if vehicle in self._cars else None

    def _from(self) -> str:
        return ""

    async def _open(self, line: _Line) -> None:
        body = msgspec.json.encode({**self._asked, "versions": self.last_ids})
        made = await line.ask(f"{self._client._base}/v1/streams", body)
        url, self._count = made.get("url"), made.get("vehicles", 0)
        if not isinstance(url, str) or not url.startswith("/") or not isinstance(self._count, int):
            raise _Ended("no stream", "the answer names no stream")
        try:
            await line.open(f"{self._client._base}{url}", {})
        except Refused as error:
            if error.status != 404:
                raise
            raise _Ended("no stream", error.detail) from error  # it gave way to others: asked for anew

    def _has(self) -> bool:
        return sum(bool(car.last_id) for car in self._cars.values()) >= self._count

    def _asks_at_once(self, gap: Gap) -> bool:
        return not gap.fresh

    def _take(self, event: sse.Event) -> Change | None:
        if event.event == "unavailable":
            return Following(self._client, "", "", None, {})._take(event)
        try:
            of = msgspec.json.decode(event.data, type=_Of)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return Gap(raw=event, have=None, prev=None, fresh=True)
        if event.event == "gone":
            self._cars.pop(of.vehicle, None)
            self._asked |= (
                {"vehicles": [one for one in self._asked["vehicles"] if one != of.vehicle]}
                if ("vehicles" in self._asked)
                else {}
            )
            self._count -= 1
            return Gone(raw=event, vehicle=of.vehicle, reason=of.reason)
        if event.event == "reset" and not of.vehicle:
            for car in self._cars.values():
                car._forget()
            return Reset(raw=event, vehicle="", reason=of.reason, since="", to="")
        if event.event not in ("snapshot", "update", "status", "reset"):
            return Other(raw=event)
        car = self._cars.setdefault(of.vehicle, Following(self._client, of.vehicle, "", None, {}))
        return car._take(event)


def merge_patch(target: Any, patch: Any) -> Any:
    """JSON Merge Patch (RFC 7396): the target after the patch. Neither is changed; what is the same is shared."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


class _Patch(msgspec.Struct):
    vehicle: str
    version: int
    prev: int
    updated_at: str
    signals: dict[str, dict[str, Any] | None]
    status: str = ""
    since: str = ""


class _Of(msgspec.Struct):
    vehicle: str = ""
    reason: str = ""


class _Words(msgspec.Struct, rename={"since": "from"}):
    reason: str = ""
    since: str = ""
    to: str = ""


async def _refusal(answer: httpx2.Response) -> ClientError:
    """What to raise for this status, with what its problem+json (RFC 9457) says, or else its reason phrase."""
    body = b""
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > _MOST_PROBLEM:
            break
    try:
        said = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, ValueError):
        said = {}
    status = answer.status_code
    detail = str(said.get("detail") or said.get("title") or answer.reason_phrase or "no reason given")
    if 400 <= status < 500 and status not in _TRY_AGAIN:
        return Refused(status, detail)
    return NotAvailable(f"{status}: {detail}")


def _quoted(vehicle: str) -> str:
    return quote(vehicle, safe="")

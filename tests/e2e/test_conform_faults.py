"""`fleetcast conform` finds each promise that is broken: by a proxy before a real platform, one fault at a time."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetcast.conform import suite
from fleetcast.conform.target import Wish
from fleetcast.conform.words import Row
from fleetcast.devpki import DevelopmentPki
from tests.e2e.faulty import Answered, Asked, Block, Door, Fault, Pass, door
from tests.e2e.outside import Site, site
from tests.e2e.test_identity import output
from tests.servers import short_folder


@pytest.fixture(scope="module")
async def here() -> AsyncIterator[Site]:
    with short_folder() as folder:
        keys = str(DevelopmentPki(folder / "dev-pki").app_keys)
        async with site(folder, keep_alive=1, consumers=1, app_keys=keys, ticket_seconds=2.0) as running:
            await expect(running, "quiets", 2)
            yield running


@pytest.fixture(scope="module")
async def proxied(here: Site) -> AsyncIterator[tuple[Door, str]]:
    async with door(here.url) as made:
        yield made


class Streams(Fault, ABC):
    """One that changes each stream's events by a function of (number of the update, block)."""

    @abstractmethod
    def of(self, number: int, block: Block) -> list[Block]: ...

    def stream(self, asked: Asked) -> Pass:
        count = 0

        def through(block: Block) -> list[Block]:
            nonlocal count
            if block.name != "update":
                return [block]
            count += 1
            return self.of(count, block)

        return through


class Missing(Streams):
    def of(self, number: int, block: Block) -> list[Block]:
        return [] if number == 3 else [block]


class Twice(Streams):
    def of(self, number: int, block: Block) -> list[Block]:
        return [block, block] if number == 3 else [block]


class PrevOffByOne(Streams):
    def of(self, number: int, block: Block) -> list[Block]:
        return [block.with_data(prev=block.data["prev"] - 1)]


class SignalMissing(Streams):
    def of(self, number: int, block: Block) -> list[Block]:
        signals = block.data["signals"]
        signals.pop("Conform.List")
        return [block.with_data(signals=signals)]


class NullValue(Streams):
    def of(self, number: int, block: Block) -> list[Block]:
        return [block.with_data(signals=block.data["signals"] | {"Conform.List": {"value": None, "at": "x"}})]


class Unescaped(Streams):
    """Data is cut at a line break."""

    def of(self, number: int, block: Block) -> list[Block]:
        return [block.changed(data=(block.field("data") or "").partition("\\n")[0])]


class WithoutIds(Streams):
    def of(self, number: int, block: Block) -> list[Block]:
        return [block.changed(id=None)]


class SameId(Fault):
    def stream(self, asked: Asked) -> Pass:
        return lambda block: [block.changed(id="0-1") if block.field("id") else block]


class Swapped(Fault):
    def stream(self, asked: Asked) -> Pass:
        held: list[Block] = []

        def through(block: Block) -> list[Block]:
            if block.name != "update":
                return [block]
            held.append(block)
            return [held.pop(), held.pop()] if len(held) == 2 else []

        return through


class Buffered(Fault):
    """Nothing goes out until there are 16 kB of it, as behind a proxy that buffers; the beginning excepted."""

    def stream(self, asked: Asked) -> Pass:
        held: list[Block] = []

        def through(block: Block) -> list[Block]:
            if block.name != "update":
                return [block]
            held.append(block)
            if sum(len(one.encoded()) for one in held) < 16_384:
                return []
            out, held[:] = list(held), []
            return out

        return through


class WithoutKeepAlive(Fault):
    def stream(self, asked: Asked) -> Pass:
        return lambda block: [block] if block.name else []


class Header(Fault):
    """A header of streams is another."""

    def __init__(self, name: bytes, value: bytes) -> None:
        self.name, self.value = name, value

    def answered(self, asked: Asked, answer: Answered) -> None:
        if asked.is_stream and answer.status == 200:
            answer.headers[self.name] = self.value


class Tag(Fault):
    """A cache that believes in what it has: the first ETag of each path is answered 304 for ever."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def asked(self, asked: Asked) -> Answered | None:
        known = asked.headers.get(b"if-none-match")
        if known is not None and known == self.kept.get(asked.path):
            return Answered(304, {b"etag": known})
        return None

    def answered(self, asked: Asked, answer: Answered) -> None:
        if b"etag" in answer.headers:
            self.kept.setdefault(asked.path, answer.headers[b"etag"])


class NeverNotModified(Fault):
    def asked(self, asked: Asked) -> Answered | None:
        asked.headers.pop(b"if-none-match", None)
        return None


class IdIgnored(Fault):
    def asked(self, asked: Asked) -> Answered | None:
        asked.headers.pop(b"last-event-id", None)
        return None


class QueryIgnored(Fault):
    def asked(self, asked: Asked) -> Answered | None:
        if asked.is_stream:
            asked.path = asked.path.partition("?")[0]
        return None


class QueryPreferred(Fault):
    def asked(self, asked: Asked) -> Answered | None:
        if asked.query:
            asked.headers.pop(b"last-event-id", None)
        return None


class AlwaysReset(Fault):
    """An origin that knows no window: whoever comes back is reset."""

    def asked(self, asked: Asked) -> Answered | None:
        if asked.last:
            asked.headers[b"last-event-id"] = b"00000000-0"
        return None


class FirstMissedLost(Streams):
    def of(self, number: int, block: Block) -> list[Block]:
        return [block] if number > 1 or not self.again else []

    def stream(self, asked: Asked) -> Pass:
        self.again = bool(asked.last)
        return super().stream(asked)


class OtherTextWhenMissed(Fault):
    """The same data in another form when it is replayed."""

    def stream(self, asked: Asked) -> Pass:
        return lambda block: [
            block.changed(data=json.dumps(block.data)) if asked.last and block.name else block
        ]


class BadId(Fault):
    """An id that is not ours is an error, in one way or another."""

    def __init__(self, answer: Answered | None, *, only: str = "") -> None:
        self.answer, self.only = answer, only

    def is_bad(self, asked: Asked) -> bool:
        last = asked.last or asked.query
        kind = {"long": len(last) > 100, "non-ascii": not last.isascii(), "breaks": not last.isprintable()}
        known = len(last) in range(10, 16) and last[:8].isalnum() and last[8:9] == "-"
        return asked.is_stream and (kind[self.only] if self.only else bool(last) and not known)

    def asked(self, asked: Asked) -> Answered | None:
        if not self.is_bad(asked) or self.answer is None:
            return None
        return Answered(self.answer.status, dict(self.answer.headers), self.answer.body)


class Silent(BadId):
    """It is neither reset nor told: the stream begins with nothing."""

    def __init__(self) -> None:
        super().__init__(None)

    def stream(self, asked: Asked) -> Pass:
        return lambda block: [] if self.is_bad(asked) and block.name != "update" else [block]


class Without(Fault):
    """Events of this name are not sent."""

    def __init__(self, name: str) -> None:
        self.name = name

    def stream(self, asked: Asked) -> Pass:
        return lambda block: [block] if block.name != self.name or not (asked.last or asked.query) else []


class ResetWithId(Fault):
    def stream(self, asked: Asked) -> Pass:
        return lambda block: [block.changed(id="0-0") if block.name == "reset" else block]


class OneInFourStands(Fault):
    """One stream in four gets nothing after its snapshot, as from a replica that is not published to."""

    opened = 0

    def stream(self, asked: Asked) -> Pass:
        self.opened += 1
        stands = self.opened % 4 == 0
        return lambda block: [] if stands and block.name == "update" else [block]


class Neighbours(Fault):
    """A channel matched by prefix: who follows `v0` is given what is `v`'s."""

    def asked(self, asked: Asked) -> Answered | None:
        if asked.is_stream:
            asked.path = asked.path.replace("0/events", "/events")
        return None


class HtmlErrors(Fault):
    def answered(self, asked: Asked, answer: Answered) -> None:
        if answer.status >= 400:
            answer.headers[b"content-type"] = b"text/html"


class NoAllow(Fault):
    def answered(self, asked: Asked, answer: Answered) -> None:
        answer.headers.pop(b"allow", None)


class NoHead(Fault):
    def asked(self, asked: Asked) -> Answered | None:
        return Answered(405, {b"allow": b"GET"}) if asked.method == "HEAD" else None


class NoLimits(Fault):
    def asked(self, asked: Asked) -> Answered | None:
        asked.path = asked.path.replace("limit=101", "limit=100")
        return None


class TurnedAwayIfLarge(Fault):
    """What is behind cannot take it, and the front says: try again."""

    def asked(self, asked: Asked) -> Answered | None:
        if sum(len(name) + len(value) for name, value in asked.headers.items()) < 8000:
            return None
        return Answered(200, dict(EVENTS), TURNED)


class Unavailable(Fault):
    """A temporary failure for whoever comes back by the query, told in this text."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def asked(self, asked: Asked) -> Answered | None:
        if not asked.query:
            return None
        return Answered(
            200, {b"content-type": b"text/event-stream", b"cache-control": b"no-store"}, self.text
        )


class OfViews(Streams):
    """Updates on streams of a view are changed by a function of the block."""

    def __init__(self, change: Callable[[Block], Block]) -> None:
        self.change = change

    def of(self, number: int, block: Block) -> list[Block]:
        return [self.change(block)] if self.view else [block]

    def stream(self, asked: Asked) -> Pass:
        self.view = asked.asked.get("view", "")
        return super().stream(asked)


class ViewLost(Streams):
    """The second update of a view does not come."""

    def of(self, number: int, block: Block) -> list[Block]:
        return [] if number == 2 and self.view else [block]

    def stream(self, asked: Asked) -> Pass:
        self.view = asked.asked.get("view", "")
        return super().stream(asked)


class Query(Fault):
    """A word in the query is another one; of the paths that end so."""

    def __init__(self, old: str, new: str, end: str = "") -> None:
        self.old, self.new, self.end = old, new, end

    def asked(self, asked: Asked) -> Answered | None:
        path, _, query = asked.path.partition("?")
        if path.endswith(self.end):
            asked.path = f"{path}?{query.replace(self.old, self.new)}"
        return None


class BadViewIsAll(Fault):
    def asked(self, asked: Asked) -> Answered | None:
        if asked.asked.get("view", "all") not in ("all", "summary", "tyres", "security", "location"):
            asked.path = asked.path.replace("view=", "x=")
        return None


class IdOfAViewIgnored(Fault):
    def asked(self, asked: Asked) -> Answered | None:
        if "view" in asked.asked:
            asked.headers.pop(b"last-event-id", None)
        return None


class Body(Fault):
    """The JSON of some answers is changed, by (what was asked, the object)."""

    def __init__(self, change: Callable[[Asked, Any], Any]) -> None:
        self.change = change

    def answered(self, asked: Asked, answer: Answered) -> None:
        if answer.status == 200 and answer.body and b"json" in answer.headers.get(b"content-type", b""):
            answer.body = json.dumps(self.change(asked, json.loads(answer.body))).encode()


def place_in_summary(asked: Asked, body: Any) -> Any:
    if asked.asked.get("view") == "summary" and "signals" in body:
        body["signals"]["Vehicle.CurrentLocation.Longitude"] = {
            "value": 1.5,
            "at": "2026-11-23T10:00:00.000Z",
        }
    return body


def polled(change: Callable[[Asked, Any], Any]) -> Body:
    """The answers to long-polls that came back."""
    return Body(lambda asked, body: change(asked, body) if "wait" in asked.asked and asked.last else body)


def first_dropped(asked: Asked, body: Any) -> Any:
    return body | {"events": body["events"][1:] if len(body["events"]) > 1 else body["events"]}


class OneAnswerIsLost(Fault):
    """Every fifth answer with an update is empty, and leads on."""

    count = 0

    def answered(self, asked: Asked, answer: Answered) -> None:
        if "wait" in asked.asked and asked.last and answer.status == 200:
            body = json.loads(answer.body)
            self.count += bool(body["events"])
            if self.count % 5 == 0:
                answer.body = json.dumps(body | {"events": []}).encode()


class NeverHeld(Fault):
    def asked(self, asked: Asked) -> Answered | None:
        if "wait" not in asked.asked or not asked.last:
            return None
        body = json.dumps({"events": [], "last_event_id": asked.last}).encode()
        return Answered(200, {b"content-type": b"application/json"}, body)


class NothingIsAnError(Fault):
    """A gateway that gives up on what says nothing."""

    def answered(self, asked: Asked, answer: Answered) -> None:
        if "wait" in asked.asked and answer.body.startswith(b'{"events":[]'):
            answer.status, answer.body = 408, b""


class PollsOfTheirOwn(Fault):
    """Long-polls have other ids than streams."""

    def asked(self, asked: Asked) -> Answered | None:
        if "wait" in asked.asked and asked.last:
            asked.headers[b"last-event-id"] = asked.last.removesuffix("x").encode()
        return None

    def answered(self, asked: Asked, answer: Answered) -> None:
        if "wait" in asked.asked and answer.status == 200:
            body = json.loads(answer.body)
            answer.body = json.dumps(body | {"last_event_id": body["last_event_id"] + "x"}).encode()


class LetsIn(Fault):
    """Some requests are let in as if they had shown the token."""

    def __init__(self, which: Callable[[Asked], object]) -> None:
        self.which = which

    def asked(self, asked: Asked) -> Answered | None:
        if self.which(asked):
            asked.headers[b"authorization"] = b"Bearer " + self.token.encode()
            asked.path = asked.path.replace("ticket=", "x=")
        return None


class Told(Fault):
    """An answer of this status is another one, to requests of this kind."""

    def __init__(
        self, status: int, other: int, body: bytes = b"", accept: bytes = b"", **headers: bytes
    ) -> None:
        self.status, self.other, self.body, self.accept = status, other, body, accept
        self.headers = {name.replace("_", "-").encode(): value for name, value in headers.items()}

    def answered(self, asked: Asked, answer: Answered) -> None:
        if answer.status == self.status and asked.headers.get(b"accept", b"").startswith(self.accept):
            answer.status = self.other
            answer.body = self.body or answer.body
            answer.headers |= self.headers


class TicketOnce(Fault):
    def __init__(self) -> None:
        self.used: set[str] = set()

    def asked(self, asked: Asked) -> Answered | None:
        ticket = asked.asked.get("ticket", "")
        if asked.is_stream and ticket and ticket in self.used:
            return Answered(401, dict(PLAIN))
        self.used.add(ticket)
        return None


class NextShown(Fault):
    def answered(self, asked: Asked, answer: Answered) -> None:
        if asked.path.startswith("/next/"):
            answer.status = 200


class HeaderOf(Fault):
    """A header of answers below a path is another."""

    def __init__(self, path: str, name: bytes, value: bytes) -> None:
        self.path, self.name, self.value = path, name, value

    def answered(self, asked: Asked, answer: Answered) -> None:
        if asked.path.startswith(self.path) and self.name in answer.headers:
            answer.headers[self.name] = self.value


class OfStatus(Fault):
    """Changes of status are other events; of those that came back, or of those that stayed."""

    def __init__(self, change: Callable[[Block], list[Block]], *, again: bool) -> None:
        self.change, self.again = change, again

    def stream(self, asked: Asked) -> Pass:
        concerned = bool(asked.last) == self.again
        return lambda block: self.change(block) if concerned and block.name == "status" else [block]


def offline_in_list(asked: Asked, body: Any) -> Any:
    for one in body.get("vehicles", []):
        one["status"] = "offline"
    return body


class OtherClassIsForeign(Fault):
    def asked(self, asked: Asked) -> Answered | None:
        if asked.asked.get("every") == "30s":
            asked.headers.pop(b"last-event-id", None)
        return None


class OfMany(Fault):
    """A stream of many vehicles loses the first update; or it is asked for without the versions, or opened without the id."""

    def __init__(self, what: str) -> None:
        self.what = what

    def asked(self, asked: Asked) -> Answered | None:
        if asked.path.startswith("/v1/streams"):
            if self.what == "versions" and asked.body:
                body = json.loads(asked.body)
                body.pop("versions", None)
                asked.body = json.dumps(body).encode()
            if self.what == "id":
                asked.headers.pop(b"last-event-id", None)
        return None

    def stream(self, asked: Asked) -> Pass:
        left = int(self.what == "update" and asked.path.startswith("/v1/streams"))

        def through(block: Block) -> list[Block]:
            nonlocal left
            if left and block.name == "update":
                left -= 1
                return []
            return [block]

        return through


class SocketLoses(Fault):
    """Updates are not told on WebSockets, by a resume neither."""

    def told(self, message: dict[str, Any]) -> dict[str, Any] | None:
        return None if message["event"] == "update" else message


class SocketIgnoresIds(Fault):
    def said(self, text: str) -> str:
        return json.dumps(json.loads(text) | {"last_event_id": ""})


PLAIN = {b"content-type": b"text/plain"}
EVENTS = {b"content-type": b"text/event-stream"}
TURNED = b'retry: 2000\n\nevent: unavailable\ndata: {"reason":"edge"}\n\n'

FAULTS: dict[str, tuple[Fault, str, str]] = {
    "an event is missing": (Missing(), "stream.chain", "has prev"),
    "an event comes twice": (Twice(), "stream.chain", "has prev"),
    "two events are swapped": (Swapped(), "stream.chain", "has prev"),
    "prev is off by one": (PrevOffByOne(), "stream.chain", "has prev"),
    "a value is null": (NullValue(), "stream.chain", "null or an object"),
    "data is not escaped": (Unescaped(), "stream.chain", "is not JSON"),
    "a signal is missing in patches": (SignalMissing(), "stream.patch", "Conform.List"),
    "updates have no ids": (WithoutIds(), "stream.ids", "has no id"),
    "ids are all the same": (SameId(), "stream.ids", "the same id"),
    "events are buffered": (Buffered(), "stream.prompt", "or never"),
    "no keep-alive": (WithoutKeepAlive(), "stream.keep_alive", "not within"),
    "wrong content type": (Header(b"content-type", b"text/plain"), "stream.content_type", "text/plain"),
    "the stream may be cached": (
        Header(b"cache-control", b"public, max-age=60"),
        "stream.no_store",
        "public",
    ),
    "the stream is compressed": (Header(b"content-encoding", b"gzip"), "stream.not_compressed", "gzip"),
    "a header of the machinery": (Header(b"grip-hold", b"stream"), "stream.no_plumbing", "grip-hold"),
    "a stale ETag": (Tag(), "state.modified", "304"),
    "never 304": (NeverNotModified(), "state.not_modified", "200"),
    "Last-Event-ID is ignored": (IdIgnored(), "resume.header", "without a reset"),
    "the query is ignored": (QueryIgnored(), "resume.query", "without a reset"),
    "the query is preferred": (QueryPreferred(), "resume.header_holds", "a reset (foreign)"),
    "whoever comes back is reset": (AlwaysReset(), "resume.header", "a reset (foreign)"),
    "the first that was missed is lost": (FirstMissedLost(), "resume.many_at_once", "has prev"),
    "another text when missed": (OtherTextWhenMissed(), "resume.same_events", " was "),
    "400 to a forged id": (BadId(Answered(400, PLAIN)), "reset.garbage", "400"),
    "500 to an id beyond ASCII": (BadId(Answered(500, PLAIN), only="non-ascii"), "reset.non_ascii", "500"),
    "503 to a long id": (BadId(Answered(503, PLAIN), only="long"), "reset.very_long", "503"),
    "a cut for line breaks": (
        BadId(Answered(200, EVENTS), only="breaks"),
        "reset.breaks",
        "the stream ended",
    ),
    "turned away for ever": (BadId(Answered(200, EVENTS, TURNED)), "reset.garbage", "unavailable"),
    "silence to a forged id": (Silent(), "reset.garbage", "not within"),
    "no snapshot after a reset": (Without("snapshot"), "reset.garbage", "not within"),
    "a snapshot without a reset": (Without("reset"), "reset.garbage", "is snapshot, not a reset"),
    "a reset with an id": (ResetWithId(), "reset.garbage", "has an id"),
    "a replica that is not published to": (OneInFourStands(), "crowd.agree", "not within"),
    "a neighbour's events": (Neighbours(), "crowd.not_another", "stream of"),
    "errors in HTML": (HtmlErrors(), "errors.bad_id", "text/html"),
    "405 without Allow": (NoAllow(), "errors.other_method", "Allow missing"),
    "large requests try again for ever": (TurnedAwayIfLarge(), "errors.too_large", "200"),
    "no HEAD": (NoHead(), "errors.head", "405"),
    "limits are not checked": (NoLimits(), "fleet.limits", "200"),
    "a view that is none is all": (BadViewIsAll(), "views.bad", "200"),
    "a view shows where the car is": (Body(place_in_summary), "views.signals", "is shown in summary"),
    "a view's events have other signals": (
        OfViews(lambda block: block.with_data(signals=block.data["signals"] | {"Conform.Number": None})),
        "views.chain",
        "Conform.Number is shown in",
    ),
    "a view's events have no signal of it": (
        OfViews(lambda block: block.with_data(signals={})),
        "views.chain",
        "version",
    ),
    "a view has the chain of all": (
        OfViews(lambda block: block.with_data(prev=block.data["version"] - 1)),
        "views.chain",
        "has prev",
    ),
    "a view's event is missing": (ViewLost(), "views.chain", "not within"),
    "ids of views are ignored": (IdOfAViewIgnored(), "views.resume", "without a reset"),
    "ids of other views are taken": (IdOfAViewIgnored(), "views.foreign", "is snapshot, not a reset"),
    "all is another view": (Query("view=all", "view=tyres"), "views.everything", "when polled"),
    "the list knows no views": (Query("view=", "x=", "/v1/vehicles"), "views.listed", "version"),
    "long-polls may be cached": (
        HeaderOf("/v1/vehicles/", b"cache-control", b"max-age=5"),
        "polls.begin",
        "max-age",
    ),
    "long-polls are not held": (NeverHeld(), "polls.held", "answered at once"),
    "a long-poll's id stays": (
        polled(lambda asked, body: body | {"last_event_id": asked.last}),
        "polls.held",
        "last_event_id is",
    ),
    "a long-poll without news is an error": (NothingIsAnError(), "polls.empty", "408"),
    "a long-poll's first event is lost": (polled(first_dropped), "polls.missed", "has prev"),
    "a long-poll's answer is lost": (OneAnswerIsLost(), "polls.no_gap", "has prev"),
    "400 to a forged id of a long-poll": (BadId(Answered(400, PLAIN)), "polls.foreign", "400"),
    "long-polls have other ids": (PollsOfTheirOwn(), "polls.crossed", "a reset or a snapshot"),
    "any wait is taken": (Query("wait=61", "wait=60"), "polls.bad_wait", "wait=61"),
    "a stream needs no credentials": (
        LetsIn(lambda asked: asked.is_stream and b"authorization" not in asked.headers),
        "tokens.nothing_shown",
        "200",
    ),
    "a 401 is told in the stream": (
        Told(401, 200, TURNED, b"text/event-stream", content_type=b"text/event-stream"),
        "tokens.nothing_shown",
        "200",
    ),
    "a 401 without WWW-Authenticate": (
        HeaderOf("/", b"www-authenticate", b""),
        "tokens.nothing_shown",
        "WWW-Authenticate",
    ),
    "a token in the URL is taken": (
        LetsIn(lambda asked: "access_token" in asked.asked),
        "tokens.none_that_hold",
        "in the query as access_token",
    ),
    "signatures are not checked": (
        LetsIn(lambda asked: b"authorization" in asked.headers),
        "tokens.none_that_hold",
        "a changed token",
    ),
    "a ticket is good once": (TicketOnce(), "tokens.ticket", "401"),
    "tickets have no end": (
        LetsIn(lambda asked: "ticket" in asked.asked),
        "tokens.ticket_goes_on",
        "200",
    ),
    "a ticket is not narrowed": (LetsIn(lambda asked: "ticket" in asked.asked), "tokens.anothers", "404"),
    "403 says who exists": (Told(403, 404), "tokens.anothers", "404"),
    "the list shows everything": (LetsIn(lambda asked: "ticket" in asked.asked), "tokens.listed", "alone"),
    "a ticket gets a ticket": (
        LetsIn(lambda asked: "ticket" in asked.asked and asked.method == "POST"),
        "tokens.ticket_gets_none",
        "201",
    ),
    "scripts can read the cookie": (
        HeaderOf("/v1/session", b"set-cookie", b"fleetcast=x; SameSite=Strict"),
        "tokens.session",
        "samesite",
    ),
    "the recovery link is open": (NextShown(), "tokens.next_link", "200"),
    "the list has another status": (Body(offline_in_list), "status.shown", "offline"),
    "nobody is told that it is quiet": (
        OfStatus(lambda block: [], again=False),
        "status.told",
        "not within",
    ),
    "a change of status has no id": (
        OfStatus(lambda block: [block.changed(id=None)], again=False),
        "status.told",
        "has no id",
    ),
    "a change of status is not replayed": (OfStatus(lambda block: [], again=True), "status.told", "has prev"),
    "any class is taken": (Query("every=4s", "every=5s"), "calm.bad", "every=4s"),
    "an id of another class is not": (OtherClassIsForeign(), "calm.snapshot", "another class"),
    "calm streams are not calm": (Query("every=5s", "x=5s", "/events"), "calm.buckets", "buckets of 5 s"),
    "a stream of many loses an update": (OfMany("update"), "many.live", "has prev"),
    "a stream of many ignores versions": (OfMany("versions"), "many.back", "without a reset"),
    "a stream of many ignores the id": (OfMany("id"), "many.last_event_id", "not a reset of many"),
    "what cannot be asked for is a 422": (Told(400, 422), "many.bad", "422"),
    "streams of many need no credentials": (
        LetsIn(lambda asked: asked.path.startswith("/v1/streams")),
        "many.guarded",
        "not 401",
    ),
    "a WebSocket loses updates": (SocketLoses(), "websocket.follows", "not within"),
    "a WebSocket ignores ids": (SocketIgnoresIds(), "websocket.resumes", "without a reset"),
    "what is no WebSocket is answered": (Told(426, 200), "websocket.refused", "200"),
}


async def expect(here: Site, vehicle: str, every: int) -> None:
    """This vehicle is expected to send so often: it is quiet after 1.5 times as long."""
    config = str(here.platform.run_folder / "fleetcast.toml")
    words = ("--config", config, "vehicles", "add", vehicle, "--every", str(every))
    await output(sys.executable, "-m", "fleetcast", *words)


async def tried(
    proxied: tuple[Door, str], here: Site, fault: Fault, vehicle: str, *only: str
) -> dict[str, Row]:
    """The rows of these checks, before a platform with this fault."""
    proxy, url = proxied
    proxy.fault = fault
    fault.token = DevelopmentPki(Path(here.settings.app_keys).parent).app_token("conform", ["*"], 3600)
    wish = Wish(
        front=url,
        vehicle=vehicle,
        token=fault.token,
        send=here.platform.ingest_url,
        only=only,
        within=2.5,
        keep_alive=1.0,
        quiet=3.0,
        streams=6,
    )
    try:
        return {row.check: row for row in await suite.run(wish, lambda row: None)}
    finally:
        proxy.fault = Fault()


def _each() -> Iterator[Any]:
    """Of each group of checks one fault; the others take minutes, and are in `make test-all`."""
    groups = set[str]()
    for name, (_, check, _) in FAULTS.items():
        group = check.partition(".")[0]
        yield pytest.param(name, marks=[pytest.mark.long] if group in groups else [])
        groups.add(group)


@pytest.mark.parametrize("name", list(_each()))
async def test_each_fault_is_found_by_the_check_for_it(
    proxied: tuple[Door, str], here: Site, name: str
) -> None:
    fault, check, word = FAULTS[name]
    vehicle = "quiet" if check == "status.told" else f"f-{list(FAULTS).index(name)}"
    row = (await tried(proxied, here, fault, vehicle, check))[check]
    assert row.verdict == "FAIL", row
    assert word in row.seen, row


async def test_each_of_those_checks_passes_through_the_proxy_without_a_fault(
    proxied: tuple[Door, str], here: Site
) -> None:
    only = {check for _, check, _ in FAULTS.values()}
    rows = await tried(proxied, here, Fault(), "quiet", *only)
    assert {check: row for check, row in rows.items() if row.verdict != "pass"} == {}
    assert set(rows) >= only


@pytest.mark.parametrize(
    ("text", "verdict", "word"),
    [
        (TURNED, "pass", "1 came"),
        (b"id: 0-1\n" + TURNED.partition(b"\n\n")[2], "FAIL", "has an id"),
        (TURNED.partition(b"\n\n")[2], "FAIL", "retry is None"),
        (TURNED.replace(b"2000", b"60000"), "FAIL", "retry is 60000"),
        (TURNED + b"event: update\ndata: {}\n\n", "FAIL", "followed by update"),
        (TURNED.replace(b'"reason"', b'"why"'), "FAIL", "says no reason"),
    ],
    ids=["right", "id", "no retry", "long retry", "goes on", "no reason"],
)
async def test_a_temporary_failure_is_no_failure_but_its_form_is_judged(
    proxied: tuple[Door, str], here: Site, text: bytes, verdict: str, word: str
) -> None:
    rows = await tried(proxied, here, Unavailable(text), "turned", "resume.query", "errors.unavailable")
    assert rows["resume.query"].verdict == "not tried", rows
    assert rows["errors.unavailable"].verdict == verdict, rows
    assert word in rows["errors.unavailable"].seen, rows


async def test_a_check_that_does_not_understand_an_answer_fails(
    proxied: tuple[Door, str], here: Site
) -> None:
    class List(Fault):
        def answered(self, asked: Asked, answer: Answered) -> None:
            if asked.path.endswith("limit=100"):
                answer.body = b'{"vehicles":[{}],"next":null}'

    rows = await tried(proxied, here, List(), "list", "fleet.listed")
    assert rows["fleet.listed"].verdict == "FAIL", rows

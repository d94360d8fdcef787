"""WebSockets at an origin, as the edge posts them: what is opened, what is answered, and what ends one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx2
import jwt
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetcast import wsevents
from fleetcast.subjects import control_channel, control_number
from fleetcast.wsevents import Event, encode, parse
from tests.test_origin import EPOCH, KEY, SIGNATURE, HandClock, Live, asking, is_problem

PATH = "/v1/vehicles/car/ws"
EDGE = {
    "Grip-Sig": SIGNATURE,
    "Sec-WebSocket-Extensions": "grip",
    "Content-Type": wsevents.MEDIA_TYPE,
    "Host": "door.example:8080",
}
RESUME = b'{"type":"resume"}'


@pytest.fixture
def live() -> Live:
    live = Live()
    live.drive("car", 3)
    return live


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def edge(live: Live, clock: HandClock) -> AsyncIterator[httpx2.AsyncClient]:
    async with asking(live, clock, **EDGE) as client:
        yield client


class Socket:
    """One as an edge has it."""

    def __init__(self, edge: httpx2.AsyncClient, path: str = PATH) -> None:
        self._edge, self._path, self.meta = edge, path, ""
        self.controls: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None

    async def post(self, *events: Event) -> list[Event]:
        """The events of the answer, which must be one."""
        headers = {"Meta-Socket": self.meta} if self.meta else {}
        answer = await self._edge.post(self._path, content=encode(events), headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == wsevents.MEDIA_TYPE
        assert answer.headers["sec-websocket-extensions"] == "grip"
        self.meta = answer.headers.get("set-meta-socket", self.meta)
        return parse(answer.content)

    async def open(self) -> list[dict[str, Any]]:
        """What the edge is told to do."""
        first, *events = await self.post(Event("OPEN"))
        assert first == Event("OPEN")
        return list(controls(events))

    async def say(self, *texts: bytes) -> list[dict[str, Any]]:
        """What the app is told."""
        return self.told(await self.post(*(Event("TEXT", text) for text in texts)))

    def told(self, events: Iterable[Event]) -> list[dict[str, Any]]:
        found = []
        for kind, content in events:
            if kind == "CLOSE":
                self.closed = (int.from_bytes(content[:2], "big"), content[2:].decode())
            elif kind == "TEXT" and content.startswith(b"m:"):
                found.append(json.loads(content[2:]))
            elif kind == "TEXT":
                control = json.loads(content.removeprefix(b"c:"))
                self.controls.append(control)
                if control["type"] == "send-delayed":
                    found.append(json.loads(control["content"]))
        return found


def controls(events: Iterable[Event]) -> Iterable[dict[str, Any]]:
    for kind, content in events:
        assert kind == "TEXT"
        assert content.startswith(b"c:")
        yield json.loads(content[2:])


@pytest.fixture
async def socket(edge: httpx2.AsyncClient) -> Socket:
    socket = Socket(edge)
    await socket.open()
    return socket


async def test_opened_it_is_held_by_its_control_channel_and_kept_alive_and_told_nothing(
    edge: httpx2.AsyncClient,
) -> None:
    assert await Socket(edge).open() == [
        {"type": "subscribe", "channel": control_channel(control_number("car"))},
        {
            "type": "keep-alive",
            "timeout": 25,
            "message-type": "text",
            "content": '{"event":"keep-alive"}',
            "mode": "interval",
        },
    ]


async def test_a_first_resume_is_the_snapshot_and_begins_what_is_published(socket: Socket) -> None:
    snapshot, end = await socket.say(RESUME)
    assert (snapshot["event"], snapshot["id"], snapshot["data"]["version"]) == ("snapshot", f"{EPOCH}-3", 3)
    assert end == {"event": "resumed", "id": f"{EPOCH}-3"}
    assert socket.controls[0] == {"type": "subscribe", "channel": "ws/v/car/all/"}


async def test_a_resume_with_an_id_is_what_follows_it(socket: Socket, live: Live) -> None:
    told = await socket.say(b'{"type":"resume","last_event_id":"ab12-1"}')
    assert [(one["event"], one["id"]) for one in told] == [
        ("update", "ab12-2"),
        ("update", "ab12-3"),
        ("resumed", "ab12-3"),
    ]
    assert await socket.say(b'{"type":"resume","last_event_id":"ab12-3"}') == [
        {"event": "resumed", "id": "ab12-3"}
    ]
    live.kept = 1
    reset, snapshot, end = await socket.say(b'{"type":"resume","last_event_id":"ab12-1"}')
    assert (reset["event"], reset["data"]["reason"], "id" in reset) == ("reset", "expired", False)
    assert (snapshot["event"], end["event"]) == ("snapshot", "resumed")
    reset, *_ = await socket.say(b'{"type":"resume","last_event_id":"nonsense"}')
    assert reset["data"]["reason"] == "foreign"


async def test_a_calm_one_is_of_its_class(edge: httpx2.AsyncClient) -> None:
    socket = Socket(edge, f"{PATH}?every=5s")
    await socket.open()
    assert (await socket.say(RESUME))[0]["event"] == "snapshot"
    assert socket.controls[0] == {"type": "subscribe", "channel": "ws/v/car/all.5/"}
    assert (await edge.post(f"{PATH}?every=7s", content=b"OPEN\r\n")).status_code == 400


async def test_what_is_too_much_at_once_goes_on_with_the_next_resume(socket: Socket, live: Live) -> None:
    live.drive("car", 2000)
    live.kept = 10_000
    last, seen = "ab12-3", list[int]()
    while True:
        told = await socket.say(msgspec.json.encode({"type": "resume", "last_event_id": last}))
        seen += [one["data"]["version"] for one in told[:-1]]
        last = told[-1]["id"]
        if told[-1]["event"] == "resumed":
            break
        assert told[-1]["event"] == "more"
    assert seen == list(range(4, 2004))


async def test_what_is_too_large_for_a_message_is_to_be_fetched(edge: httpx2.AsyncClient, live: Live) -> None:
    from fleetcast.packet import Signal

    state = live.states["car"][-1]
    live.states["car"][-1] = msgspec.structs.replace(state, signals={"Big": Signal("x" * 20_000, "t3")})
    socket = Socket(edge, f"{PATH}?view=all")
    await socket.open()
    assert await socket.say(RESUME) == [{"event": "fetch", "data": {"url": "/v1/vehicles/car?view=all"}}]
    latest = await edge.get("/v1/vehicles/car?view=all")
    (end,) = await socket.say(
        msgspec.json.encode({"type": "resume", "last_event_id": latest.headers["etag"].strip('"')})
    )
    assert end["event"] == "resumed"


async def test_what_is_not_understood_is_told_and_costs_nothing(socket: Socket) -> None:
    wrong, snapshot, _ = await socket.say(b"hello", RESUME)
    assert (wrong["event"], wrong["data"]["reason"]) == ("error", "not JSON")
    assert snapshot["event"] == "snapshot"
    assert socket.closed is None


async def test_pings_are_answered_and_ends_are_told(socket: Socket) -> None:
    assert await socket.post(Event("PING", b"x"), Event("PONG")) == [Event("PONG", b"x")]
    assert await socket.post() == []  # its edge asks whether there is something
    assert await socket.post(Event("CLOSE", b"\x03\xe8")) == [Event("CLOSE", b"\x03\xe8")]
    assert await socket.post(Event("DISCONNECT")) == []


async def test_a_message_too_large_closes_it(socket: Socket) -> None:
    (told,) = await socket.say(b"x" * 5000, RESUME)
    assert told["data"]["reason"] == "too large"
    assert socket.closed == (1009, "too large")


async def test_who_says_too_much_is_closed_and_the_pace_is_the_sockets_own(
    edge: httpx2.AsyncClient, clock: HandClock
) -> None:
    socket, other = Socket(edge), Socket(edge)
    await socket.open()
    await other.open()
    for _ in range(20):
        assert (await socket.say(b"{}"))[0]["data"]["reason"] == "not understood"
    clock.time += 0.5
    assert (await socket.say(RESUME))[-1]["event"] == "resumed"
    (told,) = await socket.say(RESUME)
    assert told["data"]["reason"] == "too many"
    assert socket.closed == (4429, "too many")
    assert (await other.say(RESUME))[-1]["event"] == "resumed"


async def test_a_live_state_that_is_away_is_told_and_the_socket_stays(
    socket: Socket, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleetcast.websocket._PATIENCE", 0.05)
    live.down = True
    (told,) = await socket.say(RESUME)
    assert (told["event"], told["data"]) == ("unavailable", {"reason": "live state"})
    live.down = False
    assert (await socket.say(RESUME))[-1]["event"] == "resumed"


# What is none, or not ours


async def test_what_is_no_websocket_is_told_so(live: Live, clock: HandClock) -> None:
    async with asking(live, clock, **{"Grip-Sig": SIGNATURE}) as client:
        answer = await client.get(PATH)
        is_problem(answer, 426)
        assert answer.headers["upgrade"] == "websocket"
        is_problem(await client.get(f"{PATH}?view=none"), 400)
        # An app that says itself that it is an edge.
        is_problem(
            await client.post(PATH, content=b"OPEN\r\n", headers={"Content-Type": wsevents.MEDIA_TYPE}), 405
        )
    async with asking(live, clock) as client:
        is_problem(await client.post(PATH, content=b"OPEN\r\n"), 403)


@pytest.mark.parametrize("path", ["/v1/vehicles/c%20r/ws", f"{PATH}?view=none"])
async def test_a_bad_one_is_not_opened(edge: httpx2.AsyncClient, path: str) -> None:
    is_problem(await edge.post(path, content=b"OPEN\r\n"), 400)


@pytest.mark.parametrize(
    ("origin", "opened"),
    [
        ("http://door.example:8080", True),
        ("http://DOOR.example:8080", True),
        ("http://door.example", False),
        ("http://other.example", False),
        ("null", False),
        ("", False),
        ("http://[", False),
    ],
)
async def test_a_page_of_another_site_opens_none(edge: httpx2.AsyncClient, origin: str, opened: bool) -> None:
    answer = await edge.post(PATH, content=b"OPEN\r\n", headers={"Origin": origin})
    if opened:
        assert answer.status_code == 200
    else:
        is_problem(answer, 403)


def forged(**changes: Any) -> str:
    held = {"vehicle": "car", "credential": "", "left": 20.0, "since": 1000.0, "aud": "socket"}
    return jwt.encode(held | changes, KEY, "HS256")


@pytest.mark.parametrize(
    "meta",
    [
        "",
        "nonsense",
        SIGNATURE,
        jwt.encode({"vehicle": "car", "aud": "socket"}, "x" * 43, "HS256"),
        forged(vehicle="other"),
        forged(left="x"),
        forged(aud="ticket"),
    ],
)
async def test_what_was_not_opened_by_us_is_closed(edge: httpx2.AsyncClient, meta: str) -> None:
    socket = Socket(edge)
    socket.meta = meta
    assert await socket.say(RESUME) == []
    assert socket.closed == (1012, "open it anew")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(
    st.lists(st.builds(Event, st.sampled_from(["TEXT", "BINARY", "PING", "PONG", "CLOSE", "X"]), st.binary()))
    | st.lists(st.text().map(lambda text: Event("TEXT", msgspec.json.encode({"type": text}))))
)
async def test_no_app_gets_a_5xx(live: Live, clock: HandClock, events: list[Event]) -> None:
    async with asking(live, clock, **EDGE) as client:
        socket = Socket(client)
        await socket.open()
        await socket.post(*events)
        answer = await client.post(PATH, content=b"".join(one.content for one in events))
        assert answer.status_code < 500

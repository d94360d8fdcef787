"""What every client of ours keeps to, whatever a server answers: one suite for Python, Node and Chromium.

The server is one that does as it is told, because the platform does not do such things.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import BrowserContext

from tests.clients.followers import (
    QUICK,
    Answer,
    Follow,
    Follower,
    Scripted,
    chromium,
    in_chromium,
    in_node,
    in_python,
    snapshot,
    status,
    stream,
    update,
)
from tests.servers import free_ports, until

CAR = "/v1/vehicles/car/events"


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[BrowserContext]:
    async with chromium() as context:
        yield context


Play = Callable[..., AbstractAsyncContextManager[tuple[Scripted, Follower]]]


@pytest.fixture(params=["python", "node", "chromium"])
def play(request: pytest.FixtureRequest) -> Play:
    """A client that follows the car of a server with these answers: `async with play(…) as (server, follower)`."""
    follow: Follow
    if request.param == "chromium":
        follow = in_chromium(request.getfixturevalue("browser"))
    else:
        clients: dict[str, Follow] = {"python": in_python, "node": in_node}
        follow = clients[request.param]

    @asynccontextmanager
    async def playing(*answers: Answer, **options: Any) -> AsyncIterator[tuple[Scripted, Follower]]:
        (port,) = free_ports(1)
        async with (
            Scripted(port, answers) as server,
            follow(server.url, "car", **(QUICK | options)) as follower,
        ):
            yield server, follower

    return playing


SENT = "2026-11-23T10:00:00.000Z"


def speed(value: Any) -> dict[str, Any]:
    return {"Vehicle.Speed": {"value": value, "at": "2026-11-23T10:00:00.000Z"}}


async def test_a_calm_stream_is_asked_for_each_time(play: Play) -> None:
    answers = [stream(snapshot(1), hold=False), stream(update(1, 5))]
    async with play(*answers, every="5s") as (server, follower):
        await follower.says("snapshot 1", "update 5")
        assert server.asked == [f"{CAR}?every=5s", f"{CAR}?every=5s&last_event_id=aa-1"]


async def test_it_follows_the_chain_and_keeps_the_state(play: Play) -> None:
    second = {**speed(2), "__proto__": {"value": 1, "at": "x"}, "Gone": None}
    blocks = [snapshot(1, {**speed(1), "Gone": {"value": 1, "at": "x"}}), update(1, 3, second)]
    async with play(stream(*blocks)) as (server, follower):
        await follower.says("snapshot 1", "update 3")
        await follower.says("live")
        state = follower.states[follower.words.index("update 3")]
        assert state == {
            "vehicle": "car",
            "version": 3,
            "updated_at": "2026-11-23T10:00:00.000Z",
            "signals": {**speed(2), "__proto__": {"value": 1, "at": "x"}},
        }
        assert server.asked == [CAR]
        assert "accept: text/event-stream" in server.heads[0]


async def test_a_cut_stream_goes_on_with_the_last_id(play: Play) -> None:
    cut = stream(snapshot(1), update(1, 2), "id: aa-3\nevent: update\ndata: {", hold=False)
    unfinished = Answer(cut.data.removesuffix(b"\n\n"))
    async with play(unfinished, stream(update(2, 3))) as (server, f):
        await f.says("snapshot 1", "update 2", "waiting cut", "update 3")
        assert server.asked == [CAR, f"{CAR}?last_event_id=aa-2"]
        assert f.changes == ["snapshot 1", "update 2", "update 3"]


async def test_a_comment_alone_says_that_nothing_was_missed(play: Play) -> None:
    async with play(stream(snapshot(1), hold=False), stream(":")) as (_server, follower):
        await follower.says("snapshot 1", "waiting cut", "live")
        assert follower.changes == ["snapshot 1"]


async def test_it_goes_on_where_an_earlier_one_was(play: Play) -> None:
    before = {"vehicle": "car", "version": 7, "updated_at": "2026-11-23T10:00:00.000Z", "signals": speed(7)}
    missed = stream(update(7, 8, {"Other": {"value": 8, "at": "x"}}))
    async with play(missed, from_=("aa-7", before)) as (server, follower):
        await follower.says("update 8")
        assert server.asked == [f"{CAR}?last_event_id=aa-7"]
        state = follower.states[follower.words.index("update 8")]
        assert state is not None
        assert state["signals"] == {**speed(7), "Other": {"value": 8, "at": "x"}}


async def test_a_gap_is_said_and_what_was_missed_is_asked_for_at_once(play: Play) -> None:
    answers = [stream(snapshot(1), update(2, 3)), stream(update(1, 2), update(2, 3))]
    async with play(*answers, pause=60_000, longest=60_000) as (server, follower):
        await follower.says("snapshot 1", "gap", "update 2", "update 3")
        assert server.asked == [CAR, f"{CAR}?last_event_id=aa-1"]
        assert follower.changes == ["snapshot 1", "gap", "update 2", "update 3"]


async def test_a_gap_that_stays_is_given_up_for_a_snapshot(play: Play) -> None:
    answers = [stream(snapshot(1), update(2, 3)), stream(update(2, 3)), stream(snapshot(3), update(3, 4))]
    async with play(*answers) as (server, follower):
        await follower.says("update 4")
        assert server.asked == [CAR, f"{CAR}?last_event_id=aa-1", CAR]
        assert follower.changes == ["snapshot 1", "gap", "gap fresh", "snapshot 3", "update 4"]


async def test_what_it_has_already_is_not_taken_again(play: Play) -> None:
    async with play(stream(snapshot(2), update(1, 2), update(0, 1), update(2, 3))) as (_server, follower):
        await follower.says("update 3")
        assert follower.changes == ["snapshot 2", "update 3"]


async def test_an_update_of_another_vehicle_is_a_gap(play: Play) -> None:
    foreign = update(1, 2).replace('"vehicle": "car"', '"vehicle": "other"')
    async with play(stream(snapshot(1), foreign), stream(update(1, 2))) as (_server, follower):
        await follower.says("snapshot 1", "gap", "update 2")


async def test_an_update_nested_without_end_is_given_up_for_a_snapshot(play: Play) -> None:
    deep = update(1, 2, "DEEP").replace('"DEEP"', '{"N":' + '{"a":' * 50_000 + "1" + "}" * 50_001)
    async with play(stream(snapshot(1), deep), stream(deep), stream(snapshot(2))) as (_server, follower):
        await follower.says("snapshot 2")
        assert follower.changes == ["snapshot 1", "gap", "gap fresh", "snapshot 2"]


RESET = 'event: reset\ndata: {"reason":"expired","from":"aa-1","to":"aa-9"}'


async def test_a_reset_is_said_and_followed_by_the_snapshot(play: Play) -> None:
    async with play(stream(snapshot(1), RESET, snapshot(9), update(9, 10))) as (_server, follower):
        await follower.says("update 10")
        assert follower.changes == ["snapshot 1", "reset expired", "snapshot 9", "update 10"]
        shown = follower.states[follower.words.index("reset expired")]
        assert shown is not None  # what was known is shown until the snapshot is there
        assert shown["version"] == 1


async def test_a_reset_that_is_cut_before_its_snapshot_begins_anew(play: Play) -> None:
    answers = [stream(snapshot(1), hold=False), stream(RESET, hold=False), stream(snapshot(9))]
    async with play(*answers) as (server, follower):
        await follower.says("snapshot 9")
        assert server.asked == [CAR, f"{CAR}?last_event_id=aa-1", CAR]
        assert follower.last_ids[-1] == "aa-9"


async def test_an_update_between_a_reset_and_its_snapshot_is_not_taken(play: Play) -> None:
    async with play(stream(snapshot(1), RESET, update(1, 2)), stream(snapshot(9))) as (_server, follower):
        await follower.says("snapshot 9")
        assert follower.changes == ["snapshot 1", "reset expired", "gap fresh", "snapshot 9"]


async def test_unavailable_keeps_what_is_known_and_comes_back_after_its_time(play: Play) -> None:
    away = stream('retry: 700\n\nevent: unavailable\ndata: {"reason":"live state"}')
    async with play(stream(snapshot(1), hold=False), away, stream(update(1, 2))) as (server, follower):
        await follower.says("unavailable live state", "waiting unavailable", "update 2")
        assert server.asked[1:] == [f"{CAR}?last_event_id=aa-1"] * 2
        assert server.at[2] - server.at[1] >= 0.65
        assert follower.changes == ["snapshot 1", "update 2"]


async def test_events_of_a_later_platform_are_passed_over(play: Play) -> None:
    later = 'id: aa-1s\nevent: weather\ndata: {"weather":"rain"}'
    cut = stream(snapshot(1), later, hold=False)
    async with play(cut, stream(update(1, 2))) as (server, follower):
        await follower.says("other weather", "update 2")
        assert server.asked[1] == f"{CAR}?last_event_id=aa-1s"
        assert follower.changes == ["snapshot 1", "update 2"]


async def test_a_status_is_a_link_of_the_chain_and_part_of_the_state(play: Play) -> None:
    """With an empty patch; and with the first update of all, of which nobody says so, a car is live."""

    def status(prev: int, word: str) -> str:
        data = {"vehicle": "car", "version": prev + 1, "prev": prev, "updated_at": SENT, "signals": {}}
        return f"id: aa-{prev + 1}\nevent: status\ndata: {json.dumps({**data, 'status': word, 'since': f'since {prev}'})}"

    blocks = [snapshot(0, {}), update(0, 1), status(1, "quiet"), status(2, "live"), update(3, 4)]
    async with play(stream(*blocks, status(5, "quiet"), hold=False), stream(status(4, "offline"))) as (
        _,
        follower,
    ):
        await follower.says("update 1", "status 2", "status 3", "update 4", "gap", "status 5")
        assert follower.changes[:5] == ["snapshot 0", "update 1", "status 2", "status 3", "update 4"]
        told = {word: state for word, state in zip(follower.words, follower.states, strict=True) if state}
        shown = {word: (state.get("status"), state.get("since")) for word, state in told.items()}
        assert "status" not in told["snapshot 0"]
        assert shown["update 1"] == ("live", SENT)
        assert shown["status 2"] == ("quiet", "since 1")
        assert shown["update 4"] == shown["status 3"] == ("live", "since 2")
        assert shown["status 5"] == ("offline", "since 4")
        assert told["status 5"]["signals"] == told["update 4"]["signals"]


async def test_silence_is_a_dead_line_and_keep_alives_are_none(play: Play) -> None:
    async with play(stream(snapshot(1)), stream(":", update(1, 2)), silence=300) as (server, follower):
        await follower.says("snapshot 1", "waiting silent", "update 2")
        assert server.asked[1] == f"{CAR}?last_event_id=aa-1"
        assert server.at[1] - server.at[0] >= 0.3


async def test_an_opening_that_never_ends_is_given_up(play: Play) -> None:
    answers = [Answer(b"", hold=True), stream(), stream(snapshot(1))]
    async with play(*answers, opening=400) as (server, follower):
        await follower.says("waiting no answer", "waiting no answer", "snapshot 1")
        assert server.asked == [CAR] * 3


GARBAGE = {
    "nothing": Answer(b""),
    "no HTTP": Answer(b"\0\1\2 garbage \r\n\r\n\xff" * 9),
    "half a head": Answer(b"HTTP/1.1 200 OK\r\nContent-Ty"),
    "another type": Answer(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\n<p>"),
    "no type": Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
    "an error": status(500, {"title": "no"}),
    "a bad gateway": Answer(b"HTTP/1.1 502 X\r\nContent-Length: 3\r\n\r\nabc"),
    "a redirection to nowhere": Answer(
        b"HTTP/1.1 302 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    ),
    "bytes": stream("\ufeff\0", "data", "data: x", "id\nevent: update", hold=False),
    "no JSON": stream("event: snapshot\ndata: {", "event: update\ndata: \n"),
    "another shape": stream("id: a\nevent: snapshot\ndata: []"),
    "no signals": stream('id: a\nevent: snapshot\ndata: {"vehicle":"car","version":1,"updated_at":""}'),
    "a version that is none": stream(snapshot(1).replace('"version": 1', '"version": "1"')),
    "an update first": stream(update(0, 1)),
    "nested without end": stream(f"id: a\nevent: snapshot\ndata: {'[' * 100_000}"),
    "invalid UTF-8": Answer(stream("event: snapshot").data[:-2] + b"data: \xff\xfe{\n\n", hold=True),
    "a broken chunk": Answer(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    ),
    "too many requests": status(429, {"title": "slowly"}, "Retry-After: 0"),
    "a time-out": status(408),
}


async def test_whatever_comes_it_tries_again(play: Play) -> None:
    """Each of them at first, and each of them when there is something to lose."""
    answers = [answer for bad in GARBAGE.values() for answer in (bad, bad)]
    async with play(*answers, stream(snapshot(1)), opening=2000) as (server, follower):
        await follower.says("snapshot 1")
        assert "last_event_id" not in "".join(server.asked)
        assert set(follower.changes) == {"gap fresh", "snapshot 1"}


async def test_what_is_known_survives_whatever_comes(play: Play) -> None:
    bad = [answer for name, answer in GARBAGE.items() if not name.startswith(("no JSON", "another shape"))]
    harmless = [answer for answer in bad if b"event: " not in answer.data]
    async with play(stream(snapshot(1), hold=False), *harmless, stream(update(1, 2)), opening=2000) as (
        server,
        follower,
    ):
        await follower.says("update 2")
        assert follower.changes == ["snapshot 1", "update 2"]
        assert set(server.asked[1:]) == {f"{CAR}?last_event_id=aa-1"}


async def test_its_pauses_grow_and_are_not_all_the_same(play: Play) -> None:
    async with play(*[status(503)] * 5, stream(snapshot(1)), pause=100, longest=400) as (server, follower):
        await follower.says("snapshot 1")
        pauses = [after - before for before, after in zip(server.at, server.at[1:], strict=False)]
        for pause, least in zip(pauses, [0.05, 0.1, 0.2, 0.2, 0.2], strict=True):
            assert pause >= least - 0.01


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
async def test_what_trying_again_cannot_mend_ends_it(play: Play, code: int) -> None:
    async with play(stream(snapshot(1), hold=False), status(code, {"detail": "no"})) as (server, follower):
        await follower.says("snapshot 1", f"refused {code}")
        await asyncio.sleep(0.3)  # in which it does not come again
        assert len(server.asked) == 2


async def test_a_ticket_is_asked_for_each_opening_and_once_more_after_a_401(play: Play) -> None:
    good = stream(snapshot(1), hold=False)
    answers = [status(401), good, status(401), stream(update(1, 2), hold=False), status(401), status(401)]
    async with play(*answers, tickets=True) as (server, follower):
        await follower.says("snapshot 1", "update 2", "refused 401")
        tickets = [target.partition("ticket=")[2].partition("&")[0] for target in server.asked]
        assert tickets == ["1", "2", "3", "4", "5", "6"]
        assert "last_event_id=aa-2" in server.asked[-1]


async def test_closed_it_gives_the_stream_back(play: Play) -> None:
    async with play(stream(snapshot(1))) as (server, follower):
        await follower.says("snapshot 1")
        await until(lambda: server.open == 1)
        await follower.close()
        await until(lambda: server.open == 0)
        await follower.says("closed")
        assert server.asked == [CAR]


async def test_closed_while_it_waits_it_does_not_come_again(play: Play) -> None:
    async with play(status(503), pause=300, longest=300) as (server, follower):
        await follower.says("waiting no stream")
        await follower.close()
        await follower.says("closed")
        asked = len(server.asked)
        await asyncio.sleep(
            0.5
        )  # longer than its longest pause, in which it does not come: nothing tells of that
        assert len(server.asked) == asked


async def test_ages_are_by_the_platforms_clock(play: Play) -> None:
    view = {"vehicle": "car", "version": 1, "updated_at": "2026-11-23T10:00:00.000Z", "signals": speed(1)}
    body = f"id: aa-1\nevent: snapshot\ndata: {json.dumps(view)}\n\n".encode()
    head = b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nDate: Mon, 23 Nov 2026 10:01:00 GMT\r\n\r\n"
    async with play(Answer(head + body, hold=True)) as (_server, follower):
        await follower.says("snapshot 1")
        age = follower.ages[follower.words.index("snapshot 1")]
        assert age is not None
        assert 59 <= age <= 63

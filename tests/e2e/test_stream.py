"""A phone's stream and the latest state, as an app sees them through the real front door."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from backports import zstd

from fleetcast.jetstream import Connection, connect
from tests.e2e.outside import SENT_AT, Site, data, names, packet, padded, rejection, site
from tests.servers import short_folder, until

MEGABYTE = 1_048_576

PACK: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
}

RULES = """
def enrich(state, packet):
    if "Test.Fails" in packet.signals:
        raise ValueError("no such gear")
    number = state.number("Test.Number")
    return state if number is None else state.with_signals({"Test.Double": 2 * number}, packet.sent_at)
"""


@pytest.fixture(scope="module")
async def here() -> AsyncIterator[Site]:
    """A platform with an enricher of our own, as a user adds one: a module on the path, named in the settings."""
    with short_folder() as rules:
        (rules / "gear_rules.py").write_text(RULES)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(rules))  # for its processes
            patch.syspath_prepend(
                rules
            )  # it loads enrichers itself first, to say at once what is wrong with one
            async with site(enrichers=("fleetcast.enrich.motion", "gear_rules:enrich")) as running:
                yield running


@pytest.fixture(scope="module")
async def hurried() -> AsyncIterator[Site]:
    """One that forgets its updates after a second, and sends keep-alives each second."""
    async with site(window=1.0, keep_alive=1, edges=1, consumers=1, origins=1) as running:
        yield running


@pytest.fixture
async def stored(here: Site) -> AsyncIterator[Connection]:
    """A connection to the platform's nats-server, to look at what it keeps."""
    connection = await connect(here.settings, "test")
    yield connection
    await connection.close()


def is_problem(answer: httpx2.Response, status: int) -> bool:
    kind = answer.headers["content-type"]
    return answer.status_code == status == answer.json()["status"] and kind == "application/problem+json"


# The stream


async def test_a_vehicle_that_never_sent_begins_empty_and_goes_live_with_its_first_packet(here: Site) -> None:
    async with here.phone("new") as phone:
        assert phone.status == 200
        assert phone.headers["content-type"].startswith("text/event-stream")
        assert await phone.snapshot() == {"vehicle": "new", "version": 0, "updated_at": "", "signals": {}}
        await here.send("new", 1)
        assert await phone.versions(1) == [1]
        await here.send("new", 2)
        assert await phone.versions(1) == [2]
        assert phone.view() == await here.latest("new")


async def test_updates_come_once_in_order_and_add_up_to_the_latest_state(here: Site) -> None:
    await here.send("adds-up", 1, {"Test.Number": 1, "Test.Word": "first", "Test.List": [1, 2]})
    await here.reaches("adds-up", 1)
    async with here.phone("adds-up") as phone:
        assert (await phone.snapshot())["version"] == 1
        for number in range(2, 42):
            await here.send("adds-up", number, {"Test.Number": number, f"Test.{number % 7}": "ä\u2028\n" * 3})
        assert await phone.versions(40) == list(range(2, 42))
        latest = await here.latest("adds-up")
        assert phone.view() == latest
        assert phone.untaken == []
    assert latest["signals"]["Test.Double"]["value"] == 82
    assert latest["signals"]["Test.Word"] == {"value": "first", "at": "2026-11-23T10:00:00.000Z"}


async def test_an_update_carries_only_what_changed(here: Site) -> None:
    await here.send("changes", 1, {"Test.A": 1, "Test.B": 1})
    await here.reaches("changes", 1)
    async with here.phone("changes") as phone:
        await phone.snapshot()
        await here.send("changes", 2, {"Test.A": 1, "Test.B": 2})
        (event,) = await phone.take()
        assert data(event)["signals"].keys() == {"Test.B"}


async def test_late_and_repeated_packets_never_turn_the_live_state_back(here: Site) -> None:
    def at(second: int) -> str:
        return f"2026-11-23T10:00:{second:02d}.000Z"

    async def sent(seq: int, observed: int, **signals: Any) -> None:
        answer = await here.post("late", packet("late", seq, signals, sent_at=at(observed)))
        assert answer.status_code == 202

    async with here.phone("late") as phone:
        await phone.snapshot()
        await sent(2, 20, A=2, B=2)
        await sent(4, 40, A=4)
        await sent(3, 30, A=3, B=3, C=3)  # late: of A something newer is known
        await sent(1, 10, A=1, B=1, C=1, D=1)
        await sent(3, 30, A=3, B=3, C=3)  # again
        await sent(5, 35, A=5, B=5)  # newer, and observed before what is known of A
        assert await phone.versions(5) == [1, 2, 3, 4, 5]
        signals = phone.view()["signals"]
        assert {path: (signals[path]["value"], signals[path]["at"]) for path in "ABCD"} == {
            "A": (4, at(40)),
            "B": (5, at(35)),
            "C": (3, at(30)),
            "D": (1, at(10)),
        }
        assert (await here.latest("late"))["signals"] == signals


async def test_a_clock_that_is_wrong_is_marked_until_it_is_right_again(here: Site) -> None:
    async with here.phone("skewed") as phone:
        await phone.snapshot()
        answer = await here.post("skewed", packet("skewed", 1, {"A": 1}, sent_at="1970-01-01T00:00:07Z"))
        assert answer.status_code == 202
        (event,) = await phone.take()
        received = data(event)["updated_at"]
        assert data(event)["signals"]["A"] == {"value": 1, "at": received, "skewed": True}
        assert received > "2000"
        assert phone.view()["signals"] == (await here.latest("skewed"))["signals"]
        await here.send("skewed", 2, {"A": 1})
        (event,) = await phone.take()
        # As a merge patch, which must take away what is there no longer.
        assert data(event)["signals"]["A"] == {"value": 1, "at": SENT_AT, "skewed": None}
        latest = (await here.latest("skewed"))["signals"]
        assert latest["A"] == {"value": 1, "at": SENT_AT}
        assert phone.view()["signals"] == latest


async def test_two_phones_on_one_vehicle_get_the_same(here: Site) -> None:
    async with here.phone("shared") as one, here.phone("shared") as other:
        assert min(await here.sessions()) >= 1  # on different replicas
        for phone in (one, other):
            await phone.snapshot()
        for number in range(1, 11):
            await here.send("shared", number)
        assert await one.versions(10) == await other.versions(10) == list(range(1, 11))
        assert one.events == other.events


async def test_ids_that_begin_alike_are_different_vehicles(here: Site) -> None:
    async with here.phone("car-1") as one, here.phone("car-10") as ten, here.phone("car-1_") as under:
        for phone in (one, ten, under):
            await phone.snapshot()
        await here.send("car-10", 1)
        await here.send("car-10", 2)
        await here.send("car-1", 1)
        assert await ten.versions(2) == [1, 2]
        assert await one.versions(1) == [1]
        assert {data(event)["vehicle"] for event in one.events} == {"car-1"}
        assert under.untaken == []


async def test_keep_alives_come_as_comments(hurried: Site) -> None:
    async with hurried.phone("silent") as phone:
        await phone.snapshot()
        begin = len(phone.raw)
        await until(lambda: phone.raw[begin:].count(b":\n\n") >= 3)
        assert phone.raw[begin:].replace(b":\n\n", b"") == b""
        assert not phone.ended


# Coming back


async def test_a_phone_that_comes_back_gets_exactly_what_it_missed(here: Site) -> None:
    async with here.phone("back") as phone:
        await phone.snapshot()
        for number in (1, 2):
            await here.send("back", number)
        await phone.take(2)
        last = phone.last_id
    for number in (3, 4, 5):
        await here.send("back", number)
    await here.reaches("back", 5)
    async with here.phone("back", last) as phone:
        assert await phone.versions(3) == [3, 4, 5]
        await here.send("back", 6)
        assert await phone.versions(1) == [6]
        assert phone.untaken == []


async def test_a_phone_may_name_its_last_id_in_the_query(here: Site) -> None:
    await here.send("query", 1)
    await here.reaches("query", 1)
    (snapshot,) = await here.read("query")
    await here.send("query", 2)
    await here.reaches("query", 2)
    async with here.client.stream(
        "GET", f"{here.url}/v1/vehicles/query/events?last_event_id={snapshot.id}"
    ) as answer:
        first = await anext(answer.aiter_raw())
    assert first.startswith(f"id: {snapshot.id.removesuffix('1')}2\nevent: update\n".encode())


async def test_a_phone_that_missed_nothing_is_told_nothing_and_stays_live(here: Site) -> None:
    await here.send("level", 1)
    await here.reaches("level", 1)
    (snapshot,) = await here.read("level")
    async with here.phone("level", snapshot.id) as phone:
        await until(lambda: phone.raw)  # it is told at once that the stream is open
        assert (phone.raw, phone.events) == (b":\n\n", [])
        await here.send("level", 2)
        assert await phone.versions(1) == [2]


async def test_a_phone_at_version_0_resumes(here: Site) -> None:
    (snapshot,) = await here.read("from-0")
    await here.send("from-0", 1)
    await here.reaches("from-0", 1)
    async with here.phone("from-0", snapshot.id) as phone:
        assert await phone.versions(1) == [1]


@pytest.mark.parametrize(
    "forged",
    [
        lambda epoch: f"{'0' * len(epoch)}-1",  # another epoch
        lambda epoch: f"{epoch}-3",  # ahead of the vehicle
        lambda epoch: f"{epoch}-999999999999999999999",
        lambda epoch: f"{epoch}--1",
        lambda epoch: f"{epoch}-01",
        lambda epoch: "garbage",
        lambda epoch: "1",
        lambda epoch: "%00%0d%0aevent:x",
        lambda epoch: "z" * 1000,
    ],
    ids=["epoch", "ahead", "huge", "negative", "zero", "garbage", "number", "breaks", "long"],
)
async def test_an_id_that_is_not_ours_is_reset_as_foreign(here: Site, forged: Callable[[str], str]) -> None:
    await here.send("foreign", 1)
    await here.send("foreign", 2)
    await here.reaches("foreign", 2)
    epoch = (await here.read("foreign"))[0].id.rpartition("-")[0]
    last = forged(epoch)
    events = await here.read("foreign", last)
    assert names(events) == ["reset", "snapshot"]
    word = {"vehicle": "foreign", "reason": "foreign", "from": last[:80], "to": f"{epoch}-2"}
    assert data(events[0]) == word
    assert events[1].id == f"{epoch}-2"
    assert data(events[1]) == await here.latest("foreign")


async def test_an_id_older_than_the_window_is_reset_as_expired(hurried: Site) -> None:
    await hurried.send("expired", 1)
    await hurried.reaches("expired", 1)
    (snapshot,) = await hurried.read("expired")
    await hurried.send("expired", 2)
    await hurried.send("expired", 3)
    await hurried.reaches("expired", 3)
    connection = await connect(hurried.settings, "test")
    try:

        async def gone() -> bool:
            info = await connection.api("STREAM.INFO.LIVE", {"subjects_filter": "update.expired.*"})
            return not info["state"].get("subjects")

        await until(gone, "the updates expire")
    finally:
        await connection.close()
    events = await hurried.read("expired", snapshot.id)
    assert names(events) == ["reset", "snapshot"]
    told = data(events[0])
    assert (told["reason"], told["from"]) == ("expired", snapshot.id)
    assert told["to"] == events[1].id == snapshot.id.removesuffix("1") + "3"
    assert data(events[1])["version"] == 3
    # The last id itself need not be in the window: nothing was missed since.
    async with hurried.phone("expired", events[1].id) as phone:
        await until(lambda: phone.raw)
        assert phone.events == []
        await hurried.send("expired", 4)
        assert await phone.versions(1) == [4]


# The latest state


async def test_latest_is_404_until_the_first_packet_then_200_then_304(here: Site) -> None:
    path = "/v1/vehicles/polled"
    assert is_problem(await here.get(path), 404)
    await here.send("polled", 1)
    await here.reaches("polled", 1)
    answer = await here.get(path)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["signals"]["Test.Number"] == {"value": 1, "at": "2026-11-23T10:00:00.000Z"}
    tag = answer.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        again = await here.get(path, {"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    await here.send("polled", 2)
    await here.reaches("polled", 2)
    newer = await here.get(path, {"If-None-Match": tag})
    assert newer.status_code == 200
    assert newer.headers["etag"] != tag


# Who may ask what


async def test_a_clients_own_grip_headers_change_nothing(here: Site) -> None:
    forged = {
        "Grip-Sig": "forged",
        "Grip-Last": "v/grip/all/; last-id=0-0",
        "Grip-Channel": "v/other/all/",
        "Grip-Hold": "response",
        "Grip-Feature": "",
    }
    async with here.phone("grip", headers=forged) as phone:
        assert (await phone.snapshot())["version"] == 0
        await here.send("other", 1)
        await here.send("grip", 1)
        assert await phone.versions(1) == [1]
        assert {data(event)["vehicle"] for event in phone.events} == {"grip"}
    assert (await here.get("/v1/vehicles/grip", forged)).json()["version"] == 1


async def test_no_grip_header_reaches_an_app(here: Site) -> None:
    async with here.phone("bare") as phone:
        await phone.snapshot()
        assert not [name for name in phone.headers if name.lower().startswith("grip")]


async def test_an_origin_asked_directly_refuses(here: Site) -> None:
    for number in range(here.settings.origins):
        origin = f"http://127.0.0.1:{here.settings.origin_port + number}"
        for path in ("/v1/vehicles/x", "/v1/vehicles/x/events", "/next/0"):
            for headers in ({}, {"Grip-Sig": "x.y.z", "Grip-Last": "v/x/all/; last-id=0-0"}):
                answer = await here.client.get(f"{origin}{path}", headers=headers)
                assert is_problem(answer, 403), answer.text


async def test_the_next_link_is_not_for_apps(here: Site) -> None:
    for path in ("/next/0", "/next/15", "/next/x"):
        answer = await here.get(path, {"Grip-Last": "v/x/all/; last-id=0-0"})
        assert answer.status_code in (403, 404), answer.text


@pytest.mark.parametrize("vehicle", ["a.b", "a%2Fb", "ä", "a%20b", "x" * 65, "*", "%3E", "a%0D%0Ab"])
async def test_a_bad_vehicle_id_is_refused(here: Site, vehicle: str) -> None:
    for path in (f"/v1/vehicles/{vehicle}", f"/v1/vehicles/{vehicle}/events"):
        answer = await here.get(path)
        assert answer.status_code in ((400, 404) if "%2F" in vehicle else (400,)), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    answer = await here.post(vehicle, packet("a", 1))
    assert answer.status_code in ((400, 404) if "%2F" in vehicle else (400,))


# Packets


async def test_a_repeated_packet_is_said_to_be_one_and_applied_once(here: Site) -> None:
    first = await here.send("repeats", 1)
    assert first == {"packet": "repeats/1/1", "stored": first["stored"], "duplicate": False}
    assert await here.send("repeats", 1) == {**first, "duplicate": True}
    async with here.phone("repeats") as phone:
        await phone.take()
        await here.send("repeats", 2)
        again = await here.send("repeats", 2)
        assert again["duplicate"] is True
        await here.send("repeats", 3)
        await until(lambda: phone.view()["version"] == 3)
    assert (await here.reaches("repeats", 3))["signals"]["Test.Number"]["value"] == 3


async def test_a_packet_whose_enricher_raises_is_rejected_with_the_reason_and_blocks_nothing(
    here: Site, stored: Connection
) -> None:
    async with here.phone("gear") as phone:
        await phone.snapshot()
        await here.send("gear", 1)
        await here.send("gear", 2, {"Test.Fails": True})
        await here.send("gear", 3)
        assert await phone.versions(2) == [1, 2]
    latest = await here.latest("gear")
    assert "Test.Fails" not in latest["signals"]
    assert latest["signals"]["Test.Number"]["value"] == 3
    assert await rejection(stored, "gear") == (
        "enricher gear_rules:enrich raised ValueError: no such gear",
        packet("gear", 2, {"Test.Fails": True}),
    )
    assert await here.counts("rejected") >= 1


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("form", ["application/json", "application/x-ndjson"])
async def test_every_form_and_encoding_is_taken(here: Site, form: str, encoding: str) -> None:
    vehicle = f"{form.rpartition('/')[2]}-{encoding}"
    body = packet(vehicle, 1, {"Test.Number": 21})
    if form.endswith("ndjson"):
        body += b"".join(b'\n{"t":%d,"v":[1,2,3]}' % number for number in range(10_000))
    else:
        body = padded(body, 200_000)
    answer = await here.post(vehicle, PACK[encoding](body), form, encoding)
    assert answer.status_code == 202, answer.text
    latest = await here.reaches(vehicle, 1)
    assert {path: signal["value"] for path, signal in latest["signals"].items()} == {
        "Test.Number": 21,
        "Test.Double": 42,
    }


@pytest.mark.parametrize("encoding", PACK)
async def test_a_packet_of_a_megabyte_passes_and_one_byte_more_does_not(here: Site, encoding: str) -> None:
    vehicle = f"large-{encoding}"
    pack = PACK[encoding]
    larger = await here.post(vehicle, pack(padded(packet(vehicle, 1), MEGABYTE + 1)), encoding=encoding)
    assert is_problem(larger, 413), larger.text
    assert (await here.get(f"/v1/vehicles/{vehicle}")).status_code == 404
    exact = await here.post(vehicle, pack(padded(packet(vehicle, 1), MEGABYTE)), encoding=encoding)
    assert exact.status_code == 202, exact.text
    await here.reaches(vehicle, 1)


async def test_a_bad_packet_is_refused_and_not_stored(here: Site) -> None:
    good = packet("refused", 1)
    stored = (await here.send("refused", 1))["stored"]
    for body, form, encoding, status in (
        (b"{", "application/json", "identity", 400),
        (packet("another", 1), "application/json", "identity", 400),
        (packet("refused", 0), "application/json", "identity", 400),
        (packet("refused", 1, {"Test.Null": None}), "application/json", "identity", 400),
        (packet("refused", 1, {"Test.Object": {}}), "application/json", "identity", 400),
        (good, "text/plain", "identity", 415),
        (good, "application/json", "br", 415),
        (good, "application/json", "zstd", 400),
        (zstd.compress(good)[:-4], "application/json", "zstd", 400),
    ):
        answer = await here.post("refused", body, form, encoding)
        assert is_problem(answer, status), answer.text
    assert (await here.send("refused", 2))["stored"] == stored + 1

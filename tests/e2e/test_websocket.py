"""WebSockets through the real front door and edge: the same events as a stream's, whatever is lost, ends or is replaced."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2
import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from fleetcast.devpki import DevelopmentPki
from tests.e2e.outside import Site, packet, site
from tests.servers import short_folder, until
from tests.web.test_http2 import browser, connections


class Socket:
    """An app on a vehicle by WebSocket, which keeps to the protocol: `seen` it has taken in, `gaps` did not follow."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.told: list[dict[str, Any]] = []
        self.seen: list[dict[str, Any]] = []
        self.gaps = 0
        self.last = ""
        self.lose = set[int]()
        """Versions of updates that do not arrive."""
        self._task = asyncio.create_task(self._read())

    async def resume(self, last: str | None = None, bound: float = 30) -> None:
        """Returns when it is answered. Raises AssertionError if it is not."""
        answers = len(self._answers)
        await self._connection.send(
            json.dumps({"type": "resume", "last_event_id": self.last if last is None else last})
        )
        await until(lambda: len(self._answers) > answers, "the resume is answered", bound)

    def goes_on(self, before: Socket) -> None:
        """It is the same app, on another line."""
        self.seen, self.last = before.seen, before.last

    @property
    def _answers(self) -> list[dict[str, Any]]:
        return [one for one in self.told if one["event"] in ("resumed", "more", "unavailable", "fetch")]

    @property
    def versions(self) -> list[int]:
        """Of all that it took in."""
        return [one["data"]["version"] for one in self.seen if one["event"] != "reset"]

    @property
    def closed(self) -> int | None:
        """The code."""
        return self._connection.close_code

    async def say(self, text: str | bytes) -> dict[str, Any]:
        """The next thing that is told."""
        count = len(self.told)
        await self._connection.send(text)
        await until(lambda: len(self.told) > count)
        return self.told[count]

    async def write(self, text: str) -> None:
        """Without waiting for anything; nothing if it is closed."""
        with suppress(websockets.ConnectionClosed):
            await self._connection.send(text)

    def pause(self) -> None:
        """Takes nothing off its line."""
        self._connection.transport.pause_reading()

    def go_on(self) -> None:
        """Takes everything again."""
        self._connection.transport.resume_reading()

    async def _read(self) -> None:
        try:
            async for text in self._connection:
                one = json.loads(text)
                self.told.append(one)
                if one["event"] in ("snapshot", "update", "reset"):
                    self._take(one)
        except websockets.ConnectionClosed:
            pass

    def _take(self, one: dict[str, Any]) -> None:
        data = one["data"]
        if one["event"] == "update":
            if data["version"] in self.lose:
                self.lose.remove(data["version"])
                return
            if not self.versions or data["version"] <= self.versions[-1]:
                return  # it had that already
            if data["prev"] != self.versions[-1]:
                self.gaps += 1
                return
        self.seen.append(one)
        self.last = one.get("id", "")

    async def leave(self) -> None:
        """Closes it."""
        await self._connection.close()
        await self._task


@asynccontextmanager
async def socket(here: Site, vehicle: str, query: str = "", **headers: str) -> AsyncIterator[Socket]:
    """One that is open; nothing has been said on it yet."""
    url = f"{here.url.replace('http', 'ws', 1)}/v1/vehicles/{vehicle}/ws{query}"
    async with websockets.connect(url, proxy=None, max_size=None, additional_headers=headers) as connection:
        made = Socket(connection)
        try:
            yield made
        finally:
            await made.leave()


async def refused(here: Site, vehicle: str, query: str = "", **headers: str) -> int:
    """The status that it is refused with."""
    try:
        async with socket(here, vehicle, query, **headers):
            return 101
    except websockets.InvalidStatus as why:
        return why.response.status_code


@pytest.fixture(scope="module")
async def here() -> AsyncIterator[Site]:
    async with site(consumers=2, origins=2, edges=2, keep_alive=2) as running:
        yield running


async def test_a_snapshot_then_each_update_and_nothing_before_it_is_asked_for(here: Site) -> None:
    async with socket(here, "first") as app, here.phone("first") as phone:
        await here.send("first", 1, {"Test.Word": 'ä\u2028\n"🚗'})
        await here.reaches("first", 1)
        await until(lambda: app.told)  # the keep-alive, which is all that comes
        assert [one["event"] for one in app.told] == ["keep-alive"]
        await app.resume()
        await app.resume()
        for seq in range(2, 30):
            await here.send("first", seq)
        await until(lambda: app.versions == list(range(1, 30)))
        await phone.take(30)
        streamed = [(one.event, one.id, json.loads(one.data)) for one in phone.events[2:]]
        assert [(one["event"], one["id"], one["data"]) for one in app.seen[1:]] == streamed
        assert app.seen[0]["data"]["signals"]["Test.Word"]["value"] == 'ä\u2028\n"🚗'


async def test_what_was_missed_is_told_whatever_its_size(here: Site) -> None:
    """More than an edge gets through at once by the way of answers: Pushpin 1.36 would be stuck in it."""
    async with socket(here, "missed") as app:
        await app.resume()
        begun = app.last
    for seq in range(1, 41):
        await here.send("missed", seq, {"Test.Text": f"{seq:03}" * 1500})
    await here.reaches("missed", 40)
    async with socket(here, "missed") as app:
        app.seen.append({"event": "snapshot", "data": {"version": 0}})
        app.last = begun
        await app.resume()
        while app._answers[-1]["event"] == "more":
            await app.resume()
        assert app.versions == list(range(41))
        await here.send("missed", 41)
        await until(lambda: app.versions[-1] == 41)
    large = {f"Test.{number}": "x" * 1000 for number in range(100)}
    assert (await here.post("large", packet("large", 1, large))).status_code == 202
    await here.reaches("large", 1)
    async with socket(here, "large", "?view=all") as app:
        await app.resume()
        assert app._answers[-1] == {"event": "fetch", "data": {"url": "/v1/vehicles/large?view=all"}}
        latest = await here.get("/v1/vehicles/large?view=all")
        app.seen.append({"event": "snapshot", "data": latest.json()})
        await app.resume(latest.headers["etag"].strip('"'))
        assert (
            await here.post("large", packet("large", 2, dict.fromkeys(large, "y" * 1000)))
        ).status_code == 202
        await until(lambda: app.versions == [1, 2])  # published, any size gets through


async def test_an_update_that_is_lost_leaves_a_gap_and_a_resume_heals_it_a_last_one_too(here: Site) -> None:
    async with socket(here, "lost") as app:
        await app.resume()
        app.lose = {1, 3}
        await here.send("lost", 1)
        await until(lambda: not app.lose - {3})
        assert app.versions == [0]  # nothing says that it is missing, until
        await app.resume()
        assert app.versions == [0, 1]
        for seq in (2, 3, 4):
            await here.send("lost", seq)
        await until(lambda: app.gaps)
        assert app.versions == [0, 1, 2]
        await app.resume()
        await until(lambda: app.versions == [0, 1, 2, 3, 4])


async def test_a_slow_app_is_sent_what_it_can_take_and_brought_level(here: Site) -> None:
    """What an edge cannot hand on at once it drops, and nothing tells: that is what resuming is for."""
    async with socket(here, "slow") as slow, socket(here, "slow") as other:
        app = slow
        await app.resume()
        app.pause()
        for seq in range(1, 31):
            body = packet("slow", seq, {"Test.Text": str(seq % 10) * 900_000})
            assert (await here.post("slow", body)).status_code == 202
        await here.reaches("slow", 30)
        await here.send("slow", 31, {"Test.Text": "short"})
        await here.reaches("slow", 31)
        app.go_on()
        await until(lambda: app.gaps or len(app.versions) > 1)
        try:
            await app.resume(bound=10)
        except (
            AssertionError
        ):  # the answer was dropped with the rest: the line is dead, and another one is opened
            other.goes_on(app)
            app = other
            await app.resume()
        told = app._answers[-1]
        if told["event"] == "fetch":
            latest = await here.get(told["data"]["url"])
            app.seen.append({"event": "snapshot", "data": latest.json()})
            await app.resume(latest.headers["etag"].strip('"'))
        assert len(app.versions) < 32  # else nothing was lost, and this shows nothing
        assert app.versions[-1] == 31
        await here.send("slow", 32)
        await until(lambda: app.versions[-1] == 32)


async def test_what_is_not_understood_is_told_and_what_is_too_much_closes_it(here: Site) -> None:
    async with socket(here, "wrong") as app:
        for text, reason in (("hello", "not JSON"), (b"{}", "not JSON"), ('{"type":"x"}', "not understood")):
            told = await app.say(text)
            assert (told["event"], told["data"]["reason"]) == ("error", reason)
        await app.resume()
        assert app.versions == [0]
        assert (await app.say("x" * 5000))["data"]["reason"] == "too large"
        await until(lambda: app.closed == 1009)
    async with socket(here, "wrong") as app:
        for _ in range(40):
            await app.write('{"type":"resume"}')
        await until(lambda: app.closed == 4429)
        assert app.told[-1]["data"]["reason"] == "too many"


async def test_one_that_is_none_is_refused(here: Site) -> None:
    assert await refused(here, "c.r") == 400
    assert await refused(here, "car", "?view=none") == 400
    assert await refused(here, "car", Origin="http://other.example") == 403
    assert await refused(here, "car", Origin=here.url) == 101
    answer = await here.get("/v1/vehicles/car/ws")
    assert (answer.status_code, answer.headers["content-type"]) == (426, "application/problem+json")
    headers = {
        "Content-Type": "application/websocket-events",
        "Sec-WebSocket-Extensions": "grip",
        "Meta-Socket": "x",
    }
    answer = await here.client.post(f"{here.url}/v1/vehicles/car/ws", content=b"OPEN\r\n", headers=headers)
    assert answer.status_code == 403  # Pushpin's own word: who says so must be another Pushpin


async def test_a_view_has_its_own(here: Site) -> None:
    async with socket(here, "viewed", "?view=tyres") as app:
        await app.resume()
        await here.send("viewed", 1)
        await here.send("viewed", 2, {"Vehicle.Chassis.Axle.Row1.Wheel.Left.Tire.Pressure": 240})
        await until(lambda: app.versions == [0, 2])


async def test_a_calm_one_gets_a_bucket_at_once(here: Site) -> None:
    async with socket(here, "calm", "?every=5s") as app:
        await app.resume()
        for seq in (1, 2, 3):
            await here.send("calm", seq)
        await until(lambda: app.versions[-1] == 3)
        assert len(app.versions) < 4 or app.versions == [0, 1, 3]  # at most the end of a bucket lay between
        assert not app.gaps


async def test_what_we_run_is_replaced_and_killed_and_sockets_stay(here: Site) -> None:
    """Not the edge, which holds them. A resume just as all origins die may get no answer (HAProxy's is empty now and then), and
    the edge cuts its socket: the app goes on by another one, as the protocol says.
    """
    sent = 0
    async with socket(here, "stays") as first, socket(here, "stays") as other:
        app = first

        async def flows() -> None:
            nonlocal sent
            sent += 1
            await here.send("stays", sent)
            await here.reaches("stays", sent)
            await app.resume()
            assert app.versions == list(range(sent + 1))

        await app.resume()
        await flows()
        for role in ("origin", "consume"):
            await here.platform.roll(role, lambda _: None)
            await flows()
        killed = [(name, here.kill(name)) for name in ("origin-0", "origin-1", "consume-0")]
        answered = len(app._answers)
        with suppress(AssertionError):
            await app.resume(bound=10)
        if len(app._answers) > answered:
            assert app._answers[-1] == {"event": "unavailable", "retry": 2000, "data": {"reason": "origin"}}
        else:
            other.goes_on(app)
            app = other
        for name, pid in killed:
            await here.started_again(name, pid)
        await until(lambda: level(here, app))
        await flows()
        assert app.closed is None


async def level(here: Site, app: Socket) -> bool:
    await app.resume()
    return bool(app._answers[-1]["event"] == "resumed")


async def test_an_edge_is_replaced_and_its_sockets_move(here: Site) -> None:
    async with socket(here, "moved") as one, socket(here, "moved") as two:
        assert min(await here.sessions()) >= 1
        for app in (one, two):
            await app.resume()
        said = list[str]()
        await here.platform.roll("edge", said.append)
        assert "edge-0 is drained; 1 streams move" in said
        assert not [line for line in said if "cut" in line]
        assert one.closed == two.closed == 1012
        await here.send("moved", 1)
        async with socket(here, "moved") as again:
            await again.resume(one.last)
            await until(lambda: again.told[0]["data"]["version"] == 1)


# A browser

FOLLOW = """
async ([base, vehicle, transport]) => {
  const { subscribe } = await import("/static/fleetcast.js");
  window.seen = []; window.gaps = 0; window.kinds = []; window.heard = "";
  const open = window.WebSocket;
  window.sockets = [];
  window.WebSocket = class extends open {
    constructor(address) { super(address); window.sockets.push(this); }
    set onmessage(take) {
      super.onmessage = take && ((event) => {
        window.heard += event.data;
        if (window.lose && event.data.includes('"update"')) { window.lose--; return; }
        take(event);
      });
    }
  };
  window.car = subscribe({ base, vehicle }, { transport });
  car.on("change", ({ kind, state }) => { seen.push(state.version); kinds.push(kind); });
  car.on("gap", () => gaps++);
}
"""

MANY = """
count => Promise.all(Array.from({ length: count }, (_, number) => new Promise((opened, failed) => {
  const socket = new WebSocket(`wss://${location.host}/v1/vehicles/many-${number}/ws`);
  socket.onopen = opened;
  socket.onerror = failed;
}))).then((all) => all.length)
"""


async def test_a_browser_follows_by_websocket_over_tls_and_heals_what_it_lost() -> None:
    with short_folder() as folder:
        pki = DevelopmentPki(folder / "dev-pki")
        tls: dict[str, Any] = {"front_cert": str(pki.server), "front_key": str(pki.server_key)}
        async with (
            site(folder, edges=1, origins=1, consumers=1, keep_alive=2, **tls) as here,
            browser(here.settings) as chromium,
        ):
            page = await chromium.new_page()
            await page.goto(f"{here.url}/next/0")

            async def sees(*versions: int) -> None:
                async def all_of_them() -> bool:
                    return bool(await page.evaluate("seen") == list(versions))

                await until(all_of_them, f"versions {versions}")

            async def answered(times: int) -> None:
                """Until so many resumes were answered: one on its way would find for itself what is lost on purpose next."""
                await page.wait_for_function(f"heard.split('\"resumed\"').length > {times}")

            await page.evaluate(FOLLOW, [here.url, "browser", "websocket"])
            await sees(0)
            await answered(
                2
            )  # that of opening and that of a second later; the next comes half a minute later
            assert await page.evaluate("sockets.length") == 1
            await here.send("browser", 1)
            await sees(0, 1)
            assert await page.evaluate("[car.status, gaps]") == ["live", 0]
            await page.evaluate("window.lose = 1")
            await here.send("browser", 2)
            await here.send("browser", 3)
            await sees(0, 1, 2, 3)
            assert await page.evaluate("[gaps, sockets.length]") == [1, 1]
            await answered(3)
            strange = {"vehicle": "browser", "version": 4, "prev": 3, "updated_at": "", "signals": {}}
            message = json.dumps({"event": "update", "id": "0-4", "after": "0-3", "data": strange})
            item = {"channel": "ws/v/browser/all/", "formats": {"ws-message": {"content": message}}}
            async with httpx2.AsyncClient(trust_env=False) as client:
                url = f"http://{here.settings.edge_http[0]}/publish/"
                assert (await client.post(url, json={"items": [item]})).status_code == 200
            await answered(4)  # asked because of it
            large = {f"Test.{number}": "x" * 1000 for number in range(100)}
            await page.evaluate("window.lose = 1")
            assert (await here.post("browser", packet("browser", 4, large))).status_code == 202
            await page.wait_for_function(
                "heard.includes('Test.99')"
            )  # the edge may drop what comes close behind it
            await here.send("browser", 5)
            # Of another history nothing; what was too large to tell came as the latest state.
            await sees(0, 1, 2, 3, 5)
            assert await page.evaluate("kinds.at(-1)") == "snapshot"
            await page.evaluate("sockets[0].close()")
            await here.send("browser", 6)
            await sees(0, 1, 2, 3, 5, 6)
            assert await page.evaluate("sockets.length") == 2
            # As many as a page likes, on the one connection that it has anyhow.
            assert await page.evaluate(MANY, 50) == 50
            assert await connections(here.settings) == 1
            # Where none gets through it follows by a stream.
            await page.evaluate(
                "() => { window.WebSocket = class { constructor() { setTimeout(() => this.onclose({})); } close() {} }; }"
            )
            await page.evaluate("sockets[1].close()")
            await here.send("browser", 7)
            await sees(0, 1, 2, 3, 5, 6, 7)

"""A vehicle followed by each client that is for users: the Python one, and the JavaScript one in Node and in Chromium.

All say the same words for the same things, so that one suite holds for all: `snapshot 1`, `update 2`, `reset expired`, `gap`,
`gap fresh`, `unavailable edge`, `other NAME`, `live`, `waiting REASON`, `refused 403`, `closed`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

from playwright._impl._driver import compute_driver_executable
from playwright.async_api import BrowserContext, Page, Route, async_playwright

from fleetcast.client import Client, Gap, Grant, Other, Refused, Reset, Snapshot, State, Unavailable, Update
from tests.servers import short_folder, until

MODULE = Path(str(resources.files("fleetcast").joinpath("web/fleetcast.js")))
HARNESS = Path(__file__).with_name("follow.mjs")
QUICK = {"pause": 20, "longest": 100}
"""Milliseconds, so that a test of what is tried again does not take long."""
CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def node() -> str:
    """The Node that Playwright brings: there wherever these tests run, and the same for all."""
    return str(compute_driver_executable()[0])


class Follower:
    """What came so far, in words; and the client's state at each of them."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.states: list[dict[str, Any] | None] = []
        self.last_ids: list[str] = []
        self.ages: list[float | None] = []
        self.close: Callable[[], Awaitable[None]]
        self.page: Page  # in Chromium

    def said(self, word: str, state: Any, last_id: str, age: float | None) -> None:
        self.words.append(word)
        self.states.append(state)
        self.last_ids.append(last_id)
        self.ages.append(age)

    def told(self, line: str) -> None:
        """What the JavaScript harness says."""
        said = json.loads(line)
        age = said["age"]
        self.said(said["word"], said["state"], said["lastId"], None if age is None else age / 1000)

    @property
    def changes(self) -> list[str]:
        """Without the words about the connection."""
        return [
            w for w in self.words if w.partition(" ")[0] in ("snapshot", "update", "status", "reset", "gap")
        ]

    async def says(self, *words: str) -> None:
        """Waits until it has said these, in this order, whatever was between them."""

        def all_said() -> bool:
            rest = iter(self.words)
            return all(word in rest for word in words)

        try:
            await until(all_said)
        except AssertionError:
            raise AssertionError(f"not said: {words}; but {self.words}") from None


Follow = Callable[..., AbstractAsyncContextManager[Follower]]
"""(base, vehicle, tickets=, from_=(last id, state), options in ms) -> Follower."""


@asynccontextmanager
async def in_python(
    base: str, vehicle: str, *, tickets: bool = False, from_: Any = None, every: str = "", **options: float
) -> AsyncIterator[Follower]:
    follower = Follower()
    number = 0

    async def ticket() -> Grant:
        nonlocal number
        number += 1
        return {"query": {"ticket": str(number)}}

    seconds: Any = {name: value / 1000 for name, value in options.items()}
    async with Client(base, authorize=ticket if tickets else None, **seconds) as client:
        last_id, state = (from_[0], State(**from_[1])) if from_ else ("", None)
        following = client.follow(vehicle, last_id=last_id, state=state, every=every)

        def say(word: str) -> None:
            state = following.state
            # What is not known of its status is left out, as the other client has it.
            fields = [(name, getattr(state, name, "")) for name in State.__struct_fields__]
            plain = (
                {name: value for name, value in fields if value != "" or name == "updated_at"}
                if state
                else None
            )
            follower.said(word, plain, following.last_id, following.age())

        before = ""

        def look() -> None:
            """The status has no event of its own: what the others say by one is read off here."""
            nonlocal before
            now = {"live": "live", "waiting": f"waiting {following.reason}"}.get(following.status, "")
            if now and now != before:
                say(now)
            before = now

        async def watch() -> None:
            while True:
                look()
                await asyncio.sleep(0.001)

        async def run() -> None:
            try:
                async for change in following:
                    look()
                    match change:
                        case Snapshot():
                            say(f"snapshot {change.state.version}")
                        case Update():
                            say(f"{change.raw.event} {change.version}")
                        case Reset():
                            say(f"reset {change.reason}")
                        case Gap():
                            say("gap fresh" if change.fresh else "gap")
                        case Unavailable():
                            say(f"unavailable {change.reason}")
                        case Other():
                            say(f"other {change.raw.event}")
            except Refused as error:
                say(f"refused {error.status}")

        watching, running = asyncio.create_task(watch()), asyncio.create_task(run())

        async def close() -> None:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            follower.words.append("closed")

        follower.close = close
        try:
            yield follower
        finally:
            for task in (watching, running):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


def _told(base: str, vehicle: str, tickets: bool, from_: Any, options: dict[str, float]) -> dict[str, Any]:
    more: dict[str, Any] = {"from": {"lastId": from_[0], "state": from_[1]}} if from_ else {}
    return {"target": {"base": base, "vehicle": vehicle}, "options": {**options, **more}, "tickets": tickets}


@asynccontextmanager
async def in_node(
    base: str, vehicle: str, *, tickets: bool = False, from_: Any = None, **options: float
) -> AsyncIterator[Follower]:
    follower = Follower()
    with short_folder() as folder:
        module = folder / "fleetcast.mjs"  # as docs/apps.md says
        await asyncio.to_thread(shutil.copyfile, MODULE, module)
        process = await asyncio.create_subprocess_exec(
            *(node(), str(HARNESS), str(module), json.dumps(_told(base, vehicle, tickets, from_, options))),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=sys.stderr,
            limit=1 << 24,
        )
        assert process.stdin is not None
        assert process.stdout is not None

        async def read(lines: asyncio.StreamReader) -> None:
            async for line in lines:
                follower.told(line.decode())

        async def close() -> None:
            assert process.stdin is not None
            process.stdin.write(b"close\n")
            await process.stdin.drain()
            await process.wait()  # nothing is left that keeps Node running

        follower.close = close
        reading = asyncio.create_task(read(process.stdout))
        try:
            yield follower
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await reading


def in_chromium(browser: BrowserContext) -> Follow:
    """As a `Follow`; the base must be the front door, whose own origin the page is of."""

    @asynccontextmanager
    async def follow(
        base: str, vehicle: str, *, tickets: bool = False, from_: Any = None, **options: float
    ) -> AsyncIterator[Follower]:
        follower = Follower()
        page = follower.page = await browser.new_page()

        async def file(route: Route) -> None:
            path = MODULE if route.request.url.endswith("fleetcast.js") else HARNESS
            await route.fulfill(body=path.read_text(), content_type="text/javascript")

        async def close() -> None:
            await page.evaluate("stream.close()")

        follower.close = close
        try:
            await page.route(f"{base}/static/*", file)
            await page.route(f"{base}/", lambda route: route.fulfill(body="<p>", content_type="text/html"))
            await page.expose_function("say", follower.told)
            await page.goto(f"{base}/")
            await page.evaluate(
                """async told => {
                    const { follow } = await import("/static/follow.mjs");
                    window.stream = follow(await import("/static/fleetcast.js"), told, say);
                }""",
                _told(base, vehicle, tickets, from_, options),
            )
            yield follower
        finally:
            await page.close()

    return follow


@asynccontextmanager
async def chromium() -> AsyncIterator[BrowserContext]:
    """The system's."""
    path = shutil.which("chromium")
    assert path is not None, "chromium is missing; `make setup-test` installs it"
    with short_folder() as profile:
        async with async_playwright() as playwright:
            context = await playwright.chromium.launch_persistent_context(
                profile, executable_path=path, headless=True, args=CHROMIUM
            )
            yield context
            await context.close()


# A server that answers as it is told


class Answer:
    """What is written for one request. `hold`: the connection then stays open."""

    def __init__(self, data: bytes, *, hold: bool = False) -> None:
        self.data = data
        self.hold = hold


def stream(*blocks: str, hold: bool = True) -> Answer:
    """200, and these blocks, each ended by an empty line."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    return Answer(head + "".join(f"{block}\n\n" for block in blocks).encode(), hold=hold)


def status(code: int, body: object = None, *headers: str) -> Answer:
    """An answer of this status, with JSON."""
    text = json.dumps(body).encode() if body is not None else b""
    head = [f"HTTP/1.1 {code} X", *headers, "Content-Type: application/problem+json", "Connection: close"]
    return Answer("\r\n".join([*head, f"Content-Length: {len(text)}", "", ""]).encode() + text)


def snapshot(version: int, signals: object = None, epoch: str = "aa") -> str:
    """A block."""
    view = {"vehicle": "car", "version": version, "updated_at": "2026-11-23T10:00:00.000Z"}
    data = {**view, "signals": _numbered(version) if signals is None else signals}
    return f"id: {epoch}-{version}\nevent: snapshot\ndata: {json.dumps(data)}"


def update(prev: int, version: int, signals: object = None, epoch: str = "aa") -> str:
    """A block."""
    view = {"vehicle": "car", "version": version, "prev": prev, "updated_at": "2026-11-23T10:00:00.000Z"}
    data = {**view, "signals": _numbered(version) if signals is None else signals}
    return f"id: {epoch}-{version}\nevent: update\ndata: {json.dumps(data)}"


def _numbered(version: int) -> dict[str, Any]:
    return {"N": {"value": version, "at": "2026-11-23T10:00:00.000Z"}}


class Scripted:
    """Request n gets answer n, the last one for ever. `asked` are the targets, `at` when they came."""

    def __init__(self, port: int, answers: Sequence[Answer]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.asked: list[str] = []
        self.heads: list[str] = []
        self.at: list[float] = []
        self.open = 0
        self._over = False
        self._port = port
        self._answers = answers
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Scripted:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._over = True
        for _turn in range(5):  # one that was being accepted begins, and ends itself
            await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:  # what a client did not read any more would keep it open
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._over:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.append(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            target = head.split()[1]
            if target == "/favicon.ico":
                return
            self.asked.append(target)
            self.heads.append(head.lower())
            self.at.append(asyncio.get_running_loop().time())
            answer = self._answers[min(len(self.asked), len(self._answers)) - 1]
            writer.write(answer.data)
            await writer.drain()
            if answer.hold:
                self.open += 1
                try:
                    await reader.read()
                finally:
                    self.open -= 1
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # it is gone, or the test is over
        finally:
            self._tasks.discard(task)
            writer.close()

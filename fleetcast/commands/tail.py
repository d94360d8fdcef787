"""`fleetcast tail VEHICLE`: the live state in a terminal, as a phone gets it, through the front door.

On a terminal a table that keeps its place, with the age of each value; elsewhere a line of JSON for each event. It comes
back by itself, with the last event id, like any client should.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import ssl
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpx2
import msgspec
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from fleetcast import front, sse
from fleetcast.errors import Unusable
from fleetcast.settings import Settings
from fleetcast.subjects import is_vehicle
from fleetcast.update import Snapshot, Update, patched

_SILENCE = 60.0  # seconds; keep-alives come more often
_BACK = 3000  # ms until it comes back, unless the stream names another time


def add_commands(commands: Any) -> None:
    """Adds it to the parser."""
    text = "the live state of a vehicle in a terminal, as a phone gets it"
    sub = commands.add_parser("tail", help=text, description=text.capitalize() + ". Ctrl-C ends it.")
    sub.add_argument("vehicle", metavar="VEHICLE")
    sub.add_argument("--front", metavar="URL", help="the front door, if not that of the settings")
    sub.add_argument("--events", type=int, default=0, metavar="N", help="end after so many events")
    sub.set_defaults(run=run)


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Follows the vehicle until Ctrl-C."""
    if not is_vehicle(arguments.vehicle):
        raise Unusable("tail: a vehicle id is 1 to 64 of A-Z a-z 0-9 - _")
    door = arguments.front or front.url(settings)
    verify = True if arguments.front else front.trust(settings)
    view = _View(arguments.vehicle, arguments.events)
    following = asyncio.create_task(_follow(f"{door}/v1/{settings.noun}", view, verify))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, following.cancel)
    with suppress(asyncio.CancelledError):
        if sys.stdout.isatty():
            await _shown(view, following)
        else:
            view.line = print
            await following
    return 0


class _View:
    """What is known of the vehicle, and of the stream."""

    def __init__(self, vehicle: str, most: int) -> None:
        self.vehicle = vehicle
        self.snapshot: Snapshot | None = None
        self.state = "connecting"
        self.events = 0
        self.line: Any = None
        self._most = most

    @property
    def enough(self) -> bool:
        return 0 < self._most <= self.events

    def on_event(self, event: sse.Event) -> None:
        """Takes one event in. Raises ValueError if it does not follow what is known."""
        self.events += 1
        if self.line is not None:
            self.line(f'{{"event":"{event.event}","id":"{event.id}","data":{event.data}}}', flush=True)
        if event.event == "snapshot":
            self.snapshot = msgspec.json.decode(event.data, type=Snapshot)
            self.state = "live"
        elif event.event == "update" and self.snapshot is not None:
            self.snapshot = patched(self.snapshot, msgspec.json.decode(event.data, type=Update))
            self.state = "live"
        elif event.event in ("reset", "unavailable"):
            self.state = f"{event.event}: {msgspec.json.decode(event.data).get('reason')}"

    def table(self) -> RenderableType:
        """As it is now."""
        version = self.snapshot.version if self.snapshot else 0
        table = Table(
            title=f"{self.vehicle}   version {version}   {self.state}", box=None, title_justify="left"
        )
        table.add_column("signal")
        table.add_column("value", justify="right")
        table.add_column("age", justify="right", style="dim")
        for path, signal_ in sorted((self.snapshot.signals if self.snapshot else {}).items()):
            # Of a clock that is not believed only that is known.
            age = f"received {_age(signal_.at)} ago" if signal_.skewed else _age(signal_.at)
            table.add_row(path, str(signal_.value), age)
        return table


def _age(at: str) -> str:
    seconds = (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )


async def _follow(things: str, view: _View, verify: ssl.SSLContext | bool) -> None:
    parser = sse.Parser()
    url = f"{things}/{view.vehicle}/events"
    timeout = httpx2.Timeout(10, read=_SILENCE)
    async with httpx2.AsyncClient(timeout=timeout, trust_env=False, verify=verify) as client:
        while True:
            parser = sse.Parser(parser.last_id)
            headers = {
                "Accept": sse.MEDIA_TYPE,
                **({"Last-Event-ID": parser.last_id} if parser.last_id else {}),
            }
            try:
                async with client.stream("GET", url, headers=headers) as answer:
                    if answer.status_code != 200:
                        await answer.aread()
                        raise Unusable(f"tail: {url}: {answer.status_code} {answer.text[:200]}")
                    view.state = "live" if view.snapshot else "connected"
                    async for chunk in answer.aiter_raw():
                        for event in parser.feed(chunk):
                            view.on_event(event)
                        if view.enough:
                            return
            except httpx2.HTTPError as error:
                view.state = f"reconnecting ({type(error).__name__})"
            except ValueError:  # something was missed: a new stream begins with a snapshot
                parser = sse.Parser()
            await asyncio.sleep((parser.retry or _BACK) / 1000 * random.uniform(0.5, 1.0))


async def _shown(view: _View, following: asyncio.Task[None]) -> None:
    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while not following.done():
            live.update(view.table(), refresh=True)
            await asyncio.wait({following}, timeout=0.5)
    await following

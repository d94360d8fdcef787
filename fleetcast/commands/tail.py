"""`fleetcast tail VEHICLE`: the live state in a terminal, as a phone gets it, through the front door.

On a terminal a table that keeps its place, with the age of each value; elsewhere a line of JSON for each event. It comes
back by itself, with the last event id: `fleetcast.client` does that.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from fleetcast import front, probes
from fleetcast.client import Client, Following, Gap, Grant, Refused, Reset
from fleetcast.errors import Unusable
from fleetcast.settings import Settings
from fleetcast.subjects import is_vehicle


def add_commands(commands: Any) -> None:
    """Adds it to the parser."""
    text = "the live state of a vehicle in a terminal, as a phone gets it"
    sub = commands.add_parser("tail", help=text, description=text.capitalize() + ". Ctrl-C ends it.")
    sub.add_argument("vehicle", metavar="VEHICLE")
    sub.add_argument("--front", metavar="URL", help="the front door, if not that of the settings")
    sub.add_argument("--events", type=int, default=0, metavar="N", help="end after so many events")
    sub.add_argument("--token", type=Path, metavar="FILE", help="of an app token; read anew at each return")
    sub.set_defaults(run=run)


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Follows the vehicle until Ctrl-C."""
    if not is_vehicle(arguments.vehicle):
        raise Unusable("tail: a vehicle id is 1 to 64 of A-Z a-z 0-9 - _")
    door = arguments.front or front.url(settings)
    verify = probes.authorities() if arguments.front else front.trust(settings)
    _credentials(arguments.token)  # said before anything is asked, if it cannot be read

    async def authorize() -> Grant:
        return {"headers": _credentials(arguments.token)}

    async with httpx2.AsyncClient(timeout=None, trust_env=False, verify=verify) as http:
        client = Client(door, noun=settings.noun, http=http, authorize=authorize)
        tail = _Tail(client, client.follow(arguments.vehicle), arguments.events)
        following = asyncio.create_task(tail.follow())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, following.cancel)
        try:
            with suppress(asyncio.CancelledError):
                await (tail.shown(following) if sys.stdout.isatty() else following)
        except Refused as error:
            raise Unusable(f"tail: {door} refuses {arguments.vehicle}: {error}") from error
    return 0


def _credentials(token: Path | None) -> dict[str, str]:
    """From a file, so that no list of processes shows it."""
    if token is None:
        return {}
    try:
        text = token.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"--token: {token}: {getattr(error, 'strerror', None) or 'not a text'}") from None
    if not text.isascii() or not text or any(character.isspace() for character in text):
        raise Unusable(f"--token: {token}: holds no token")
    return {"Authorization": f"Bearer {text}"}


class _Tail:
    """What is known of the vehicle, and how it is shown."""

    def __init__(self, client: Client, following: Following, most: int) -> None:
        self._client = client
        self._following = following
        self._most = most
        self._note = ""  # what was lost last

    async def follow(self) -> None:
        """Until there were enough events, if there is a limit."""
        events = 0
        async for change in self._following:
            events += 1
            if isinstance(change, Reset):
                self._note = f"reset: {change.reason}"
            elif isinstance(change, Gap):
                self._note = "gap"
            if not sys.stdout.isatty():
                raw = change.raw
                print(f'{{"event":"{raw.event}","id":"{raw.id}","data":{raw.data}}}', flush=True)
            if events == self._most:
                break
        await self._following.aclose()

    async def shown(self, following: asyncio.Task[None]) -> None:
        """The table, drawn anew until the task ends."""
        console = Console()
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while not following.done():
                live.update(self.table(), refresh=True)
                await asyncio.wait({following}, timeout=0.5)
        await following

    def table(self) -> RenderableType:
        """As it is now."""
        now, state = self._following, self._following.state
        words = [now.vehicle, f"version {state.version if state else 0}", now.status, now.reason, self._note]
        if state and state.status:
            words.insert(1, f"{state.status} for {_ago(self._client.age(state.since))}")
        table = Table(title="   ".join(word for word in words if word), box=None, title_justify="left")
        table.add_column("signal")
        table.add_column("value", justify="right")
        table.add_column("age", justify="right", style="dim")
        for path, signal_ in sorted((state.signals if state else {}).items()):
            age = _ago(now.age(path))
            # Of a clock that is not believed only that is known.
            age = f"received {age} ago" if signal_.get("skewed") else age
            table.add_row(path, str(state.value(path) if state else ""), age)
        return table


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"

"""A demo or a platform run by its command, as a person runs it; and its processes, found by the data folder they name."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2

from fleetcast.settings import Settings, dump
from tests.e2e.outside import PARTITIONS, client, figure
from tests.servers import platform_settings, short_folder, until

SMALL = {
    "--cars": 20,
    "--phones": 10,
    "--per-minute": 60,
    "--min-bytes": 20_000,
    "--max-bytes": 60_000,
}


class Process:
    """Any process of this machine, as /proc shows it."""

    def __init__(self, pid: int) -> None:
        folder = Path("/proc", str(pid))
        self.pid = pid
        self.command = (folder / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace").split("\0")
        self._environment = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        # pid (name) state ppid pgrp session …; the name may hold spaces and parentheses
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        self.state, self.parent, self.session = fields[0], int(fields[1]), int(fields[3])

    def __repr__(self) -> str:
        return f"{self.pid} {' '.join(self.command)}"

    def has(self, name: str, value: str) -> bool:
        """Whether its environment says so."""
        return f"{name}={value}" in self._environment


def processes() -> list[Process]:
    """All that run."""
    found: list[Process] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                found.append(Process(int(entry.name)))
    return [one for one in found if one.state != "Z"]


class Command:
    """`fleetcast …` as a process: what it said, and what it runs."""

    def __init__(self, process: asyncio.subprocess.Process, settings: Settings) -> None:
        self.settings = settings
        self.pid = process.pid
        self.said: list[str] = []
        self.printed: list[str] = []
        self._process = process
        assert process.stdout is not None
        assert process.stderr is not None
        self._reading = asyncio.gather(
            self._read(process.stdout, self.printed), self._read(process.stderr, self.said)
        )

    async def _read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        while line := await stream.readline():
            lines.append(line.decode().rstrip("\n"))

    async def end(self, sign: signal.Signals | None = None, bound: float = 90.0) -> int:
        """Its exit status; after this signal, if one is given."""
        if sign is not None and self._process.returncode is None:
            self._process.send_signal(sign)
        await asyncio.wait_for(self._reading, bound)
        return await asyncio.wait_for(self._process.wait(), bound)

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self._process.returncode is not None

    async def heard(self, text: str, bound: float = 60.0) -> str:
        """The first line with this text, on either stream, once it is there."""

        def there() -> str:
            for line in [*self.printed, *self.said]:
                if text in line:
                    return line
            assert not self.ended, f"it ended: {self.printed} {self.said}"
            return ""

        line: str = await until(there, f"it says {text!r}", bound)
        return line

    @property
    def summary(self) -> dict[str, Any]:
        """The one line that `demo --json` prints."""
        (line,) = self.printed
        return dict(json.loads(line))

    def family(self) -> list[Process]:
        """It and everything that it started, children of children included."""
        everyone = processes()
        members = {self.pid}
        while more := {one.pid for one in everyone if one.parent in members} - members:
            members |= more
        return [one for one in everyone if one.pid in members]

    def one(self, role: str) -> Process:
        """The process of this role: `consume-1`, `origin-0`, `ingest`, `edge-0`, `haproxy`, `nats-server`."""
        name, _, number = role.partition("-")
        run = f"{self.settings.data}/run"
        config = {
            "nats-server": f"{run}/nats.conf",
            "haproxy": f"{run}/haproxy/haproxy.cfg",
            "edge": f"{run}/{role}/pushpin.conf",
        }.get(role if role == "nats-server" else name, f"{run}/fleetcast.toml")

        def is_it(one: Process) -> bool:
            if config not in one.command:
                return False
            if name == "edge":
                return one.session == one.pid  # Pushpin's children name its configuration, too
            if name == "consume":
                return one.has("FLEETCAST_MEMBER", role)
            if name == "origin":
                return one.has("FLEETCAST_ORIGIN_PORT", str(self.settings.origin_port + int(number)))
            return name != "ingest" or one.command[-1] == "ingest"

        (found,) = [one for one in processes() if is_it(one)]
        return found

    async def kill(self, role: str) -> None:
        """kill -9, and waits until it runs again."""
        killed = self.one(role).pid
        os.kill(killed, signal.SIGKILL)
        await self.heard(f"{role} died (signal 9)")

        def again() -> bool:
            with suppress(ValueError):
                return self.one(role).pid != killed
            return False

        await until(again, f"{role} runs again")

    async def flows(self, packets: int = 20) -> None:
        """Returns when all roles are ready, and so many more packets have been applied."""
        await until(self._ready, "all roles are ready")
        before = await self._figure("applied_total")

        async def more() -> bool:
            return await self._figure("applied_total") >= before + packets

        await until(more, f"{packets} more packets are applied", 60)

    async def takes_over(self, role: str) -> None:
        """Returns when this consume process believes that all partitions are its own, and has applied 20 packets more."""
        number = int(role.partition("-")[2])

        async def all_are_its() -> bool:
            return await self._figure("partitions", number) == self.settings.partitions

        await until(all_are_its, f"{role} owns all partitions")
        before = await self._figure("applied_total", number)

        async def more() -> bool:
            return await self._figure("applied_total", number) >= before + 20

        await until(more, f"{role} applies packets", 60)

    async def _ready(self) -> bool:
        roles = 1 + self.settings.consumers + self.settings.origins
        return all([await self._page(number, "ready") for number in range(roles)])

    async def _figure(self, name: str, only: int | None = None) -> float:
        """A metric of the consume processes, or of one."""
        numbers = range(self.settings.consumers) if only is None else [only]
        return sum([figure(await self._page(1 + number, "metrics"), name) for number in numbers])

    async def _page(self, number: int, name: str) -> str:
        """Of the admin port of one role's process; "" if it does not answer, or not with 200."""
        with suppress(httpx2.HTTPError):
            async with client() as outside:
                url = f"http://127.0.0.1:{self.settings.admin_port + number}/{name}"
                answer = await outside.get(url, timeout=2)
                return answer.text if answer.status_code == 200 else ""
        return ""


def settings_file(folder: Path, **changes: Any) -> tuple[Settings, Path]:
    """Settings for a platform in this folder, and the TOML file that says so."""
    settings = platform_settings(folder / "d", **({"partitions": PARTITIONS} | changes))
    file = folder / "settings.toml"
    file.write_text(dump(settings))
    return settings, file


@asynccontextmanager
async def command(settings: Settings, file: Path, *arguments: str) -> AsyncIterator[Command]:
    """`fleetcast --config FILE …`; if the test did not end it, it is ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fleetcast", "--config", str(file), *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in the terminal of the tests is theirs
    )
    running = Command(process, settings)
    try:
        yield running
    finally:
        if not running.ended:
            print("\n".join([*running.printed, *running.said]))
            family = running.family()
            with suppress(TimeoutError, ProcessLookupError):
                await running.end(signal.SIGTERM, 20)
            for one in family:  # whatever it was that went wrong, nothing stays behind
                with suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)
            await process.wait()
            await asyncio.gather(running._reading, return_exceptions=True)


@asynccontextmanager
async def demo(*more: str, **changes: Any) -> AsyncIterator[Command]:
    """A small demo under way, with these options more: its phones are connected and its packets flow."""
    with short_folder() as folder:
        settings, file = settings_file(folder, **changes)
        options = [str(part) for pair in SMALL.items() for part in pair]
        async with command(settings, file, "demo", "--json", *options, *more) as running:
            await running.heard("is open for development")
            await running.flows()
            yield running

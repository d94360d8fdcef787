"""A platform to measure, what its processes take, and load beside it.

`async with platform(bench, …) as world:` starts it on free ports under the bench's folder. `world.spent()` is CPU seconds by
process since the start, `world.memory()` their proportional memory. `Load` is a process of cars or phones.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from bench.question import Bench
from bench.stats import Records
from fleetcast.errors import FleetcastError
from fleetcast.platform import Platform
from fleetcast.proof.ports import platform_settings
from fleetcast.settings import Settings
from fleetcast.supervisor import Notice

_TICKS = os.sysconf("SC_CLK_TCK")


class Failed(FleetcastError):
    """A measurement could not be made: what it says is shown, and the next question is asked."""


class World:
    """A platform that runs."""

    def __init__(self, bench: Bench, running: Platform) -> None:
        self.bench = bench
        self.platform = running
        self.settings = running.settings

    def leaders(self) -> dict[str, int]:
        """The process of each program, which leads the session of all of its own."""
        supervisor = self.platform.supervisor
        return {name: pid for name in supervisor.names if (pid := supervisor.pid(name)) is not None}

    def spent(self) -> dict[str, float]:
        """CPU seconds of each program, its children included."""
        return spent(self.leaders())

    def memory(self) -> dict[str, float]:
        """MB of each program, what is shared counted in parts."""
        return memory(self.leaders())

    async def metric(self, role: str, name: str) -> float:
        """The sum of a metric, all its labels, over the processes of a role."""
        total = 0.0
        async with httpx2.AsyncClient(trust_env=False, timeout=10) as client:
            for process, port in self.platform.admin_ports.items():
                if process.partition("-")[0] == role:
                    text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
                    found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
                    total += sum(map(float, found))
        return total

    async def level(self, within: float = 60.0) -> float:
        """Waits until everything that was stored is applied; seconds that it took. Raises Failed."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            stored = await self.metric("ingest", "fleetcast_acked_total")
            stored -= await self.metric("ingest", "fleetcast_duplicates_total")
            done = sum(
                [
                    await self.metric("consume", f"fleetcast_{what}_total")
                    for what in ("applied", "repeated", "rejected")
                ]
            )
            if done >= stored:
                return loop.time() - began
            if loop.time() - began > within:
                raise Failed(f"{stored - done:,.0f} packets are not applied after {within:.0f} s")
            await asyncio.sleep(0.2)


def room(edges: int) -> int:
    """Streams that each edge may hold where a process may open 20,000 files: HAProxy needs two a connection."""
    return min(3000, 7000 // edges)


@asynccontextmanager
async def platform(
    bench: Bench, kind: Callable[[Settings, Notice], Platform] = Platform, **changes: Any
) -> AsyncIterator[World]:
    """Starts one, with settings changed; at the end its folder is gone. `kind`: a platform of another making."""
    folder = bench.folder / "platform"
    shutil.rmtree(folder, ignore_errors=True)
    notices: list[str] = []
    quiet = {"log": "json", "log_level": "warning"}
    given: dict[str, Any] = {"edge_connections": room(changes.get("edges", 2)), **quiet} | changes
    running = kind(platform_settings(folder, **given), notices.append)
    try:
        async with running:
            yield World(bench, running)
    finally:
        for notice in notices[1:]:
            bench.say(notice)
        shutil.rmtree(folder, ignore_errors=True)


def spent(leaders: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds, user and system, by name: of each session's processes that live, and of those they waited for."""
    names = {pid: name for name, pid in leaders.items()}
    found = dict.fromkeys(leaders, 0.0)
    for _, fields in processes():
        if (name := names.get(int(fields[3]))) is not None:
            found[name] += sum(map(int, fields[11:15])) / _TICKS
    return found


def memory(leaders: Mapping[str, int]) -> dict[str, float]:
    """MB by name, each session's processes together, what is shared counted in parts."""
    names = {pid: name for name, pid in leaders.items()}
    found = dict.fromkeys(leaders, 0.0)
    for entry, fields in processes():
        if (name := names.get(int(fields[3]))) is not None:
            with suppress(OSError):
                text = (entry / "smaps_rollup").read_text()
                found[name] += sum(int(kb) for kb in re.findall(r"^Pss: +(\d+) kB", text, re.MULTILINE)) / 1e3
    return found


def processes() -> Iterable[tuple[Path, list[str]]]:
    """Each process's folder in /proc, and its `stat` from the state on: the fourth is its session's leader."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # pid (name) state ppid pgrp session …; the name may hold spaces and parentheses
                yield entry, (entry / "stat").read_text().rpartition(")")[2].split()


def since(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What was spent in between, by role: `consume-0` and `consume-1` are one."""
    roles: dict[str, float] = {}
    for name, value in after.items():
        role = re.sub(r"-\d+$", "", name)
        roles[role] = roles.get(role, 0.0) + value - before.get(name, 0.0)
    return roles


class Load:
    """A process of cars or phones: `module` is run with its options as JSON, says lines of JSON, and ends when told.

    `last` is the newest line. At the end it has written its records.
    """

    def __init__(self, module: str, options: msgspec.Struct, records: Path) -> None:
        self.module = module
        self.options = options
        self.records = records
        self.last: dict[str, Any] = {}
        self._news = asyncio.Event()
        self._process: asyncio.subprocess.Process
        self._reading: asyncio.Task[None]

    async def __aenter__(self) -> Load:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self.module,
            msgspec.json.encode(self.options).decode(),
            str(self.records),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    @property
    def pid(self) -> int:
        """To be measured as a program of the platform is."""
        return self._process.pid

    async def until(self, key: str, least: float, within: float) -> dict[str, Any]:
        """Waits until the last line has at least this much of `key`. Raises Failed."""
        try:
            async with asyncio.timeout(within):
                while self.last.get(key, 0) < least:
                    self._ended()
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise Failed(f"{self.module}: {key} is not {least} after {within:.0f} s: {self.last}") from None
        return self.last

    async def news(self, within: float) -> None:
        """Waits for the next line, or so long. Raises Failed if it ended by itself."""
        self._ended()
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._news.wait()

    def tell(self, word: str) -> None:
        """One line for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")

    async def end(self, within: float = 60.0) -> Records:
        """Tells it to stop, waits, and reads what it wrote. Raises Failed."""
        self.tell("stop")
        try:
            async with asyncio.timeout(within):
                await self._process.wait()
        except TimeoutError:
            raise Failed(f"{self.module} does not stop: {self.last}") from None
        await self._reading
        self._ended()
        return Records.load(self.records)

    def _ended(self) -> None:
        if self._process.returncode not in (None, 0):
            raise Failed(f"{self.module} ended with status {self._process.returncode}: {self.last}")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.last = msgspec.json.decode(line)
            self._news.set()
        await self._process.wait()
        self._news.set()

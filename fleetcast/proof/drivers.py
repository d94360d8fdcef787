"""What cars and phones have in common: processes of their own that take commands and report, both as JSON lines.

`Driver` is the process's side, `Driven` the side of who started it.
"""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

_TICK = 0.1
_LINE = 64 * 1024 * 1024


class Driver(ABC):
    """`run` lives until {"stop": true} comes, or the other side goes away."""

    def __init__(self) -> None:
        self._stop = asyncio.Event()

    @abstractmethod
    async def live(self) -> None:
        """What it does, until cancelled."""

    @abstractmethod
    def on_command(self, command: dict[str, object]) -> None:
        """A line from the other side."""

    @abstractmethod
    def report(self) -> dict[str, object]:
        """What is new since the last time."""

    async def run(self) -> None:
        """Until told to stop; then a last report."""
        living = asyncio.create_task(self.live())
        tasks = [living, asyncio.create_task(self._listen()), asyncio.create_task(self._keep_reporting())]
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, stopping):
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        self._write()
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _listen(self) -> None:
        reader = asyncio.StreamReader(limit=_LINE)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        async for line in reader:
            command = msgspec.json.decode(line)
            if command.get("stop"):
                break
            self.on_command(command)
        self._stop.set()

    async def _keep_reporting(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self._write()

    def _write(self) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(self.report()) + b"\n")
        sys.stdout.buffer.flush()


class Driven:
    """A driver's process. `line` gets each report."""

    def __init__(self, process: asyncio.subprocess.Process, line: Callable[[bytes], None]) -> None:
        self._process = process
        self._line = line
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, module: str, arguments: Sequence[str], line: Callable[[bytes], None]) -> Driven:
        """`python -m module arguments`."""
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", module, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_LINE,
        )
        return cls(process, line)

    @property
    def ended(self) -> bool:
        """Whether it runs no more."""
        return self._reading.done()

    def tell(self, command: dict[str, object]) -> None:
        """A command; nothing if it is gone."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(msgspec.json.encode(command) + b"\n")

    async def stop(self) -> None:
        """Reads its last report, and ends it."""
        self.tell({"stop": True})
        try:
            async with asyncio.timeout(10):
                await asyncio.shield(self._reading)
                await (
                    self._process.wait()
                )  # not killed before: that would take its status from whoever waits for it
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._line(line)

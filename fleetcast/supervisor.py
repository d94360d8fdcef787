"""Keeps a set of processes running: starts them, starts again what dies (with back-off, and says so), ends them clean.

Each process leads a session of its own, which is killed whole when it dies: Pushpin's children, each in a process group of
its own, would otherwise go on serving without their parent. Should the supervisor be killed, the kernel sends each SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_BACK_OFF = (0.2, 0.5, 1.0, 2.0, 5.0)
_STEADY = 20.0  # a process that ran this long starts again without delay
_GRACE = 15.0  # more than a role takes at most: see wiring._FINISH

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Program:
    """One process: its name, its command, its whole environment, and whether others stand on it: then it is ended last."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    base: bool = False


class Supervisor:
    """Runs programs; `notice` gets a line for a person each time one dies or is started again."""

    def __init__(self, logs: Path, notice: Notice) -> None:
        self._logs = logs
        self._notice = notice
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._programs: dict[str, Program] = {}  # in the order they were started

    def start(self, program: Program) -> None:
        """Begins to keep this program running."""
        self._programs[program.name] = program
        self._tasks[program.name] = asyncio.create_task(self._keep(program))

    def pid(self, name: str) -> int | None:
        """Its process id now, if it runs."""
        process = self._processes.get(name)
        return process.pid if process is not None and process.returncode is None else None

    def end(self, name: str) -> None:
        """SIGTERM: what was started comes again."""
        if (pid := self.pid(name)) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    @property
    def names(self) -> Sequence[str]:
        """All programs, in the order they were started."""
        return tuple(self._programs)

    async def stop(self) -> None:
        """Ends all; what does not end by itself within a bound is killed.

        The first program last, and those like it: the others stand on them, and finish what they have in hand.
        """
        names = list(self._programs)
        last = [name for name in names if self._programs[name].base or name == names[0]]
        await asyncio.gather(*(self.stop_one(name) for name in names if name not in last))
        await asyncio.gather(*(self.stop_one(name) for name in last))

    async def stop_one(self, name: str, sign: signal.Signals = signal.SIGTERM) -> None:
        """Ends one for good."""
        del self._programs[name]
        await self._cease(name, sign)

    async def restart(self, name: str, program: Program | None = None) -> None:
        """Ends one as `stop_one` does and starts it again at once, in its place: it did not die, so nothing is said.

        With `program`, of the same name, that is what runs from now on.
        """
        self._programs[name] = program or self._programs[name]
        await self._cease(name, signal.SIGTERM)
        if name in self._programs:  # else it was ended for good meanwhile
            self.start(self._programs[name])

    async def _cease(self, name: str, sign: signal.Signals) -> None:
        if (task := self._tasks.pop(name, None)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        # It stays known until it has ended: should we be cancelled here, `stop` still finds it.
        if (process := self._processes.get(name)) is not None:
            await _end(process, sign)
            self._processes.pop(name, None)

    def log(self, name: str) -> Path:
        """Where a program's output goes."""
        return self._logs / f"{name}.log"

    async def _keep(self, program: Program) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            process = await self._spawn(program)
            code = await process.wait()
            _kill_session(process.pid)
            failures = 0 if loop.time() - began > _STEADY else failures
            pause = _BACK_OFF[min(failures, len(_BACK_OFF) - 1)]
            failures += 1
            why = f"signal {-code}" if code < 0 else f"status {code}"
            self._notice(
                f"{program.name} died ({why}); starting it again in {pause} s. Its log: {self.log(program.name)}"
            )
            await asyncio.sleep(pause)

    async def _spawn(self, program: Program) -> asyncio.subprocess.Process:
        with self.log(program.name).open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *_with_us(program.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(program.environment),
                start_new_session=True,
            )
        self._processes[program.name] = process
        return process


def _with_us(command: Sequence[str]) -> Sequence[str]:
    """The command, ended by the kernel if we are."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--", *command] if setpriv else command


def _kill_session(leader: int) -> None:
    """Kills what is left of the session, children of children included."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError, ProcessLookupError):
            # pid (name) state ppid pgrp session …; the name may hold spaces and parentheses
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                os.kill(int(entry.name), signal.SIGKILL)


async def _end(process: asyncio.subprocess.Process, sign: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(sign)
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                await process.wait()
    _kill_session(process.pid)
    await process.wait()

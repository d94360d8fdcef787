"""The control socket of a running platform: one request, answered by lines of progress and an end.

A request is one line of JSON, `{"command", "arguments", "settings"}`; the answer is a line for each word of progress,
`{"said": …}`, then `{"status", "said"}`. Only the user who runs the platform can connect. A change goes on to its end when
whoever asked for it goes away.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import structlog

from fleetcast.errors import FleetcastError, NotReady, Unusable

log = structlog.get_logger()

Say = Callable[[str], None]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`roll` WHAT, with settings as texts; `scale` ROLE N."""

    command: str
    arguments: list[str] = []
    settings: Mapping[str, str] = {}


class Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the answer. With a status it is the last one: 0, or what a command would exit with."""

    said: str = ""
    status: int | None = None


Obey = Callable[[Request, Say], Awaitable[None]]


def path(data: str) -> Path:
    """Where the socket of the platform in this data folder is."""
    return Path(data).absolute() / "run" / "control.sock"


@asynccontextmanager
async def served(where: Path, obey: Obey) -> AsyncIterator[None]:
    """Serves it for as long as the block runs; what is under way at its end is given up."""
    listening = _listening(where)
    doing: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_answer(reader, writer, obey))
        doing.add(task)
        task.add_done_callback(doing.discard)

    server = await asyncio.start_unix_server(connected, sock=listening)
    try:
        yield
    finally:
        server.close()
        tasks = list(doing)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        _remove(where)


def _listening(where: Path) -> socket.socket:
    _remove(where)  # of a platform that was killed: the folder's lock is ours
    listening = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listening.bind(str(where))
    finally:
        os.umask(before)
    return listening


def _remove(where: Path) -> None:
    where.unlink(missing_ok=True)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, obey: Obey) -> None:
    def say(word: Word) -> None:
        with suppress(OSError):
            writer.write(msgspec.json.encode(word) + b"\n")

    try:
        request = msgspec.json.decode(await reader.readline(), type=Request)
        await obey(request, lambda line: say(Word(line)))
    except FleetcastError as why:
        unusable = isinstance(why, Unusable) and not isinstance(why, NotReady)
        say(Word(str(why), 2 if unusable else 1))
    except (msgspec.MsgspecError, ValueError, OSError) as why:
        say(Word(f"not a request: {why}", 2))
    except Exception as bug:
        log.exception("bug", control=True)
        say(Word(f"a bug of ours: {type(bug).__name__}: {bug}", 1))
    else:
        say(Word(status=0))
    finally:
        with suppress(OSError):
            await writer.drain()
        writer.close()


async def ask(data: str, request: Request, say: Say) -> None:
    """Has the platform in this data folder do it, and says what it says. Raises Unusable or FleetcastError as it does."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(path(data)))
    except OSError:
        raise Unusable(f"no platform runs in {data}; `fleetcast up` or `demo` starts one") from None
    try:
        writer.write(msgspec.json.encode(request) + b"\n")
        async for line in reader:
            word = msgspec.json.decode(line, type=Word)
            if word.status is None:
                say(word.said)
            elif word.status == 0:
                return
            else:
                raise (Unusable if word.status == 2 else FleetcastError)(word.said)
    except OSError:
        pass
    finally:
        writer.close()
    raise FleetcastError("the platform ended meanwhile")

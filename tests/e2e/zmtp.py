"""The sockets between consume and the edge's replicas, read on their way: what is sent, and what a test loses there."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from tests.e2e.outside import Site
from tests.servers import Server, free_ports, http_answers, until

GREETING = 64
MORE, LONG, COMMAND = 1, 2, 4


class Wire:
    """A TCP proxy that reads ZMTP 3 (https://rfc.zeromq.org/spec/23/): what goes from consume to an edge replica.

    `messages` are the messages in it, each as its frames, and `commands` the names of the protocol's own frames.
    `heartbeats` counts those that the replica answered. A message of a channel that is in `loses` is not passed on, but counted
    in `lost`: a lost item, as by a socket's full queue or a broken connection, but with nothing after it that would show it.
    """

    def __init__(self) -> None:
        self.messages: list[list[bytes]] = []
        self.commands: list[bytes] = []
        self.heartbeats = 0
        self.loses: set[bytes] = set()
        self.lost = 0
        self._within = self._losing = False
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def between(self, port: int, replica: str) -> AsyncIterator[None]:
        """Listens on the port, and passes everything on to the replica."""
        host, _, there = replica.rpartition(":")

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            to_replica = await asyncio.open_connection(host, int(there))
            for task in (
                asyncio.create_task(self._pass_on(reader, to_replica[1], self._frame)),
                asyncio.create_task(self._pass_on(to_replica[0], writer, self._answer)),
            ):
                self._tasks.add(task)

        server = await asyncio.start_server(accept, "127.0.0.1", port)
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Callable[[int, bytes], bool]
    ) -> None:
        try:
            left = GREETING  # in pieces: each side waits for the beginning of the other's
            while left:
                piece = await reader.read(left)
                if not piece:
                    return
                writer.write(piece)
                left -= len(piece)
            while True:
                flags = await reader.readexactly(1)
                size = await reader.readexactly(8 if flags[0] & LONG else 1)
                body = await reader.readexactly(int.from_bytes(size, "big"))
                if look(flags[0], body):
                    writer.write(flags + size + body)
                    await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _frame(self, flags: int, body: bytes) -> bool:
        """Whether it is passed on."""
        if flags & COMMAND:
            self.commands.append(body[1 : 1 + body[0]])
            return True
        if not self._within:
            self._losing = body in self.loses
            self.lost += self._losing
            self.messages.append([])
        self.messages[-1].append(body)
        self._within = bool(flags & MORE)
        return not self._losing

    def _answer(self, flags: int, body: bytes) -> bool:
        self.heartbeats += flags & COMMAND and body[1 : 1 + body[0]] == b"PONG"
        return True


@asynccontextmanager
async def wired(here: Site) -> AsyncIterator[list[Wire]]:
    """The platform's only consume process replaced by one that reaches the replicas through wires, one each."""
    await here.platform.supervisor.stop_one("consume-0")
    ports = free_ports(len(here.settings.edge_sub))
    run = Path(here.settings.data)
    admin = here.platform.admin_ports["consume-0"]
    consume = Server(
        "consume",
        [sys.executable, "-m", "fleetcast", "--config", str(run / "run" / "fleetcast.toml"), "consume"],
        run / "log" / "wired.log",
        lambda: http_answers(admin, "/ready"),
        {
            "FLEETCAST_EDGE_SUB": ",".join(f"127.0.0.1:{port}" for port in ports),
            "FLEETCAST_ADMIN_PORT": str(admin),
            "FLEETCAST_MEMBER": "wired",
        },
    )
    async with AsyncExitStack() as stack:
        wires = [Wire() for _ in ports]
        for wire, port, replica in zip(wires, ports, here.settings.edge_sub, strict=True):
            await stack.enter_async_context(wire.between(port, replica))
        stack.push_async_callback(consume.stop)
        await consume.start()
        await until(lambda: all(b"READY" in wire.commands for wire in wires))
        yield wires

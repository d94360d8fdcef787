"""nats-server's own view of the vehicles' connections, by its system account: who is connected by MQTT, and how to close one.

Every server of a cluster answers for its own connections. A connection is named by its server and its number there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import nats.errors
from nats.aio.msg import Msg

from fleetcast.errors import Unavailable
from fleetcast.jetstream import Connection

_PAGE = 10_000  # connections an answer: nats-server sorts all of them for each
_FIRST, _QUIET = 3.0, 0.2  # seconds to the first answer, and after the last one


class Connected(msgspec.Struct, frozen=True):
    """A vehicle's connection, with what it has sent so far."""

    vehicle: str
    server: str
    cid: int
    address: str
    in_msgs: int
    in_bytes: int


class Closed(msgspec.Struct, frozen=True):
    """One that ended, with what it had sent in all."""

    vehicle: str
    server: str
    cid: int
    in_msgs: int
    in_bytes: int


class _Entry(msgspec.Struct):
    cid: int
    type: str = ""
    ip: str = ""
    port: int = 0
    in_msgs: int = 0
    in_bytes: int = 0
    authorized_user: str = ""


class _Page(msgspec.Struct):
    server_id: str
    total: int = 0
    connections: list[_Entry] = []


class _Answer(msgspec.Struct):
    data: _Page | None = None


class _Server(msgspec.Struct):
    id: str


class _Client(msgspec.Struct):
    id: int = 0
    user: str = ""
    client_type: str = ""


class _Stats(msgspec.Struct):
    msgs: int = 0
    bytes: int = 0


class _Disconnect(msgspec.Struct):
    server: _Server
    client: _Client
    sent: _Stats


_ANSWER = msgspec.json.Decoder(_Answer)
_DISCONNECT = msgspec.json.Decoder(_Disconnect)


class System:
    """On a connection of the system account's user."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def connections(self) -> AsyncIterator[Connected]:
        """All vehicles' connections. Raises Unavailable."""
        offset, more = 0, True
        while more:
            more = False
            asked = {"auth": True, "limit": _PAGE, "offset": offset}
            for page in await self._pages(asked):
                for one in _vehicles(page):
                    yield one
                more = more or page.total > offset + _PAGE
            offset += _PAGE

    async def find(self, cid: int, address: str) -> Connected | None:
        """The one with this number from this host:port, on whichever server; None if it is gone. Raises Unavailable."""
        for page in await self._pages({"auth": True, "cid": cid}):
            for one in _vehicles(page):
                if one.address == address:
                    return one
        return None

    async def close(self, one: Connected) -> bool:
        """Whether it was there to be closed. Raises Unavailable."""
        body = msgspec.json.encode({"cid": one.cid})
        answer = await self._connection.request(f"$SYS.REQ.SERVER.{one.server}.KICK", body)
        return "error" not in msgspec.json.decode(answer)

    async def on_closed(self, told: Callable[[Closed], None]) -> None:
        """From now on `told` of each vehicle's connection that ends."""

        async def ended(message: Msg) -> None:
            event = _DISCONNECT.decode(message.data)
            if event.client.client_type == "mqtt" and event.client.user:
                told(
                    Closed(
                        event.client.user,
                        event.server.id,
                        event.client.id,
                        event.sent.msgs,
                        event.sent.bytes,
                    )
                )

        await self._connection.client.subscribe("$SYS.ACCOUNT.*.DISCONNECT", cb=ended)

    async def _pages(self, asked: dict[str, Any]) -> list[_Page]:
        """Each server's answer, until none comes any more: how many servers there are is not known here."""
        client = self._connection.client
        if not client.is_connected:
            raise Unavailable("nats-server is away")
        inbox, pages, wait = client.new_inbox(), [], _FIRST
        try:
            answers = await client.subscribe(inbox)
            try:
                await client.publish("$SYS.REQ.SERVER.PING.CONNZ", msgspec.json.encode(asked), reply=inbox)
                while True:
                    page = _ANSWER.decode((await answers.next_msg(timeout=wait)).data).data
                    pages += [] if page is None else [page]
                    wait = _QUIET
            except (TimeoutError, nats.errors.TimeoutError):
                pass
            finally:
                await answers.unsubscribe()
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(str(error)) from None
        if wait == _FIRST:
            raise Unavailable("nats-server does not answer its system account")
        return pages


def _vehicles(page: _Page) -> list[Connected]:
    return [
        Connected(
            one.authorized_user, page.server_id, one.cid, f"{one.ip}:{one.port}", one.in_msgs, one.in_bytes
        )
        for one in page.connections
        if one.type == "mqtt" and one.authorized_user
    ]

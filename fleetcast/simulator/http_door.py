"""The door by HTTP: a packet is one POST to ingest, and 202 is the acknowledgement."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx2
import msgspec

from fleetcast.simulator.door import DoorName, Failed, Receipt, Refused, TokenOf, no_token
from fleetcast.simulator.samples import Parcel

_TIMEOUT = 10.0
_KEEP_IDLE = 4.0
"""Seconds an idle connection is kept: less than the 5 s after which many servers close theirs, which would look like a
failed send of whatever packet was just written."""
_CARS_A_POOL = 50
"""A connection pool looks at all of its connections for each request: large ones cost more than the packets."""


class _Answer(msgspec.Struct):
    stored: int
    duplicate: bool


class HttpDoor:
    """A car's way to ingest, over a client that it shares with others."""

    name: DoorName = "http"

    def __init__(self, client: httpx2.AsyncClient, noun: str, vehicle: str, token_of: TokenOf) -> None:
        self._client, self._vehicle, self._token_of = client, vehicle, token_of
        self._url = f"/v1/{noun}/{vehicle}/packets"

    async def send(self, parcel: Parcel) -> Receipt:
        """One POST. Raises Failed or Refused."""
        headers = {"Content-Type": parcel.content_type}
        if parcel.encoding != "identity":
            headers["Content-Encoding"] = parcel.encoding
        if (token := self._token_of(self._vehicle)) is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            response = await self._client.post(self._url, content=parcel.body, headers=headers)
        except httpx2.TransportError as error:
            raise Failed(f"{type(error).__name__}: {error}") from error
        said = f"{response.status_code}: {response.text[:200]}"
        if response.status_code == 202:
            return _receipt(response.content)
        if response.status_code == 429 or response.status_code >= 500:
            raise Failed(said, response.headers.get("Retry-After"))
        raise Refused(said)

    async def leave(self) -> None:
        """Nothing of its own to close: connections are shared, and idle ones are closed after some seconds."""


@asynccontextmanager
async def http_doors(
    ingest: str, noun: str, token_of: TokenOf = no_token
) -> AsyncIterator[Callable[[str], HttpDoor]]:
    """Opens doors by vehicle id for as long as the block runs. `ingest` is the base URL."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEP_IDLE)
    # Proxies and certificates of the environment are not for us; and one context, since each takes long to make.
    trusted = httpx2.create_ssl_context(trust_env=False)
    async with AsyncExitStack() as stack:
        clients: list[httpx2.AsyncClient] = []
        opened = 0

        def door(vehicle: str) -> HttpDoor:
            nonlocal opened
            if opened % _CARS_A_POOL == 0:
                client = httpx2.AsyncClient(
                    base_url=ingest, timeout=_TIMEOUT, limits=limits, trust_env=False, verify=trusted
                )
                stack.push_async_callback(client.aclose)
                clients.append(client)
            opened += 1
            return HttpDoor(clients[-1], noun, vehicle, token_of)

        yield door


def _receipt(content: bytes) -> Receipt:
    try:
        answer = msgspec.json.decode(content, type=_Answer)
    except msgspec.MsgspecError as error:
        raise Refused(f"an answer 202 that is not the contract's: {error}") from error
    return Receipt(answer.stored, answer.duplicate)

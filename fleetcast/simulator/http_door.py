"""The door by HTTP: a packet is one POST to ingest, and 202 is the acknowledgement; or many are one, each answered."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import httpx2
import msgspec

from fleetcast.simulator.door import Answer, DoorName, Failed, Receipt, Refused, TokenOf, no_token
from fleetcast.simulator.samples import Parcel

T = TypeVar("T")

_TIMEOUT = 10.0
_KEEP_IDLE = 4.0
"""Seconds an idle connection is kept: less than the 5 s after which many servers close theirs, which would look like a
failed send of whatever packet was just written."""
_CARS_A_POOL = 50
"""A connection pool looks at all of its connections for each request: large ones cost more than the packets."""


_BATCH_PACKETS, _BATCH_BYTES = 50, 8_000_000
"""Of one request: half of what ingest takes."""


class _Stored(msgspec.Struct):
    stored: int
    duplicate: bool


class _Part(msgspec.Struct):
    """The answer to one packet of a batch."""

    status: int
    stored: int = 0
    duplicate: bool = False
    title: str = ""
    detail: str = ""
    retry_after: int | None = None


class HttpDoor:
    """A car's way to ingest, over a client that it shares with others."""

    name: DoorName = "http"

    def __init__(self, client: httpx2.AsyncClient, noun: str, vehicle: str, token_of: TokenOf) -> None:
        self._client, self._vehicle, self._token_of = client, vehicle, token_of
        self._url = f"/v1/{noun}/{vehicle}/packets"

    async def send(self, parcel: Parcel) -> Receipt:
        """One POST. Raises Failed or Refused."""
        response = await self._post(parcel.body, _headers(parcel))
        if response.status_code != 202:
            raise _refusal(response)
        answer = _decoded(response, _Stored)
        return Receipt(answer.stored, answer.duplicate)

    async def send_all(self, parcels: Sequence[Parcel]) -> list[Answer]:
        """One POST of `multipart/mixed`, of as many as one may carry. Raises Failed or Refused if all were."""
        together, size = 0, 0
        for parcel in parcels[:_BATCH_PACKETS]:
            size += len(parcel.body)
            if together and size > _BATCH_BYTES:
                break
            together += 1
        boundary = secrets.token_hex(16)  # 128 random bits: in none of the bodies
        body = _multipart(parcels[:together], boundary)
        response = await self._post(body, {"Content-Type": f"multipart/mixed; boundary={boundary}"})
        if response.status_code != 207:
            raise _refusal(response)
        parts = _decoded(response, list[_Part])
        if len(parts) != together:
            raise Refused(f"{len(parts)} answers to {together} packets")
        return [_answer(part) for part in parts]

    async def _post(self, body: bytes, headers: dict[str, str]) -> httpx2.Response:
        if (token := self._token_of(self._vehicle)) is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            return await self._client.post(self._url, content=body, headers=headers)
        except httpx2.TransportError as error:
            raise Failed(f"{type(error).__name__}: {error}") from error

    async def leave(self) -> None:
        """Nothing of its own to close: connections are shared, and idle ones are closed after some seconds."""


@asynccontextmanager
async def http_doors(
    ingest: str, noun: str, token_of: TokenOf = no_token, trust: ssl.SSLContext | None = None
) -> AsyncIterator[Callable[[str], HttpDoor]]:
    """Opens doors by vehicle id for as long as the block runs. `ingest` is the base URL."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEP_IDLE)
    # Proxies and certificates of the environment are not for us; and one context, since each takes long to make.
    trusted = trust or httpx2.create_ssl_context(trust_env=False)
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


def _headers(parcel: Parcel) -> dict[str, str]:
    encoding = {} if parcel.encoding == "identity" else {"Content-Encoding": parcel.encoding}
    return {"Content-Type": parcel.content_type, **encoding}


def _multipart(parcels: Sequence[Parcel], boundary: str) -> bytes:
    pieces: list[bytes] = []
    for parcel in parcels:
        head = "".join(f"{name}: {value}\r\n" for name, value in _headers(parcel).items())
        pieces += [f"--{boundary}\r\n{head}\r\n".encode(), parcel.body, b"\r\n"]
    return b"".join([*pieces, f"--{boundary}--\r\n".encode()])


def _answer(part: _Part) -> Answer:
    if part.status == 202:
        return Receipt(part.stored, part.duplicate)
    said = f"{part.status}: {part.title}: {part.detail}"
    again = None if part.retry_after is None else str(part.retry_after)
    return Failed(said, again) if _is_temporary(part.status) else Refused(said)


def _refusal(response: httpx2.Response) -> Failed | Refused:
    said = f"{response.status_code}: {response.text[:200]}"
    if _is_temporary(response.status_code):
        return Failed(said, response.headers.get("Retry-After"))
    return Refused(said)


def _is_temporary(status: int) -> bool:
    return status == 429 or status >= 500


def _decoded(response: httpx2.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.MsgspecError as error:
        raise Refused(f"an answer {response.status_code} that is not the contract's: {error}") from error

"""Asking a server on this machine whether it is there: by a connection, by a page, by a figure of its metrics."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from functools import cache

import httpx2
from prometheus_client.parser import text_string_to_metric_families


async def tcp(host: str, port: int) -> None:
    """Returns if it accepts. Raises OSError."""
    _, writer = await asyncio.open_connection(host, port)
    writer.close()


async def refuses_strangers(host: str, port: int) -> bool:
    """Whether this nats-server sends somebody without credentials away; it may ask ingest first. Raises OSError or EOFError."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        await reader.readuntil(b"\r\n")  # INFO
        writer.write(b'CONNECT {"verbose":false,"name":"fleetcast-stranger"}\r\nPING\r\n')
        while line := await reader.readline():
            if line.startswith((b"PONG", b"-ERR")):
                return line.startswith(b"-ERR 'Authorization")
        return True
    finally:
        writer.transport.abort()


@cache
def authorities() -> ssl.SSLContext:
    """Those that this machine trusts, for clients that come and go: to read them takes 50 ms, also for plain HTTP."""
    return ssl.create_default_context()


async def http(
    url: str,
    expect: int = 200,
    headers: Mapping[str, str] | None = None,
    verify: ssl.SSLContext | None = None,
) -> str:
    """What it answers. Raises OSError or httpx2.HTTPError."""
    async with httpx2.AsyncClient(timeout=2, trust_env=False, verify=verify or authorities()) as client:
        answer = await client.get(url, headers=headers)
    if answer.status_code != expect:
        raise OSError(f"{url}: {answer.status_code} {answer.text[:200]}")
    return answer.text


async def figure(url: str, name: str, counts: Callable[[Mapping[str, str]], bool] = bool) -> float:
    """The sum of this metric's samples whose labels count, on a metrics page."""
    page = await http(url)
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and counts(sample.labels)
    )

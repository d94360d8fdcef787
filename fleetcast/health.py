"""What both HTTP sides share: problem+json (RFC 9457), and the health endpoints of every role.

Each role answers /live (the process runs), /ready (what it depends on answers: 200, or 503 with what does not) and /metrics on
a port of its own on loopback, so that nothing of it can be reached through the front door.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from fleetcast.errors import FleetcastError, Refuse

log = structlog.get_logger()

Check = Callable[[], Awaitable[object]]
"""Returns if what is asked answers, raises if not."""


async def whole_body(request: Request, most: int) -> bytes:
    """The body of a request. Raises Refuse once there is more of it."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise Refuse(413, "Too large", f"at most {most} bytes")
    return body


def problem(status: int, title: str, detail: str = "", headers: Mapping[str, str] | None = None) -> Response:
    """An `application/problem+json` answer."""
    body = {"type": "about:blank", "status": status, "title": title} | ({"detail": detail} if detail else {})
    return Response(
        msgspec.json.encode(body), status, headers=dict(headers or {}), media_type="application/problem+json"
    )


async def on_refuse(request: Request, error: Exception) -> Response:
    """Starlette's handler of Refuse."""
    assert isinstance(error, Refuse)
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return problem(error.status, error.title, error.detail, headers | dict(error.headers))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405 in the same form."""
    assert isinstance(error, HTTPException)
    return problem(error.status_code, error.detail, f"{request.method} {request.url.path}", error.headers)


async def on_bug(request: Request, error: Exception) -> Response:
    """Anything else is a bug of ours: said in the log with its traceback, not to the caller."""
    log.error("bug", method=request.method, path=request.url.path, exc_info=error)
    return problem(500, "A bug of ours", "it is in the log")


def health(role: str, checks: Mapping[str, Check]) -> Starlette:
    """The application of a role's admin port."""

    async def live(request: Request) -> Response:
        return PlainTextResponse(f"{role} runs\n")

    async def ready(request: Request) -> Response:
        failed: dict[str, str] = {}
        for name, check in checks.items():
            try:
                await check()
            except (FleetcastError, OSError) as error:
                failed[name] = str(error)
        if failed:
            return problem(
                503, f"{role} is not ready", "; ".join(f"{name}: {why}" for name, why in failed.items())
            )
        return PlainTextResponse(f"{role} is ready\n")

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[Route("/live", live), Route("/ready", ready), Route("/metrics", metrics)],
        exception_handlers={HTTPException: on_http_exception},
    )

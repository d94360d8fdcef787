"""Problems as RFC 9457 has them, and a role's health: whether it runs, whether what it needs answers, its figures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import httpx2
import pytest
from starlette.applications import Starlette

from fleetcast.errors import Refuse, Unavailable
from fleetcast.health import Check, health, on_refuse, problem


@asynccontextmanager
async def asking(app: Starlette) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://role") as client:
        yield client


async def fine() -> object:
    return "anything"


def failing(error: Exception) -> Check:
    async def check() -> object:
        raise error

    return check


async def test_live_asks_nothing() -> None:
    async with asking(health("origin", {"live": failing(Unavailable("gone"))})) as client:
        answer = await client.get("/live")
    assert (answer.status_code, answer.text) == (200, "origin runs\n")


@pytest.mark.parametrize("checks", [{}, {"queue": fine}, {"queue": fine, "live": fine}])
async def test_ready(checks: Mapping[str, Check]) -> None:
    async with asking(health("consume", checks)) as client:
        answer = await client.get("/ready")
    assert (answer.status_code, answer.text) == (200, "consume is ready\n")


@pytest.mark.parametrize("error", [Unavailable("no answer"), OSError("no answer"), TimeoutError("no answer")])
async def test_not_ready_says_what_does_not_answer(error: Exception) -> None:
    checks = {"queue": failing(error), "edge": fine, "live": failing(error)}
    async with asking(health("consume", checks)) as client:
        answer = await client.get("/ready")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "status": 503,
        "title": "consume is not ready",
        "detail": "queue: no answer; live: no answer",
    }


async def test_ready_asks_each_time() -> None:
    answers: list[Callable[[], Exception | None]] = [lambda: None, lambda: Unavailable("gone"), lambda: None]

    async def check() -> object:
        if (error := answers.pop(0)()) is not None:
            raise error
        return None

    async with asking(health("ingest", {"queue": check})) as client:
        assert [(await client.get("/ready")).status_code for _ in range(3)] == [200, 503, 200]


async def test_metrics_are_prometheus_text() -> None:
    async with asking(health("ingest", {})) as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "# TYPE fleetcast_acked_total counter" in answer.text
    assert "# HELP fleetcast_resets_total " in answer.text


async def test_what_is_not_there_is_a_problem_too() -> None:
    async with asking(health("ingest", {})) as client:
        missing, wrong = await client.get("/nothing"), await client.post("/live")
    for answer, status in ((missing, 404), (wrong, 405)):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status
    assert "GET" in wrong.headers["allow"]


def test_problem() -> None:
    answer = problem(413, "Packet too large", headers={"X": "y"})
    assert answer.status_code == 413
    assert answer.body == b'{"type":"about:blank","status":413,"title":"Packet too large"}'
    assert answer.headers["x"] == "y"


@pytest.mark.parametrize(("status", "again"), [(400, None), (403, None), (413, None), (503, "1")])
async def test_only_what_trying_again_may_mend_says_when(status: int, again: str | None) -> None:
    from starlette.requests import Request

    answer = await on_refuse(Request({"type": "http"}), Refuse(status, "No"))
    assert answer.headers.get("retry-after") == again

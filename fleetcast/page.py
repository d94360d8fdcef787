"""The page: `/`, and its scripts, styles and pictures below `/static/`, as they lie in `web/`.

Everything that the page loads comes from here, and the browser is told to load nothing else: whatever a vehicle's signals
hold, it is never run.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

_POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"


class _Fresh(StaticFiles):
    """A browser asks again each time, or after a deploy it would mix new modules with old ones."""

    def file_response(self, *arguments: Any, **named: Any) -> Response:
        response = super().file_response(*arguments, **named)
        response.headers["Cache-Control"] = "no-cache"
        return response


def routes() -> Sequence[BaseRoute]:
    """The page's routes. Answers carry an ETag; a browser asks again each time, so that a deploy is seen at once."""
    web = str(resources.files("fleetcast").joinpath("web"))

    async def index(_: Request) -> Response:
        headers = {
            "Content-Security-Policy": _POLICY,
            "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff",
        }
        return FileResponse(f"{web}/index.html", headers=headers)

    return [Route("/", index), Mount("/static", _Fresh(directory=web))]

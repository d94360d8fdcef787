"""The page: `/`, and its scripts, styles and pictures below `/static/`, as they lie in `web/`.

Only `index.html` is filled in: `$many` and `$one` are what the page calls the things that it shows.

Everything that the page loads comes from here, and the browser is told to load nothing else: whatever a vehicle's signals
hold, it is never run.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from importlib import resources
from string import Template
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

_POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"


class _Fresh(StaticFiles):
    """A browser asks again each time, or after a deploy it would mix new modules with old ones."""

    def file_response(self, *arguments: Any, **named: Any) -> Response:
        response = super().file_response(*arguments, **named)
        response.headers["Cache-Control"] = "no-cache"
        return response


def routes(noun: str) -> Sequence[BaseRoute]:
    """The page's routes; `noun` is the plural that stands in the API's addresses.

    Answers carry an ETag; a browser asks again each time, so that a deploy is seen at once.
    """
    web = resources.files("fleetcast").joinpath("web")
    one = singular(noun)
    words = {"many": noun, "one": one, "Many": noun.capitalize(), "One": one.capitalize()}
    text = Template(web.joinpath("index.html").read_text()).substitute(words).encode()
    tag = f'"{sha256(text).hexdigest()[:32]}"'

    async def index(_: Request) -> Response:
        headers = {
            "Content-Security-Policy": _POLICY,
            "Cache-Control": "no-cache",
            "ETag": tag,
            "X-Content-Type-Options": "nosniff",
        }
        return Response(text, headers=headers, media_type="text/html")

    return [Route("/", index), Mount("/static", _Fresh(directory=str(web)))]


def singular(noun: str) -> str:
    """`devices` -> `device`, `batteries` -> `battery`, `sheep` -> `sheep`."""
    if noun.endswith("ies"):
        return f"{noun[:-3]}y"
    return noun[:-1] if noun.endswith("s") and noun[:-1] else noun

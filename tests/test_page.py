"""The page's text: what it calls the things that it shows is filled in, and nothing else is."""

from __future__ import annotations

from importlib import resources
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette

from fleetcast import page


async def index(noun: str) -> httpx2.Response:
    app: Any = Starlette(routes=page.routes(noun))
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://page") as client:
        return await client.get("/")


async def test_by_default_it_speaks_of_vehicles() -> None:
    answer = await index("vehicles")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    file = resources.files("fleetcast").joinpath("web/index.html").read_text()
    words = {"$many": "vehicles", "$one": "vehicle", "$Many": "Vehicles", "$One": "Vehicle"}
    for word, filled in words.items():
        file = file.replace(word, filled)
    assert answer.text == file
    assert "Search by vehicle id" in file
    assert "$" not in file


async def test_it_takes_the_noun_given() -> None:
    answer, default = await index("devices"), await index("vehicles")
    assert '<html lang="en" data-many="devices" data-one="device">' in answer.text
    assert "Search by device id" in answer.text
    assert "vehicle id" not in answer.text
    assert answer.headers["etag"] != default.headers["etag"]
    assert answer.headers["content-security-policy"] == default.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("noun", "one"),
    [
        ("vehicles", "vehicle"),
        ("devices", "device"),
        ("batteries", "battery"),
        ("sheep", "sheep"),
        ("s", "s"),
    ],
)
def test_one_of_them(noun: str, one: str) -> None:
    assert page.singular(noun) == one

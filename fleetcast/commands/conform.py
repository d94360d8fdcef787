"""`fleetcast conform URL --vehicle V`: whether a deployment keeps the contract of docs/protocol.md, tried from outside."""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fleetcast.conform import suite
from fleetcast.conform.target import Wish
from fleetcast.conform.words import Row
from fleetcast.errors import Unusable
from fleetcast.settings import Settings

_TEXT = """Asks and follows a deployment as an app does, and prints a line a check: pass, FAIL or not tried, and what was seen.
The vehicle must exist and change meanwhile. With --send the suite is the vehicle itself, so that it knows what must come:
name an id that nothing else sends as; it, and the same with 0, c or s behind it, remain in the fleet. Exit status 0 if every
promise that could be tried was kept, 1 if one was broken, 2 if nothing can be tried."""


def add_commands(commands: Any) -> None:
    """Adds it to the parser."""
    sub = commands.add_parser(
        "conform", help="whether a deployment keeps the contract, tried from outside", description=_TEXT
    )
    sub.add_argument("url", metavar="URL", help="what apps ask, e.g. http://127.0.0.1:8080", nargs="?")
    sub.add_argument("--vehicle", metavar="V", help="the vehicle to look at")
    sub.add_argument(
        "--token", metavar="T", default="", help="the app's, sent as Authorization: Bearer; @FILE reads it"
    )
    sub.add_argument(
        "--send", metavar="URL", default="", help="the ingest server: the suite sends as the vehicle"
    )
    sub.add_argument("--send-token", metavar="T", default="", help="the vehicle's, likewise")
    sub.add_argument("--noun", metavar="N", help="what things are called in the paths (setting `noun`)")
    sub.add_argument(
        "--ca", metavar="FILE", default="", help="certificates to trust, in PEM, besides none of the system's"
    )
    number = {"type": float, "metavar": "S"}
    sub.add_argument(
        "--patience", **number, default=60.0, help="seconds for a vehicle to change by itself (%(default)s)"
    )
    sub.add_argument(
        "--within", **number, default=45.0, help="seconds until a stream must be level (%(default)s)"
    )
    sub.add_argument("--keep-alive", **number, default=25.0, help="as it is deployed (%(default)s)")
    sub.add_argument(
        "--window", **number, default=600.0, help="the same; waited for if not above --patience (%(default)s)"
    )
    sub.add_argument(
        "--quiet",
        **number,
        default=90.0,
        help="seconds of silence after which a vehicle is quiet; waited for likewise (%(default)s)",
    )
    sub.add_argument("--streams", type=int, metavar="N", default=24, help="streams at once (%(default)s)")
    sub.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="only checks whose name has this"
    )
    sub.add_argument("--json", action="store_true", help="one JSON line instead of the table")
    sub.add_argument("--list", action="store_true", help="the checks with what they try, and nothing else")
    sub.set_defaults(run=run)


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Tries it, and prints."""
    if arguments.list:
        for name, promise, _ in suite.checks(arguments.only):
            print(f"{name:<24}  {promise}")
        return 0
    wish = _wish(arguments, settings)
    try:
        rows = await suite.run(wish, _quiet if arguments.json else _say)
    except asyncio.CancelledError:  # Ctrl-C
        return 130
    print(suite.as_json(rows, wish) if arguments.json else suite.summary(rows))
    return suite.status(rows)


def _say(row: Row) -> None:
    suite.print_row(row, sys.stdout)


def _quiet(row: Row) -> None:
    pass


def _wish(given: argparse.Namespace, settings: Settings) -> Wish:
    if not given.url or not given.vehicle:
        raise Unusable("conform: give the URL that apps ask, and --vehicle")
    if (
        min(given.patience, given.within, given.keep_alive, given.window, given.quiet) <= 0
        or not 1 <= given.streams <= 1000
    ):
        raise Unusable("conform: seconds must be positive, --streams 1 to 1000")
    if given.only and not list(suite.checks(given.only)):
        raise Unusable("conform: no check has a name like that; --list says them all")
    if given.ca:
        try:
            ssl.create_default_context(cafile=given.ca)
        except OSError as error:
            raise Unusable(f"conform: --ca {given.ca}: {error.strerror or error}") from None
    return Wish(
        front=_url("URL", given.url),
        vehicle=given.vehicle,
        noun=given.noun or settings.noun,
        token=_token("--token", given.token),
        send=_url("--send", given.send) if given.send else "",
        send_token=_token("--send-token", given.send_token),
        only=tuple(given.only),
        patience=given.patience,
        within=given.within,
        keep_alive=given.keep_alive,
        window=given.window,
        quiet=given.quiet,
        streams=given.streams,
        ca=given.ca,
    )


def _url(name: str, text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise Unusable(
            f"conform: {name} must be http:// or https://, a host, and no more than a path: {text}"
        )
    return text.rstrip("/")


def _token(name: str, text: str) -> str:
    """Itself, or what is in @FILE: command lines are seen by others on the machine."""
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text().strip()
        except OSError as error:
            raise Unusable(f"conform: {name} {text}: {error.strerror}") from None
    if not text.isascii() or not text.isprintable():
        raise Unusable(f"conform: {name} is no token: it holds what a header cannot")
    return text

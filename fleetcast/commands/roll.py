"""`fleetcast roll` and `fleetcast scale`: a running platform's processes replaced, added and removed, as a deploy does it."""

from __future__ import annotations

import argparse
from contextlib import AbstractAsyncContextManager
from typing import Any

from fleetcast import control
from fleetcast.control import Request, Say
from fleetcast.errors import Unusable
from fleetcast.platform import Platform
from fleetcast.settings import Settings

_ROLL = """Replaces processes of the platform that runs in this data folder (`up` or `demo`), one after the other, each ready
before the next one. Nothing is lost. ingest, consume and origin: no stream closes. An edge is drained first: its phones come
back through the other edges, with their last ids. New code and new settings take effect in what is replaced."""
_ROLL_EPILOG = """\
try:
  fleetcast roll consume                               new code of enrichers
  fleetcast roll consume --set enrichers=fleetcast.enrich.motion,my_rules
  fleetcast roll origin-1                              one process
  fleetcast roll all                                   ingest, consume, origin, edge

haproxy is never rolled: its restart cuts every stream. `fleetcast settings` prints what can be set.
"""
_SCALE = """Adds or removes processes of the platform that runs in this data folder, until there are N of the role. What is
removed is drained first, as `fleetcast roll` does it. With other edges consume is rolled, too: it must know them before phones
do. It holds until the platform ends; the settings consumers, origins and edges say how many there are at the start."""
_SCALE_EPILOG = """\
try:
  fleetcast scale consume=3
  fleetcast scale edge=3 origin=3
"""


def add_commands(commands: Any) -> None:
    """Adds both to the parser."""
    sub = commands.add_parser(
        "roll",
        help="replace processes of a running platform, with new code or settings",
        description=_ROLL,
        epilog=_ROLL_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument(
        "what", metavar="WHAT", help="ingest, consume, origin, edge, one process (consume-1), or all"
    )
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting that processes started from now on have; again for another. Lists are separated by commas",
    )
    sub.set_defaults(run=run_roll)
    sub = commands.add_parser(
        "scale",
        help="add or remove consume, origin and edge processes of a running platform",
        description=_SCALE,
        epilog=_SCALE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("counts", metavar="ROLE=N", nargs="+", help="of consume, origin, edge")
    sub.set_defaults(run=run_scale)


async def run_roll(arguments: argparse.Namespace, settings: Settings) -> int:
    """Has it done; 0, or raises."""
    changes = dict(_pair(text, "--set") for text in arguments.set)
    await control.ask(settings.data, Request("roll", [arguments.what], changes), _say)
    return 0


async def run_scale(arguments: argparse.Namespace, settings: Settings) -> int:
    """Has it done; 0, or raises."""
    counts = [_pair(text, "scale") for text in arguments.counts]
    for _, count in counts:
        if not count.isascii() or not count.isdigit():
            raise Unusable(f"scale: {count} is not a number")
    for role, count in counts:
        await control.ask(settings.data, Request("scale", [role, count]), _say)
    return 0


def served(platform: Platform) -> AbstractAsyncContextManager[None]:
    """The control socket of this platform, for as long as the block runs."""

    async def obey(request: Request, say: Say) -> None:
        match request.command, request.arguments:
            case "roll", [what]:
                await platform.roll(what, say, **request.settings)
            case "scale", [role, count]:
                await platform.scale(role, int(count), say)
            case _:
                raise Unusable(f"{request.command}: not a command")

    return control.served(control.path(platform.settings.data), obey)


def _pair(text: str, what: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise Unusable(f"{what}: {text} is not NAME=VALUE")
    return key, value


def _say(line: str) -> None:
    print(line, flush=True)

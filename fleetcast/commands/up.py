"""`fleetcast up`: the platform on this machine, without a fleet."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from fleetcast.commands import roll
from fleetcast.devpki import DevelopmentPki
from fleetcast.platform import Platform
from fleetcast.settings import Settings, is_loopback
from fleetcast.wiring import configure_logging

_TEXT = """Starts nats-server, the edge (Pushpin and HAProxy), ingest, consume and origin; prints `ready <url>`; keeps them
running until Ctrl-C. Without `vehicle_keys` or `vehicle_ca` it is open for development, on loopback only; so is the front
door without `app_keys`."""


def add_commands(commands: Any) -> None:
    """Adds it to the parser."""
    sub = commands.add_parser(
        "up", help="run the platform on this machine, without a fleet", description=_TEXT
    )
    sub.add_argument(
        "--tls", action="store_true", help="the front door speaks TLS, with a certificate for development"
    )
    sub.set_defaults(run=run)


def say(line: str) -> None:
    """A line for the person who started it."""
    print(line, file=sys.stderr, flush=True)


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Runs it until SIGINT or SIGTERM."""
    configure_logging(msgspec.structs.replace(settings, log_level="error"), "up")  # roles log for themselves
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    pki = None
    if arguments.tls and not settings.front_cert:
        pki = _development_pki(settings)
        given = {"front_cert": str(pki.server), "front_key": str(pki.server_key)}
        settings = msgspec.structs.replace(settings, **given).checked()
    platform = Platform(settings, say)
    starting = asyncio.create_task(platform.__aenter__())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():  # Ctrl-C while it starts
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return 0
    stopping_early = stop.is_set()
    await starting
    try:
        if not stopping_early:
            known = "vehicles prove who they are" if settings.identity else "no credentials, loopback only"
            if not settings.identity and not is_loopback(settings.host):
                known = "vehicles need no credentials, on loopback only"
            if settings.app_keys:
                known += "; apps show tokens"
            say(
                f"{'' if settings.identity else 'open for development: '}{known}. Vehicles send to {platform.doors}"
            )
            if pki is not None:
                say(f"the front door's certificate is for development: clients trust {pki.ca}")
            async with roll.served(platform):
                print(f"ready {platform.url}", flush=True)
                await stop.wait()
        say("stopping")
    finally:
        await platform.stop()
        stopping.cancel()
    return 0


def _development_pki(settings: Settings) -> DevelopmentPki:
    """The one that `enroll` uses too."""
    return DevelopmentPki(Path(settings.data).absolute() / "dev-pki")

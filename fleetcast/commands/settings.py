"""`fleetcast settings`: the effective settings, as TOML that can be put into a file."""

from __future__ import annotations

import argparse
import re
from typing import Any

import msgspec

from fleetcast.settings import Settings, dump


def add_commands(commands: Any) -> None:
    """Adds it to the parser."""
    text = "print the effective settings, as TOML"
    sub = commands.add_parser(
        "settings", help=text, description=text.capitalize() + ". The signing key is left out."
    )
    sub.set_defaults(run=run)


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Prints them; a key or password is never printed."""
    shown = msgspec.structs.replace(
        settings, sig_key="", ticket_key="", nats=re.sub(r"//[^@/]*@", "//…@", settings.nats)
    )
    print(dump(shown, explain=True), end="")
    return 0

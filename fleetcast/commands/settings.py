"""`fleetcast settings`: the effective settings, as TOML that can be put into a file."""

from __future__ import annotations

import argparse
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
    """Prints them; a key is never printed."""
    print(dump(msgspec.structs.replace(settings, sig_key="")), end="")
    return 0

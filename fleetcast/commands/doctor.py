"""`fleetcast doctor`: what is missing or misconfigured here, and how to mend it. (Grows below.)"""

from __future__ import annotations

import argparse
from typing import Any

from fleetcast.settings import Settings


def add_commands(commands: Any) -> None:
    """Adds it to the parser."""
    text = "say what is missing or misconfigured, and how to mend it"
    sub = commands.add_parser("doctor", help=text, description=text.capitalize() + ".")
    sub.set_defaults(run=run)


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Checks."""
    return 0

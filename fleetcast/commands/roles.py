"""`fleetcast ingest`, `consume`, `origin`: one role each, a process each, as production runs them."""

from __future__ import annotations

import argparse
from typing import Any

from fleetcast import wiring
from fleetcast.settings import Settings

_ROLES = {
    "ingest": ("take vehicles' packets by HTTP", wiring.run_ingest),
    "consume": ("apply packets: enrich, commit, publish; as many processes as you like", wiring.run_consume),
    "origin": ("answer the edge: latest state, snapshots, what was missed", wiring.run_origin),
}


def add_commands(commands: Any) -> None:
    """Adds them to the parser."""
    for role, (text, _) in _ROLES.items():
        sub = commands.add_parser(
            role, help=text, description=text.capitalize() + ". SIGTERM ends it in good order."
        )
        sub.set_defaults(run=run, role=role)


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Runs the role until it is told to stop."""
    wiring.configure_logging(settings, arguments.role)
    await _ROLES[arguments.role][1](settings)
    return 0

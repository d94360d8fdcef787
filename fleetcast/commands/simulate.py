"""`fleetcast simulate cars|phones`: a fleet, or its phones, against a running platform."""

from __future__ import annotations

import argparse
from typing import Any

from fleetcast.settings import Settings
from fleetcast.simulator import cars_command, phones

_SIMULATORS = {
    "cars": (
        "simulated cars: real drives, packets of 500 kB to 1 MB by HTTP or MQTT, each sent until it is acknowledged",
        cars_command,
    ),
    "phones": ("simulated phones: each checks that nothing is lost, repeated or out of order", phones),
}


def add_commands(commands: Any) -> None:
    """Adds it to the parser."""
    text = "simulate cars or phones against a running platform"
    sub = commands.add_parser("simulate", help=text, description=text.capitalize() + ".")
    kinds = sub.add_subparsers(title="what", metavar="cars|phones", required=True)
    for kind, (what, module) in _SIMULATORS.items():
        one = kinds.add_parser(kind, help=what, description=f"{what[0].upper()}{what[1:]}.")
        module.add_arguments(one)
        one.set_defaults(run=run, kind=kind)


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Runs it; its exit status says whether a promise was broken."""
    code: int = await _SIMULATORS[arguments.kind][1].run(arguments)
    return code

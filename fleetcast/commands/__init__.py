"""The command line: `fleetcast <command>`, one module a command (its `add_commands` and its `run`)."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fleetcast.commands import (
    backup,
    conform,
    demo,
    doctor,
    enroll,
    explain,
    plan,
    prove,
    provision,
    rejected,
    revoke,
    roles,
    roll,
    settings,
    simulate,
    tail,
    up,
    vehicles,
)
from fleetcast.errors import FleetcastError, Unusable
from fleetcast.settings import load

_EPILOG = """\
try:
  fleetcast demo --seconds 30      the whole platform with simulated cars and phones, and a verdict
  fleetcast up                     the platform alone; then, from another terminal:
  fleetcast simulate cars --cars 20
  fleetcast roll all               replaces what runs, and loses nothing
  curl -N -H 'Accept: text/event-stream' http://127.0.0.1:8080/v1/vehicles/car-00001/events

Settings come from --config FILE (TOML), then from the environment (FLEETCAST_FRONT_PORT=9000), then from
options; `fleetcast settings` prints them all with what they mean.
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="fleetcast",
        description="Carries each vehicle's data to the phones that watch it: complete, in order, in near real time.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    config = os.environ.get("FLEETCAST_CONFIG")
    top.add_argument("--config", type=Path, default=config, metavar="FILE", help="settings, in TOML")
    top.add_argument("--data", metavar="DIR", help="where everything is kept (setting `data`)")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (
        demo,
        up,
        roll,
        simulate,
        tail,
        explain,
        enroll,
        revoke,
        rejected,
        vehicles,
        backup,
        prove,
        conform,
        plan,
        provision,
        doctor,
        settings,
        roles,
    ):
        module.add_commands(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; its exit status: 0 good, 1 a promise broken or something wrong, 2 not usable as given."""
    given = parser().parse_args(arguments)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # a user's enrichers may lie where the command is given
    try:
        effective = load(Path(given.config) if given.config else None, os.environ, {"data": given.data})
        code: int = asyncio.run(given.run(given, effective))
        return code
    except Unusable as why:
        print(f"fleetcast: {why}", file=sys.stderr)
        return 2
    except FleetcastError as why:
        print(f"fleetcast: {why}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130

"""The command line: `fleetcast <command>`, one module a command (its `add_commands` and its `run`)."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from fleetcast.errors import FleetcastError, Unusable
from fleetcast.settings import load

MODULES = {
    "demo": "demo",
    "up": "up",
    "roll": "roll",
    "scale": "roll",
    "simulate": "simulate",
    "tail": "tail",
    "explain": "explain",
    "enroll": "enroll",
    "revoke": "revoke",
    "rejected": "rejected",
    "vehicles": "vehicles",
    "backup": "backup",
    "restore": "backup",
    "prove": "prove",
    "conform": "conform",
    "plan": "plan",
    "provision": "provision",
    "doctor": "doctor",
    "settings": "settings",
    "ingest": "roles",
    "consume": "roles",
    "origin": "roles",
}
"""Command -> its module, as `--help` lists them."""

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


def parser(command: str = "") -> argparse.ArgumentParser:
    """The command line, with this command alone if it is one: to import all modules takes a process half a second."""
    top = argparse.ArgumentParser(
        prog="fleetcast",
        description="Carries each vehicle's data to the phones that watch it: complete, in order, in near real time.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options(top)
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    names = [MODULES[command]] if command in MODULES else dict.fromkeys(MODULES.values())
    for name in names:
        import_module(f"fleetcast.commands.{name}").add_commands(commands)
    return top


def _add_options(to: argparse.ArgumentParser) -> None:
    config = os.environ.get("FLEETCAST_CONFIG")
    to.add_argument("--config", type=Path, default=config, metavar="FILE", help="settings, in TOML")
    to.add_argument("--data", metavar="DIR", help="where everything is kept (setting `data`)")


def _command(arguments: Sequence[str] | None) -> str:
    """Which command is meant; empty if none is named, or a wrong one."""
    first = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    _add_options(first)
    first.add_argument("command", nargs="?", default="")
    try:
        return str(first.parse_known_args(arguments)[0].command)
    except argparse.ArgumentError:
        return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; its exit status: 0 good, 1 a promise broken or something wrong, 2 not usable as given."""
    given = parser(_command(arguments)).parse_args(arguments)
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

"""`fleetcast plan`: what a fleet needs, by the costs that the benchmark measured."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from fleetcast.errors import Unusable
from fleetcast.plan import Costs, Fleet, Plan, plan
from fleetcast.settings import Settings

COSTS = Path(__file__).parents[1] / "costs.json"

_OPTIONS: dict[str, tuple[str, type]] = {
    "registered": ("vehicles there are; each has a state", int),
    "streaming": ("vehicles that send at any time", int),
    "per-minute": ("packets a minute of each of these", float),
    "mqtt": ("share of these that send by MQTT, not by HTTP", float),
    "size": ("bytes of a packet as sent, compressed", int),
    "phones": ("phones that hold a stream", int),
    "opens": ("times an hour that each phone opens its stream", float),
    "outage": ("seconds for which the queue must hold what nobody consumes", float),
    "replicas": ("copies of each stream", int),
    "headroom": ("share of a core that may be busy at this load", float),
}


def add_commands(commands: Any) -> None:
    """Adds it to the parser."""
    text = "what a fleet needs: cores, memory, disk, network, processes, shards"
    sub = commands.add_parser(
        "plan",
        help=text,
        description=text.capitalize()
        + ". By the costs that `make bench-full` measured (docs/benchmarks.md).",
        epilog="try:  fleetcast plan --streaming 50000 --per-minute 1 --phones 5000",
    )
    defaults = Fleet()
    for name, (what, kind) in _OPTIONS.items():
        default = getattr(defaults, name.replace("-", "_"))
        sub.add_argument(f"--{name}", type=kind, default=default, metavar="N", help=f"{what} ({default:,})")
    sub.add_argument(
        "--costs", type=Path, default=COSTS, metavar="FILE", help="costs of another machine, as JSON"
    )
    sub.add_argument("--json", action="store_true", help="print the plan as one line of JSON")
    sub.set_defaults(run=run)


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Prints it."""
    given = {name.replace("-", "_"): getattr(arguments, name.replace("-", "_")) for name in _OPTIONS}
    try:
        fleet = msgspec.convert({**given, "window": settings.window}, Fleet)
        costs = msgspec.json.decode(arguments.costs.read_bytes(), type=Costs)
    except OSError as error:
        raise Unusable(f"--costs {arguments.costs}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise Unusable(f"plan: {error}") from None
    found = plan(fleet, costs)
    if arguments.json:
        print(json.dumps({**msgspec.to_builtins(found), "busy": found.busy}))
    else:
        _show(fleet, found)
    return 0


def _show(fleet: Fleet, found: Plan) -> None:
    console = Console(highlight=False)
    table = Table("role", "cores busy", "processes", "memory, GB", "for")
    for column in table.columns[1:4]:
        column.justify = "right"
    for row in found.rows:
        table.add_row(row.role, f"{row.cores:.2f}", f"{row.processes:,}", f"{row.memory_gb:.1f}", row.note)
    table.add_row(
        "all",
        f"{found.busy:.2f}",
        f"{sum(row.processes for row in found.rows):,}",
        f"{found.memory_gb:.1f}",
        "",
    )
    console.print(table)
    console.print(f"cores to have: {found.cores:.1f} ({fleet.headroom:.0%} busy); shards: {found.shards}")
    console.print(f"disk: {found.disk_gb:,.0f} GB, {found.disk_mb_s:,.0f} MB/s written for good")
    console.print(
        f"network: {found.network_in_mb_s:,.0f} MB/s from vehicles, {found.network_out_mb_s:,.2f} MB/s to phones"
    )
    console.print("assumed:")
    for assumption in found.assumptions:
        console.print(f"  {assumption}", soft_wrap=True)

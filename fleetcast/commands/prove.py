"""`fleetcast prove`: a platform of its own, everything that can go wrong, and an oracle that forgives nothing."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
import sys
from typing import Any

import msgspec

from fleetcast.errors import Unusable
from fleetcast.proof import acts
from fleetcast.proof.rows import Row
from fleetcast.proof.table import as_json, broken, clocked, print_table
from fleetcast.proof.world import Size
from fleetcast.settings import Settings
from fleetcast.wiring import configure_logging

_TEXT = """Starts a platform of its own on free ports and in a temporary folder, drives cars and phones, makes things go wrong
one after the other from a seeded schedule, and holds everything against an oracle that knows each acknowledged packet:
applied exactly once and in order, seen by each phone of its car exactly once and in order, or told by a reset that is
true. The table at the end has a line a fault; `worst heal` is from the fault's end until every phone is level again. Exit
status 1 if a promise was broken."""


def add_commands(commands: Any) -> None:
    """Adds it to the parser."""
    sub = commands.add_parser(
        "prove",
        help="try to lose something: faults of every kind, and an oracle",
        description=_TEXT,
        epilog="acts:\n" + "\n".join(f"  {name:<10} {act.text}" for name, act in acts.ACTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    size = Size()
    sub.add_argument(
        "--seed", type=int, metavar="N", help="the same schedule again; without it another each time"
    )
    sub.add_argument(
        "--acts", default="faults", metavar="A,B", help="which acts; `all` is each of them (%(default)s)"
    )
    sub.add_argument(
        "--faults",
        type=int,
        default=40,
        metavar="N",
        help="how many faults in the act `faults` (%(default)s)",
    )
    sub.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="only faults whose name has this"
    )
    sub.add_argument("--cars", type=int, default=size.cars, metavar="N", help="(%(default)s)")
    sub.add_argument("--phones", type=int, default=size.phones, metavar="N", help="(%(default)s)")
    sub.add_argument(
        "--rate",
        type=float,
        default=size.rate,
        metavar="X",
        help="packets a second of all cars (%(default)s)",
    )
    sub.add_argument(
        "--window",
        type=float,
        default=size.window,
        metavar="S",
        help="seconds for which updates are kept (%(default)s)",
    )
    sub.add_argument(
        "--first",
        action="store_true",
        help="end the acts `faults` and `restores` at the first broken promise",
    )
    sub.add_argument(
        "--json", action="store_true", help="the table as one JSON line; progress goes to stderr"
    )
    sub.add_argument("--list", action="store_true", help="the faults by name, and nothing else")
    sub.set_defaults(run=run)


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Runs the acts; 0 if every promise was kept."""
    if arguments.list:
        print("\n".join(acts.fault_names()))
        return 0
    given = list(acts.ACTS) if arguments.acts == "all" else arguments.acts.split(",")
    for name in given:
        if name not in acts.ACTS:
            raise Unusable(f"prove: {name} is not an act; there are {', '.join(acts.ACTS)}")
    if arguments.cars < 1 or arguments.phones < 1 or arguments.rate <= 0 or arguments.faults < 1:
        raise Unusable("prove: --cars, --phones, --rate and --faults must be positive")
    if arguments.window < 5:
        raise Unusable("prove: --window must be 5 or more: healing takes seconds")
    if arguments.only and not acts.fault_names(arguments.only):
        raise Unusable("prove: no fault has a name like that; --list says them all")
    configure_logging(msgspec.structs.replace(settings, log_level="error"), "prove")
    seed = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
    size = Size(arguments.cars, arguments.phones, arguments.rate, arguments.window)
    say = clocked(sys.stderr if arguments.json else sys.stdout)
    say(f"seed {seed}")
    wish = acts.Wish(seed, size, say, arguments.faults, tuple(arguments.only), arguments.first)
    working = asyncio.create_task(_all(given, wish))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, working.cancel)
    try:
        rows = await working
    except asyncio.CancelledError:
        return 130
    if arguments.json:
        print(as_json(rows, seed))
    else:
        print_table(rows, sys.stdout)
    return 1 if broken(rows) else 0


async def _all(names: list[str], wish: acts.Wish) -> list[Row]:
    rows: list[Row] = []
    for name in names:
        if len(names) > 1:
            wish.say(f"act: {name}")
        rows += await acts.ACTS[name].run(wish)
    return rows

"""`fleetcast vehicles add|list|show|enable|disable|forget`: which vehicles there are, and erasing one."""

from __future__ import annotations

import argparse
import asyncio
import csv
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from rich.console import Console
from rich.table import Table

from fleetcast import nats_forget
from fleetcast.errors import Unavailable, Unusable
from fleetcast.jetstream import Connection, connect
from fleetcast.known import HOLDS
from fleetcast.nats_live import NatsLive
from fleetcast.registry import Registry, Vehicle, checked, is_fleet
from fleetcast.settings import Settings
from fleetcast.subjects import is_vehicle
from fleetcast.wiring import make_registry

T = TypeVar("T")

_TEXT = """The registry says which vehicles there are, the fleets they belong to, how often each is expected to send, and
whether it may. Every door knows of a change within 5 seconds."""
_FILE = """A file has a vehicle a line: its id alone; or CSV, whose first line names the columns: vehicle, and any of fleets
(separated by spaces), every, enabled; or JSON objects with these members, fleets being an array."""
_FORGET = """Erases a vehicle: its state, its window of updates, its rejected packets, what waits in the queue, its entry
here; then asks the streams, and shows that nothing is left. Its phones are told by a reset. If it is welcome and sends
again, it begins anew at version 1. What backups hold stays there."""
_UNDER_WAY = 64
_MANY = 500
_SECONDS = 2.0
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is given of a vehicle; what is not stays as it is, or is the default."""

    vehicle: str
    fleets: tuple[str, ...] | None = None
    every: float | None = None
    enabled: bool | None = None

    def onto(self, known: Vehicle | None) -> Vehicle:
        """The vehicle, given what is known of it. Raises Unusable."""
        given = {
            name: value
            for name in ("fleets", "every", "enabled")
            if (value := getattr(self, name)) is not None
        }
        return checked(msgspec.structs.replace(known or Vehicle(self.vehicle), **given))


def add_commands(commands: Any) -> None:
    """Adds it to the parser."""
    sub = commands.add_parser(
        "vehicles", help="add, list, show, enable, disable or forget vehicles", description=_TEXT
    )
    verbs = sub.add_subparsers(title="verbs", metavar="VERB", required=True)
    one = verbs.add_parser("add", help="add vehicles, or change what is given of them", description=_FILE)
    one.add_argument("vehicles", metavar="VEHICLE", nargs="*")
    one.add_argument("--from", dest="file", metavar="FILE", help="those in a file, or - for standard input")
    one.add_argument(
        "--fleet", dest="fleets", action="append", metavar="FLEET", help="of this fleet; may be repeated"
    )
    one.add_argument("--every", type=float, metavar="S", help="seconds expected between two packets (60)")
    one.set_defaults(run=run, verb=add)
    one = verbs.add_parser("list", help="each with its fleets, interval, and whether it may send")
    one.add_argument("--fleet", metavar="FLEET", help="only those of this fleet")
    one.add_argument("--json", action="store_true", help="a JSON object a line")
    one.set_defaults(run=run, verb=list_)
    one = verbs.add_parser("show", help="what is known of one, and how it stands")
    one.add_argument("vehicle", metavar="VEHICLE")
    one.set_defaults(run=run, verb=show)
    for name, enabled in (("enable", True), ("disable", False)):
        one = verbs.add_parser(name, help="let vehicles send" if enabled else "refuse what vehicles send")
        one.add_argument("vehicles", metavar="VEHICLE", nargs="+")
        one.set_defaults(run=run, verb=switch, name=name, enabled=enabled)
    one = verbs.add_parser("forget", help="erase a vehicle and all that is kept of it", description=_FORGET)
    one.add_argument("vehicle", metavar="VEHICLE")
    one.add_argument("--yes", action="store_true", help="do not ask")
    one.set_defaults(run=run, verb=forget)


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Does it. What can be found wrong without asking is said before."""
    for vehicle in getattr(arguments, "vehicles", None) or [getattr(arguments, "vehicle", "x")]:
        if not is_vehicle(vehicle):
            raise Unusable(f"vehicles: {vehicle[:80]!r} is no vehicle id: it is 1 to 64 of A-Z a-z 0-9 - _")
    for fleet in _fleets_named(arguments):
        if not is_fleet(fleet):
            raise Unusable(f"vehicles: {fleet[:80]!r} is no fleet's name: it is 1 to 64 of A-Z a-z 0-9 - _")
    prepared = await _prepared(arguments)
    connection = await connect(settings, "fleetcast-vehicles")
    try:
        registry = make_registry(connection, settings)
        code: int = await arguments.verb(prepared, connection, registry, settings)
        return code
    finally:
        await connection.close()


def _fleets_named(arguments: argparse.Namespace) -> Sequence[str]:
    one = getattr(arguments, "fleet", None)
    return [*(getattr(arguments, "fleets", None) or ()), *(() if one is None else (one,))]


async def _prepared(arguments: argparse.Namespace) -> argparse.Namespace:
    """With the entries that are to be added, or the consent to forget."""
    if arguments.verb is add:
        if bool(arguments.vehicles) == bool(arguments.file):
            raise Unusable("vehicles add: give ids, or --from FILE")
        entries = (
            parsed(await asyncio.to_thread(_text, arguments.file))
            if arguments.file
            else [Entry(vehicle) for vehicle in arguments.vehicles]
        )
        fleets = tuple(arguments.fleets) if arguments.fleets else None
        arguments.entries = [
            msgspec.structs.replace(
                one,
                fleets=fleets if one.fleets is None else one.fleets,
                every=arguments.every if one.every is None else one.every,
            )
            for one in entries
        ]
        for one in arguments.entries:
            one.onto(None)
    elif arguments.verb is forget and not arguments.yes:
        if not sys.stdin.isatty():
            raise Unusable("vehicles forget: erases for good; say --yes")
        question = f"erase {arguments.vehicle} and all that is kept of it, for good? Type its id: "
        if await asyncio.to_thread(input, question) != arguments.vehicle:
            raise Unusable("vehicles forget: nothing was erased")
    return arguments


# Adding


async def add(arguments: argparse.Namespace, _: Connection, registry: Registry, settings: Settings) -> int:
    """Many at a time; what is not given of one that is there stays as it is."""
    entries: Sequence[Entry] = arguments.entries
    new = 0
    # Of many, those that are there are asked for in one go. What is to be changed is asked for once more, at that moment:
    # somebody may have disabled it meanwhile.
    before = {one.vehicle: one async for one in registry.all()} if len(entries) > _MANY else None

    async def one(entry: Entry) -> None:
        nonlocal new
        known = before.get(entry.vehicle) if before is not None else None
        if before is None or (known is not None and entry.onto(known) != known):
            known = await registry.get(entry.vehicle)
        new += known is None
        if (wanted := entry.onto(known)) != known:
            await registry.put(wanted)

    await _pipelined(entries, one)
    print(f"{new:,} added" + (f", {len(entries) - new:,} were there" if new < len(entries) else ""))
    return 0


async def _pipelined(items: Sequence[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Several under way at once, with a line about it every two seconds."""
    left, done, said = iter(items), 0, time.monotonic()

    async def worker() -> None:
        nonlocal done, said
        for item in left:
            await work(item)
            done += 1
            if time.monotonic() - said >= _SECONDS:
                said = time.monotonic()
                print(f"{done:,} of {len(items):,}", file=sys.stderr, flush=True)

    workers = [asyncio.create_task(worker()) for _ in range(min(_UNDER_WAY, len(items)))]
    try:
        await asyncio.gather(*workers)
    except Unavailable as why:
        raise Unavailable(f"{why}; {done:,} of {len(items):,} were done: the same command goes on") from why
    finally:
        for one in workers:
            one.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _text(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"vehicles add: {file}: {getattr(error, 'strerror', None) or error}") from None


def parsed(text: str) -> list[Entry]:
    """The entries of a file: ids, CSV with a first line of names, or JSON lines. Raises Unusable, naming the line."""
    lines = [
        (number, line.strip()) for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1)
    ]
    lines = [(number, line) for number, line in lines if line]
    first = lines[0][1] if lines else ""
    read: Callable[[str], Entry] = Entry
    if first.startswith("{"):
        read = _json
    elif "," in first or first == "vehicle":
        names = [name.strip() for name in first.split(",")]
        if (
            "vehicle" not in names
            or len(set(names)) < len(names)
            or not set(names) <= set(Entry.__struct_fields__)
        ):
            known = ", ".join(Entry.__struct_fields__)
            raise Unusable(
                f"vehicles add: line 1: a CSV file begins with the names of its columns, of {known}"
            )
        lines = lines[1:]
        read = lambda line: _csv(line, names)  # noqa: E731
    found: dict[str, Entry] = {}
    for number, line in lines:
        try:
            entry = read(line)
            entry.onto(None)
        except (Unusable, ValueError, msgspec.MsgspecError, csv.Error) as error:
            raise Unusable(f"vehicles add: line {number}: {' '.join(str(error).split())}") from None
        if entry.vehicle in found:
            raise Unusable(f"vehicles add: line {number}: {entry.vehicle} is there twice")
        found[entry.vehicle] = entry
    if not found:
        raise Unusable("vehicles add: there is no vehicle in it")
    return list(found.values())


def _json(line: str) -> Entry:
    return msgspec.json.decode(line, type=Entry)


def _csv(line: str, names: Sequence[str]) -> Entry:
    (cells,) = csv.reader([line], strict=True)
    if len(cells) != len(names):
        raise ValueError(f"{len(cells)} cells, and {len(names)} columns")
    given = {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
    enabled = given.get("enabled", "").lower()
    if enabled not in ("", *_TRUE, *_FALSE):
        raise ValueError(f"enabled: {enabled} is not true or false")
    return Entry(
        given["vehicle"],
        tuple(given["fleets"].split()) if given.get("fleets") else None,
        float(given["every"]) if given.get("every") else None,
        enabled in _TRUE if enabled else None,
    )


# Looking


async def list_(arguments: argparse.Namespace, _: Connection, registry: Registry, settings: Settings) -> int:
    """By id."""
    found = sorted([one async for one in registry.all(arguments.fleet)], key=lambda one: one.vehicle)
    if arguments.json:
        for one in found:
            print(msgspec.json.encode(one).decode())
    elif not found:
        print("no vehicle is registered" + (f" in fleet {arguments.fleet}" if arguments.fleet else ""))
    elif not sys.stdout.isatty():  # for a program: a line each, fields apart by tabs
        for one in found:
            print(one.vehicle, *_fields(one), sep="\t")
    else:
        table = Table("vehicle", "fleets", "every", "", box=None, pad_edge=False)
        for one in found:
            table.add_row(one.vehicle, *_fields(one))
        Console(highlight=False).print(table)
    return 0


def _fields(one: Vehicle) -> tuple[str, str, str]:
    return " ".join(one.fleets), f"{one.every:g}", "enabled" if one.enabled else "disabled"


async def show(
    arguments: argparse.Namespace, connection: Connection, registry: Registry, settings: Settings
) -> int:
    """The registry's entry, the state, what is rejected and what waits."""
    vehicle: str = arguments.vehicle
    entry = await registry.get(vehicle)
    state = (await NatsLive(connection, settings).latest(vehicle)).state
    held = await nats_forget.held(connection, vehicle)
    print(vehicle)
    if entry is None:
        print("  registry  not there")
    else:
        fleets, every, enabled = _fields(entry)
        print(f"  registry  {enabled}; fleets: {fleets or 'none'}; expected every {every} s")
    if state.version:
        age = max(0.0, time.time() - datetime.fromisoformat(state.updated_at).timestamp())
        late = entry is not None and entry.enabled and age > 2 * entry.every
        overdue = ": overdue" if late else ""
        print(f"  state     version {state.version}, {age:,.0f} s old{overdue} (updated {state.updated_at})")
    else:
        print("  state     none: it has never sent")
    print(f"  window    {held['window']:,} updates")
    print(f"  waiting   {held['queue']:,} packets in the queue")
    print(f"  rejected  {held['rejected']:,} packets")
    return 0


# Changing


async def switch(arguments: argparse.Namespace, _: Connection, registry: Registry, settings: Settings) -> int:
    """All of them or, if one is not there, none."""
    known = {vehicle: await registry.get(vehicle) for vehicle in arguments.vehicles}
    if missing := [vehicle for vehicle, one in known.items() if one is None]:
        raise Unusable(
            f"vehicles {arguments.name}: {missing[0]} is not in the registry; `fleetcast vehicles add` adds it"
        )
    for vehicle, one in known.items():
        assert one is not None
        await registry.put(msgspec.structs.replace(one, enabled=arguments.enabled))
        print(f"{vehicle}: {arguments.name}d; every door knows within {HOLDS:.0f} s")
    return 0


async def forget(
    arguments: argparse.Namespace, connection: Connection, registry: Registry, settings: Settings
) -> int:
    """Erases it, and shows what the streams say afterwards; status 1 if something is left."""

    def say(text: str) -> None:
        print(f"{arguments.vehicle}: {text}", file=sys.stderr, flush=True)

    done = await nats_forget.forget(connection, registry, arguments.vehicle, say)
    for what, left in done.left.items():
        print(f"  {what:<9} {done.erased.get(what, 0):,} erased, {left:,} left")
    print(f"  registry  {'no entry' if done.entry is None else 'its entry is left'}")
    print(
        f"{arguments.vehicle}: {'forgotten' if done.done else 'NOT EMPTY: it sends, or something holds it; do it again'}"
    )
    return 0 if done.done else 1

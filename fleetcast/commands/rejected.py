"""`fleetcast rejected list|show|replay|drop`: the packets that could not be applied, and what to do with them."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from fleetcast import decode
from fleetcast.errors import Reject, Unusable
from fleetcast.inflate import inflate
from fleetcast.jetstream import connect
from fleetcast.nats_rejected import NatsRejected, Rejected
from fleetcast.settings import Settings

_TEXT = """A packet that was acknowledged but can never be applied (it cannot be decoded, an enricher raised, it is too large
for a hop) is kept in REJECTED with the reason, and blocks nothing. Mend the cause, deploy, then replay; or drop it."""
_SHOWN = 2000
_INFLATED = 64 * 1024 * 1024


def add_commands(commands: Any) -> None:
    """Adds it to the parser."""
    sub = commands.add_parser(
        "rejected", help="list, show, replay or drop packets that could not be applied", description=_TEXT
    )
    verbs = sub.add_subparsers(title="verbs", metavar="VERB", required=True)
    one = verbs.add_parser("list", help="each with its number, vehicle and reason")
    one.add_argument("--vehicle", metavar="ID", help="only this vehicle's")
    one.set_defaults(run=run, verb="list", numbers=[])
    for verb, text in (
        ("show", "one packet, inflated"),
        ("replay", "put packets into the queue again"),
        ("drop", "remove packets for good"),
    ):
        one = verbs.add_parser(verb, help=text)
        one.add_argument("numbers", metavar="NUMBER", nargs="*", help="as `rejected list` shows them")
        one.add_argument("--vehicle", metavar="ID", help="all of this vehicle instead")
        one.add_argument("--all", action="store_true", help="all there are")
        one.set_defaults(run=run, verb=verb)


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Does it."""
    connection = await connect(settings, "fleetcast-rejected")
    rejected = NatsRejected(connection)
    decoders = decode.load(settings.decoders)
    try:
        if arguments.verb == "list":
            return _list([one async for one in rejected.all(arguments.vehicle)])
        for one in await _chosen(rejected, arguments):
            if arguments.verb == "show":
                _show(one, decoders)
            elif arguments.verb == "replay":
                print(f"{one.number}: in the queue again at {await rejected.replay(one)}")
            else:
                await rejected.drop(one.number)
                print(f"{one.number}: dropped")
    finally:
        await connection.close()
    return 0


async def _chosen(rejected: NatsRejected, arguments: argparse.Namespace) -> list[Rejected]:
    if bool(arguments.numbers) + bool(arguments.vehicle) + arguments.all != 1:
        raise Unusable(f"rejected {arguments.verb}: give numbers, or --vehicle ID, or --all")
    if not arguments.numbers:
        return [one async for one in rejected.all(arguments.vehicle)]
    found = []
    for text in arguments.numbers:
        one = await rejected.get(int(text)) if text.isdigit() and int(text) > 0 else None
        if one is None:
            raise Unusable(
                f"rejected {arguments.verb}: there is no number {text}; `fleetcast rejected list` shows them"
            )
        found.append(one)
    return found


def _list(found: list[Rejected]) -> int:
    if not found:
        print("nothing is rejected")
        return 0
    if not sys.stdout.isatty():  # for a program: a line each, fields apart by tabs
        for one in found:
            print(one.number, one.vehicle, one.stored_at, len(one.body), one.reason, sep="\t")
        return 0
    table = Table("number", "vehicle", "stored", "bytes", "reason", box=None, pad_edge=False)
    for one in found:
        table.add_row(str(one.number), one.vehicle, one.stored_at, f"{len(one.body):,}", one.reason)
    Console(highlight=False).print(table)
    return 0


def _show(one: Rejected, decoders: decode.Decoders) -> None:
    print(f"number    {one.number}")
    print(f"vehicle   {one.vehicle}")
    print(f"reason    {one.reason}")
    print(f"stored    {one.stored_at}, at position {one.position}; rejected {one.rejected_at}")
    print(f"content   {one.form or 'unknown'}, {one.encoding}, {len(one.body):,} bytes")
    try:
        body = inflate(one.body, one.encoding, _INFLATED)
    except Reject as why:
        print(f"it cannot be inflated ({why}); as it is: {one.body[:200]!r}")
        return
    text = shown(body, one.form, decoders)
    print(text[:_SHOWN])
    if len(text) > _SHOWN:
        print(f"… and {len(text) - _SHOWN:,} characters more")


def shown(body: bytes, form: str, decoders: decode.Decoders) -> str:
    """What a person can read of it: text as it is, else what its decoder makes of it, as JSON; else in hexadecimal."""
    with suppress(UnicodeDecodeError):
        text = body.decode()
        if all(character.isprintable() or character.isspace() for character in text):
            return text
    try:
        packet = decoders.decode(body, form, "identity", _INFLATED)
        said = {name: getattr(packet, name) for name in ("vehicle", "boot", "seq", "sent_at", "signals")}
        return msgspec.json.encode(said | {"samples": packet.samples()}, enc_hook=repr).decode()
    except Exception as why:  # noqa: BLE001 - what is rejected may be anything, and decoders are plugins
        reason = " ".join(str(why).split())
        return f"cannot be shown as JSON ({reason}); in hexadecimal:\n{body.hex(' ', 4)}"

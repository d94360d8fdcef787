"""`fleetcast backup DIR` and `fleetcast restore DIR`: the four streams to a folder, and back."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from fleetcast.jetstream import connect
from fleetcast.nats_backup import Progress, backup, restore
from fleetcast.settings import Settings

_BACKUP = """Writes the queue, the live state, the rejected packets and the registry to a new folder, while everything runs.
Whatever was acknowledged before it began is in it."""
_RESTORE = """Puts a backup back, under a new epoch: every phone gets a reset and a snapshot. What was applied after the
backup is lost, and vehicles do not send it again. Processes may run meanwhile; they wait."""
_SECONDS = 2.0


def add_commands(commands: Any) -> None:
    """Adds both to the parser."""
    one = commands.add_parser("backup", help="write a backup to a new folder", description=_BACKUP)
    one.add_argument("folder", type=Path, metavar="DIR", help="a folder that is not there yet")
    one.set_defaults(run=run_backup)
    one = commands.add_parser("restore", help="put a backup back", description=_RESTORE)
    one.add_argument("folder", type=Path, metavar="DIR", help="what `backup` wrote")
    one.add_argument(
        "--queue",
        choices=("restore", "keep", "empty"),
        default="restore",
        help="the packet stream: restored, REJECTED and the registry with it (lost everything); kept, with these (lost LIVE"
        " alone); or made anew and empty, these kept (lost both, and no packet of the backup is to be applied)",
    )
    one.add_argument("--replace", action="store_true", help="throw away what the streams hold now")
    one.set_defaults(run=run_restore)


async def run_backup(arguments: argparse.Namespace, settings: Settings) -> int:
    """Writes one."""
    began = time.monotonic()
    connection = await connect(settings, "fleetcast-backup")
    try:
        made = await backup(connection, settings, arguments.folder, _progress())
    finally:
        await connection.close()
    packets, _, rejected, registered = (kept.messages for kept in made.streams)
    size = sum(kept.bytes for kept in made.streams)
    print(
        f"{arguments.folder}: {made.vehicles:,} vehicles, {packets:,} packets in the queue, {rejected:,} rejected,"
        f" {registered:,} registered; {size / 1e6:,.1f} MB in {time.monotonic() - began:.1f} s"
    )
    return 0


async def run_restore(arguments: argparse.Namespace, settings: Settings) -> int:
    """Puts one back."""
    began = time.monotonic()
    connection = await connect(settings, "fleetcast-restore")
    try:
        epoch = await restore(
            connection,
            settings,
            arguments.folder,
            queue=arguments.queue,
            replace=arguments.replace,
            progress=_progress(),
        )
    finally:
        await connection.close()
    print(f"{arguments.folder}: restored in {time.monotonic() - began:.1f} s; the epoch is {epoch}")
    return 0


def _progress() -> Progress:
    """A line every two seconds, on standard error."""
    said = time.monotonic()

    def progress(stream: str, size: int) -> None:
        nonlocal said
        if time.monotonic() - said >= _SECONDS:
            said = time.monotonic()
            print(f"{stream}: {size / 1e6:,.1f} MB", file=sys.stderr)

    return progress

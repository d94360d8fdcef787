"""`fleetcast provision`: makes the streams, and says that MQTT may be listened for."""

from __future__ import annotations

import argparse
from typing import Any

from fleetcast.jetstream import connect, provisioned, takes_packets
from fleetcast.settings import Settings
from fleetcast.wiring import configure_logging

_TEXT = """Makes the streams that are missing, and ends. Needed only where nats-server is not started by `up`, before its mqtt
block is switched on: the first MQTT client would make the packet stream itself, which acknowledges what it loses."""


def add_commands(commands: Any) -> None:
    """Adds it to the parser."""
    sub = commands.add_parser(
        "provision", help="make the streams, before MQTT is listened for", description=_TEXT
    )
    sub.set_defaults(run=run)


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Waits for nats-server as long as it takes."""
    configure_logging(settings, "provision")
    connection = await connect(settings, "fleetcast-provision")
    try:
        await provisioned(connection, settings)
        await takes_packets(connection, settings)
    finally:
        await connection.close()
    print("the streams are as they must be: nats-server may listen for MQTT now")
    return 0

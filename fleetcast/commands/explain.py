"""`fleetcast explain VEHICLE`: the last packet's way, hop by hop, counters, and why the vehicle's data is as old as it is."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import Any

from fleetcast import nats_explain
from fleetcast.clock import SystemClock
from fleetcast.errors import Unusable
from fleetcast.explain import Known, counted, hops, sentence
from fleetcast.jetstream import connect
from fleetcast.nats_live import NatsLive
from fleetcast.nats_rejected import NatsRejected
from fleetcast.settings import Settings
from fleetcast.subjects import is_vehicle


def add_commands(commands: Any) -> None:
    """Adds it to the parser."""
    text = "the last packet's way, hop by hop, and why the data is as old as it is"
    sub = commands.add_parser("explain", help=text, description=text.capitalize() + ".")
    sub.add_argument("vehicle", metavar="VEHICLE")
    sub.set_defaults(run=run)


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Asks the queue, the live state and the consume processes."""
    vehicle = arguments.vehicle
    if not is_vehicle(vehicle):
        raise Unusable("explain: a vehicle id is 1 to 64 of A-Z a-z 0-9 - _")
    connection = await connect(settings, "fleetcast-explain")
    try:
        waiting = await nats_explain.waiting(connection, vehicle, settings.partitions)
        state = (await NatsLive(connection, settings).latest(vehicle)).state
        told = await nats_explain.ask(connection, vehicle)  # after the state, so that it is not older
        kept = await nats_explain.rejected(connection, vehicle, settings.partitions)
        newest = [one async for one in NatsRejected(connection).all(vehicle)][-1:]
    finally:
        await connection.close()
    rejected = newest[0].reason if newest and newest[0].stored_at > state.updated_at else ""
    trace = told.trace
    known = Known(SystemClock().now(), state, waiting, rejected, trace, told.tally, told.since, kept)
    if state.version:
        packet, version = f"{state.boot}/{state.seq}", state.version
        if trace is not None and trace.version > version:
            packet, version = trace.packet, trace.version
        print(f"{vehicle}, packet {packet}, version {version}")
    for hop, time, remark in hops(known):
        print(f"  {hop:<10} {time}  {remark}")
    print(f"  {'packets':<10} {counted(known)}")
    updated = datetime.fromisoformat(state.updated_at).timestamp() if state.version else None
    print(sentence(known, updated))
    return 0

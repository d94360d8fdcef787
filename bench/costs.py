"""Writes `fleetcast/costs.json`, what `fleetcast plan` reckons with, from the answers of steps, load, streams and doors."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bench.question import Answer, Cell, Table
from fleetcast.plan import Costs, Fleet, Line, plan

COSTS = Path(__file__).parents[1] / "fleetcast" / "costs.json"


def costs(answers: Mapping[str, Answer], machine: str) -> Costs:
    """KeyError if one of the questions was not answered, or no rate held."""
    load, steps, streams, doors = (answers[name].figures for name in ("load", "steps", "streams", "doors"))
    small, large = load["wire_1kb"], load["wire_500kb"]

    def line(at_small: float, at_large: float) -> Line:
        each_mb = max(0.0, (at_large - at_small) / (large - small) * 1e6)
        return Line(at_small - each_mb * small / 1e6, each_mb)

    return Costs(
        machine=machine,
        measured=time.strftime("%Y-%m-%d", time.gmtime()),
        ingest=line(load["ingest_1kb_ms"], load["ingest_500kb_ms"]),
        consume=line(load["consume_1kb_ms"], load["consume_500kb_ms"]),
        nats=line(load["nats-server_1kb_ms"], load["nats-server_500kb_ms"]),
        deliver_edge=load["edge_update_ms"],
        deliver_front=load["haproxy_update_ms"],
        open_edge=load["edge_open_ms"],
        open_origin=load["origin_open_ms"],
        open_nats=load["nats-server_open_ms"],
        open_front=load["haproxy_open_ms"],
        stream_edge=streams["kb_a_stream"],
        stream_front=load["haproxy_stream_kb"],
        state_memory=load["state_memory_kb"],
        state_disk=load["state_disk_kb"],
        update_disk=load["update_disk_kb"],
        queue_limit=line(1e3 / steps["bare_1000"], 1e3 / steps["bare_500000"]),
        update_bytes=load["update_bytes"],
        connection=[
            (0.0, doors["mqtt_idle_kb"]),
            (large, doors["mqtt_500000_kept_kb"]),
            (1e6, doors["mqtt_1000000_kept_kb"]),
        ],
    )


def compared(found: Costs, load: Mapping[str, float]) -> Answer:
    """What the plan says of the loads that were measured, beside what was: the one that the costs are from, and another."""
    rows: list[tuple[Cell, ...]] = []
    for name in ("", "other_"):
        if f"{name}packets_s" not in load:
            continue
        packets = load[f"{name}packets_s"]
        fleet = Fleet(
            registered=int(load["states"]),
            streaming=max(1, round(60 * packets)),
            per_minute=1,
            size=round(load["wire_500kb"]),
            phones=0,
            opens=0,
        )
        seen = load[f"{name}seen_s"] * (found.deliver_edge + found.deliver_front) / 1e3
        planned, measured = plan(fleet, found).busy + seen, load[f"{name}busy_cores"]
        rows.append((f"{packets:.0f} packets/s of 500 kB", planned, measured, planned / measured))
    note = "Without what simulates the fleet. The costs are from the first row, and not from the second."
    title = "`fleetcast plan` beside the measurement"
    return Answer([Table(title, ("load", "cores planned", "cores measured", "ratio"), rows, note)])


def write(found: Costs) -> None:
    """Into the package."""
    COSTS.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")

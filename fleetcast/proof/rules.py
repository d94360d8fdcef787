"""The business logic of a proof: a chain over all packets of a vehicle; one missing, repeated or out of order shows in it.

`enrich` is deployed at first, `later` is added to it in the middle of a run. The oracle has both in code of its own.
"""

from __future__ import annotations

from zlib import crc32

from fleetcast.packet import Packet
from fleetcast.state import State


def enrich(state: State, packet: Packet) -> State:
    """`Proof.Chain`: a checksum over itself before and this packet's name; `Proof.Count`: of packets. Raises for poison."""
    if "Proof.Poison" in packet.signals:
        raise ValueError("poison")
    known = state.recall("proof")
    name = packet.signals["Proof.Packet"].value
    chain = crc32(f"{known.get('chain', 0)} {name}".encode())
    count = known.get("count", 0) + 1
    return state.remember("proof", {"chain": chain, "count": count}).with_signals(
        {"Proof.Chain": chain, "Proof.Count": count}, packet.sent_at
    )


def later(state: State, packet: Packet) -> State:
    """`Proof.Rules`: that the second deploy has happened."""
    return state.with_signals({"Proof.Rules": 2}, packet.sent_at)

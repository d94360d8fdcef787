"""Deploys as faults: each process of a running platform replaced, added and removed, and new enrichers, under traffic.

They are done as `fleetcast roll` and `fleetcast scale` do them. `KEEPS` must close no stream. `MOVES` are the edges' own, which
move streams; a phone that is moved comes back with its id.
"""

from __future__ import annotations

import random
from functools import partial

from fleetcast.proof.faults import Fault
from fleetcast.proof.world import RULES, World


async def _roll(world: World, dice: random.Random, what: str) -> bool:
    await world.platform.roll(what, _quiet)
    return True


async def _deploy(world: World, dice: random.Random) -> bool:
    world.oracle.stage = "during"
    await world.platform.roll("consume", _quiet, enrichers=(f"{RULES}:enrich", f"{RULES}:later"))
    world.oracle.stage = "after"
    return True


async def _add(world: World, dice: random.Random, role: str) -> bool:
    await world.platform.add(role, _quiet)
    return True


async def _remove(world: World, dice: random.Random, role: str) -> bool:
    """Any one of them: the others must do."""
    await world.platform.remove(dice.choice(world.platform.layout.named(role)), _quiet)
    return True


def _quiet(line: str) -> None:
    """What a deploy says is for whoever does it."""


DEPLOY = Fault("new enrichers deployed", _deploy, ("consume",))
KEEPS: tuple[Fault, ...] = (
    *(
        Fault(f"{role} rolled", partial(_roll, what=role), (role,))
        for role in ("ingest", "consume", "origin")
    ),
    *(
        fault
        for role in ("consume", "origin")
        for fault in (
            Fault(f"{role} added", partial(_add, role=role)),
            Fault(f"{role} removed", partial(_remove, role=role), (role,)),
        )
    ),
    Fault("an edge added", partial(_add, role="edge"), ("consume",)),  # which learns of it so
)
MOVES: tuple[Fault, ...] = (
    Fault("an edge removed", partial(_remove, role="edge"), ("consume", "edge"), closes=True),
    Fault("edges rolled", partial(_roll, what="edge"), ("edge",), closes=True),
)

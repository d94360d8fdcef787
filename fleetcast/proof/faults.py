"""What goes wrong, one at a time: each fault is done to a world, and is over when its function returns.

A fault returns whether it happened: a trap that nobody met within its bound did not. `schedule` is which come in which order,
from a seed.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec

from fleetcast.errors import FleetcastError, Unusable
from fleetcast.proof.packets import BOOT_AFTER, is_poison
from fleetcast.proof.world import World

Run = Callable[[World, random.Random], Awaitable[bool]]

STALL = 14.0
"""Seconds that a consume process stands still for its partitions to move: more than its silence and its pins may last."""

_AGAIN, _AGAIN_CARS = 5, 10


class Fault(msgspec.Struct, frozen=True):
    """Its name in the table, and what it does."""

    name: str
    run: Run
    ends: tuple[str, ...] = ()
    """The roles whose processes may end by it. If another's does, a promise is broken."""
    closes: bool = False
    """Whether it may close streams."""


def kinds(only: Sequence[str] = ()) -> list[Fault]:
    """All, or those with one of these in their names."""
    return [fault for fault in ALL if not only or any(part in fault.name for part in only)]


def schedule(seed: int, count: int, only: Sequence[str] = ()) -> list[Fault]:
    """So many faults, each kind as often as the others. The same seed gives the same."""
    dice = random.Random(f"{seed}/schedule")
    among, chosen = kinds(only), list[Fault]()
    while len(chosen) < count and among:
        chosen += dice.sample(among, len(among))
    return chosen[:count]


def _one(world: World, dice: random.Random, role: str) -> str:
    """A process of this role."""
    return dice.choice([name for name in world.platform.supervisor.names if name.startswith(role)])


async def _kill(world: World, dice: random.Random, role: str) -> bool:
    await world.kill(_one(world, dice, role))
    return True


async def kill_named(world: World, dice: random.Random, name: str) -> bool:
    """kill -9 of this process."""
    await world.kill(name)
    return True


async def _hold(world: World, dice: random.Random, role: str, low: float, high: float) -> bool:
    await world.hold(_one(world, dice, role), dice.uniform(low, high))
    return True


async def _kill_child(world: World, dice: random.Random, program: str) -> bool:
    """Pushpin ends as a whole when one of its processes does, and is started again."""
    name = _one(world, dice, "edge")
    pid, child = await world.running(name), world.child(name, program)
    if child is None:
        return False
    world.kill_pid(child)
    await world.until(lambda: world.pid(name) not in (None, pid), f"{name} ends with its {program}")
    return True


async def _trap(world: World, dice: random.Random, role: str, at: str, when: str, do: str) -> bool:
    name = _one(world, dice, role)
    if do == "lose":
        with suppress(OSError):
            await world.trap(name, {"at": at, "when": when, "do": do})
            await asyncio.sleep(1)
            return True
        return False
    met = await world.sprung(name, {"at": at, "when": when, "do": do})
    if met and do == "stop":
        await asyncio.sleep(STALL)
        await world.wake(name)
    return met


async def _killed_in_a_full_batch(world: World, dice: random.Random) -> bool:
    """Stopped until packets wait, it gets a batch with poison and what comes behind it; and it is killed before it rejects."""
    name = _one(world, dice, "consume")
    pid = await world.running(name)
    with suppress(OSError):
        await world.trap(name, {"at": "reject", "when": "before", "do": "kill"})
    await world.hold(name, dice.uniform(2, 3))
    with suppress(FleetcastError):
        await world.until(lambda: world.pid(name) != pid, f"{name} meets a trap", 15)
        return True
    with suppress(OSError):
        await world.trap(name, {"at": ""})
    return False


async def _wire(world: World, dice: random.Random, name: str, how: str) -> bool:
    wire = world.wires[_wire_name(world, dice, name)]
    if how == "cut":
        wire.cut()
    elif how == "hung":
        wire.hang()
    else:
        wire.slow = 20_000
    await asyncio.sleep(dice.uniform(1, 4))
    wire.open()
    return True


def _wire_name(world: World, dice: random.Random, name: str) -> str:
    return dice.choice([known for known in world.wires if known.startswith(name)])


async def _clock(world: World, dice: random.Random, role: str) -> bool:
    name = _one(world, dice, role)
    with suppress(OSError):
        await world.trap(name, {"clock": dice.choice((-86_400, -3600, 3600, 86_400))})
        await asyncio.sleep(dice.uniform(1, 3))
        await world.trap(name, {"clock": 0})
        return True
    return False


async def drop(world: World, dice: random.Random) -> bool:
    """Every phone's connection ends at once, and they all come back."""
    world.phones.tell({"drop": True})
    await asyncio.sleep(0.2)
    return True


async def _anew(world: World, dice: random.Random) -> bool:
    """Every phone comes back without its last event id, while packets come."""
    world.phones.tell({"anew": True})
    await asyncio.sleep(0.2)
    return True


async def _away(world: World, dice: random.Random) -> bool:
    """Phones come back when what they missed is kept no more; true if they were told so."""
    before, seconds = world.oracle.resets, world.size.window + 3
    world.phones.tell({"away": seconds})
    await asyncio.sleep(seconds)
    with suppress(FleetcastError):
        await world.until(lambda: world.oracle.resets > before, "phones get a reset", 10)
    return world.oracle.resets > before


async def _again(world: World, dice: random.Random) -> bool:
    """Packets that were acknowledged come once more, as by MQTT, or later than the queue knows their ids.

    None that was rejected: it is in no state that would know it, and applied as any late packet is, by which no rule runs.
    """
    for vehicle in dice.sample(world.vehicles, min(_AGAIN_CARS, len(world.vehicles))):
        upto = world.oracle.sent(vehicle)
        for n in range(max(upto - _AGAIN, upto - upto % BOOT_AFTER), upto):
            if not is_poison(n):
                await world.put_again(vehicle, n)
    return True


async def _in_silence(world: World, dice: random.Random) -> bool:
    """A consume process dies while no car sends. All the same each is said to be silent, and everybody is told."""
    await world.pause()
    await world.kill(_one(world, dice, "consume"))
    await world.silent()
    world.resume()
    return True


async def fill_disk(world: World, dice: random.Random, folder: Path) -> bool:
    """Takes all that is free for some seconds; true if ingest noticed."""
    ballast = folder / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1_000_000))
    before = world.retries
    with suppress(FleetcastError):
        await world.until(lambda: world.retries > before, "ingest refuses", 20)
    await asyncio.sleep(dice.uniform(2, 5))
    await asyncio.to_thread(ballast.unlink)
    return world.retries > before


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk in memory of so many bytes. Raises Unusable without root."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "fleetcast-proof", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unusable(f"prove: the act `disk` needs root, to mount a small tmpfs: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


_HOLDS = ("edge", "haproxy")  # without them there is no stream

ALL: tuple[Fault, ...] = (
    *(
        Fault(f"{role} killed", partial(_kill, role=role), (role,), role in _HOLDS)
        for role in ("nats-server", "consume", "ingest", "origin", *_HOLDS)
    ),
    *(
        Fault(f"{program} killed", partial(_kill_child, program=program), ("edge",), closes=True)
        for program in ("condure", "zurl", "handler")
    ),
    *(
        Fault(f"{role} stopped for seconds", partial(_hold, role=role, low=1, high=5))
        for role in ("nats-server", "consume", "ingest", "origin")
    ),
    *(
        Fault(f"{role} stopped for seconds", partial(_hold, role=role, low=1, high=5), closes=True)
        for role in _HOLDS
    ),
    Fault(
        "consume stalled until its partitions moved",
        partial(_hold, role="consume", low=STALL, high=STALL + 2),
    ),
    *(
        Fault(
            f"consume killed {when} {at}",
            partial(_trap, role="consume", at=at, when=when, do="kill"),
            ("consume",),
        )
        for at in ("commit", "publish", "ack")
        for when in ("before", "after")
    ),
    Fault(
        "consume killed after reject",
        partial(_trap, role="consume", at="reject", when="after", do="kill"),
        ("consume",),
    ),
    Fault("consume killed before reject, packets behind it", _killed_in_a_full_batch, ("consume",)),
    *(
        Fault(
            f"consume stalled {when} commit, woken after its partitions moved",
            partial(_trap, role="consume", at="commit", when=when, do="stop"),
        )
        for when in ("before", "after")
    ),
    Fault("a commit's reply lost", partial(_trap, role="consume", at="commit", when="after", do="lose")),
    Fault(
        "ingest killed between store and 202",
        partial(_trap, role="ingest", at="put", when="after", do="kill"),
        ("ingest",),
    ),
    Fault("a store's reply lost", partial(_trap, role="ingest", at="put", when="after", do="lose")),
    *(
        # By WebSocket an app asks origins for what it missed, and a request that is cut ends its socket.
        Fault(f"{text} {how}", partial(_wire, name=name, how=how), closes=name == "origins")
        for name, text in (
            ("queue", "ingest to queue"),
            ("edge", "consume to edge"),
            ("origins", "edge to origin"),
        )
        for how in ("cut", "hung", "slow")
    ),
    *(
        Fault(f"clock of {role} jumps", partial(_clock, role=role))
        for role in ("consume", "origin", "ingest")
    ),
    Fault("consume killed while all cars are silent", _in_silence, ("consume",)),
    Fault("all phones come back at once", drop),
    Fault("all phones begin anew", _anew),
    Fault("phones away for longer than the window", _away),
    Fault("packets sent again that the queue does not know", _again),
)

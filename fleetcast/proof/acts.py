"""The acts of a proof: which faults, on which platform, for how long. Each gives its rows; `ACTS` has them all by name."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from fleetcast.errors import FleetcastError
from fleetcast.nats_backup import Queue
from fleetcast.proof import power as power_cuts
from fleetcast.proof.deploys import DEPLOY, KEEPS, MOVES
from fleetcast.proof.faults import Fault, drop, fill_disk, kill_named, kinds, schedule, small_disk
from fleetcast.proof.phones import STREAMS
from fleetcast.proof.ports import short_folder
from fleetcast.proof.rows import BREACHES, Row
from fleetcast.proof.world import HEAL_BOUND, Size, World

Say = Callable[[str], None]
_CALM = (0.2, 1.0)
_LONG = 5.0
_AWAY = 12.0
_DISK = 200_000_000
_FEW = 3  # vehicles of one that follows many, where there are a thousand phones
_RATE = 40.0  # packets a second of a crowd: little, so that the machine has something left to heal with
_CROWD = Size(cars=100, phones=1000, rate=_RATE, window=60.0, moods="steady", many=_FEW)
_TOO_MUCH, _TOO_LONG = 10, 30.0  # times that rate, and for how many seconds
_WATCHED = 4.0  # seconds at rest in which it is seen how busy the machine is


class Wish(msgspec.Struct, frozen=True):
    """What somebody wants proved: `count` and `only` are the act `faults`'s; it and `restores` end at the `first` breach."""

    seed: int
    size: Size
    say: Say
    count: int = 40
    only: tuple[str, ...] = ()
    first: bool = False


class Act(msgspec.Struct, frozen=True):
    """What it does, in a line, and how."""

    text: str
    run: Callable[[Wish], Awaitable[list[Row]]]


def fault_names(only: Sequence[str] = ()) -> list[str]:
    """Of the act `faults`."""
    return [fault.name for fault in kinds(only)]


async def faults(wish: Wish) -> list[Row]:
    """Faults from the schedule; new enrichers are deployed half way, unless only some faults are wanted."""
    with short_folder() as folder:
        async with World(folder, wish.seed, wish.size, wish.say) as world:
            world.ends_at_first = wish.first
            await asyncio.sleep(1)
            planned = schedule(wish.seed, wish.count, wish.only)
            if not wish.only:
                planned.insert(len(planned) // 2, DEPLOY)
            for number, fault in enumerate(planned):
                dice = random.Random(f"{wish.seed}/{number}")
                await one(world, fault, dice, f"{number + 1}/{len(planned)}")
                if world.over:
                    return finished(world)
            await world.settle()
            return finished(world)


async def crowd(wish: Wish) -> list[Row]:
    """A thousand phones and more, all of which want to stay. No connection is to be cut, so none goes by a wire of ours, which
    would take time of what heals.
    """
    dice = random.Random(f"{wish.seed}/crowd")
    who = "an edge killed that holds half of 1,000 phones"
    halves = [
        Fault(who, partial(kill_named, name=name), ("edge",), closes=True) for name in ("edge-0", "edge-1")
    ]
    rows = await _in_a_crowd(wish, _CROWD, halves, dice)
    # Twelve packets a minute of each car: at sixty the events alone take all of two cores.
    size = msgspec.structs.replace(_CROWD, phones=3000, rate=20.0)
    streams = Fault("3,000 streams come back at once", drop)
    rows += await _in_a_crowd(wish, msgspec.structs.replace(size, by=STREAMS), [streams] * 2, dice)
    # An app gives a WebSocket up whose resume is not answered in time, as it may not be meanwhile.
    everybody = Fault("3,000 phones, by every transport, come back at once", drop, closes=True)
    return rows + await _in_a_crowd(wish, size, [everybody] * 2, dice)


async def _in_a_crowd(wish: Wish, size: Size, planned: Sequence[Fault], dice: random.Random) -> list[Row]:
    """These, one after the other, once all phones are connected, and it is seen how busy the machine is with that alone:
    what heals must be done by the rest of it.
    """
    with short_folder() as folder:
        async with World(folder, wish.seed, size, wish.say, wired=False) as world:
            await world.until(lambda: world.connected == size.phones, "all phones are connected", 90)
            before = _processors()
            await asyncio.sleep(_WATCHED)
            busy, whole = (after - was for after, was in zip(_processors(), before, strict=True))
            said = f"{busy / whole:.0%} of the machine's processors was taken at rest"
            world.oracle.row.notes.append(said)
            world.say(f"         {said}")
            for fault in planned:
                await one(world, fault, dice)
            await world.settle()
            return finished(world)


def _processors() -> tuple[int, int]:
    """(busy, all) so far, in the kernel's ticks, of all processors together."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]  # waiting for a disk is idle, too
    return sum(ticks) - idle, sum(ticks)


async def disk(wish: Wish) -> list[Row]:
    """The disk of nats-server full, and free again."""
    dice = random.Random(f"{wish.seed}/disk")
    with short_folder() as folder, small_disk(folder / "disk", _DISK) as small:
        async with World(small, wish.seed, wish.size, wish.say) as world:
            await asyncio.sleep(1)
            # nats-server is started again once there is room: it would not write to a stream that failed.
            full = Fault("disk full", partial(fill_disk, folder=small), ("nats-server",))
            for _ in range(3):
                await one(world, full, dice)
            await world.settle()
            return finished(world)


async def nodes(wish: Wish) -> list[Row]:
    """Three nats-servers, each fault of theirs once."""
    from fleetcast.proof.nodes import prove  # it is built on what is here

    return await prove(wish.seed, 1, wish.say, wish.size)


async def overload(wish: Wish) -> list[Row]:
    """More than the machine can do, and a thousand phones that come back meanwhile; then as much as before."""
    dice = random.Random(f"{wish.seed}/overload")
    more = Fault("ten times the packets for 30 s, as all phones come back", _too_much, closes=True)
    return await _in_a_crowd(wish, _CROWD, [more] * 2, dice)


async def _too_much(world: World, dice: random.Random) -> bool:
    world.cars.tell({"rate": _TOO_MUCH * world.size.rate})
    await drop(world, dice)
    await asyncio.sleep(_TOO_LONG)
    world.resume()
    return True


async def power(wish: Wish) -> list[Row]:
    """nats-server's machine without power under load, twenty times; and a control that must lose something."""
    return await power_cuts.prove(wish.seed, 20, wish.say)


async def deploys(wish: Wish) -> list[Row]:
    """All that can be rolled, added and removed, twice, with a thousand phones that want to stay."""
    dice = random.Random(f"{wish.seed}/deploys")
    return await _in_a_crowd(wish, _CROWD, [*KEEPS, DEPLOY, *MOVES, *KEEPS, *MOVES], dice)


async def restores(wish: Wish) -> list[Row]:
    """LIVE from a backup and the packet stream recreated, both ways, under a running platform."""
    dice = random.Random(f"{wish.seed}/restores")
    with short_folder() as folder:
        async with World(folder, wish.seed, wish.size, wish.say) as world:
            world.ends_at_first = wish.first
            await asyncio.sleep(3)
            ways: tuple[Queue, ...] = ("restore", "empty")
            for queue in ways:
                await world.rest()
                await world.backup(folder / f"backup-{queue}")
                # Back when the restored state is past what they have: that it is another is told by the epoch alone.
                world.phones.tell({"away": _AWAY})
                world.resume()
                await asyncio.sleep(dice.uniform(3, 6))
                name = f"LIVE from a backup, the packet stream {'too' if queue == 'restore' else 'made anew'}"
                again = partial(_restored, folder=folder / f"backup-{queue}", queue=queue)
                await one(world, Fault(name, again), dice)
                world.oracle.row.notes.append(
                    f"{world.oracle.restored} phones were told by a reset that is true"
                )
                if world.over:
                    return finished(world)
            await world.settle()
            return finished(world)


async def _restored(world: World, dice: random.Random, folder: Path, queue: Queue) -> bool:
    await world.rest()
    await world.restore(folder, queue)
    world.resume()
    return True


async def one(world: World, fault: Fault, dice: random.Random, number: str = "") -> None:
    """A fault, and its healing."""
    row = world.oracle.turn(fault.name)
    noted = len(row.notes)
    closed, before, processes = world.closed, world.closings, world.pids()
    try:
        happened = await fault.run(world, dice)
    except FleetcastError as why:
        row.notes.append(f"could not be done: {why}")
        happened = False
    ended = time.monotonic()
    row.times += happened
    healed = await world.heal(ended)
    if healed is None:
        world.unhealed(HEAL_BOUND)
    else:
        row.worst_heal = max(healed, row.worst_heal or 0.0)
        if healed > _LONG:
            row.notes.append(f"level after {healed:.1f} s; at last {world.laggards}")
    died = [name for name, pid in processes.items() if world.pid(name) != pid]
    if died := [name for name in died if not name.startswith(fault.ends)]:
        row.died += len(died)
        row.notes.append(f"ended, though nothing ended them: {', '.join(died)}")
    if not fault.closes and world.closed > closed:
        row.cut += world.closed - closed
        of = {by: count - before.get(by, 0) for by, count in world.closings.items()}
        named = ", ".join(f"{count} by {by}" for by, count in sorted(of.items()) if count)
        row.notes.append(f"{world.closed - closed} streams were closed: {named}")
    said = "not met" if not happened else "not healed" if healed is None else f"healed in {healed:.1f} s"
    world.say(f"{number:>7}  {fault.name}: {said}; {status(world)}")
    for note in row.notes[noted:]:  # now, as whoever ends it early sees no table
        world.say(f"         {note}")
    await asyncio.sleep(dice.uniform(*_CALM))


def status(world: World) -> str:
    """How far it is, on one line."""
    rows = world.oracle.rows.values()
    bad = ", ".join(
        f"{name.replace('_', ' ')} {count}"
        for name in BREACHES
        if (count := sum(getattr(row, name) for row in rows))
    )
    return (
        f"{sum(row.acked for row in rows):,} acked, {sum(row.events for row in rows):,} events, "
        f"{world.connected} phones, {world.closed:,} streams cut, {world.oracle.resets} resets{bad and '; ' + bad.upper()}"
    )


def finished(world: World) -> list[Row]:
    """The rows, with a word on resets."""
    rows = list(world.oracle.rows.values())
    returns, resets = world.oracle.returns, world.oracle.resets
    share = resets / returns if returns else 0.0
    told = f"{world.oracle.statuses:,} changes of status"
    rows[-1].notes.append(
        f"{returns:,} returns of phones, {resets} answered by a reset ({share:.2%}); {told}"
    )
    return rows


ACTS = {
    "crowd": Act(
        "an edge killed that holds half of 1,000 phones; 3,000 that come back at once, by streams, by every transport",
        crowd,
    ),
    "deploys": Act(
        "each role rolled, added, removed, and new enrichers, under 1,000 phones: no stream is closed",
        deploys,
    ),
    "disk": Act("nats-server's disk full, and free again (needs root: a small tmpfs)", disk),
    "faults": Act(
        "one fault after the other from the seeded schedule, each until all are level again", faults
    ),
    "nodes": Act(
        "three nats-servers, replicas = 3: killed, stopped, cut off, wiped (needs root: network namespaces)",
        nodes,
    ),
    "overload": Act(
        "more packets than the machine can take, as 1,000 phones come back; it must heal once there are fewer",
        overload,
    ),
    "power": Act(
        "the power of nats-server's machine cut under load (needs a virtual machine: `make setup-prove`)",
        power,
    ),
    "restores": Act("LIVE restored from a backup, the packet stream recreated; true resets", restores),
}

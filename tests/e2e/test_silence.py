"""A vehicle that nobody watches costs the edge nothing: read off the socket between consume and each edge replica."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fleetcast.signals import TYRES_LOW
from tests.e2e.outside import Site, data, site
from tests.e2e.zmtp import Wire, wired
from tests.servers import until


@pytest.fixture(scope="module")
async def here() -> AsyncIterator[Site]:
    async with site(consumers=1, origins=1) as running:
        yield running


@pytest.fixture(scope="module")
async def wires(here: Site) -> AsyncIterator[list[Wire]]:
    async with wired(here) as made:
        yield made


async def handled(here: Site, updates: float) -> tuple[float, float]:
    """(published, skipped), once so many updates in all were either."""

    async def counted() -> tuple[float, float] | None:
        published, skipped = await here.counts("published"), await here.counts("skipped")
        return (published, skipped) if published + skipped >= updates else None

    counts: tuple[float, float] = await until(counted, f"{updates:.0f} updates published or skipped")
    assert sum(counts) == updates
    return counts


async def test_an_unwatched_vehicle_causes_no_bytes_to_any_edge(here: Site, wires: list[Wire]) -> None:
    for number in range(1, 31):
        await here.send("unwatched", number)
    assert await handled(here, 30) == (0, 30)
    # Replicas answer a heartbeat that was sent after all that: so nothing else can be on its way.
    seen = [wire.heartbeats for wire in wires]
    await until(lambda: all(wire.heartbeats > old + 1 for wire, old in zip(wires, seen, strict=True)))
    assert [wire.messages for wire in wires] == [[], []]
    assert {name for wire in wires for name in wire.commands} <= {b"READY", b"PING", b"PONG"}
    for name in ("published_items", "published_bytes", "publish_failed"):
        assert await here.counts(name) == 0


async def test_a_watched_vehicle_goes_to_the_replica_that_listens_and_no_other(
    here: Site, wires: list[Wire]
) -> None:
    before = [len(wire.messages) for wire in wires]
    published, skipped = await here.counts("published"), await here.counts("skipped")
    items, size = await here.counts("published_items"), await here.counts("published_bytes")
    async with here.phone("watched") as phone:
        await phone.snapshot()
        on = (await here.sessions()).index(1)
        for number in range(1, 6):
            await here.send("watched", number)
            await here.send("watched0", number)  # its channel's name begins alike
        assert await phone.versions(5) == [1, 2, 3, 4, 5]
        assert await handled(here, published + skipped + 10) == (published + 5, skipped + 5)
    sent = wires[on].messages[before[on] :]
    assert [frames[0] for frames in sent] == [b"v/watched/all/"] * 5
    assert len(wires[1 - on].messages) == before[1 - on]
    assert await here.counts("published_items") == items + 5
    assert await here.counts("published_bytes") == size + sum(
        len(frame) for frames in sent for frame in frames
    )


async def test_a_vehicle_whose_last_phone_left_falls_silent(here: Site, wires: list[Wire]) -> None:
    async with here.phone("left") as phone:
        await phone.snapshot()
        await here.send("left", 1)
        assert await phone.versions(1) == [1]
    number = 1

    async def one_more_is_skipped() -> bool:
        nonlocal number
        number += 1
        published, skipped = await here.counts("published"), await here.counts("skipped")
        await here.send("left", number)
        return (await handled(here, published + skipped + 1))[1] > skipped

    await until(one_more_is_skipped, "nobody listens to it any more")
    before = [len(wire.messages) for wire in wires]
    assert await one_more_is_skipped()
    assert [len(wire.messages) for wire in wires] == before


async def test_a_phone_of_a_view_causes_no_bytes_while_other_signals_change(
    here: Site, wires: list[Wire]
) -> None:
    tyre = "Vehicle.Chassis.Axle.Row1.Wheel.Left.Tire.Pressure"
    await here.send("viewed", 1, {"Vehicle.Speed": 1, tyre: 230})
    await here.reaches("viewed", 1)
    async with here.phone("viewed", view="tyres") as phone:
        shown = await phone.snapshot()
        assert shown["version"] == 1
        assert all(".Tire." in path or path == TYRES_LOW for path in shown["signals"])
        published, skipped = await here.counts("published"), await here.counts("skipped")
        before = [len(wire.messages) for wire in wires]
        for number in range(2, 22):
            await here.send("viewed", number, {"Vehicle.Speed": number})
        assert await handled(here, published + skipped + 20) == (published, skipped + 20)
        seen = [wire.heartbeats for wire in wires]
        await until(lambda: all(wire.heartbeats > old + 1 for wire, old in zip(wires, seen, strict=True)))
        assert [len(wire.messages) for wire in wires] == before
        await here.send("viewed", 22, {"Vehicle.Speed": 22, tyre: 180})
        (event,) = await phone.take()
        assert (event.event, data(event)["prev"], data(event)["version"]) == ("update", 1, 22)
        assert data(event)["signals"][tyre]["value"] == 180
        assert phone.untaken == []
        sent = [frames for wire, old in zip(wires, before, strict=True) for frames in wire.messages[old:]]
        assert [frames[0] for frames in sent] == [b"v/viewed/tyres/"]
        assert b"Speed" not in sent[0][1]

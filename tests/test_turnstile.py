from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import pytest

from fleetcast.errors import Recover, Unavailable
from fleetcast.known import HOLDS, Known
from fleetcast.queue import Delivery, Stored
from fleetcast.registry import Vehicle
from fleetcast.turnstile import Turnstile
from tests.servers import until
from tests.test_access import Hand
from tests.test_known import Memory


class Waiting:
    """A queue in memory: batches to be pulled, and what became of them."""

    def __init__(self, *batches: Sequence[Delivery]) -> None:
        self.batches = list(batches)
        self.acked: list[int] = []
        self.rejected: list[tuple[int, str]] = []
        self.full = False
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def put(self, vehicle: str, packet_id: str, body: bytes, form: str, encoding: str) -> Stored:
        raise AssertionError("nobody asks for this")

    async def pull(self, most: int) -> Sequence[Delivery]:
        return self.batches.pop(0)

    def handed(self) -> Mapping[int, float]:
        return {1: 7.0}

    async def newest(self, vehicle: str) -> tuple[str, int] | None:
        return (vehicle, 3)

    async def ack(self, deliveries: Iterable[Delivery]) -> None:
        self.acked += [one.position for one in deliveries]

    async def reject(self, delivery: Delivery, reason: str) -> None:
        await self.goes_on.wait()
        if self.full:
            raise Unavailable("REJECTED is full")
        self.rejected.append((delivery.position, reason))

    async def reset(self, partitions: Iterable[int]) -> None:
        raise AssertionError("nobody asks for this")


def delivery(position: int, vehicle: str = "off", form: str = "", partition: int = 1) -> Delivery:
    return Delivery(vehicle, partition, "i", position, 0.0, form, "identity", b"", "")


class Ground:
    def __init__(self, *batches: Sequence[Delivery], refuse_unknown: bool = False) -> None:
        self.queue, self.clock, self.registry = Waiting(*batches), Hand(), Memory()
        self.registry.vehicles = {"on": Vehicle("on"), "off": Vehicle("off", enabled=False)}
        self.told: list[str] = []
        known = Known(self.registry, self.clock, refuse_unknown=refuse_unknown)
        self.turnstile = Turnstile(self.queue, known, self.clock, self.told.append)

    async def pulled(self) -> list[int]:
        return [one.position for one in await self.turnstile.pull(10)]


async def test_what_a_disabled_vehicle_sent_by_mqtt_is_rejected_and_acked_and_the_rest_comes_in_order() -> (
    None
):
    ground = Ground(
        [delivery(1, "on"), delivery(2), delivery(3, "new"), delivery(4), delivery(5, "on", "json")]
    )
    assert await ground.pulled() == [1, 3, 5]
    assert ground.queue.acked == [2, 4]
    assert [position for position, _ in ground.queue.rejected] == [2, 4]
    assert all("disabled" in reason for _, reason in ground.queue.rejected)
    assert ground.told == ["off", "off"]


async def test_a_batch_of_nothing_else_is_followed_by_the_next() -> None:
    ground = Ground([delivery(1), delivery(2, form="msgpack")], [delivery(3, "on")])
    assert await ground.pulled() == [3]
    assert ground.queue.acked == [1, 2]


async def test_what_came_by_http_was_let_in_by_ingest() -> None:
    ground = Ground([delivery(1, form="application/json"), delivery(2, form="application/msgpack")])
    assert await ground.pulled() == [1, 2]


async def test_what_an_operator_put_into_the_queue_again_passes() -> None:
    ground = Ground([msgspec.structs.replace(delivery(1), received=1.0)])
    assert await ground.pulled() == [1]


async def test_unknown_vehicles_are_as_the_settings_say() -> None:
    ground = Ground([delivery(1, "new"), delivery(2, "on")], refuse_unknown=True)
    assert await ground.pulled() == [2]
    assert "not in the registry" in ground.queue.rejected[0][1]


@pytest.mark.parametrize("vehicle", ["a//b", "", "x" * 65, "a b"])
async def test_what_is_no_id_is_asked_of_nobody_but_the_decoder(vehicle: str) -> None:
    ground = Ground([delivery(1, vehicle)], refuse_unknown=True)
    assert await ground.pulled() == [1]
    assert ground.registry.asked == 0


async def test_a_change_is_seen_within_its_bound() -> None:
    ground = Ground(*([delivery(number, "on")] for number in range(3)))
    assert await ground.pulled() == [0]
    await ground.registry.put(Vehicle("on", enabled=False))
    ground.clock.time += HOLDS
    ground.queue.batches.append([delivery(9, "new")])
    assert await ground.pulled() == [9]
    assert [position for position, _ in ground.queue.rejected] == [1, 2]


async def test_a_registry_that_is_away_holds_nothing_up() -> None:
    ground = Ground(*([delivery(number)] for number in range(4)))
    ground.registry.away = True
    assert await ground.pulled() == [0]
    asked = ground.registry.asked
    assert await ground.pulled() == [1]
    assert ground.registry.asked == asked  # not with each packet
    ground.registry.away = False
    ground.clock.time += HOLDS
    ground.queue.batches.append([delivery(9, "on")])
    assert await ground.pulled() == [9]


async def test_what_cannot_be_kept_is_not_acked_and_the_whole_batch_comes_again() -> None:
    ground = Ground([delivery(1, "on", partition=3), delivery(2, partition=4)])
    ground.queue.full = True
    with pytest.raises(Recover) as recovering:
        await ground.pulled()
    assert recovering.value.partitions == {3, 4}
    assert ground.queue.acked == []


@pytest.mark.parametrize("left", [True, False])
async def test_what_was_taken_is_not_let_go_when_the_pull_is_cancelled(left: bool) -> None:
    ground = Ground([delivery(1), *([delivery(2, "on")] if left else [])])
    ground.queue.goes_on.clear()
    pulling = asyncio.create_task(ground.pulled())
    await until(lambda: ground.registry.asked, "the registry is asked")
    pulling.cancel()
    await asyncio.sleep(0)
    ground.queue.goes_on.set()
    assert await pulling == ([2] if left else [])
    assert ground.queue.acked == [1]


async def test_cancelled_while_it_waits_it_has_taken_nothing() -> None:
    ground = Ground([delivery(1, "on")])
    pulling = asyncio.create_task(ground.pulled())
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    assert await ground.pulled() == [1]
    assert ground.turnstile.handed() == ground.queue.handed()

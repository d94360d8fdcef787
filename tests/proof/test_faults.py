import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from fleetcast.proof.faults import ALL, kinds, schedule
from fleetcast.proof.packets import BOOT_AFTER, POISON_EVERY


def names(*given: object) -> list[str]:
    return [fault.name for fault in schedule(*given)]  # type: ignore[arg-type]


def test_each_fault_has_a_name_of_its_own() -> None:
    assert len({fault.name for fault in ALL}) == len(ALL)


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert names(5, 100) == names(5, 100)
    assert names(5, 100)[:40] == names(5, 40)
    assert names(5, 100) != names(6, 100)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_each_kind_comes_as_often_as_the_others(rounds: int) -> None:
    counts = Counter(names(5, rounds * len(ALL)))
    assert counts == dict.fromkeys((fault.name for fault in ALL), rounds)


def test_a_schedule_that_is_cut_short_tries_no_kind_twice_before_all_once() -> None:
    counts = Counter(names(5, len(ALL) + 3))
    assert sorted(counts.values()) == [1] * (len(ALL) - 3) + [2] * 3


def test_only_chooses_by_a_part_of_the_name() -> None:
    assert {fault.name for fault in kinds(["before commit"])} == {
        "consume killed before commit",
        "consume stalled before commit, woken after its partitions moved",
    }
    chosen = Counter(names(5, 6, ["haproxy killed", "zurl killed"]))
    assert chosen == {"haproxy killed": 3, "zurl killed": 3}
    assert names(5, 6, ["no such thing"]) == []


@pytest.mark.parametrize(
    ("acked", "again"),
    [
        (POISON_EVERY + 2, [POISON_EVERY - 3, POISON_EVERY - 2, POISON_EVERY, POISON_EVERY + 1]),
        (BOOT_AFTER + 1, [BOOT_AFTER]),
    ],
)
async def test_what_comes_again_was_applied_and_of_this_boot(acked: int, again: list[int]) -> None:
    """What was rejected is in no state that would know it: as a late packet it would be applied, and rightly."""
    put: list[int] = []

    async def put_again(vehicle: str, n: int) -> None:
        put.append(n)

    world: Any = SimpleNamespace(
        vehicles=["car"], oracle=SimpleNamespace(sent=lambda _: acked), put_again=put_again
    )
    (fault,) = kinds(["sent again that the queue does not know"])
    assert await fault.run(world, random.Random(1))
    assert put == again

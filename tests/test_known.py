"""What a door knows of the vehicles: as new as promised, asked for seldom, and served on when the registry is away."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from types import ModuleType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast.errors import Refuse, Unavailable, Unusable
from fleetcast.known import HOLDS, Known, refuses_unknown
from fleetcast.registry import Vehicle, checked, load
from fleetcast.settings import Settings


class Memory:
    """A registry in memory that counts what it is asked, and can be away or slow."""

    def __init__(self) -> None:
        self.vehicles: dict[str, Vehicle] = {}
        self.changes = 0
        self.asked = 0
        self.looks = 0
        self.away = False
        self.hangs = False

    async def _answers(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("away")

    async def get(self, vehicle: str) -> Vehicle | None:
        self.asked += 1
        await self._answers()
        return self.vehicles.get(vehicle)

    async def put(self, vehicle: Vehicle) -> None:
        await self._answers()
        self.vehicles[vehicle.vehicle] = vehicle
        self.changes += 1

    async def remove(self, vehicle: str) -> None:
        await self._answers()
        self.vehicles.pop(vehicle, None)
        self.changes += 1

    async def all(self, fleet: str | None = None) -> AsyncIterator[Vehicle]:
        for vehicle in self.vehicles.values():
            yield vehicle

    async def stamp(self) -> str:
        self.looks += 1
        await self._answers()
        return str(self.changes)


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def clock() -> Hand:
    return Hand()


async def test_it_is_asked_once_as_long_as_nothing_changes(memory: Memory, clock: Hand) -> None:
    await memory.put(Vehicle("car"))
    known = Known(memory, clock)
    for _ in range(50):
        assert await known.check("car") == Vehicle("car")
        assert await known.check("none") is None
        clock.time += 0.5
    assert memory.asked == 2
    assert memory.looks <= 25


async def test_a_change_holds_within_the_time_that_is_promised(memory: Memory, clock: Hand) -> None:
    await memory.put(Vehicle("car"))
    known = Known(memory, clock)
    assert (await known.check("car") or Vehicle("")).enabled
    await memory.put(Vehicle("car", enabled=False))
    clock.time += 1
    assert clock.time < HOLDS
    assert not (await known.check("car") or Vehicle("")).enabled
    await memory.remove("car")
    clock.time += 1
    assert await known.check("car") is None


async def test_a_change_that_falls_into_the_question_is_not_missed(memory: Memory, clock: Hand) -> None:
    """The answer is of before it, and must not be kept for what is after it."""
    await memory.put(Vehicle("car"))
    known = Known(memory, clock)
    before, go_on = memory.vehicles["car"], asyncio.Event()

    async def slow(vehicle: str) -> Vehicle | None:
        await go_on.wait()
        return before

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "get", slow)
        asking = asyncio.create_task(known.check("car"))
        await asyncio.sleep(0)
        await memory.put(Vehicle("car", enabled=False))
        go_on.set()
        assert await asking == before
    clock.time += 1
    assert await known.check("car") == Vehicle("car", enabled=False)


async def test_what_was_known_is_served_while_it_is_away(memory: Memory, clock: Hand) -> None:
    await memory.put(Vehicle("car", enabled=False))
    known = Known(memory, clock)
    await known.check("car")
    memory.away = True
    for _ in range(3):
        clock.time += 10
        assert await known.check("car") == Vehicle("car", enabled=False)
    with pytest.raises(Unavailable):
        await known.check("other")
    memory.away = False
    await memory.put(Vehicle("car"))
    await memory.put(Vehicle("other"))
    clock.time += 1
    assert await known.check("car") == Vehicle("car")
    assert await known.check("other") == Vehicle("other")


async def test_it_is_served_too_if_the_registry_changed_and_then_went_away(
    memory: Memory, clock: Hand
) -> None:
    await memory.put(Vehicle("car"))
    known = Known(memory, clock)
    await known.check("car")
    await memory.put(Vehicle("other"))
    clock.time += 1
    await known.check("other")
    memory.away = True
    assert await known.check("car") == Vehicle("car")


async def test_a_registry_that_hangs_holds_nobody_up_for_long(memory: Memory, clock: Hand) -> None:
    await memory.put(Vehicle("car"))
    known = Known(memory, clock)
    await known.check("car")
    memory.hangs = True
    clock.time += 1
    async with asyncio.timeout(HOLDS):
        assert await asyncio.gather(*(known.check("car") for _ in range(20))) == [Vehicle("car")] * 20
        with pytest.raises(Unavailable):
            await known.check("other")
    assert memory.looks == 2, "one asks, however many wait"


async def test_it_is_bounded_in_size(memory: Memory, clock: Hand) -> None:
    known = Known(memory, clock, most=10)
    for number in range(50):
        await known.check("steady")
        await known.check(f"car-{number}")
    assert memory.asked == 51
    assert len(known._entries) == 10


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["off", "on", "remove", "wait", "ask"]))))
def test_what_it_says_is_never_older_than_a_look(deeds: list[tuple[str, str]]) -> None:
    async def run() -> None:
        memory, clock = Memory(), Hand()
        known = Known(memory, clock, most=2)
        for vehicle, deed in deeds:
            if deed == "wait":
                clock.time += 1
                assert await known.check(vehicle) == memory.vehicles.get(vehicle)
            elif deed == "ask":
                await known.check(vehicle)
            elif deed == "remove":
                await memory.remove(vehicle)
            else:
                await memory.put(Vehicle(vehicle, enabled=deed == "on"))

    asyncio.run(run())


# Who is admitted


@pytest.mark.parametrize("refuse_unknown", [False, True])
async def test_who_is_admitted(memory: Memory, clock: Hand, refuse_unknown: bool) -> None:
    await memory.put(Vehicle("good"))
    await memory.put(Vehicle("off", enabled=False))
    known = Known(memory, clock, refuse_unknown=refuse_unknown)
    await known.admit(None, "good")
    with pytest.raises(Refuse, match="off is disabled") as refused:
        await known.admit(None, "off")
    assert refused.value.status == 403
    if refuse_unknown:
        with pytest.raises(Refuse, match="stranger is not in the registry") as refused:
            await known.admit(None, "stranger")
        assert refused.value.status == 403
    else:
        await known.admit(None, "stranger")


async def test_who_cannot_be_looked_up_is_told_to_come_back(memory: Memory, clock: Hand) -> None:
    memory.away = True
    with pytest.raises(Refuse, match="send it again") as refused:
        await Known(memory, clock).admit(None, "car")
    assert refused.value.status == 503


@pytest.mark.parametrize(
    ("word", "identity", "refuses"),
    [
        ("", False, False),
        ("", True, True),
        ("welcome", False, False),
        ("welcome", True, False),
        ("refuse", False, True),
        ("refuse", True, True),
    ],
)
def test_unknown_vehicles_are_welcome_in_open_development(word: str, identity: bool, refuses: bool) -> None:
    assert refuses_unknown(Settings(unknown_vehicles=word), identity=identity) is refuses  # type: ignore[arg-type]


# What a vehicle is, and whose registry it is


@pytest.mark.parametrize(
    "bad",
    [
        Vehicle(""),
        Vehicle("a/b"),
        Vehicle("car\n"),
        Vehicle("x" * 65),
        Vehicle("car", ("north", "")),
        Vehicle("car", ("a b",)),
        Vehicle("car", every=0),
        Vehicle("car", every=-1),
        Vehicle("car", every=float("nan")),
        Vehicle("car", every=float("inf")),
    ],
)
def test_what_is_no_vehicle_is_refused_in_one_line(bad: Vehicle) -> None:
    with pytest.raises(Unusable) as why:
        checked(bad)
    assert "\n" not in str(why.value)


@given(
    st.builds(
        Vehicle,
        st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
        st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)).map(tuple),
        st.floats(min_value=0, max_value=1e8, exclude_min=True),
        st.booleans(),
    )
)
def test_a_vehicle_comes_back_from_json(vehicle: Vehicle) -> None:
    assert msgspec.json.decode(msgspec.json.encode(checked(vehicle)), type=Vehicle) == vehicle


def plugin(**members: object) -> ModuleType:
    made = ModuleType("acme_registry")
    vars(made).update(members)
    return made


def test_a_makers_own_registry_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Settings] = []

    def make(settings: Settings) -> Memory:
        given.append(settings)
        return Memory()

    monkeypatch.setitem(sys.modules, "acme_registry", plugin(make=make, odd=object))
    assert isinstance(load("acme_registry:make", Settings(noun="trucks")), Memory)
    assert given == [Settings(noun="trucks")]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("acme_registry", "is not module:function"),
        ("acme_registry:none", "none"),
        ("no.such.module:make", "no"),
        ("acme_registry:fails", "no database"),
        ("acme_registry:odd", "has no get"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    def fails(settings: Settings) -> None:
        raise OSError("no database")

    made = plugin(fails=fails, odd=lambda settings: object())
    monkeypatch.setitem(sys.modules, "acme_registry", made)
    with pytest.raises(Unusable, match=said) as why:
        load(name, Settings())
    assert str(why.value).startswith("registry: ")
    assert "\n" not in str(why.value)

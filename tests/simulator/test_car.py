"""One car: the same from the same seed, consistent with its trace, and every signal moves for a reason."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.simulator.car import DOORS, SEATS, WHEELS, Car, Value
from fleetcast.simulator.drives import CARRIED, Drive, read_drive

UDDS = read_drive(CARRIED / "udds.csv")
LATITUDE = "Vehicle.CurrentLocation.Latitude"
SPEED, DISTANCE, STATE = "Vehicle.Speed", "Vehicle.TraveledDistance", "Vehicle.LowVoltageSystemState"
CHARGING = "Vehicle.Powertrain.TractionBattery.Charging.IsCharging"


def life(car: Car, seconds: int, step: float = 1.0) -> Iterator[dict[str, Value]]:
    for _ in range(int(seconds / step)):
        car.advance(step)
        yield car.signals()


def pick(electric: bool | None = None, leaking: bool | None = None, drive: Drive = UDDS) -> Car:
    for number in range(500):
        car = Car(f"car-{number:05d}", drive, 1, 0.0)
        if electric in (None, car.electric) and leaking in (None, car.leaking is not None):
            return car
    raise AssertionError("no such car among 500")


def number(value: Value) -> float:
    assert isinstance(value, int | float)
    return value


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    offset=st.floats(0, 5000),
    steps=st.lists(st.floats(0.01, 90), min_size=1, max_size=6),
)
def test_the_same_seed_is_the_same_car_and_values_have_their_types(
    seed: int, offset: float, steps: list[float]
) -> None:
    one, two = (Car("car-00007", UDDS, seed, offset) for _ in range(2))
    before = one.signals()
    for step in steps:
        one.advance(step)
        two.advance(step)
        signals = one.signals()
        assert signals == two.signals()
        assert signals == one.signals(), "looking changes nothing"
        assert signals.keys() == before.keys(), "a car does not lose or gain sensors"
        assert {path: type(value) for path, value in signals.items()} == {
            path: type(value) for path, value in before.items()
        }
        assert number(signals[DISTANCE]) >= number(before[DISTANCE])
        assert 0 <= number(signals["Vehicle.CurrentLocation.Heading"]) < 360
        before = signals


def test_there_are_some_fifty_signals_and_none_that_the_platform_derives() -> None:
    for electric in (True, False):
        signals = pick(electric=electric).signals()
        assert 48 <= len(signals) <= 60
        assert "Vehicle.IsMoving" not in signals
        assert not [path for path in signals if path.endswith("IsPressureLow")]


def test_the_odometer_integrates_the_speed() -> None:
    car = pick()
    start = number(car.signals()[DISTANCE])
    speeds = [number(signals[SPEED]) for signals in life(car, 1369)]
    driven = number(car.signals()[DISTANCE]) - start
    assert driven == pytest.approx(11_990, rel=0.01)
    assert driven == pytest.approx(sum(speeds) / 3.6, rel=0.01)
    assert max(speeds) == pytest.approx(91.25, abs=0.1)


def test_long_steps_go_as_far_as_short_ones() -> None:
    ends = []
    for step in (0.5, 1.0, 60.0):
        car = pick()
        for signals in life(car, 1200, step):
            end = signals[DISTANCE]
        ends.append(number(end))
    assert max(ends) - min(ends) <= 5


def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="back"):
        pick().advance(-1)


def test_the_place_moves_as_far_as_the_odometer_says() -> None:
    car = pick()
    before = car.signals()
    for signals in life(car, 2000):
        metres = number(signals[DISTANCE]) - number(before[DISTANCE])
        north = (number(signals[LATITUDE]) - number(before[LATITUDE])) * 111_320
        assert abs(north) <= metres + 1.5
        before = signals


def test_a_car_stays_near_home() -> None:
    car = pick()
    home = number(car.signals()[LATITUDE])
    for signals in life(car, 60_000, 30):
        assert abs(number(signals[LATITUDE]) - home) < 0.25


def test_tyres_warm_and_their_pressure_rises() -> None:
    car = pick(leaking=False, drive=Drive("motorway", [110] * 1800))
    path = "Vehicle.Chassis.Axle.Row1.Wheel.Left.Tire."
    cold = car.signals()
    car.advance(1500)
    warm = car.signals()
    for sensor in ("RubberTemperature", "AirTemperature"):
        assert number(warm[path + sensor]) > number(cold[path + sensor]) + 10
    assert number(warm[path + "Pressure"]) > number(cold[path + "Pressure"]) + 5


def test_one_car_in_ten_leaks_and_half_are_electric() -> None:
    fleet = [Car(f"car-{n:05d}", UDDS, 3, 0.0) for n in range(2000)]
    assert 0.08 < sum(car.leaking is not None for car in fleet) / 2000 < 0.12
    assert 0.46 < sum(car.electric for car in fleet) / 2000 < 0.54


def test_a_leaking_tyre_goes_below_the_low_line_and_is_refilled_at_a_stop() -> None:
    car = pick(leaking=True)
    assert car.leaking is not None
    path = f"Vehicle.Chassis.Axle.{WHEELS[car.leaking]}.Tire.Pressure"
    pressures = [(number(signals[path]), number(signals[SPEED])) for signals in life(car, 3 * UDDS.period)]
    assert min(pressure for pressure, _ in pressures) < 185
    refilled = [speed for (a, _), (b, speed) in pairwise(pressures) if b > a + 30]
    assert refilled
    assert max(refilled) < 1


def test_doors_open_only_at_stops_and_are_locked_while_driving() -> None:
    opened: set[str] = set()
    unlocked = 0
    for n in range(8):
        for signals in life(Car(f"car-{n:05d}", UDDS, 5, 0.0), UDDS.period):
            now = {door for door in DOORS if signals[f"Vehicle.Cabin.Door.{door}.IsOpen"]}
            assert not now or number(signals[SPEED]) < 1
            assert number(signals[SPEED]) < 1 or signals[f"Vehicle.Cabin.Door.{DOORS[0]}.IsLocked"]
            opened |= now
            unlocked += not signals[f"Vehicle.Cabin.Door.{DOORS[0]}.IsLocked"]
    assert opened == set(DOORS)
    assert unlocked > 50


def test_a_parked_car_is_switched_off_braked_and_locked_and_starts_again() -> None:
    states: list[Value] = []
    for signals in life(pick(), UDDS.period + 60):
        if not states or states[-1] != signals[STATE]:
            states.append(signals[STATE])
        if signals[STATE] in ("OFF", "LOCK", "START"):
            assert number(signals[SPEED]) < 1
            assert signals["Vehicle.Chassis.ParkingBrake.IsEngaged"]
        if number(signals[SPEED]) > 1:
            assert signals[STATE] == "ON"
            assert not signals["Vehicle.Chassis.ParkingBrake.IsEngaged"]
    assert states[-7:] == ["ON", "ACC", "OFF", "LOCK", "OFF", "START", "ON"]


def test_only_who_sits_is_belted_and_sometimes_a_passenger_is_not_while_moving() -> None:
    unbelted = 0
    for n in range(12):
        for signals in life(Car(f"car-{n:05d}", UDDS, 2, 0.0), 1300):
            for seat in SEATS:
                sits = signals[f"Vehicle.Cabin.Seat.{seat}.OccupancyStatus"] == "OCCUPIED"
                belted = signals[f"Vehicle.Cabin.Seat.{seat}.IsBelted"]
                assert sits or not belted
                if sits and not belted and number(signals[SPEED]) > 10:
                    assert seat != SEATS[0]
                    unbelted += 1
            if number(signals[SPEED]) > 10:
                assert signals[f"Vehicle.Cabin.Seat.{SEATS[0]}.OccupancyStatus"] == "OCCUPIED"
    assert 50 < unbelted < 4000


@pytest.mark.parametrize("electric", [True, False])
def test_energy_is_used_by_driving_and_comes_back_when_parked(electric: bool) -> None:
    car = pick(electric=electric)
    path = "Vehicle.Powertrain." + (
        "TractionBattery.StateOfCharge.Displayed" if electric else "FuelSystem.RelativeLevel"
    )
    levels, charged = [], 0
    for signals in life(car, 40 * UDDS.period, 5):
        levels.append(number(signals[path]))
        assert 0 < levels[-1] <= 100
        if electric and signals[CHARGING]:
            charged += 1
            assert number(signals[SPEED]) < 1
    falls = sum(b < a for a, b in pairwise(levels))
    rises = max(b - a for a, b in pairwise(levels))
    assert falls > 20
    assert rises > 0.5
    assert not electric or charged > 5

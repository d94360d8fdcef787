"""The catalogue names each signal once, as the Vehicle Signal Specification does."""

from __future__ import annotations

import re

from fleetcast import signals
from fleetcast.signals import (
    CATALOGUE,
    DOORS,
    SEATS,
    WHEELS,
    belted,
    door_open,
    occupancy,
    pressure,
    pressure_low,
)


def test_paths() -> None:
    assert belted("Row1.DriverSide") == "Vehicle.Cabin.Seat.Row1.DriverSide.IsBelted"
    assert occupancy("Row2.Middle") == "Vehicle.Cabin.Seat.Row2.Middle.OccupancyStatus"
    assert door_open("Row2.DriverSide") == "Vehicle.Cabin.Door.Row2.DriverSide.IsOpen"
    assert pressure("Row1.Left") == "Vehicle.Chassis.Axle.Row1.Wheel.Left.Tire.Pressure"
    assert pressure_low("Row2.Right") == "Vehicle.Chassis.Axle.Row2.Wheel.Right.Tire.IsPressureLow"


def test_a_car_has_its_parts() -> None:
    assert len(set(SEATS)) == 6
    assert len(set(WHEELS)) == 4
    assert len(set(DOORS)) == 4


def test_every_signal_stands_in_the_catalogue_once() -> None:
    paths = [entry.path for entry in CATALOGUE]
    assert len(set(paths)) == len(paths)
    names = {value for name, value in vars(signals).items() if name.isupper() and isinstance(value, str)}
    names |= {path(seat) for seat in SEATS for path in (belted, occupancy)}
    names |= {door_open(door) for door in DOORS}
    names |= {path(wheel) for wheel in WHEELS for path in (pressure, pressure_low)}
    assert names == set(paths)


def test_entries_are_whole() -> None:
    datatypes = {"boolean", "float", "string", "string[]", "uint16", "uint32"}
    for entry in CATALOGUE:
        assert re.fullmatch(r"(Vehicle|Fleetcast)(\.[A-Z][A-Za-z0-9]*)+", entry.path), entry
        assert entry.datatype in datatypes, entry
        assert entry.shown_as, entry


def test_what_people_are_shown_is_told_apart() -> None:
    shown = [entry.shown_as for entry in CATALOGUE]
    assert len(set(shown)) == len(shown)

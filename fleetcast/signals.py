"""The signal catalogue: the names, types and units that the enrichers, the simulator and the page speak of.

Names follow the COVESA Vehicle Signal Specification 6.0. Unknown paths are welcome everywhere: the platform carries what
a vehicle sends, and only this file, the enrichers and the simulator know what a car is.
"""

from __future__ import annotations

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """One signal: VSS path, VSS data type, unit ("" if it has none), and what people call it."""

    path: str
    datatype: str
    unit: str
    shown_as: str


SEATS = tuple(f"Row{row}.{side}" for row in (1, 2) for side in ("DriverSide", "Middle", "PassengerSide"))
WHEELS = tuple(f"Row{row}.{side}" for row in (1, 2) for side in ("Left", "Right"))
DOORS = tuple(f"Row{row}.{side}" for row in (1, 2) for side in ("DriverSide", "PassengerSide"))

STATUS = "Vehicle.LowVoltageSystemState"
SPEED = "Vehicle.Speed"
ODOMETER = "Vehicle.TraveledDistance"
MOVING = "Vehicle.IsMoving"
TRIP_START = "Vehicle.StartTime"
TRIP_DISTANCE = "Vehicle.TraveledDistanceSinceStart"
RUNNING = "Fleetcast.Motion.Status"
TYRES_LOW = "Fleetcast.Tyres.Low"
UNBELTED = "Fleetcast.Belts.Unbelted"
DOORS_OPEN = "Fleetcast.Doors.OpenWhileMoving"


def belted(seat: str) -> str:
    """Whether the belt of this seat (`Row1.DriverSide`) is fastened."""
    return f"Vehicle.Cabin.Seat.{seat}.IsBelted"


def occupancy(seat: str) -> str:
    """Whether somebody sits there: UNKNOWN, OCCUPIED, EMPTY."""
    return f"Vehicle.Cabin.Seat.{seat}.OccupancyStatus"


def door_open(door: str) -> str:
    """Whether this door (`Row1.DriverSide`) is open."""
    return f"Vehicle.Cabin.Door.{door}.IsOpen"


def pressure(wheel: str) -> str:
    """The tyre pressure of this wheel (`Row1.Left`), kPa."""
    return f"Vehicle.Chassis.Axle.{_axle(wheel)}.Tire.Pressure"


def pressure_low(wheel: str) -> str:
    """Whether the tyre pressure of this wheel is low."""
    return f"Vehicle.Chassis.Axle.{_axle(wheel)}.Tire.IsPressureLow"


def _axle(wheel: str) -> str:
    row, side = wheel.split(".")
    return f"{row}.Wheel.{side}"


CATALOGUE: tuple[Entry, ...] = (
    Entry(STATUS, "string", "", "running status"),
    Entry(SPEED, "float", "km/h", "speed"),
    Entry(MOVING, "boolean", "", "moving"),
    Entry(ODOMETER, "uint32", "m", "odometer"),
    Entry(TRIP_START, "string", "iso8601", "trip since"),
    Entry(TRIP_DISTANCE, "uint32", "m", "trip distance"),
    Entry(RUNNING, "string", "", "running or parked"),
    Entry(TYRES_LOW, "string[]", "", "tyres low"),
    Entry(UNBELTED, "string[]", "", "seats unbelted while moving"),
    Entry(DOORS_OPEN, "string[]", "", "doors open while moving"),
    *(Entry(belted(seat), "boolean", "", f"belt {seat}") for seat in SEATS),
    *(Entry(occupancy(seat), "string", "", f"seat {seat}") for seat in SEATS),
    *(Entry(door_open(door), "boolean", "", f"door {door} open") for door in DOORS),
    *(Entry(pressure(wheel), "uint16", "kPa", f"tyre {wheel}") for wheel in WHEELS),
    *(Entry(pressure_low(wheel), "boolean", "", f"tyre {wheel} low") for wheel in WHEELS),
)

"""One car: physics good enough that every signal has a reason to change.

In: a drive, a seed, and seconds that pass. Out: signals by their path in the COVESA Vehicle Signal Specification
6.0, as plain values in the units given there. Pure: no I/O, no wall clock, and the same seed gives the same car, value
for value. What the platform derives (IsMoving, IsPressureLow) is left to the platform.
"""

import math
import random
from dataclasses import dataclass

from fleetcast.simulator.drives import Drive

Value = bool | int | float | str | list[str]

SEATS = ("Row1.DriverSide", "Row1.PassengerSide", "Row2.DriverSide", "Row2.PassengerSide", "Row2.Middle")
DOORS = SEATS[:4]
WHEELS = ("Row1.Wheel.Left", "Row1.Wheel.Right", "Row2.Wheel.Left", "Row2.Wheel.Right")
FAULTS = ("P030100", "P042000", "U012100", "C003500", "B10A200")

PARKING = 30.0
"""A stop of this many seconds is parking: doors open, people change, the car is locked. Shorter ones are traffic."""
KERB = 10.0
"""At a stop of this many seconds a passenger may open a door for a moment."""

AIR_KPA = 101.325
KELVIN = 273.15
MASS_KG = 1750.0
BATTERY_KWH = 62.0
TANK_LITRES = 48.0
METRES_PER_KWH = 5600.0
METRES_PER_LITRE = 15500.0
KWH_PER_LITRE = 2.9  # at the wheels, of petrol
METRES_PER_DEGREE = 111_320.0
HOME_METRES = 15_000.0
"""How far a car strays from where it started before it turns back: the trace knows speeds, not streets."""


@dataclass
class Tyre:
    """`kpa` as it would be at 20 C, temperatures in C, `leak` in kPa lost a second."""

    kpa: float
    rubber: float
    air: float
    leak: float = 0.0

    def pressure(self) -> int:
        """kPa above the outside, at the air's temperature now."""
        return round((self.kpa + AIR_KPA) * (self.air + KELVIN) / (20.0 + KELVIN) - AIR_KPA)


class Car:
    """A car of a fleet, `offset` seconds into its drive.

    Half of the cars are electric; one in ten has a tyre that leaks until it is refilled at a stop. Both follow from
    seed and vehicle id alone.
    """

    def __init__(self, vehicle: str, drive: Drive, seed: int, offset: float) -> None:
        self.vehicle = vehicle
        self.drive = drive
        self._rng = rng = random.Random(f"{seed}/{vehicle}")  # str: hash() of it would differ by process
        self.electric = rng.random() < 0.5
        self._at = offset
        self._stop = drive.stop_at(offset)
        self._speed = drive.speed_at(offset)
        self._metres = rng.uniform(2e6, 1.5e8)
        self._outside = rng.uniform(2.0, 28.0)
        self._cabin = rng.uniform(18.0, 24.0)
        self._ripple = 0.0
        self._power = 0.0  # kW, positive when it leaves the battery or the engine
        self._left = rng.uniform(0.25, 0.95) * (BATTERY_KWH if self.electric else TANK_LITRES)
        self._target = self._left  # what charging or refuelling at this parking stop goes up to
        warm = 0.1 * self._speed
        self.tyres = [
            Tyre(rng.uniform(228, 246), self._outside + warm, self._outside + warm / 2) for _ in WHEELS
        ]
        self.leaking: int | None = None
        if rng.random() < 0.1:
            self.leaking = rng.randrange(4)
            tyre = self.tyres[self.leaking]
            # 2 to 6 kPa a minute, found at any stage of it: a demonstration of half a minute shows some crossing.
            tyre.leak, tyre.kpa = rng.uniform(0.03, 0.1), rng.uniform(160, 240)
        self._latitude, self._longitude = rng.uniform(41.6, 42.1), rng.uniform(-88.4, -87.8)
        self._home = self._latitude, self._longitude
        self._course = self._heading = rng.choice((0.0, 90.0, 180.0, 270.0)) + rng.uniform(-2, 2)
        self._occupied = self._people()
        self._unbelted: dict[int, float] = {}  # seat -> seconds until that passenger belts again
        self._kerb_door: int | None = None
        self._faults: list[str] = [rng.choice(FAULTS)] if rng.random() < 0.05 else []

    def advance(self, seconds: float) -> None:
        """Let seconds pass, in steps of at most one; ValueError if they are negative."""
        if seconds < 0:
            raise ValueError("time does not go back")
        while seconds > 0:
            step = min(1.0, seconds)
            self._step(step)
            seconds -= step

    def _step(self, dt: float) -> None:
        before = self._speed
        self._at += dt
        self._speed = speed = self.drive.speed_at(self._at)
        metres = (before + speed) / 7.2 * dt
        self._metres += metres
        if self._stop and self._at >= self._stop[1]:
            self._leave()
        if self._stop is None and speed < 1.0:
            stop = self.drive.stop_at(self._at)
            if stop and self._at < stop[1]:
                self._stop = stop
                self._arrive(stop[1] - stop[0])
        self._people_move(dt)
        self._energy((speed - before) / 3.6 / dt, dt)
        self._tyres(dt)
        if metres > 0:
            self._steer(metres, dt)
        self._outside = min(max(self._outside + self._rng.uniform(-0.01, 0.01) * dt, -15.0), 38.0)
        self._ripple = self._rng.uniform(-0.06, 0.06)
        self._cabin += (21.5 - self._cabin) * 0.004 * dt

    def _people(self) -> set[int]:
        return {0, *self._rng.sample(range(1, 5), self._rng.choice((0, 0, 0, 1, 1, 2, 3)))}

    def _arrive(self, length: float) -> None:
        rng = self._rng
        self._unbelted.clear()
        self._kerb_door = None
        self._target = self._left
        if length < PARKING:
            passengers = sorted(self._occupied & {1, 2, 3})
            if length >= KERB and passengers and rng.random() < 0.4:
                self._kerb_door = rng.choice(passengers)
            return
        capacity = BATTERY_KWH if self.electric else TANK_LITRES
        if self._left < rng.uniform(0.2, 0.7) * capacity:
            self._target = rng.uniform(0.75, 0.9) * capacity
        for tyre in self.tyres:
            if tyre.kpa < 185:
                tyre.kpa = 238.0
        if rng.random() < 0.5:
            self._faults.clear()

    def _leave(self) -> None:
        self._stop = self._kerb_door = None
        self._course = (self._course + self._rng.choice((0, 0, 0, 0, -90, 90))) % 360

    def _parked(self) -> tuple[float, float] | None:
        """Seconds since the car parked and until it drives; None if it is not parked."""
        if self._stop is None or self._stop[1] - self._stop[0] < PARKING:
            return None
        return self._at - self._stop[0], self._stop[1] - self._at

    def _people_move(self, dt: float) -> None:
        rng = self._rng
        if parked := self._parked():
            if parked[0] - dt < 8 <= parked[0]:  # the doors stand open at this second
                self._occupied = self._people()
            return
        for seat in list(self._unbelted):
            self._unbelted[seat] -= dt
            if self._unbelted[seat] <= 0:
                del self._unbelted[seat]
        passengers = sorted(self._occupied - {0})
        if passengers and self._speed > 10 and not self._unbelted and rng.random() < dt / 400:
            self._unbelted[rng.choice(passengers)] = rng.uniform(15, 60)
        if rng.random() < dt / 7200 and len(self._faults) < 3:
            self._faults = sorted({*self._faults, rng.choice(FAULTS)})

    def _energy(self, acceleration: float, dt: float) -> None:
        v = self._speed / 3.6
        wheels = v * (MASS_KG * acceleration + 170.0 + 0.4 * v * v) / 1000
        parked = self._parked()
        if self.electric:
            self._power = wheels if wheels > 0 else max(wheels * 0.6, -60.0)
            self._power += 0.15 if parked else 0.7
            floor = 0.02 * BATTERY_KWH
            used = self._power * dt / 3600
        else:
            self._power = max(wheels, 0.0)
            floor = 0.03 * TANK_LITRES
            used = 0.0 if parked else (self._power / KWH_PER_LITRE + 0.7) * dt / 3600
        if parked and self._filling(parked):
            # As fast as the pause asks for: the trace's pauses are shorter than a real charge.
            used = -(self._target - self._left) * min(1.0, dt / max(parked[1] - 22, dt))
            self._power = used * 3600 / dt if self.electric else 0.0
        # A floor, because some traces go further than this car would.
        self._left = max(self._left - used, floor)

    def _filling(self, parked: tuple[float, float]) -> bool:
        return self._target > self._left + 0.01 and parked[0] >= 8 and parked[1] > 22

    def _tyres(self, dt: float) -> None:
        warm = self._outside + 0.28 * self._speed
        for tyre in self.tyres:
            tyre.rubber += (warm - tyre.rubber) * dt / 420
            tyre.air += (tyre.rubber - tyre.air) * dt / 240
            tyre.kpa = max(tyre.kpa - tyre.leak * dt, 120.0)

    def _steer(self, metres: float, dt: float) -> None:
        rng = self._rng
        north = (self._home[0] - self._latitude) * METRES_PER_DEGREE
        shrink = math.cos(math.radians(self._latitude))
        east = (self._home[1] - self._longitude) * METRES_PER_DEGREE * shrink
        if math.hypot(north, east) > HOME_METRES:
            self._course = math.degrees(math.atan2(east, north)) % 360
        elif rng.random() < metres / 1500:
            self._course = (self._course + rng.uniform(-40, 40)) % 360
        turn = (self._course - self._heading + 180) % 360 - 180
        limit = (18.0 if self._speed < 40 else 6.0) * dt
        self._heading = (self._heading + min(max(turn, -limit), limit)) % 360
        angle = math.radians(self._heading)
        self._latitude += metres * math.cos(angle) / METRES_PER_DEGREE
        self._longitude += metres * math.sin(angle) / METRES_PER_DEGREE / shrink

    def _state(self) -> tuple[str, bool, bool, set[int]]:
        """(LowVoltageSystemState, locked, parking brake, open doors) at this moment of a stop or of the drive."""
        parked = self._parked()
        if parked is None:
            since = self._at - self._stop[0] if self._stop else 0.0
            opened = {self._kerb_door} if self._kerb_door is not None and 2 <= since < 7 else set()
            return "ON", not opened, False, opened
        since, until = parked
        doors = self._occupied & {0, 1, 2, 3}
        if since < 4:
            return "ON", True, since >= 2, set()
        if since < 14:
            return "OFF" if since >= 6 else "ACC", False, True, doors if 6 <= since < 12 else set()
        if until > 16:
            return "LOCK", True, True, set()
        if until > 5:
            return "OFF", False, True, doors if 7 < until <= 14 else set()
        return ("START" if until > 4 else "ON"), True, until > 1, set()

    def signals(self) -> dict[str, Value]:
        """Every signal of this moment, by VSS 6.0 path: some sixty."""
        state, locked, brake, opened = self._state()
        awake, parked = state in ("ON", "START"), self._parked()
        signals: dict[str, Value] = {
            "Vehicle.LowVoltageSystemState": state,
            "Vehicle.Speed": round(self._speed, 2),
            "Vehicle.TraveledDistance": int(self._metres),
            "Vehicle.CurrentLocation.Latitude": round(self._latitude, 6),
            "Vehicle.CurrentLocation.Longitude": round(self._longitude, 6),
            "Vehicle.CurrentLocation.Heading": round(self._heading, 1) % 360,
            "Vehicle.Exterior.AirTemperature": round(self._outside, 1),
            "Vehicle.Cabin.HVAC.AmbientAirTemperature": round(self._cabin, 1),
            "Vehicle.LowVoltageBattery.CurrentVoltage": round(
                {"START": 10.9, "ON": 14.2}.get(state, 12.6) + self._ripple, 2
            ),
            "Vehicle.Chassis.ParkingBrake.IsEngaged": brake,
            "Vehicle.Body.Trunk.Rear.IsOpen": False,
            "Vehicle.Body.Trunk.Rear.IsLocked": locked,
            "Vehicle.Body.Hood.IsOpen": False,
            "Vehicle.Diagnostics.DTCCount": len(self._faults),
            "Vehicle.Diagnostics.DTCList": list(self._faults),
        }
        seated = parked is None or parked[0] < 6 or parked[1] <= 7
        belted = parked is None or parked[0] < 4 or parked[1] <= 5
        for seat, name in enumerate(SEATS):
            sits = seated and seat in self._occupied
            signals[f"Vehicle.Cabin.Seat.{name}.OccupancyStatus"] = "OCCUPIED" if sits else "EMPTY"
            signals[f"Vehicle.Cabin.Seat.{name}.IsBelted"] = sits and belted and seat not in self._unbelted
        for door, name in enumerate(DOORS):
            signals[f"Vehicle.Cabin.Door.{name}.IsOpen"] = door in opened
            signals[f"Vehicle.Cabin.Door.{name}.IsLocked"] = locked
        for name, tyre in zip(WHEELS, self.tyres, strict=True):
            path = f"Vehicle.Chassis.Axle.{name}.Tire."
            signals[path + "Pressure"] = tyre.pressure()
            signals[path + "RubberTemperature"] = round(tyre.rubber, 1)
            signals[path + "AirTemperature"] = round(tyre.air, 1)
        signals.update(self._electric(parked) if self.electric else self._petrol(awake))
        return signals

    def _electric(self, parked: tuple[float, float] | None) -> dict[str, Value]:
        volts = 340 + 0.6 * 100 * self._left / BATTERY_KWH - 0.08 * self._power
        return {
            "Vehicle.Powertrain.Range": int(self._left * METRES_PER_KWH),
            "Vehicle.Powertrain.TractionBattery.StateOfCharge.Displayed": round(
                100 * self._left / BATTERY_KWH, 1
            ),
            "Vehicle.Powertrain.TractionBattery.CurrentVoltage": round(volts, 1),
            "Vehicle.Powertrain.TractionBattery.CurrentCurrent": round(-self._power * 1000 / volts, 1),
            "Vehicle.Powertrain.TractionBattery.Charging.IsCharging": bool(parked and self._filling(parked)),
            "Vehicle.Powertrain.Transmission.CurrentGear": 1 if self._speed > 0 else 0,
        }

    def _petrol(self, awake: bool) -> dict[str, Value]:
        gear, rpm = 0, 780.0 if awake else 0.0
        if self._speed >= 1:
            gear = 1 + sum(self._speed > up for up in (18, 33, 50, 70, 92))
            rpm = max(900.0, self._speed * (105, 62, 44, 34, 27, 22)[gear - 1])
        return {
            "Vehicle.Powertrain.Range": int(self._left * METRES_PER_LITRE),
            "Vehicle.Powertrain.FuelSystem.RelativeLevel": round(100 * self._left / TANK_LITRES),
            "Vehicle.Powertrain.FuelSystem.AbsoluteLevel": round(self._left, 1),
            "Vehicle.Powertrain.CombustionEngine.IsRunning": awake,
            "Vehicle.Powertrain.CombustionEngine.Speed": round(rpm),
            "Vehicle.Powertrain.Transmission.CurrentGear": gear,
        }

// The names of what the page draws: COVESA VSS 6.0, and what the platform's enrichers derive. Any other signal is shown
// in the table of all signals, so what is not a car has a page too.

export const SPEED = "Vehicle.Speed";
export const CHARGE = "Vehicle.Powertrain.TractionBattery.StateOfCharge.Displayed";
export const CHARGING = "Vehicle.Powertrain.TractionBattery.Charging.IsCharging";
export const FUEL = "Vehicle.Powertrain.FuelSystem.RelativeLevel";
export const HOOD = "Vehicle.Body.Hood.IsOpen";
export const FRONT_TRUNK = "Vehicle.Body.Trunk.Front.IsOpen";
export const TRUNK = "Vehicle.Body.Trunk.Rear.IsOpen";
export const TRUNK_LOCKED = "Vehicle.Body.Trunk.Rear.IsLocked";
export const DRIVER_POSITION = "Vehicle.Cabin.DriverPosition";
export const MOTION = "Fleetcast.Motion.Status";
export const TYRES_LOW = "Fleetcast.Tyres.Low";
export const UNBELTED = "Fleetcast.Belts.Unbelted";

/** Each place by its VSS name, and what people call it. */
export const WHEELS = {
  "Row1.Left": "Front left",
  "Row1.Right": "Front right",
  "Row2.Left": "Rear left",
  "Row2.Right": "Rear right",
};

export const SEATS = {
  "Row1.DriverSide": "Driver",
  "Row1.Middle": "Front middle",
  "Row1.PassengerSide": "Front passenger",
  "Row2.DriverSide": "Behind driver",
  "Row2.Middle": "Rear middle",
  "Row2.PassengerSide": "Behind passenger",
};

export const DOORS = {
  "Row1.DriverSide": "Driver",
  "Row1.PassengerSide": "Front passenger",
  "Row2.DriverSide": "Behind driver",
  "Row2.PassengerSide": "Behind passenger",
};

export const pressure = (wheel) => `${tyre(wheel)}.Pressure`;
export const pressureLow = (wheel) => `${tyre(wheel)}.IsPressureLow`;
export const belted = (seat) => `Vehicle.Cabin.Seat.${seat}.IsBelted`;
export const occupancy = (seat) => `Vehicle.Cabin.Seat.${seat}.OccupancyStatus`;
export const doorOpen = (door) => `Vehicle.Cabin.Door.${door}.IsOpen`;
export const doorLocked = (door) => `Vehicle.Cabin.Door.${door}.IsLocked`;

/** Whether there is something of a car to draw. */
export function isCar(view) {
  for (const path of view.signals.keys()) if (path.startsWith("Vehicle.")) return true;
  return false;
}

function tyre(wheel) {
  const [row, side] = wheel.split(".");
  return `Vehicle.Chassis.Axle.${row}.Wheel.${side}.Tire`;
}

"""The signal catalogue of a smart home: the names, types and units that the enricher and the simulator speak of.

One device is one room: a thermostat on the radiator, a contact on the window, a sensor on the wall.
"""

from __future__ import annotations

from fleetcast.signals import Entry

TEMPERATURE = "Room.Temperature"
HUMIDITY = "Room.Humidity"
WINDOW_OPEN = "Room.Window.IsOpen"
TARGET = "Room.Heating.Target"
VALVE = "Room.Heating.Valve"
BATTERY = "Room.Sensor.Battery"
TOO_WARM = "Comfort.IsTooWarm"
WASTING = "Comfort.IsHeatingWithWindowOpen"
ADVICE = "Comfort.Advice"

CATALOGUE: tuple[Entry, ...] = (
    Entry(TEMPERATURE, "float", "celsius", "temperature"),
    Entry(HUMIDITY, "uint8", "percent", "relative humidity"),
    Entry(WINDOW_OPEN, "boolean", "", "window open"),
    Entry(TARGET, "float", "celsius", "what the thermostat is set to"),
    Entry(VALVE, "uint8", "percent", "how far the radiator is open"),
    Entry(BATTERY, "uint8", "percent", "battery of the sensor"),
    # Derived by the enricher:
    Entry(TOO_WARM, "boolean", "", "too warm"),
    Entry(WASTING, "boolean", "", "window open while heating"),
    Entry(ADVICE, "string", "", "what to do"),
)

"""The proof's MQTT says what was acknowledged, and only that."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleetcast.jetstream import connect
from fleetcast.mqtt_line import MqttLine
from fleetcast.settings import Settings
from fleetcast.subjects import PACKETS
from tests.servers import Server, open_mqtt


@pytest.fixture
async def door(nats: Server, folder: Path, settings: Settings) -> Server:
    await open_mqtt(nats, folder, settings)
    return nats


@pytest.mark.parametrize("size", [0, 1, 100, 127 * 128, 1_048_576])
async def test_what_it_publishes_is_stored_as_it_is(door: Server, settings: Settings, size: int) -> None:
    line = await MqttLine.open(settings.mqtt_port, "car-1")
    await line.publish("vehicles/car-1/packets", b"x" * size)
    await line.publish("vehicles/car-1/packets/json", b"{}")
    line.close()
    connection = await connect(settings, "test")
    first = await connection.client.jetstream().get_msg(PACKETS, 1)
    second = await connection.client.jetstream().get_msg(PACKETS, 2)
    await connection.close()
    assert (first.data or b"") == b"x" * size
    assert second.data == b"{}"


async def test_what_is_not_acknowledged_raises(door: Server, settings: Settings) -> None:
    line = await MqttLine.open(settings.mqtt_port, "car-1")
    await door.kill()
    with pytest.raises(OSError, match=r"ended|reset|Reset|MQTT|closed"):
        await line.publish("vehicles/car-1/packets", b"{}")
    line.close()
    with pytest.raises(OSError, match=r"refused|Connect"):
        await MqttLine.open(settings.mqtt_port, "car-1")

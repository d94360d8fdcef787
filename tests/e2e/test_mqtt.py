"""The MQTT door as a car meets it: a whole platform, and clients that are not ours."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from backports import zstd

from fleetcast.jetstream import ApiError, connect
from fleetcast.known import HOLDS
from fleetcast.nats_registry import NatsRegistry
from fleetcast.registry import Vehicle
from tests.contracts.test_mqtt import by_mosquitto, publish
from tests.e2e.outside import PARTITIONS, Site, data, packet, padded, rejection, site
from tests.servers import until

MEGABYTE = 1_048_576


@pytest.fixture(scope="module")
async def here() -> AsyncIterator[Site]:
    async with site(consumers=1, origins=1, edges=1, partitions=PARTITIONS) as running:
        yield running


async def test_a_packet_by_mqtt_reaches_the_phone(here: Site, folder: Path) -> None:
    async with here.phone("by-mqtt") as phone:
        await phone.snapshot()
        await by_mosquitto(here.settings, "vehicles/by-mqtt/packets", packet("by-mqtt", 1), folder / "body")
        await here.send("by-mqtt", 2)
        body = zstd.compress(packet("by-mqtt", 3))
        await by_mosquitto(here.settings, "vehicles/by-mqtt/packets/json", body, folder / "body")
        large = padded(packet("by-mqtt", 4), MEGABYTE)
        await by_mosquitto(here.settings, "vehicles/by-mqtt/packets", large, folder / "body")
        assert await phone.versions(4) == [1, 2, 3, 4]
        assert [data(event)["signals"]["Test.Number"]["value"] for event in phone.events[1:]] == [1, 2, 3, 4]


async def test_a_packet_by_both_doors_is_applied_once(here: Site) -> None:
    topic = "vehicles/twice/packets"
    assert await publish(here.settings, topic, packet("twice", 1)) == "acknowledged"
    await here.send("twice", 1)
    assert await publish(here.settings, topic, packet("twice", 1)) == "acknowledged"
    await here.send("twice", 2)
    shown = await here.reaches("twice", 2)
    assert shown["signals"]["Test.Number"]["value"] == 2


@pytest.mark.parametrize(
    ("topic", "vehicle", "said"),
    [
        ("vehicles/a.b/packets", "a//b", "vehicle"),
        (f"vehicles/{'x' * 65}/packets", "x" * 65, "vehicle"),
        ("vehicles/other/packets", "other", "says it is of vehicle good"),
        ("vehicles/form/packets/nonsense", "form", "nonsense"),
    ],
)
async def test_what_is_no_packet_of_that_vehicle_is_rejected_and_holds_nothing_up(
    here: Site, topic: str, vehicle: str, said: str
) -> None:
    body = packet("good", 1)
    assert await publish(here.settings, topic, body) == "acknowledged"
    connection = await connect(here.settings, "test")
    try:

        async def rejected() -> tuple[str, bytes] | None:
            try:
                return await rejection(connection, vehicle)
            except Exception:  # noqa: BLE001 - not there yet
                return None

        reason, kept = await until(rejected, f"a packet of {vehicle} is in REJECTED")
    finally:
        await connection.close()
    assert said in reason
    assert kept == body


async def test_a_disabled_vehicle_moves_nothing_by_this_door_either(here: Site) -> None:
    """Nobody asks who connects here, as there is no identity: consume does."""
    connection, topic = await connect(here.settings, "test"), "vehicles/stolen/packets"
    registry, seq = NatsRegistry(connection), 0

    async def sends() -> str:
        """Why the last one of it that was rejected is there."""
        nonlocal seq
        seq += 1
        assert await publish(here.settings, topic, packet("stolen", seq)) == "acknowledged"
        with suppress(ApiError):
            return (await rejection(connection, "stolen"))[0]
        return ""

    try:
        await sends()
        await here.reaches("stolen", 1)
        await registry.put(Vehicle("stolen", enabled=False))
        began = time.monotonic()
        assert "stolen is disabled in the registry" in await until(sends, "it is rejected", HOLDS + 10)
        print(f"disabled to rejected: {time.monotonic() - began:.1f} s")
        version = (await here.latest("stolen"))["version"]
        await here.send("other", 1)
        assert (await here.post("stolen", packet("stolen", seq + 1))).status_code == 403
        kept = await here.counts("rejected")
        await sends()
        await until(partial(_more, here, kept), "one more is rejected")
        assert (await here.latest("stolen"))["version"] == version
        await registry.put(Vehicle("stolen"))

        async def moves() -> bool:
            await sends()
            return bool((await here.latest("stolen"))["version"] > version)

        await until(moves, "it moves again")
    finally:
        await connection.close()


async def _more(here: Site, than: float) -> bool:
    return await here.counts("rejected") > than


async def test_a_kill_of_nats_server_leaves_the_door_as_it_was(here: Site) -> None:
    topic = "vehicles/killed/packets"
    assert await publish(here.settings, topic, packet("killed", 1)) == "acknowledged"
    await here.started_again("nats-server", here.kill("nats-server"))

    async def takes() -> bool:
        try:
            return await publish(here.settings, topic, packet("killed", 2)) == "acknowledged"
        except OSError:
            return False

    await until(takes, "MQTT is taken again")
    assert (await here.reaches("killed", 2))["signals"]["Test.Number"]["value"] == 2

"""Identity at the MQTT door: a real nats-server, which asks; clients that we did not write; the doorkeeper that closes."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from aiomqtt import Client, MqttError, ProtocolVersion, TLSParameters
from prometheus_client import REGISTRY

from fleetcast import natsserver
from fleetcast.auth import Identity, identity
from fleetcast.budget import Budgets
from fleetcast.commands import doctor
from fleetcast.devpki import DevelopmentPki
from fleetcast.errors import Refuse, Unusable
from fleetcast.jetstream import Connection, connect, provision
from fleetcast.mqtt import Doorkeeper
from fleetcast.nats_callout import Callout
from fleetcast.nats_jwt import new_seed
from fleetcast.nats_system import System
from fleetcast.settings import Settings
from fleetcast.subjects import PACKETS
from tests.servers import Server, nats_server, platform_settings, short_folder, tcp_answers, until

PACKET = b'{"vehicle":"car-1","boot":1,"seq":1,"sent_at":"2026-11-23T10:00:00Z","signals":{}}'


class Door:
    """A nats-server with identity, our side of it, and what a test asks of both."""

    def __init__(
        self, settings: Settings, pki: DevelopmentPki, connection: Connection, log: Path, server: Server
    ) -> None:
        self.settings, self.pki, self.connection = settings, pki, connection
        self.log, self.server = log, server
        self.unwelcome: dict[str, Refuse] = {}
        self.tokens: list[str] = []
        self.now = 0.0
        self._before = 0

    async def fresh(self) -> None:
        """As if nothing had been stored yet, and everybody were welcome."""
        self._before += await self.stored()
        self.unwelcome.clear()

    def token(self, vehicle: str = "car-1", days: float = 1) -> str:
        self.tokens.append(self.pki.token(vehicle, days))
        return self.tokens[-1]

    def client(self, vehicle: str = "car-1", token: str | None = None, **changes: Any) -> Client:
        given: dict[str, Any] = {
            "hostname": "localhost" if self.settings.tls_cert else "127.0.0.1",
            "port": self.settings.mqtt_port,
            "identifier": vehicle,
            "protocol": ProtocolVersion.V311,
            "clean_session": True,
            "username": vehicle,
            "password": token or self.token(vehicle),
            "timeout": 20,
        }
        return Client(**(given | changes))

    async def stored(self) -> int:
        info = await self.connection.api(f"STREAM.INFO.{PACKETS}")
        return int(info["state"]["last_seq"]) - self._before

    def logged(self) -> str:
        return self.log.read_text(errors="replace")

    async def welcome(self, vehicle: str) -> None:
        if vehicle in self.unwelcome:
            raise self.unwelcome[vehicle]


@asynccontextmanager
async def opened(
    folder: Path, settings: Settings, *, packets: int = 0, tls: bool = False, keys: bool = True
) -> AsyncIterator[Door]:
    pki = DevelopmentPki(folder / "pki")
    given: dict[str, Any] = {"vehicle_keys": str(pki.vehicle_keys)} if keys else {"vehicle_ca": str(pki.ca)}
    if tls:
        given |= {"tls_cert": str(pki.server), "tls_key": str(pki.server_key)}
    settings = msgspec.structs.replace(
        settings, nats_password="p" * 32, nats_seed=new_seed(), **given
    ).checked()
    port = int(settings.nats.rpartition(":")[2])
    async with nats_server(folder, port, settings) as server:
        connection = await connect(settings, "test")
        await provision(connection, settings)
        (folder / "nats.conf").write_text(natsserver.configuration(settings, folder / "nats", mqtt=True))
        await server.stop()
        await server.start()
        await until(lambda: connection.client.is_connected)
        await tcp_answers(settings.mqtt_port)
        system = await connect(settings, "keeper", natsserver.system_user(settings))
        door = Door(settings, pki, connection, folder / "nats.log", server)
        who = identity(settings)
        assert who is not None
        keeper = Doorkeeper(
            System(system), Budgets(packets, 0), door.log, [door.welcome], lambda: door.now, every=0.1
        )
        await Callout(connection, settings.nats_seed, who, [keeper.welcome, door.welcome]).start()
        running = asyncio.create_task(keeper.run())
        try:
            yield door
            for token in door.tokens:  # neither a token, nor any part of it
                assert not any(part in door.logged() for part in token.split(".")[1:])
        finally:
            keeper.stop()
            await running
            await connection.close()
            await system.close()


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[Door]:
    with short_folder() as folder:
        async with opened(folder, platform_settings(folder, partitions=8)) as here:
            yield here


@pytest.fixture
async def door(shared: Door) -> Door:
    await shared.fresh()
    return shared


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"fleetcast_{name}_total", labels) or 0.0


async def ends(car: Client) -> None:
    """Returns once the connection is closed from the other side."""
    with pytest.raises(MqttError):
        await asyncio.wait_for(anext(aiter(car.messages)), 20)


# Who is let in


async def test_a_vehicle_with_its_token_is_acknowledged_and_stored(door: Door) -> None:
    async with door.client() as car:
        await car.publish("vehicles/car-1/packets", PACKET, qos=1)
        await car.publish("vehicles/car-1/packets/json", PACKET, qos=1)
    assert await door.stored() == 2


async def test_mosquitto_pub_is_let_in_and_told_when_it_is_not(door: Door) -> None:
    for token, status in ((door.token(), 0), (door.token("car-2"), 5)):
        command = ["mosquitto_pub", "-p", str(door.settings.mqtt_port), "-u", "car-1", "-P", token]
        command += ["-i", "car-1", "-q", "1", "-t", "vehicles/car-1/packets", "-m", PACKET.decode()]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, said = await process.communicate()
        assert process.returncode == status, said
    assert await door.stored() == 1


def expired(door: Door) -> dict[str, Any]:
    return {"token": door.token(days=-1)}


def foreign_key(door: Door) -> dict[str, Any]:
    return {"token": DevelopmentPki(door.log.parent / "foreign").token("car-1", 1)}


def forged(header: dict[str, str], key: bytes | None) -> str:
    claims = {"sub": "car-1", "exp": int(time.time()) + 600}
    parts = [jwt.utils.base64url_encode(json.dumps(one).encode()) for one in (header, claims)]
    signed = b".".join(parts)
    signature = b"" if key is None else hmac.digest(key, signed, "sha256")
    return (signed + b"." + jwt.utils.base64url_encode(signature)).decode()


def alg_none(door: Door) -> dict[str, Any]:
    return {"token": forged({"alg": "none", "typ": "JWT"}, None)}


def public_key_as_secret(door: Door) -> dict[str, Any]:
    return {"token": forged({"alg": "HS256", "typ": "JWT"}, door.pki.vehicle_keys.read_bytes())}


def another_s_token(door: Door) -> dict[str, Any]:
    return {"token": door.token("car-2")}


def another_s_client_id(door: Door) -> dict[str, Any]:
    return {"identifier": "car-2"}


def no_client_id(door: Door) -> dict[str, Any]:
    return {"identifier": ""}


def no_credentials(door: Door) -> dict[str, Any]:
    return {"username": None, "password": None}


def no_token(door: Door) -> dict[str, Any]:
    return {"password": ""}


def ourselves(door: Door) -> dict[str, Any]:
    """The password of our own processes does not count by MQTT."""
    return {"username": door.settings.nats_user, "password": door.settings.nats_password}


REFUSED: dict[Callable[[Door], dict[str, Any]], tuple[str, str]] = {
    expired: ("expired", "has expired"),
    foreign_key: ("signature", "none of the keys"),
    alg_none: ("algorithm", "none of its key"),
    public_key_as_secret: ("algorithm", "none of its key"),
    another_s_token: ("other", "the credentials are of car-2"),
    another_s_client_id: ("other", "client id must be the vehicle"),
    no_client_id: ("other", "client id must be the vehicle"),
    no_credentials: ("missing", "show a token"),
    no_token: ("missing", "show a token"),
    ourselves: ("", "authentication error"),
}


async def test_all_others_are_refused_told_so_and_counted(door: Door) -> None:
    for how, (reason, said) in REFUSED.items():
        before, logged = count("unidentified", door="mqtt", reason=reason), len(door.logged())
        with pytest.raises(MqttError, match=r"[Nn]ot authori"):
            async with door.client(**how(door)) as car:
                await car.publish("vehicles/car-1/packets", PACKET, qos=1)
        await until(lambda: said in door.logged()[logged:], f"{how.__name__} is in nats-server's log")  # noqa: B023
        assert count("unidentified", door="mqtt", reason=reason) == before + bool(reason), how
    assert await door.stored() == 0


async def test_nats_itself_takes_our_own_processes_only(door: Door) -> None:
    options: list[dict[str, str]] = [
        {},
        {"user": "car-1", "pass": door.token()},
        {"auth_token": door.token()},
        {"user": door.settings.nats_user, "pass": "wrong"},
    ]
    port = int(door.settings.nats.rpartition(":")[2])
    for given in options:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"CONNECT {json.dumps({'verbose': False} | given)}\r\nPING\r\n".encode())
        assert (await reader.readline()).startswith(b"INFO")
        assert await reader.readline() == b"-ERR 'Authorization Violation'\r\n"
        writer.close()
        await writer.wait_closed()


async def test_the_doctor_sees_whether_strangers_are_refused(
    door: Door, folder: Path, settings: Settings
) -> None:
    assert [finding.well for finding in await doctor.strangers(door.settings)] == [True]
    assert await doctor.strangers(settings) == []  # open for development
    async with nats_server(folder, int(settings.nats.rpartition(":")[2]), settings):
        forgotten = msgspec.structs.replace(settings, vehicle_keys=door.settings.vehicle_keys)
        (finding,) = await doctor.strangers(forgotten)
    assert (finding.well, "authorization block" in finding.mend) == (False, True)
    assert await doctor.strangers(forgotten) == []  # away: that is said of the streams


# What it may do there


async def test_another_s_topic_is_acknowledged_dropped_said_and_the_connection_closed(door: Door) -> None:
    """nats-server's own way with a QoS 1 publish that is forbidden; made loud, and ended."""
    before = count("mqtt_forbidden"), count("mqtt_closed", reason="forbidden")
    async with door.client("car-2") as other:
        async with door.client("car-1") as car:
            await car.publish("vehicles/car-2/packets", PACKET, qos=1)
            await ends(car)
        await other.publish("vehicles/car-2/packets", PACKET, qos=1)
        assert await door.stored() == 1  # the other's own
        async with door.client("car-1") as car:
            await car.publish("vehicles/car-1/packets", PACKET, qos=1)
    assert await door.stored() == 2
    assert (count("mqtt_forbidden"), count("mqtt_closed", reason="forbidden")) == (
        before[0] + 1,
        before[1] + 1,
    )


@pytest.mark.parametrize(
    "topic", ["$MQTT/msgs/vehicles/car-2/packets", "$JS/API/STREAM/DELETE/LIVE", "a", "$SYS/a"]
)
async def test_no_other_subject_can_be_reached(door: Door, topic: str) -> None:
    async with door.client() as car:
        await car.publish(topic, PACKET, qos=1)
        await ends(car)
    assert await door.stored() == 0
    await door.connection.api("STREAM.INFO.LIVE")


async def test_nothing_can_be_subscribed_to(door: Door) -> None:
    async with door.client() as car:
        for topic in ("vehicles/car-1/packets", "vehicles/#", "#", "$MQTT/#"):
            codes = await car.subscribe(topic, qos=0)
            assert [getattr(code, "value", code) for code in codes] == [0x80]


async def test_a_connection_ends_with_its_token(door: Door) -> None:
    began = time.monotonic()
    async with door.client(token=door.token(days=3 / 86400)) as car:
        await ends(car)
    assert time.monotonic() - began < 15


# What it sends too much, and who is not welcome any more


async def test_who_exceeds_its_budget_is_closed_and_waits(folder: Path, settings: Settings) -> None:
    async with opened(folder, settings, packets=5) as door:
        before = count("mqtt_closed", reason="budget")
        async with door.client("car-2") as other:
            async with door.client() as car:
                for _ in range(6):
                    await car.publish("vehicles/car-1/packets", PACKET, qos=1)
                await ends(car)
            await until(lambda: count("mqtt_closed", reason="budget") == before + 1)
            with pytest.raises(MqttError):
                async with door.client():
                    pass
            await until(lambda: "car-1 has sent more packets than it may" in door.logged())
            door.now += 61
            async with door.client() as car:
                await car.publish("vehicles/car-1/packets", PACKET, qos=1)
            await other.publish("vehicles/car-2/packets", PACKET, qos=1)


async def test_what_short_connections_send_counts_together(folder: Path, settings: Settings) -> None:
    async with opened(folder, settings, packets=5) as door:

        async def again() -> bool:
            try:
                async with door.client() as car:
                    await car.publish("vehicles/car-1/packets", PACKET, qos=1)
            except MqttError:
                return True
            return False

        await until(again, "it is refused")
        assert 6 <= await door.stored() < 100


async def test_who_is_not_welcome_any_more_is_closed(door: Door) -> None:
    before = count("mqtt_closed", reason="unwelcome")
    async with door.client("car-2") as other:
        async with door.client() as car:
            door.unwelcome["car-2"] = Refuse(503, "Not stored", "the registry is away")
            door.unwelcome["car-1"] = Refuse(403, "Vehicle disabled", "by the test")
            await ends(car)
        with pytest.raises(MqttError):
            async with door.client():
                pass
        await until(lambda: "Vehicle disabled: by the test" in door.logged())
        await other.publish("vehicles/car-2/packets", PACKET, qos=1)  # a registry that is away closes nothing
    await until(lambda: count("mqtt_closed", reason="unwelcome") == before + 1)
    assert await door.stored() == 1


async def test_a_second_connection_of_a_vehicle_ends_the_first(door: Door) -> None:
    async with door.client() as first, door.client() as second:
        await ends(first)
        await second.publish("vehicles/car-1/packets", PACKET, qos=1)


# Mutual TLS


def by(door: Door, certificate: tuple[Path, Path] | None, **changes: Any) -> Client:
    tls = TLSParameters(
        ca_certs=str(door.pki.ca),
        certfile=str(certificate[0]) if certificate else None,
        keyfile=str(certificate[1]) if certificate else None,
    )
    given = {"tls_params": tls, "username": None, "password": None} | changes
    return door.client(**given)


async def test_a_certificate_is_enough(folder: Path, settings: Settings) -> None:
    async with opened(folder, settings, tls=True, keys=False) as door:
        own = door.pki.certificate("car-1", 1, folder)
        async with by(door, own) as car:
            await car.publish("vehicles/car-1/packets", PACKET, qos=1)
        assert await door.stored() == 1
        foreign = DevelopmentPki(folder / "f").certificate("car-1", 1, folder / "f")
        late = door.pki.certificate("late", 1e-9, folder)
        for certificate in (None, foreign, late, (door.pki.server, door.pki.server_key)):
            assert "ALERT" in await handshake(door, certificate)
        for who in (by(door, own, identifier="car-2"), by(door, own, username="car-2", password="x")):
            with pytest.raises(MqttError):
                async with who:
                    pass
        assert await door.stored() == 1


async def handshake(door: Door, certificate: tuple[Path, Path] | None) -> str:
    """What TLS says of this certificate; with TLS 1.3 that comes with the first read."""
    context = ssl.create_default_context(cafile=str(door.pki.ca))
    if certificate is not None:
        context.load_cert_chain(*certificate)
    reader, writer = await asyncio.open_connection("localhost", door.settings.mqtt_port, ssl=context)
    try:
        await reader.read(1)
    except ssl.SSLError as why:
        return str(why)
    finally:
        writer.transport.abort()
    return "taken"


async def test_a_token_by_tls(folder: Path, settings: Settings) -> None:
    async with opened(folder, settings, tls=True) as door:
        async with door.client(tls_params=TLSParameters(ca_certs=str(door.pki.ca))) as car:
            await car.publish("vehicles/car-1/packets", PACKET, qos=1)
        assert await door.stored() == 1


async def test_a_new_certificate_of_the_door_is_read_at_sighup(folder: Path, settings: Settings) -> None:
    async with opened(folder, settings, tls=True) as door:

        async def shown() -> bytes:
            context = ssl.create_default_context(cafile=str(door.pki.ca))
            _, writer = await asyncio.open_connection("localhost", door.settings.mqtt_port, ssl=context)
            found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.transport.abort()
            return bytes(found)

        before = await shown()
        door.pki.server.unlink()
        DevelopmentPki(folder / "pki")
        os.kill(door.server.pid, signal.SIGHUP)

        async def another() -> bool:
            return await shown() != before

        await until(another, "it shows the new one")


# Ourselves


def test_what_identity_needs_is_said(folder: Path, settings: Settings) -> None:
    for given in ({}, {"nats_seed": new_seed()}, {"nats_password": "p" * 32}):
        partly: dict[str, Any] = {"vehicle_keys": "k.pem", **given}
        with pytest.raises(Unusable, match="missing"):
            natsserver.configuration(msgspec.structs.replace(settings, **partly), folder)
    assert "auth_callout" not in natsserver.configuration(settings, folder)


def test_an_identity_without_keys_takes_certificates_only() -> None:
    assert not Identity(None).takes_tokens

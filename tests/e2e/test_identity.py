"""A whole platform with identity: credentials as `fleetcast enroll` issues them, used as it says, on both doors, over TLS."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiomqtt import Client, MqttError, ProtocolVersion, TLSParameters

from fleetcast.devpki import DevelopmentPki
from tests.contracts.test_mqtt_identity import ends
from tests.e2e.outside import Site, packet, site
from tests.servers import short_folder, until


class Guarded:
    """A platform that knows tokens, or certificates, or both."""

    def __init__(self, here: Site, pki: DevelopmentPki, folder: Path) -> None:
        self.here, self.pki, self.folder = here, pki, folder
        self.tokens: list[str] = []

    def token(self, vehicle: str, days: float = 1) -> str:
        self.tokens.append(self.pki.token(vehicle, days))
        return self.tokens[-1]

    async def post(self, vehicle: str, seq: int, token: str = "", of: str = "") -> httpx2.Response:
        context = ssl.create_default_context(cafile=str(self.pki.ca))
        if of:
            context.load_cert_chain(*self.pki.certificate(of, 1, self.folder))
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {token}"} if token else {}
        )
        url = f"{self.here.platform.ingest_url}/v1/vehicles/{vehicle}/packets"
        async with httpx2.AsyncClient(verify=context, trust_env=False) as client:
            return await client.post(url, content=packet(vehicle, seq), headers=headers)

    def car(self, vehicle: str, token: str = "") -> Client:
        settings = self.here.settings
        return Client(
            "localhost",
            settings.mqtt_port,
            identifier=vehicle,
            username=vehicle,
            password=token or self.token(vehicle),
            protocol=ProtocolVersion.V311,
            tls_params=TLSParameters(ca_certs=str(self.pki.ca)),
            timeout=20,
        )

    def command(self, *arguments: str) -> tuple[str, ...]:
        config = self.here.platform.run_folder / "fleetcast.toml"
        return (sys.executable, "-m", "fleetcast", "--config", str(config), *arguments)

    async def fleetcast(self, *arguments: str) -> str:
        """What the command prints."""
        return await output(*self.command(*arguments))

    async def begin(self, *arguments: str) -> asyncio.subprocess.Process:
        """The command, running."""
        return await asyncio.create_subprocess_exec(*self.command(*arguments), stdout=asyncio.subprocess.PIPE)

    async def enroll(self, *arguments: str) -> str:
        """What `fleetcast enroll` prints."""
        return await self.fleetcast("enroll", *arguments)

    async def does_as_printed(self, printed: str) -> dict[str, str]:
        """Runs the commands that it prints; their outputs, by program."""
        programs = ("fleetcast ", "curl ", "mosquitto_pub ")
        first, *lines = [line for line in printed.splitlines() if line.startswith(programs)]
        assert len(lines) == 2, printed
        await self.fleetcast(*first.split()[1:])
        return {line.split(maxsplit=1)[0]: await until(partial(worked, line), line) for line in lines}


async def worked(line: str) -> str:
    """What it prints; empty if it was refused. A change of the registry is known at the doors within seconds."""
    try:
        said = await output("bash", "-c", line)
        return "" if "Unknown vehicle" in said else said or "done"
    except AssertionError as error:
        if "refused" in str(error):
            return ""
        raise


async def output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, said = await process.communicate()
    assert process.returncode == 0, said.decode() + out.decode()
    return out.decode()


@asynccontextmanager
async def guarded(folder: Path, *, keys: bool, ca: bool, unknown: str = "welcome") -> AsyncIterator[Guarded]:
    pki = DevelopmentPki(folder / "dev-pki")  # where `enroll` makes them
    given: dict[str, Any] = {"tls_cert": str(pki.server), "tls_key": str(pki.server_key)}
    given["unknown_vehicles"] = unknown
    given |= {"vehicle_keys": str(pki.vehicle_keys)} if keys else {}
    given |= {"vehicle_ca": str(pki.ca)} if ca else {}
    async with site(folder, edges=1, origins=1, consumers=1, **given) as here:
        yield Guarded(here, pki, folder)


@pytest.fixture(scope="module")
async def door() -> AsyncIterator[Guarded]:
    with short_folder() as folder:
        async with guarded(folder, keys=True, ca=True) as here:
            yield here


async def test_what_enroll_prints_works_with_a_token(door: Guarded) -> None:
    printed = await door.enroll("printed-1")
    assert (await door.does_as_printed(printed))["curl"].startswith('{"packet":"printed-1/1/1"')
    assert (await door.here.reaches("printed-1", 2))["version"] == 2
    door.tokens.append((door.folder / "dev-pki" / "printed-1.token").read_text())


async def test_both_doors_and_both_credentials_are_one_vehicle(door: Guarded) -> None:
    assert (await door.post("car-1", 1, door.token("car-1"))).status_code == 202
    assert (await door.post("car-1", 2, of="car-1")).status_code == 202
    async with door.car("car-1") as car:
        await car.publish("vehicles/car-1/packets", packet("car-1", 3), qos=1)
    assert (await door.here.reaches("car-1", 3))["signals"]["Test.Number"]["value"] == 3


async def test_nobody_is_another_at_either_door(door: Guarded) -> None:
    before = await door.here.counts("unidentified", "ingest")
    stored = await door.here.counts("acked", "ingest")
    for vehicle, token, of, status in (
        ("car-9", "", "", 401),
        ("car-9", door.token("car-9", -1), "", 401),
        ("car-9", door.token("car-8"), "", 403),
        ("car-9", "", "car-8", 403),
    ):
        assert (await door.post(vehicle, 1, token, of)).status_code == status
    for token in (door.token("car-9", -1), door.token("car-8"), "x"):
        with pytest.raises(MqttError):
            async with door.car("car-9", token):
                pass
    assert await door.here.counts("unidentified", "ingest") == before + 7
    assert await door.here.counts("acked", "ingest") == stored

    async with door.car("car-8") as car:
        await car.publish("vehicles/car-9/packets", packet("car-9", 1), qos=1)
        await ends(car)

    async def counted() -> bool:
        return await door.here.counts("mqtt_closed", "ingest", label="forbidden") == 1

    await until(counted, "the closing is counted")
    log = door.here.platform.supervisor.log("ingest").read_text()
    assert '"topic": "vehicles/car-9/packets"' in log
    assert '"vehicle": "car-8"' in log
    assert (await door.here.get("/v1/vehicles/car-9")).status_code == 404


async def test_vehicles_come_back_after_nats_server_and_ingest(door: Guarded) -> None:
    killed = door.here.kill("nats-server")
    await door.here.started_again("nats-server", killed)

    async def sent(seq: int) -> bool:
        try:
            async with door.car("back") as car:
                await car.publish("vehicles/back/packets", packet("back", seq), qos=1)
        except (MqttError, OSError):
            return False
        return True

    await until(lambda: sent(1), "a vehicle is let in again")
    await door.here.platform.roll("ingest", lambda _: None)
    await until(lambda: sent(2), "by the new ingest too")
    await door.here.reaches("back", 2)
    async with door.car("back-too") as car:  # the doorkeeper is there again as well
        await car.publish("vehicles/back/packets", packet("back", 3), qos=1)
        await ends(car)


async def test_who_is_disabled_is_closed_and_refused_at_both_doors(door: Guarded) -> None:
    await door.fleetcast("vehicles", "add", "stolen")
    async with door.car("stolen") as car:
        await car.publish("vehicles/stolen/packets", packet("stolen", 1), qos=1)
        await door.fleetcast("vehicles", "disable", "stolen")
        await ends(car)
    with pytest.raises(MqttError):
        async with door.car("stolen"):
            pass
    answer = await door.post("stolen", 2, door.token("stolen"))
    assert (answer.status_code, answer.json()["title"]) == (403, "Vehicle disabled")


async def test_simulated_cars_show_credentials_at_both_doors(door: Guarded) -> None:
    settings, folder = door.here.settings, door.folder / "dev-pki"
    where = (
        *("--ingest", f"https://localhost:{settings.ingest_port}"),
        *("--mqtt", f"mqtts://localhost:{settings.mqtt_port}"),
    )
    little = ("--cars", "4", "--min-bytes", "0", "--max-bytes", "0", "--per-minute", "120")
    process = await door.begin(
        *("simulate", "cars", "--door", "mix", "--prefix", "sim-", "--json", *little, *where),
        *("--credentials", str(folder)),
    )
    assert process.stdout is not None
    wanted = {(f"sim-{n:05d}", "mqtt" if n % 2 else "http") for n in range(4)}
    acked = set[tuple[str, str]]()
    async with asyncio.timeout(60):
        while acked != wanted:
            line = json.loads(await process.stdout.readline())
            acked |= {(one[0], one[5]) for one in line["acked"]}
            assert acked <= wanted
    process.terminate()
    rest, _ = await process.communicate()
    totals = json.loads(rest.splitlines()[-1])
    assert (totals["done"], totals["errors"], totals["unacknowledged"], process.returncode) == (True, 0, 0, 0)


async def test_no_log_holds_any_part_of_a_token(door: Guarded) -> None:
    assert len(door.tokens) > 5
    for path in door.folder.rglob("*.log"):
        text = path.read_text(errors="replace")
        for token in door.tokens:
            assert not [part for part in token.split(".")[1:] if part[:24] in text], path


async def test_certificates_alone_and_what_enroll_prints_of_them(folder: Path) -> None:
    async with guarded(folder, keys=False, ca=True, unknown="") as door:
        assert (await door.post("car-1", 1, of="car-1")).json()["title"] == "Unknown vehicle"
        printed = await door.enroll("car-1", "--certificate", "--days", "2")
        assert (await door.does_as_printed(printed))["curl"].startswith('{"packet":"car-1/1/1"')
        assert (await door.here.reaches("car-1", 2))["version"] == 2
        assert (await door.post("car-2", 1, of="car-1")).status_code == 403


async def test_identity_can_be_turned_on_over_what_there_is(folder: Path) -> None:
    async with site(folder, edges=1, origins=1, consumers=1) as here:
        await here.send("car-1", 1)
        await here.reaches("car-1", 1)
    async with guarded(folder, keys=True, ca=False) as door:
        assert (await door.here.latest("car-1"))["version"] == 1
        async with door.car("car-1") as car:
            await car.publish("vehicles/car-1/packets", packet("car-1", 2), qos=1)
        await door.here.reaches("car-1", 2)
    async with site(folder, edges=1, origins=1, consumers=1) as here:
        assert (await here.latest("car-1"))["version"] == 2

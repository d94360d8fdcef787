"""Over real HTTP and TLS: who proves to be the vehicle of the path is let in; all others are told why, and nothing is read."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from prometheus_client import REGISTRY
from starlette.requests import Request

from fleetcast.admission import Admit, TlsProtocol, every, identified, tls_context
from fleetcast.auth import identity
from fleetcast.devpki import DevelopmentPki
from fleetcast.errors import Refuse, Unusable
from fleetcast.ingest import application
from fleetcast.proof.ports import free_ports
from fleetcast.queue import Stored
from fleetcast.settings import Settings
from tests.servers import http_server


class Queue:
    """Stores in memory."""

    def __init__(self) -> None:
        self.stored: list[str] = []

    async def put(self, vehicle: str, packet_id: str, *_: object) -> Stored:
        self.stored.append(packet_id)
        return Stored(len(self.stored), False)


class Door:
    """Ingest on a port, and what a test needs of it."""

    def __init__(self, pki: DevelopmentPki, folder: Path, port: int, queue: Queue, tls: bool) -> None:
        self.pki, self.folder, self.port, self.queue = pki, folder, port, queue
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1/vehicles/"

    async def post(
        self,
        vehicle: str = "car-1",
        token: str = "",
        certificate: tuple[Path, Path] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx2.Response:
        context = ssl.create_default_context(cafile=str(self.pki.ca))
        if certificate is not None:
            context.load_cert_chain(*certificate)
        sent = {"content-type": "application/json", **(headers or {})}
        if token:
            sent["authorization"] = f"Bearer {token}"
        async with httpx2.AsyncClient(verify=context, trust_env=False) as client:
            return await client.post(f"{self.url}{vehicle}/packets", content=a_packet(vehicle), headers=sent)


def a_packet(vehicle: str = "car-1", seq: int = 1, size: int = 0) -> bytes:
    packet = {"vehicle": vehicle, "boot": 1, "seq": seq, "sent_at": "2026-11-23T10:00:00Z", "signals": {}}
    return json.dumps(packet).encode().ljust(size)


@asynccontextmanager
async def door(
    folder: Path, *, keys: bool = True, ca: bool = True, tls: bool = True, also: Admit | None = None
) -> AsyncIterator[Door]:
    pki = DevelopmentPki(folder / "pki")
    given: dict[str, Any] = {}
    if keys:
        given["vehicle_keys"] = str(pki.vehicle_keys)
    if tls:
        given |= {"tls_cert": str(pki.server), "tls_key": str(pki.server_key)}
        given |= {"vehicle_ca": str(pki.ca)} if ca else {}
    settings = Settings(**given).checked()
    who, context, queue = identity(settings), tls_context(settings), Queue()
    assert who is not None
    admits = [identified(who), *([also] if also else [])]
    app = application(queue, settings, admit=every(*admits))  # type: ignore[arg-type]  # only put is asked
    (port,) = free_ports(1)
    options: dict[str, Any] = (
        {} if context is None else {"http": TlsProtocol, "ssl_context_factory": lambda *_: context}
    )
    async with http_server(app, port, **options):
        yield Door(pki, folder, port, queue, context is not None)


def is_refused(answer: httpx2.Response, status: int, error: str, detail: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert detail in answer.json()["detail"]
    challenge = answer.headers["www-authenticate"]
    assert challenge.startswith('Bearer realm="fleetcast"')
    assert (f'error="{error}"' in challenge) if error else ("error" not in challenge)


def counted(reason: str) -> float:
    name = "fleetcast_unidentified_total"
    return REGISTRY.get_sample_value(name, {"door": "http", "reason": reason}) or 0.0


# Tokens


async def test_a_token_lets_its_own_vehicle_in_and_no_other(folder: Path) -> None:
    async with door(folder, tls=False) as here:
        token = here.pki.token("car-1", 1)
        assert (await here.post(token=token)).status_code == 202
        assert (await here.post(headers={"authorization": f"bearer  {token}"})).status_code == 202
        before = counted("other")
        is_refused(await here.post("car-2", token), 403, "insufficient_scope", "of car-1, not of car-2")
        assert counted("other") == before + 1
        assert here.queue.stored == ["car-1/1/1"] * 2


@pytest.mark.parametrize(
    ("headers", "error", "reason"),
    [
        ({}, "", "missing"),
        ({"authorization": "Basic Y2FyLTE6eA=="}, "invalid_token", "malformed"),
        ({"authorization": "Bearer"}, "invalid_token", "malformed"),
        ({"authorization": "Bearer x y"}, "invalid_token", "malformed"),
        ({"authorization": "Bearer x.y.z"}, "invalid_token", "malformed"),
    ],
    ids=range(5),
)
async def test_no_token_is_401_with_a_challenge(
    folder: Path, headers: dict[str, str], error: str, reason: str
) -> None:
    async with door(folder, tls=False) as here:
        before = counted(reason)
        is_refused(await here.post(headers=headers), 401, error, "")
        assert counted(reason) == before + 1
        assert here.queue.stored == []


async def test_no_part_of_a_token_is_logged_or_answered(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with door(folder, tls=False) as here:
        past, now = here.pki.token("car-1", -1), here.pki.token("car-1", 1)
        for vehicle, token in (("car-1", past), ("car-2", now), ("car-1", now[:-9] + "AAAAAAAAA")):
            answer = await here.post(vehicle, token)
            assert answer.status_code in (401, 403)
            said = capsys.readouterr().out + answer.text + str(answer.headers)
            assert "packet refused" in said
            for part in token.split(".")[1:]:
                assert part[:24] not in said


# Certificates


async def test_a_certificate_lets_its_own_vehicle_in_and_no_other(folder: Path) -> None:
    async with door(folder) as here:
        certificate = here.pki.certificate("car-1", 1, folder)
        assert (await here.post(certificate=certificate)).status_code == 202
        is_refused(
            await here.post("car-2", certificate=certificate), 403, "insufficient_scope", "not of car-2"
        )
        assert (await here.post(token=here.pki.token("car-1", 1))).status_code == 202
        is_refused(await here.post(), 401, "", "client certificate")
        assert here.queue.stored == ["car-1/1/1"] * 2


async def test_a_certificate_and_a_token_must_agree(folder: Path) -> None:
    async with door(folder) as here:
        certificate = here.pki.certificate("car-1", 1, folder)
        assert (await here.post(token=here.pki.token("car-1", 1), certificate=certificate)).status_code == 202
        for vehicle in ("car-1", "car-2"):
            other = await here.post(vehicle, here.pki.token("car-2", 1), certificate)
            assert other.status_code == 403
        expired = await here.post(token=here.pki.token("car-1", -1), certificate=certificate)
        is_refused(expired, 401, "invalid_token", "expired")


def foreign(here: Door) -> tuple[Path, Path]:
    return DevelopmentPki(here.folder / "foreign").certificate("car-1", 1, here.folder)


def expired(here: Door) -> tuple[Path, Path]:
    return here.pki.certificate("car-1", 1e-9, here.folder)


def the_server_s(here: Door) -> tuple[Path, Path]:
    return here.pki.server, here.pki.server_key


@pytest.mark.parametrize("which", [foreign, expired, the_server_s])
async def test_a_certificate_that_is_not_a_vehicle_s_ends_the_handshake(
    folder: Path, which: Callable[[Door], tuple[Path, Path]]
) -> None:
    async with door(folder) as here:
        with pytest.raises(httpx2.TransportError):
            await here.post(certificate=which(here))
        assert here.queue.stored == []
        assert (await here.post(token=here.pki.token("car-1", 1))).status_code == 202


async def test_without_a_ca_certificates_are_not_asked_for(folder: Path) -> None:
    async with door(folder, ca=False) as here:
        is_refused(await here.post(certificate=foreign(here)), 401, "", "show a token")


async def test_tls_is_1_2_or_later(folder: Path) -> None:
    async with door(folder) as here:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError):  # noqa: PT011 - by TLS's alert, or by the cut after it
            await asyncio.open_connection("127.0.0.1", here.port, ssl=old)


def test_files_of_tls_that_will_not_do_are_said(folder: Path) -> None:
    pki = DevelopmentPki(folder)
    good = {"tls_cert": str(pki.server), "tls_key": str(pki.server_key), "vehicle_ca": str(pki.ca)}
    (folder / "bad.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for name in good:
        for path, why in (("none.pem", "no such file"), ("bad.pem", "")):
            given: dict[str, Any] = good | {name: str(folder / path)}
            with pytest.raises(Unusable, match=name) as caught:
                tls_context(Settings(**given))
            assert why in str(caught.value)
    other = DevelopmentPki(folder / "other")
    with pytest.raises(Unusable, match="tls_cert"):
        tls_context(Settings(tls_cert=str(pki.server), tls_key=str(other.server_key)))


# What a refused request costs


async def test_a_refused_body_is_passed_over_and_the_connection_stays(folder: Path) -> None:
    async with door(folder, tls=False) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        good = f"Authorization: Bearer {here.pki.token('car-1', 1)}\r\n"
        for number in range(1, 4):
            for header, status in (("", b"401"), (good, b"202")):
                body = a_packet(seq=number, size=1_000_000)
                head = (
                    f"POST /v1/vehicles/car-1/packets HTTP/1.1\r\nHost: x\r\n{header}"
                    f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                )
                writer.write(head.encode() + body)
                answer = await reader.readuntil(b"\r\n\r\n")
                assert answer.split()[1] == status
                length = int(answer.lower().partition(b"content-length: ")[2].split()[0])
                await reader.readexactly(length)
        assert here.queue.stored == [f"car-1/1/{number}" for number in range(1, 4)]
        writer.close()
        await writer.wait_closed()


async def test_who_asks_first_is_answered_before_the_body(folder: Path) -> None:
    async with door(folder, tls=False) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(
            b"POST /v1/vehicles/car-1/packets HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n"
        )
        assert (await reader.readline()).split()[1] == b"401"
        writer.close()
        await writer.wait_closed()


# Several checks


async def test_the_first_that_refuses_is_the_answer(folder: Path) -> None:
    asked = []

    async def disabled(request: Request, vehicle: str) -> None:
        asked.append(vehicle)
        raise Refuse(403, "Vehicle disabled", "by the test")

    async with door(folder, tls=False, also=disabled) as here:
        assert (await here.post()).status_code == 401
        assert asked == []
        answer = await here.post(token=here.pki.token("car-1", 1))
        assert (answer.status_code, answer.json()["title"]) == (403, "Vehicle disabled")
        assert asked == ["car-1"]
        assert here.queue.stored == []


async def test_without_identity_everybody_is_welcome() -> None:
    await every()(Request({"type": "http", "headers": []}), "car-1")


# The development credentials


def test_development_keys_are_made_once_and_are_ours_alone(folder: Path) -> None:
    pki = DevelopmentPki(folder / "p")
    made = {path.name: path.read_bytes() for path in (folder / "p").iterdir()}
    token = pki.token("car-1", 2, iss="us")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["sub"] == "car-1"
    assert claims["iss"] == "us"
    assert abs(claims["exp"] - time.time() - 2 * 24 * 3600) < 5
    DevelopmentPki(folder / "p")
    assert made == {path.name: path.read_bytes() for path in (folder / "p").iterdir()}
    assert {path.stat().st_mode & 0o777 for path in (folder / "p").iterdir()} == {0o600}

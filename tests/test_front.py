"""The front door's certificate: what HAProxy is given, and what is said of one that will not do."""

from __future__ import annotations

import asyncio
import re
import ssl
import sys
from pathlib import Path

import httpx2
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from fleetcast import front, haproxy, probes, settings, traps
from fleetcast.devpki import DevelopmentPki
from fleetcast.errors import Unusable
from fleetcast.settings import Settings
from tests.servers import free_ports, haproxy_server, platform_settings

FOLDER = Path("/tmp/fleetcast")


@pytest.fixture
def pki(folder: Path) -> DevelopmentPki:
    return DevelopmentPki(folder / "pki")


def with_tls(pki: DevelopmentPki, **changes: object) -> Settings:
    given = {"front_cert": str(pki.server), "front_key": str(pki.server_key)} | changes
    return msgspec.structs.replace(Settings(), **given)


def rendered(ours: Settings) -> str:
    return haproxy.configuration(ours, [("127.0.0.1:8090", 8073)], FOLDER)["haproxy.cfg"]


def test_plain_http_is_the_default() -> None:
    assert front.url(Settings()) == "http://127.0.0.1:8080"
    assert front.trust(Settings()) is probes.authorities()
    assert "ssl" not in re.sub(r"^\s*#.*", "", rendered(Settings()), flags=re.MULTILINE)


def test_certificate_and_key_are_one_text(pki: DevelopmentPki, folder: Path) -> None:
    ours = with_tls(pki)
    text = front.bundle(ours)
    assert text == pki.server.read_text() + pki.server_key.read_text()
    assert front.url(ours) == "https://127.0.0.1:8080"
    both = folder / "both.pem"
    both.write_text(text.rstrip())  # as one file that holds both, without a last line break
    assert front.bundle(with_tls(pki, front_cert=str(both), front_key=str(both))) == text


@pytest.mark.parametrize("name", ["front_cert", "front_key"])
def test_one_without_the_other_is_refused(name: str) -> None:
    with pytest.raises(Unusable, match="front_cert and front_key: there is one without the other"):
        settings.load(None, {}, {name: "x.pem"})


def test_tls_alone_does_not_open_the_door_to_others(pki: DevelopmentPki) -> None:
    with pytest.raises(Unusable, match=r"host: 0\.0\.0\.0 is not loopback"):
        with_tls(pki, host="0.0.0.0").checked()
    everywhere = with_tls(pki, host="0.0.0.0", app_keys="k.pem").checked()
    assert front.url(everywhere) == "https://127.0.0.1:8080"


def test_what_will_not_do_is_said_in_one_line(pki: DevelopmentPki, folder: Path) -> None:
    other, locked = DevelopmentPki(folder / "other"), folder / "locked.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    locked.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    for changes, said in (
        ({"front_cert": "/no/such.pem"}, "front_cert: /no/such.pem: no such file"),
        ({"front_key": "/no/such.pem"}, "front_key: /no/such.pem: no such file"),
        ({"front_key": str(other.server_key)}, "front_cert, front_key: .*MISMATCH"),
        ({"front_key": str(locked)}, "front_cert, front_key: "),
        ({"front_cert": str(pki.server_key)}, "front_cert, front_key: "),
    ):
        with pytest.raises(Unusable, match=said) as refused:
            front.bundle(with_tls(pki, **changes))
        assert "\n" not in str(refused.value)


async def test_haproxy_takes_it_and_nothing_else_is_trusted(pki: DevelopmentPki, folder: Path) -> None:
    ours = platform_settings(folder, front_cert=str(pki.server), front_key=str(pki.server_key))
    (folder / "haproxy").mkdir()
    (folder / "haproxy" / front.BUNDLE).write_text(front.bundle(ours))
    other = with_tls(DevelopmentPki(folder / "other"))
    async with haproxy_server(folder, ours, []):
        url = f"https://127.0.0.1:{ours.front_port}/v1/vehicles"
        async with httpx2.AsyncClient(trust_env=False, verify=front.trust(ours)) as client:
            assert (await client.get(url)).status_code == 503
        async with httpx2.AsyncClient(trust_env=False, verify=front.trust(other)) as client:
            with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get(url)
        proper = ssl.create_default_context(cafile=str(pki.ca))  # with the name, as an app checks it
        proper.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection("127.0.0.1", ours.front_port, ssl=proper)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        writer.close()
        old = ssl.create_default_context(cafile=str(pki.ca))
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError, match=r"(?i)protocol|alert|no ciphers"):
            await asyncio.open_connection("127.0.0.1", ours.front_port, ssl=old)


# Its traps


def test_what_we_render_has_none_of_the_traps(pki: DevelopmentPki) -> None:
    ours = with_tls(pki)
    findings = list(traps.haproxy(rendered(ours), ours))
    assert [one.what for one in findings if not one.well] == []
    assert [one.what for one in findings if "TLS" in one.what or "h2" in one.what] == [
        "haproxy: port 8080 speaks TLS",
        "haproxy: HTTP/2 where it speaks TLS",
        "haproxy: tune.h2.max-concurrent-streams above a page's streams",
    ]


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        (r" ssl crt .*", "", "speaks TLS"),
        (" alpn h2,http/1.1", "", "HTTP/2"),
        (" alpn h2,http/1.1", " alpn http/1.1", "HTTP/2"),
        ("tune.h2.max-concurrent-streams 500", "", "max-concurrent-streams"),
        ("tune.h2.max-concurrent-streams 500", "tune.h2.max-concurrent-streams 50", "max-concurrent-streams"),
    ],
)
def test_each_trap_is_seen(pki: DevelopmentPki, line: str, instead: str, said: str) -> None:
    ours = with_tls(pki)
    text, count = re.subn(line, instead, rendered(ours))
    assert count
    assert any(said in one.what for one in traps.haproxy(text, ours) if not one.well)


async def doctor(folder: Path, **environment: str) -> str:
    """What it says of a platform that does not run."""
    (nats,) = free_ports(1)
    given = {"DATA": str(folder), "NATS": f"nats://127.0.0.1:{nats}", **environment}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fleetcast", "doctor"),
        stdout=asyncio.subprocess.PIPE,
        env={f"FLEETCAST_{name}": text for name, text in given.items()},
    )
    return (await process.communicate())[0].decode()


async def test_doctor_says_when_it_ends_and_when_it_does_not_fit(pki: DevelopmentPki, folder: Path) -> None:
    files = {"FRONT_CERT": str(pki.server), "FRONT_KEY": str(pki.server_key)}
    said = await doctor(folder, **files)
    assert "  ok  settings: front_cert and front_key fit" in said
    assert "  ok  settings: front_cert holds for 3650 days" in said or "for 3649 days" in said
    short, key = pki.certificate("short", 3, folder)
    assert "  BAD settings: front_cert holds for 3 days\n      -> renew it" in await doctor(
        folder, FRONT_CERT=str(short), FRONT_KEY=str(key)
    )
    said = await doctor(folder, **files | {"FRONT_KEY": str(key)})
    assert "  BAD settings: front_cert and front_key fit\n      -> front_cert, front_key: " in said
    assert "front_cert holds" not in said

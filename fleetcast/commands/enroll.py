"""`fleetcast enroll`: development credentials for a vehicle, or for an app's user, and how they are used."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fleetcast.clock import SystemClock, rfc3339
from fleetcast.devpki import DevelopmentPki
from fleetcast.errors import Unusable
from fleetcast.machine import write
from fleetcast.registry import is_fleet
from fleetcast.settings import Settings
from fleetcast.subjects import is_vehicle

_TEXT = """Issues credentials for development: a token, or a key and certificate, signed by a key or a CA that are made on first
use in `dev-pki` of the data folder. Prints the settings that make the platform take them, and how to send with them. In
production your own issuer of tokens or your PKI does this: docs/operations.md says how it is plugged in."""


def add_commands(commands: Any) -> None:
    """Adds it to the parser."""
    sub = commands.add_parser(
        "enroll", help="development credentials for a vehicle, or an app's user", description=_TEXT
    )
    sub.add_argument("vehicle", metavar="VEHICLE", nargs="?", help="1 to 64 of A-Z a-z 0-9 - _")
    sub.add_argument("--app", metavar="SUB", help="a token for this user of an app instead")
    sub.add_argument("--vehicles", metavar="ID,…", default="", help="what the app may see; * is everything")
    sub.add_argument("--fleets", metavar="NAME,…", default="", help="the fleets that the app may see")
    kind = sub.add_mutually_exclusive_group()
    kind.add_argument("--token", dest="kind", action="store_const", const="token", help="a JWT (the default)")
    kind.add_argument(
        "--certificate", dest="kind", action="store_const", const="certificate", help="for mutual TLS"
    )
    sub.add_argument("--days", type=float, default=30, metavar="N", help="how long they hold (30)")
    sub.add_argument("--out", type=Path, metavar="DIR", help="where they go (dev-pki of the data folder)")
    sub.set_defaults(run=run, kind="token")


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Writes the files, and prints what to do with them."""
    vehicle, days = arguments.vehicle, arguments.days
    if (vehicle is None) == (arguments.app is None):
        raise Unusable("enroll: give a VEHICLE, or --app SUB")
    if arguments.app is not None:
        print("\n".join(_enroll_app(arguments, settings)))
        return 0
    if arguments.vehicles or arguments.fleets:
        raise Unusable("enroll: --vehicles and --fleets are of --app")
    if not is_vehicle(vehicle):
        raise Unusable(f"{vehicle!r} is no vehicle id: 1 to 64 of A-Z a-z 0-9 - _")
    if not 0 < days <= 3650:
        raise Unusable(f"--days: {days:g} is not above 0 and at most 3650")
    print("\n".join(_enroll(arguments.kind, vehicle, days, arguments.out, settings)))
    return 0


def _enroll_app(arguments: argparse.Namespace, settings: Settings) -> Sequence[str]:
    user, seconds = arguments.app, arguments.days * 86_400
    vehicles, fleets = (
        [one.strip() for one in text.split(",") if one.strip()]
        for text in (arguments.vehicles, arguments.fleets)
    )
    if re.fullmatch(r"[A-Za-z0-9_@.-]{1,64}", user) is None or user.startswith("."):
        raise Unusable(f"--app: {user!r} is not 1 to 64 of A-Z a-z 0-9 - _ @ .")
    if wrong := [one for one in vehicles if one != "*" and not is_vehicle(one)]:
        raise Unusable(f"--vehicles: {wrong[0]!r} is no vehicle id: 1 to 64 of A-Z a-z 0-9 - _")
    if wrong := [one for one in fleets if not is_fleet(one)]:
        raise Unusable(f"--fleets: {wrong[0]!r} is no fleet's name: 1 to 64 of A-Z a-z 0-9 - _")
    if not 0 < seconds <= settings.revoked_seconds:
        most = settings.revoked_seconds / 86_400
        raise Unusable(f"--days: {arguments.days:g} is not above 0 and at most {most:g} (revoked_seconds)")
    folder = Path(settings.data).absolute() / "dev-pki"
    pki = DevelopmentPki(folder)
    into = folder if arguments.out is None else arguments.out.absolute()
    claims = {"iss": settings.app_issuer, "aud": settings.app_audience, "fleets": fleets}
    file = into / f"{user}.app-token"
    try:
        into.mkdir(parents=True, exist_ok=True)
        write(
            file, pki.app_token(user, vehicles, seconds, **{name: one for name, one in claims.items() if one})
        )
    except OSError as error:
        raise Unusable(f"{into}: {error.strerror}") from None
    url, shown = f"http://127.0.0.1:{settings.front_port}/v1", shlex.quote(str(file))
    header = f'-H "Authorization: Bearer $(cat {shown})"'
    vehicle = next((one for one in vehicles if one != "*"), "car-00001")
    return [
        f"# for {arguments.days:g} days: {file}",
        "",
        "# in the settings file:",
        f"app_keys = {json.dumps(str(pki.app_keys))}",
        "",
        f"curl {header} {url}/{settings.noun}",
        f"curl {header} -X POST {url}/tickets",
        f"fleetcast tail {vehicle} --token {shown}",
    ]


def _enroll(kind: str, vehicle: str, days: float, out: Path | None, settings: Settings) -> Sequence[str]:
    folder = Path(settings.data).absolute() / "dev-pki"
    pki = DevelopmentPki(folder)
    into = folder if out is None else out.absolute()
    try:
        into.mkdir(parents=True, exist_ok=True)
        return (_token if kind == "token" else _certificate)(pki, vehicle, days, into, settings)
    except OSError as error:
        raise Unusable(f"{into}: {error.strerror}") from None


def _token(pki: DevelopmentPki, vehicle: str, days: float, into: Path, settings: Settings) -> Sequence[str]:
    claims = {"iss": settings.vehicle_issuer, "aud": settings.vehicle_audience}
    file = into / f"{vehicle}.token"
    write(file, pki.token(vehicle, days, **{name: text for name, text in claims.items() if text}))
    shown = f'"$(cat {shlex.quote(str(file))})"'
    return [
        f"# for {days:g} days: {file}",
        *_settings("vehicle_keys", pki.vehicle_keys, pki),
        *_use(
            vehicle,
            pki,
            settings,
            f'-H "Authorization: Bearer $(cat {shlex.quote(str(file))})"',
            f"-u {vehicle} -P {shown}",
        ),
    ]


def _certificate(
    pki: DevelopmentPki, vehicle: str, days: float, into: Path, settings: Settings
) -> Sequence[str]:
    files = pki.certificate(vehicle, days, into)
    certificate, key = (shlex.quote(str(file)) for file in files)
    shown = f"--cert {certificate} --key {key}"
    return [
        f"# for {days:g} days: {files[0]}, {files[1]}",
        *_settings("vehicle_ca", pki.ca, pki),
        *_use(vehicle, pki, settings, shown, shown),
    ]


def _settings(name: str, path: Path, pki: DevelopmentPki) -> Sequence[str]:
    lines = {name: path, "tls_cert": pki.server, "tls_key": pki.server_key}
    return [
        "",
        "# in the settings file:",
        *(f"{key} = {json.dumps(str(file))}" for key, file in lines.items()),
    ]


def _use(vehicle: str, pki: DevelopmentPki, settings: Settings, http: str, mqtt: str) -> Sequence[str]:
    ca, sent_at = shlex.quote(str(pki.ca)), rfc3339(SystemClock().now())
    http_packet, mqtt_packet = (
        json.dumps({"vehicle": vehicle, "boot": 1, "seq": seq, "sent_at": sent_at, "signals": {}})
        for seq in (1, 2)
    )
    url = f"https://localhost:{settings.ingest_port}/v1/{settings.noun}/{vehicle}/packets"
    lines = [
        "",
        '# in the registry, unless unknown_vehicles = "welcome":',
        f"fleetcast vehicles add {vehicle}",
        "",
        "# by HTTP:",
        f"curl --cacert {ca} {http} -H 'Content-Type: application/json' {url} -d '{http_packet}'",
    ]
    if settings.mqtt_port:
        message = f"-t vehicles/{vehicle}/packets -q 1 -m '{mqtt_packet}'"
        lines += [
            "",
            "# by MQTT (the client id must be the vehicle's):",
            f"mosquitto_pub --cafile {ca} -h localhost -p {settings.mqtt_port} {mqtt} -i {vehicle} {message}",
        ]
    return lines

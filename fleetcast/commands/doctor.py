"""`fleetcast doctor`: what is missing or misconfigured here, and how to mend it.

Looks at the programs and their versions, the limits of this machine, the configurations (those that we render, or the
operator's own files), and, if nats-server answers, at the streams as they are. Changes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import resource
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from fleetcast import (
    access,
    decode,
    enrich,
    front,
    haproxy,
    jetstream,
    natsserver,
    probes,
    pushpin,
    registry,
    traps,
)
from fleetcast.errors import FleetcastError, Unusable
from fleetcast.layout import with_edges
from fleetcast.machine import nats_server, search_path
from fleetcast.nats_jwt import new_seed
from fleetcast.settings import Settings
from fleetcast.subjects import LIVE, PACKETS, REGISTRY, REJECTED, RETAINED, REVOKED, STREAMS
from fleetcast.traps import Finding

_TEXT = """Says what is missing or misconfigured, and how to mend it; changes nothing. Exit status 1 if something is wrong.
Without options it checks the configurations that `fleetcast up` renders; give your own files to have those checked."""

_ANSWERS = 10.0  # seconds: nats-server waits 5 for ingest
_SOON = 14  # days before a certificate's end

_APT = "`make setup` installs it (apt-get install --no-install-recommends {})"


def add_commands(commands: Any) -> None:
    """Adds it to the parser."""
    sub = commands.add_parser(
        "doctor", help="say what is missing or misconfigured, and how to mend it", description=_TEXT
    )
    sub.add_argument(
        "--pushpin", type=Path, metavar="FILE", help="a pushpin.conf; its routes file is read beside it"
    )
    sub.add_argument("--haproxy", type=Path, metavar="FILE", help="a haproxy.cfg")
    sub.add_argument("--nats", type=Path, metavar="FILE", help="a nats.conf")
    sub.set_defaults(run=run)


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Prints the findings; those that are not well stand out with their mending."""
    console = Console(highlight=False, soft_wrap=True)
    groups: dict[str, list[Finding]] = {
        "programs": list(_programs()),
        "this machine": list(_machine(settings)),
        "configurations": list(_configurations(arguments, settings)),
        "streams": [*await strangers(settings), *await _streams(settings)],
    }
    for title, findings in groups.items():
        console.print(f"[bold]{title}[/]")
        for finding in findings:
            console.print(
                "  [green]ok[/]  " if finding.well else "  [red]BAD[/] ", finding.what, sep="", markup=True
            )
            if not finding.well:
                console.print(f"      -> {finding.mend}", markup=False)
    wrong = sum(not finding.well for findings in groups.values() for finding in findings)
    console.print(f"{wrong} to mend" if wrong else "all is well")
    return 1 if wrong else 0


def _programs() -> Iterator[Finding]:
    version = sys.version_info
    yield Finding(
        version >= (3, 11), f"Python {version.major}.{version.minor}", "Fleetcast needs 3.11 or later"
    )
    nats = nats_server()
    yield _program("nats-server", [nats, "--version"], (2, 15), "`make setup` installs it into .venv")
    yield _program("pushpin", ["pushpin", "--version"], (1, 36), _APT.format("pushpin"))
    for name in ("condure", "zurl"):
        found = shutil.which(name, path=search_path()) is not None
        yield Finding(found, name, "" if found else "it comes with pushpin: reinstall that")
    yield _program("haproxy", ["haproxy", "-v"], (2, 6), _APT.format("haproxy"))
    text = _output(["haproxy", "-vv"])
    lua = "Built with Lua" in text
    yield Finding(
        lua, "haproxy has Lua", "" if lua else "pacing of new streams needs it: Debian's package has it"
    )
    setpriv = shutil.which("setpriv") is not None
    yield Finding(
        setpriv,
        "setpriv",
        "" if setpriv else "processes would outlive a killed `up`: apt-get install util-linux",
    )


def _program(name: str, command: list[str], least: tuple[int, int], mend: str) -> Finding:
    text = _output(command)
    found = re.search(r"(\d+)\.(\d+)(?:\.\d+)?", text)
    if found is None:
        return Finding(well=False, what=f"{name} is missing", mend=mend)
    well = (int(found[1]), int(found[2])) >= least
    needed = ".".join(map(str, least))
    return Finding(well, f"{name} {found[0]}", "" if well else f"Fleetcast needs {needed} or later")


def _output(command: list[str]) -> str:
    try:
        environment = {**os.environ, "PATH": search_path()}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=False, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def _machine(settings: Settings) -> Iterator[Finding]:
    needed = max(haproxy.files_needed(settings), pushpin.client_maxconn(settings) + 200)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    well = hard == resource.RLIM_INFINITY or hard >= needed
    mend = (
        ""
        if well
        else f"raise the limit (ulimit -Hn), or lower edge_connections ({settings.edge_connections})"
    )
    yield Finding(well, f"open files: {hard} a process allowed, {needed} needed", mend)
    folder = Path(settings.data).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    well = os.access(existing, os.W_OK)
    yield Finding(
        well, f"data in {folder}", "" if well else f"{existing} cannot be written to: use --data DIR"
    )
    limit = settings.queue_bytes + settings.live_bytes + settings.rejected_bytes + settings.streams_bytes
    free = shutil.disk_usage(existing).free
    mend = (
        ""
        if free >= limit
        else "a full disk refuses packets before the streams' limits do: lower queue_bytes, live_bytes"
    )
    yield Finding(
        free >= limit, f"disk: {free / 1e9:.0f} GB free, the streams may take {limit / 1e9:.0f} GB", mend
    )


def _configurations(arguments: argparse.Namespace, settings: Settings) -> Iterator[Finding]:
    yield _loads("settings: enrichers load", lambda: enrich.load(settings.enrichers))
    if settings.registry:
        yield _loads("settings: the registry loads", lambda: registry.load(settings.registry, settings))
    if settings.app_resolver:
        yield _loads("settings: the resolver loads", lambda: access.load_resolver(settings.app_resolver))
    yield _loads("settings: decoders load", lambda: decode.load(settings.decoders))
    if settings.front_cert:
        fits = _loads("settings: front_cert and front_key fit", lambda: front.bundle(settings))
        yield fits
        if fits.well:
            left = front.days_left(settings)
            mend = "" if left >= _SOON else "renew it: operations.md says how, without cutting streams"
            yield Finding(left >= _SOON, f"settings: front_cert holds for {left:.0f} days", mend)
    settings = with_edges(settings)
    folder = Path(settings.data).absolute() / "run"
    try:
        if arguments.pushpin is not None:
            routes = arguments.pushpin.parent / "routes"
            yield from traps.pushpin(arguments.pushpin.read_text(), routes.read_text(), settings)
        else:
            for number in range(settings.edges):
                key = settings.sig_key or "made by `up`"
                rendered = pushpin.configuration(
                    msgspec.structs.replace(settings, sig_key=key), number, folder / f"edge-{number}"
                )
                findings = list(traps.pushpin(rendered["pushpin.conf"], rendered["routes"], settings))
                yield from findings if number == 0 else (one for one in findings if not one.well)
        if arguments.haproxy is not None:
            text = arguments.haproxy.read_text()
        else:
            text = haproxy.configuration(settings, [("127.0.0.1:1", 1)], folder)["haproxy.cfg"]
        yield from traps.haproxy(text, settings)
        if arguments.nats is not None:
            yield from traps.nats(arguments.nats.read_text(), settings)
        elif not _clustered(settings):  # else they are the operator's own
            settings = _with_secrets(settings)
            yield from traps.nats(natsserver.configuration(settings, folder, mqtt=True), settings)
    except OSError as error:
        raise Unusable(f"doctor: {error}") from None


def _loads(what: str, load: Callable[[], object]) -> Finding:
    try:
        load()
    except FleetcastError as error:
        return Finding(well=False, what=what, mend=str(error))
    return Finding(well=True, what=what)


def _clustered(settings: Settings) -> bool:
    return settings.replicas > 1 or len(settings.nats_servers) > 1


def _with_secrets(settings: Settings) -> Settings:
    """With those that `up` makes: as it keeps them in `data`, or, before its first start, with others like them."""
    if not settings.mqtt_identity:
        return settings
    folder, found = Path(settings.data), dict[str, str]()
    for name, make in (("nats_password", partial(secrets.token_urlsafe, 32)), ("nats_seed", new_seed)):
        kept = folder / name
        found[name] = getattr(settings, name) or (kept.read_text().strip() if kept.exists() else make())
    return msgspec.structs.replace(settings, **found)


async def strangers(settings: Settings) -> list[Finding]:
    """Whether each nats-server that answers lets in whoever comes, with identity."""
    findings = []
    for host, port in natsserver.addresses(settings) if settings.mqtt_identity else ():
        try:
            async with asyncio.timeout(_ANSWERS):
                well = await probes.refuses_strangers(host, port)
        except (OSError, TimeoutError, EOFError):
            continue  # it is away, which is said of the streams
        mend = "its authorization block is missing, or it runs with an older file: operations.md says what it must be"
        findings.append(Finding(well, f"nats-server {host}:{port} refuses strangers", "" if well else mend))
    return findings


async def _streams(settings: Settings) -> list[Finding]:
    servers = natsserver.addresses(settings)
    away = [f"{host}:{port}" for host, port in servers if not await _accepts(host, port)]
    if len(away) == len(servers) and not _clustered(settings):
        return [Finding(well=True, what=f"nats-server does not run at {away[0]}; `fleetcast up` starts one")]
    findings = [
        Finding(well=False, what=f"nats-server {server} does not answer", mend="start it; see its log")
        for server in away
    ]
    if len(away) == len(servers):
        return findings
    connection = await jetstream.connect(settings, "fleetcast-doctor")
    try:
        retained = (RETAINED,) if settings.mqtt_port else ()
        for name in (PACKETS, LIVE, REJECTED, REGISTRY, REVOKED, STREAMS, *retained):
            try:
                info = await connection.api(f"STREAM.INFO.{name}")
                if name == LIVE:
                    wanted = jetstream.live_config(settings, jetstream.epoch_of(info))
                else:
                    wanted = {
                        PACKETS: jetstream.packets_config,
                        REJECTED: jetstream.rejected_config,
                        RETAINED: jetstream.retained_config,
                        REGISTRY: jetstream.registry_config,
                        REVOKED: jetstream.revoked_config,
                        STREAMS: jetstream.streams_config,
                    }[name](settings)
            except FleetcastError as error:
                findings.append(
                    Finding(well=False, what=f"stream {name}: {error}", mend="start any role: it makes it")
                )
                continue
            found = [*traps.stream(name, info["config"], wanted), *traps.copies(name, info)]
            used, limit = info["state"]["bytes"], info["config"]["max_bytes"]
            if limit > 0 and used > 0.8 * limit and wanted["discard"] == "new":
                mend = "it refuses when full: see why it is not emptied, or raise its limit"
                found.append(Finding(well=False, what=f"stream {name} is {used / limit:.0%} full", mend=mend))
            findings += found or [
                Finding(well=True, what=f"stream {name}: {info['state']['messages']} messages")
            ]
    finally:
        await connection.close()
    return findings


async def _accepts(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(2):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True

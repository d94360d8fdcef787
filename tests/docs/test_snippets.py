"""What README, docs and CONTRIBUTING say to type works: each command is run against a real platform, each file is used.

A command is a line of an `sh` block, or of an indented block, that begins with a program's name; what follows it there is
what it prints. Ports of the defaults become the test's. What cannot be run here is named in NOT_RUN, with the reason.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest
from playwright._impl._driver import compute_driver_executable
from playwright.sync_api import expect, sync_playwright

from fleetcast import access, registry
from fleetcast import settings as settings_module
from fleetcast.clock import SystemClock
from fleetcast.errors import Refuse
from fleetcast.known import Known
from fleetcast.settings import Settings, dump
from tests.servers import platform_settings, short_folder

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
LANGUAGES = {"sh", "python", "js", "html", "toml", "json", "text"}

NOT_RUN = {
    "apt-get install -y git make python3 python3-venv ca-certificates": "it changes the machine; `make fresh` runs it",
    "git clone REPOSITORY fleetcast && cd fleetcast": "the address is the reader's; `make fresh` runs it",
    "fleetcast up --tls": "one runs on this folder already; tests/e2e/test_tls.py runs it",
}

_PROGRAMS = "fleetcast|curl|mosquitto_pub|python3?|make|pytest|apt-get|git|cd|pip|printf|gzip|zstd|kill|docker|node|npm"
_COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ +)*(?:\.venv/bin/)?(?:{_PROGRAMS}) \S")
_PROGRAM = re.compile(
    r"(?:python -u|node) \w+\.(?:py|mjs) my-car"
)  # an app of the documentation, without an end
_STREAM_SECONDS = 0.7
CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
)
_ENDED = 28  # curl's status when its time is over, as it is for a stream


# Finding them


class Block(NamedTuple):
    file: str
    line: int
    language: str
    text: str
    before: str


def blocks(path: Path) -> Iterator[Block]:
    """Fenced blocks with their language, and indented ones, which have none."""
    lines = [*path.read_text().splitlines(), ""]
    number = 0
    while number < len(lines):
        line, before = lines[number], "\n".join(lines[:number])
        if line.startswith("```"):
            end = lines.index("```", number + 1)
            yield Block(path.name, number + 1, line[3:], "\n".join(lines[number + 1 : end]), before)
            number = end + 1
        elif line.startswith("    ") and not lines[number - 1]:
            end = number
            while end < len(lines) and (not lines[end] or lines[end].startswith("    ")):
                end += 1
            while not lines[end - 1]:
                end -= 1
            yield Block(path.name, number + 1, "", "\n".join(one[4:] for one in lines[number:end]), before)
            number = end
        else:
            number += 1


BLOCKS = [block for path in FILES for block in blocks(path)]


def commands(block: Block) -> Iterator[str]:
    """Each command; one whose quotes are open goes on in the next line."""
    lines = iter(block.text.splitlines())
    for line in lines:
        if not _COMMAND.match(line):
            assert block.language != "sh" or line.startswith("#"), (
                f"{block.file}: not known as a command: {line}"
            )
            continue
        command = re.sub(r"\s{2,}# .*$", "", line)
        while _is_open(command):
            command += "\n" + next(lines)
        yield command


def _is_open(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return True
    return command.endswith("\\")


def files() -> Mapping[str, str]:
    """The blocks of Python, JavaScript and HTML, by the file name that the text before each one ends with."""
    found = {}
    for block in BLOCKS:
        python = not block.language and re.search(r"^def \w+\(", block.text, re.M)
        ending = {"python": "py", "js": "mjs", "html": "html"}.get(block.language, "py" if python else "")
        if ending:
            name = re.findall(rf"`(\w+\.{ending})`", block.before)[-1]
            assert name not in found, f"{block.file}:{block.line}: {name} is there twice"
            found[name] = block.text + "\n"
    return found


# A platform to run them against, started by the README's own command

BREAKS = """
def enrich(state, packet):
    if "Test.Raise" in packet.signals:
        raise ValueError("as asked")
    return state
"""


class Ground:
    """A folder in which commands are given, as a reader would, and the platform that runs there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        modules = {n.removesuffix(".py"): t for n, t in files().items() if n.endswith(".py")}
        forms = [name for name, text in modules.items() if "\nDECODER = " in text]
        rules = [name for name, text in modules.items() if "def enrich(" in text]
        self.settings = platform_settings(
            folder / "d",
            spare=1,
            consumers=1,
            origins=1,
            edges=1,
            enrichers=(*Settings().enrichers, *rules, "breaks"),
            decoders=(*Settings().decoders, *forms),
        )
        (folder / "t.toml").write_text(dump(self.settings))
        for name, text in {**files(), "breaks.py": BREAKS}.items():
            (folder / name).write_text(self.ported(text))
        (folder / "bin").mkdir()
        (folder / "bin/node").symlink_to(
            compute_driver_executable()[0]
        )  # what Playwright brings: there everywhere
        (folder / ".venv").symlink_to(sys.prefix)
        own = {name: text for name, text in os.environ.items() if not name.startswith("FLEETCAST_")}
        path = f"{sys.prefix}/bin:{folder}/bin:{own.get('PATH', '')}"
        self.environment = {**own, "PATH": path, "FLEETCAST_CONFIG": str(folder / "t.toml")}
        self.front = f"http://127.0.0.1:{self.settings.front_port}"
        self.ingest = f"http://127.0.0.1:{self.settings.ingest_port}"

    def run(
        self, command: str, folder: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=folder or self.folder,
            env=environment or self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def send(self, vehicle: str, signals: Mapping[str, object], seq: int = 1) -> None:
        packet = {"vehicle": vehicle, "boot": 0, "seq": seq, "sent_at": "2026-11-23T10:00:00Z"}
        packet |= {"signals": {path: {"value": value} for path, value in signals.items()}}
        answer = httpx2.post(f"{self.ingest}/v1/vehicles/{vehicle}/packets", json=packet)
        assert answer.status_code == 202, answer.text

    def ported(self, text: str) -> str:
        """With the test's ports."""
        known = {8080: self.settings.front_port, 8081: self.settings.ingest_port}
        known |= {8086: self.settings.haproxy_port, 1883: self.settings.mqtt_port}
        known |= {8070 + number: self.settings.admin_port + min(number, 2) for number in range(5)}
        return re.sub(r"(?<=127\.0\.0\.1:)(\d+)", lambda found: str(known.get(int(found[1]), found[1])), text)

    def adapted(self, command: str) -> str:
        """With the test's ports; what would not end is given an end."""
        command = self.ported(command)
        command = re.sub(r"(?<=-p )1883\b", str(self.settings.mqtt_port), command)
        if re.search(r"\bcurl\b", command):
            ending = f" --max-time {_STREAM_SECONDS}" if re.search(r"\bcurl -\w*N", command) else ""
            command += ending + r" -w '\n%{http_code}'"
        if "simulate cars" in command:
            command += f" --seconds 1 --ingest {self.ingest}"
        if "simulate phones" in command:
            command += f" --seconds 1 --front {self.front}"
        if (
            "fleetcast conform http" in command
        ):  # all of it waits for a keep-alive; tests/e2e/test_conform.py does
            command += " --only state --only stream.chain --only resume.header"
        if re.match(r"(?:\S+=\S+ )+\S*fleetcast up\Z", command):  # other settings: would they do?
            command = command.removesuffix("up") + "doctor"
        return re.sub(r"^make ", "make -n ", command)  # it is there; what it does, others test


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with short_folder() as folder:
        made = Ground(folder)
        with (folder / "up.log").open("w") as output:
            process = subprocess.Popen(
                [".venv/bin/fleetcast", "up"],
                cwd=folder,
                env=made.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            wait_for(lambda: process.poll() is not None or "ready " in (folder / "up.log").read_text())
            assert process.poll() is None, (folder / "up.log").read_text()
            made.send("my-car", {"Vehicle.Speed": 1})
            made.send("broken", {"Test.Raise": True})
            wait_for(lambda: made.run("fleetcast rejected list").stdout.startswith("1\tbroken"))
            yield made
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# The tests


@pytest.mark.timeout(300)  # those of operations.md replace every process, and wait for doors
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_command_works(ground: Ground, path: Path) -> None:
    for block in blocks(path):
        for command in commands(block) if block.language in ("sh", "") else ():
            if command in NOT_RUN or re.fullmatch(
                r"(\.venv/bin/)?fleetcast up", command
            ):  # the platform is that
                continue
            where = f"{block.file}:{block.line}: {command}"
            if _PROGRAM.fullmatch(command):
                follows(ground, command, where)
                continue
            if "pytest " in command:  # those there are; not to be run twice
                done = ground.run(f"{command} --collect-only", ROOT)
            else:
                done = ground.run(ground.adapted(command), ROOT if command.startswith("make") else None)
            said = f"{where}\n{done.returncode} {done.stdout[-1500:]}{done.stderr[-1500:]}"
            if "curl" in command:
                stream = re.search(r"curl -\w*N", command)
                assert done.returncode == (_ENDED if stream else 0), said
                assert re.search(r"\n[23]\d\d\Z", done.stdout), said
                assert not stream or "event: " in done.stdout, said
            elif "doctor" in ground.adapted(command):  # whether this machine will do is not asked here
                assert done.returncode in (0, 1), said
                for what in ("enrichers", "decoders"):
                    assert f"ok  settings: {what} load" in done.stdout, said
            else:
                assert done.returncode == 0, said


def follows(ground: Ground, command: str, where: str) -> None:
    """The program says what the car sends, as it sends it; then it is ended."""
    vehicle = re.sub(r"\W", "-", command)
    ground.send(vehicle, {"Vehicle.Speed": 42.5}, 1)
    log = ground.folder / f"{vehicle}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command.replace("my-car", vehicle).split(),
            cwd=ground.folder,
            env=ground.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_for(lambda: process.poll() is not None or "42.5" in log.read_text())
        ground.send(vehicle, {"Vehicle.Speed": 71.25}, 2)
        wait_for(lambda: process.poll() is not None or "71.25" in log.read_text())
        assert process.poll() is None, f"{where}\n{log.read_text()}"
    finally:
        process.kill()
        process.wait()


def test_the_page_of_the_documentation_shows_the_car(ground: Ground) -> None:
    chromium = shutil.which("chromium")
    assert chromium is not None, "chromium is missing; `make setup-test` installs it"
    ground.send("shown", {"Vehicle.Speed": 42.5}, 1)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=CHROMIUM)
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.route("**/car.html*", lambda route: route.fulfill(path=ground.folder / "car.html"))
        page.goto(f"{ground.front}/car.html?vehicle=shown")
        expect(page.locator("#speed")).to_have_text("42.5", timeout=30_000)
        expect(page.locator("#status")).to_have_text("live", timeout=30_000)
        expect(page.locator("#age")).to_contain_text("s ago", timeout=30_000)
        ground.send("shown", {"Vehicle.Speed": 71.25}, 2)
        expect(page.locator("#speed")).to_have_text("71.25", timeout=30_000)
        assert errors == []
        browser.close()


def test_what_is_not_run_is_still_there() -> None:
    every = {command for block in BLOCKS if block.language in ("sh", "") for command in commands(block)}
    assert NOT_RUN.keys() <= every
    assert len(every) > 20
    assert {command.split()[0] for command in every if _PROGRAM.fullmatch(command)} == {"python", "node"}


def test_each_other_block_can_be_read(tmp_path: Path) -> None:
    for block in BLOCKS:
        assert block.language in LANGUAGES | {""}, f"{block.file}:{block.line}: {block.language}"
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "toml":
            file = tmp_path / "t.toml"
            file.write_text(block.text)
            settings_module.load(file, {})


def test_the_enrichers_of_the_documentation_have_their_effect(ground: Ground) -> None:
    ground.send("cold", {"Vehicle.Speed": 140}, 1)
    ground.send("cold", {"Vehicle.Exterior.AirTemperature": -2, "Vehicle.TraveledDistance": 1000}, 2)
    ground.send("cold", {"Vehicle.TraveledDistance": 1700}, 3)
    found: dict[str, dict[str, object]] = {}

    def level() -> bool:
        state = httpx2.get(f"{ground.front}/v1/vehicles/cold").json()
        found.update(state.get("signals", {}))
        return "version" in state and int(state["version"]) == 3

    wait_for(level)
    assert found["Acme.Ice.Warning"]["value"] is True
    assert found["Acme.Speeding.Distance"]["value"] == 700


def test_the_registry_of_the_documentation_is_one(ground: Ground) -> None:
    with closing(sqlite3.connect(Path(ground.settings.data) / "workshop.db")) as database, database:
        database.execute("CREATE TABLE cars (id, fleet, seconds, sold)")
        database.executemany("INSERT INTO cars VALUES (?, ?, ?, ?)", [("a", "x", 5, 0), ("b", "y", 9, 1)])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ground.folder)
        workshop = registry.load("workshop:make", ground.settings)

    async def asked() -> None:
        known = Known(workshop, SystemClock(), refuse_unknown=True)
        assert await known.check("a") == registry.Vehicle("a", ("x",), 5, True)
        await known.admit(None, "a")
        for refused in ("b", "c", "a' OR 1=1 --"):
            with pytest.raises(Refuse):
                await known.admit(None, refused)
        assert [one.vehicle async for one in workshop.all("y")] == ["b"]

    asyncio.run(asked())
    own = {**ground.environment, "FLEETCAST_REGISTRY": "workshop:make"}
    listed = ground.run("fleetcast vehicles list", environment=own)
    assert listed.stdout.splitlines() == ["a\tx\t5\tenabled", "b\ty\t9\tdisabled"], listed.stderr
    for verb in ("add c", "disable a", "forget a --yes"):
        done = ground.run(f"fleetcast vehicles {verb}", environment=own)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "in the workshop" in done.stderr


def test_the_resolver_of_the_documentation_decides(ground: Ground) -> None:
    own = {"FLEETCAST_APP_RESOLVER": "owners:may_see", "FLEETCAST_APP_KEYS": "app-keys.pem"}
    done = ground.run("fleetcast doctor", environment={**ground.environment, **own})
    assert "ok  settings: the resolver loads" in done.stdout
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ground.folder)
        resolve = access.load_resolver("owners:may_see")

    async def asked() -> list[bool]:
        pairs = [("ann", "my-car"), ("ann", "your-car"), ("bob", "your-car"), ("eve", "my-car")]
        return [await resolve({"sub": user}, vehicle) for user, vehicle in pairs]

    assert asyncio.run(asked()) == [True, False, True, False]


@pytest.mark.parametrize(("file", "passed"), [("test_speeding.py", 2), ("test_acme_frame.py", 6)])
def test_the_tests_of_the_documentation_pass(ground: Ground, file: str, passed: int) -> None:
    done = ground.run(f"python -m pytest -q -p no:cacheprovider -c /dev/null --rootdir . {file}")
    assert done.returncode == 0, done.stdout
    assert f"{passed} passed" in done.stdout


def test_the_decoder_of_the_documentation_is_taken_by_ingest_and_consume(ground: Ground) -> None:
    frame = struct.pack(">16sQQQBf", b"gateway", 1, 1, 1_700_000_000_000, 1, 42.5)
    url = f"{ground.ingest}/v1/vehicles/gateway/packets"
    answer = httpx2.post(url, content=frame, headers={"content-type": "application/x-acme-frame"})
    assert answer.status_code == 202, answer.text
    found: dict[str, dict[str, object]] = {}

    def applied() -> bool:
        found.update(httpx2.get(f"{ground.front}/v1/vehicles/gateway").json().get("signals", {}))
        return "Vehicle.Speed" in found

    wait_for(applied)
    assert found["Vehicle.Speed"] == {"value": 42.5, "at": "2023-11-14T22:13:20.000Z"}

"""`fleetcast conform` against a real platform: as a vehicle of its own, and on somebody else's. Faults: the file beside."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleetcast.commands import parser
from fleetcast.conform import suite
from fleetcast.devpki import DevelopmentPki
from fleetcast.errors import Unusable
from fleetcast.settings import Settings
from tests.e2e.outside import Site, site
from tests.e2e.test_conform_faults import expect
from tests.servers import short_folder, until

WINDOW = 10.0  # on a busy machine a check takes seconds between leaving and coming back


@pytest.fixture(scope="module")
async def here() -> AsyncIterator[Site]:
    with short_folder() as folder:
        keys = str(DevelopmentPki(folder / "dev-pki").app_keys)
        async with site(folder, keep_alive=1, window=WINDOW, app_keys=keys, ticket_seconds=2.0) as running:
            await expect(running, "conforms", 2)
            yield running


def token(here: Site, *vehicles: str) -> str:
    return DevelopmentPki(Path(here.settings.app_keys).parent).app_token("conform", vehicles, 3600)


async def conform(*arguments: str) -> tuple[int, str, str]:
    """The command, as its user runs it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fleetcast", "conform", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_the_platform_conforms(here: Site) -> None:
    sends = ("--send", here.platform.ingest_url, "--vehicle", "conform", "--token", token(here, "*"))
    given = ("--keep-alive", "1", "--window", str(WINDOW), "--quiet", "3", "--within", "30", "--json")
    status, out, err = await conform(here.url, *sends, *given)
    found = json.loads(out)
    rows = {row["check"]: row for row in found["checks"]}
    assert [row for row in rows.values() if row["verdict"] == "FAIL"] == [], err
    assert {name for name, row in rows.items() if row["verdict"] == "not tried"} == {
        "stream.removed",
        "errors.unavailable",
    }
    assert (status, found["conforms"]) == (0, True)
    assert set(rows) == {name for name, _, _ in suite.checks()}


async def test_a_vehicle_of_somebody_elses_is_enough(here: Site) -> None:
    stop = asyncio.Event()

    async def drive() -> None:
        number = 1
        while not stop.is_set():
            number += 1
            await here.send("driven", number)
            await asyncio.sleep(0.2)  # a car that sends five times a second; nothing waits for it

    await here.send("driven", 1)
    driving = asyncio.create_task(drive())
    try:
        given = ("--keep-alive", "1", "--streams", "8", "--within", "30", "--patience", "30")
        narrow = token(here, "driven")
        status, out, _ = await conform(here.url, "--vehicle", "driven", "--token", narrow, *given)
    finally:
        stop.set()
        await driving
    assert status == 0, out
    assert out.splitlines()[-1].endswith("not tried: conforms, as far as it was tried")
    passed = {line.split()[1] for line in out.splitlines() if line.startswith("pass")}
    assert passed > {
        "state.modified",
        "stream.chain",
        "stream.patch",
        "resume.header",
        "resume.many_at_once",
        "reset.forged",
        "crowd.agree",
        "tokens.anothers",
        "tokens.ticket",
        "views.bad",
        "views.resume",
        "polls.no_gap",
        "polls.missed",
    }, out


async def test_what_cannot_be_tried_is_said_in_one_line(here: Site) -> None:
    await here.send("still", 1)
    shown = ("--token", token(here, "*"))
    appears = {"Authorization": f"Bearer {shown[1]}"}

    async def there() -> bool:
        return (await here.get("/v1/vehicles/still", appears)).status_code == 200

    await until(there, "the vehicle is shown")
    nats = here.settings.nats.rpartition(":")[2]
    for arguments, word in (
        ((here.url,), "--vehicle"),
        (("ftp://x", "--vehicle", "still"), "http"),
        ((f"{here.url}?x=1", "--vehicle", "still"), "no more than a path"),
        ((here.url, "--vehicle", "still", "--streams", "0"), "--streams"),
        ((here.url, "--vehicle", "still", "--within", "0"), "positive"),
        ((here.url, "--vehicle", "still", "--only", "nonesuch"), "--list"),
        ((here.url, "--vehicle", "still", "--token", "@/nonesuch"), "/nonesuch"),
        ((here.url, "--vehicle", "still", "--token", "a\nb"), "no token"),
        ((here.url, "--vehicle", "still", "--ca", "/nonesuch"), "/nonesuch"),
        ((here.url, "--vehicle", "never"), "404"),
        ((here.url, "--vehicle", "still", "--token", ""), "--token"),
        ((f"http://127.0.0.1:{nats}", "--vehicle", "still"), "GET"),
        ((here.url, "--vehicle", "still", "--patience", "1"), "did not change"),
        ((here.url, "--vehicle", "new", "--send", here.url), "packets are not taken"),
    ):
        given = parser().parse_args(["conform", *shown, *arguments])
        with pytest.raises(Unusable, match=re.escape(word)) as told:
            await given.run(given, Settings())
        assert str(told.value).startswith("conform: ")
        assert "\n" not in str(told.value)
    status, out, err = await conform(here.url, *shown, "--vehicle", "never")
    assert (status, out, err.count("\n")) == (2, "", 1)


async def test_every_check_says_what_it_promises() -> None:
    status, out, _ = await conform("--list")
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == len({line.split()[0] for line in lines}) == len(list(suite.checks()))
    assert all(line.endswith((".", ":")) or "." in line[26:] for line in lines)

"""What an operator types: tail, explain and rejected, against a running platform."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from fleetcast.jetstream import connect
from fleetcast.packet import JSON
from fleetcast.settings import dump
from fleetcast.subjects import ENCODING, FORM, put_subject
from tests.e2e.outside import Site, packet, site
from tests.servers import short_folder, until


class Operator:
    """Runs `fleetcast` with the platform's own settings."""

    def __init__(self, here: Site, config: Path) -> None:
        self.here = here
        self._config = config

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fleetcast", "--config", str(self._config), *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def run(self, *arguments: str, status: int = 0) -> str:
        process = await self.start(*arguments)
        out, _ = await process.communicate()
        assert process.returncode == status, out.decode()
        return out.decode()


@pytest.fixture(scope="module")
async def operator() -> AsyncIterator[Operator]:
    async with site(edges=1, consumers=2, origins=1) as here:
        with short_folder() as folder:
            config = folder / "fleetcast.toml"
            config.write_text(dump(here.settings))
            yield Operator(here, config)


async def test_tail_follows_a_vehicle(operator: Operator) -> None:
    await operator.here.send("tailed", 1)
    await operator.here.reaches("tailed", 1)
    tail = await operator.start("tail", "tailed", "--events", "3")
    assert tail.stdout is not None
    events = [json.loads(await tail.stdout.readline())]
    await operator.here.send("tailed", 2)
    await operator.here.send("tailed", 3)
    events += [json.loads(line) async for line in tail.stdout]
    assert await tail.wait() == 0
    assert [(event["event"], event["data"]["version"]) for event in events] == [
        ("snapshot", 1),
        ("update", 2),
        ("update", 3),
    ]


async def test_tail_comes_back_with_its_last_id(operator: Operator) -> None:
    await operator.here.send("cut", 1)
    await operator.here.reaches("cut", 1)
    tail = await operator.start("tail", "cut", "--events", "2")
    assert tail.stdout is not None
    assert json.loads(await tail.stdout.readline())["event"] == "snapshot"
    killed = operator.here.kill("edge-0")

    async def is_cut() -> bool:  # else what dies may still pass the next update on
        return await operator.here.sessions() == [0]

    await until(is_cut, "the stream is cut")
    await operator.here.send("cut", 2)
    await operator.here.started_again("edge-0", killed)
    events = [json.loads(line) async for line in tail.stdout]
    assert await tail.wait() == 0
    assert [(event["event"], event["data"]["version"]) for event in events] == [("update", 2)]


async def test_explain_tells_the_last_packets_way(operator: Operator) -> None:
    assert "has never sent" in await operator.run("explain", "silent")
    async with operator.here.phone("told") as phone:
        await phone.snapshot()
        await operator.here.send("told", 1)
        await phone.versions(1)
        lines = (await operator.run("explain", "told")).splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ["sent", "stored", "handled", "committed", "published"]
    assert "packet 1/1, version 1" in lines[0]
    assert "by consume-" in lines[3]
    assert operator.here.settings.edge_sub[0] in lines[5]
    assert lines[6].split(maxsplit=1)[1].startswith("duplicate 0, late 0, skewed 0, rejected 0 since 2")
    assert "everything acknowledged is in the state" in lines[7]
    await operator.here.send("told", 2)
    await operator.here.reaches("told", 2)


async def test_explain_counts_what_was_not_new_and_in_order_over_all_processes(operator: Operator) -> None:
    """A repeat that the queue knows is counted by ingest, one that only the state knows by consume."""
    here = operator.here
    for seq in (1, 3, 2, 3):
        await here.send("counted", seq)
    assert (
        await here.post("counted", packet("counted", 4, sent_at="1970-01-01T00:00:07Z"))
    ).status_code == 202
    await here.reaches("counted", 4)
    await _put(here, "counted", packet("counted", 1))
    await _put_what_cannot_be_decoded(here, "counted", 2)

    async def counts() -> str:
        lines = (await operator.run("explain", "counted")).splitlines()
        return next(line for line in lines if line.startswith("  packets "))

    async def all_there() -> bool:
        text = await counts()
        return "duplicate 2, late 1, skewed 1, rejected 2 since 2" in text and text.endswith(
            "; 2 in REJECTED"
        )

    await until(all_there, "all are counted")
    shown = (await here.latest("counted"))["signals"]["Test.Number"]
    assert (shown["value"], shown["skewed"]) == (4, True)
    assert shown["at"] > "2000"
    await operator.run("rejected", "drop", "--vehicle", "counted")
    assert (await counts()).endswith("; 0 in REJECTED")


async def test_explain_says_that_nobody_listened(operator: Operator) -> None:
    await operator.here.send("unheard", 1)
    await operator.here.reaches("unheard", 1)
    assert "no phone listens" in await operator.run("explain", "unheard")


async def test_a_rejected_packet_is_listed_shown_replayed_and_dropped(operator: Operator) -> None:
    async def listed() -> list[list[str]]:
        lines = (await operator.run("rejected", "list", "--vehicle", "odd")).splitlines()
        return [line.split("\t") for line in lines if "\t" in line]

    for seq in (1, 2):
        await operator.here.send("odd", seq)
    await operator.here.reaches("odd", 2)
    assert await listed() == []
    await _put_what_cannot_be_decoded(operator.here, "odd", 2)
    await until(lambda: _is(listed, 2), "both are rejected")
    first, second = await listed()
    assert first[1] == "odd"
    assert "not a packet" in first[4]
    assert "rejected" in await operator.run("explain", "odd")
    assert "not a packet" in await operator.run("rejected", "show", first[0])
    assert "in the queue again" in await operator.run("rejected", "replay", first[0])
    # It is as bad as before, so it is rejected again, under a new number.
    await until(lambda: _is(listed, 2), "it is rejected again")
    numbers = [line[0] for line in await listed()]
    assert first[0] not in numbers
    assert second[0] in numbers
    assert (await operator.run("rejected", "drop", "--vehicle", "odd")).count("dropped") == 2
    assert await listed() == []
    assert "nothing is rejected" in await operator.run("rejected", "list")
    assert (await operator.here.latest("odd"))["version"] == 2


async def test_what_rejected_cannot_do_is_one_line(operator: Operator) -> None:
    for arguments in (("drop",), ("show", "999999"), ("replay", "x"), ("drop", "1", "--all")):
        out = await operator.run("rejected", *arguments, status=2)
        assert out.startswith("fleetcast: rejected")
        assert out.count("\n") == 1


async def _put(here: Site, vehicle: str, body: bytes) -> None:
    """Without the id by which the queue would know it again: as an MQTT client sends it."""
    connection = await connect(here.settings, "test")
    try:
        await connection.request(put_subject(vehicle), body, {FORM: JSON, ENCODING: "identity"})
    finally:
        await connection.close()


async def _put_what_cannot_be_decoded(here: Site, vehicle: str, count: int) -> None:
    """Past ingest, which would have refused it: as an MQTT client could send it."""
    connection = await connect(here.settings, "test")
    try:
        for number in range(count):
            body = b'{"vehicle": ' + b"?" * (number + 1)
            await connection.request(put_subject(vehicle), body, {FORM: JSON, ENCODING: "identity"})
    finally:
        await connection.close()


async def _is(listed: Callable[[], Awaitable[list[list[str]]]], count: int) -> bool:
    return len(await listed()) == count

"""The demo with its processes killed under it: its own verdict, from the cars' and phones' side, says what that cost.

Each run ends by Ctrl-C once what was to be tried has happened, so the end is tried with each of them, too.
"""

from __future__ import annotations

import os
import signal
from argparse import Namespace

from fleetcast import share
from fleetcast.commands.demo import _Demo
from fleetcast.jetstream import connect
from tests.e2e.demo import Command, demo, processes
from tests.e2e.outside import site

KEPT = ("lost", "twice", "reordered", "resets")


async def finished(running: Command, *, closed: bool) -> None:
    """Ctrl-C: a summary in which every promise was kept, exit status 0, and nothing that still runs."""
    family = {one.pid for one in running.family()}
    assert len(family) > 10
    status = await running.end(signal.SIGINT)
    summary, said = running.summary, "\n".join(running.said)
    print(summary)
    assert {name: summary[name] for name in KEPT} == dict.fromkeys(KEPT, 0), said
    assert (summary["streams_closed"] > 0) is closed, said
    assert status == 0, said
    assert (summary["cars"], summary["phones"]) == (20, 10)
    assert 0 < summary["acked"] <= summary["applied"]
    assert sum(summary["doors"].values()) == summary["acked"]
    assert set(summary["doors"]) == {"http", "mqtt"}
    assert 0 < summary["updates"] == summary["seen"]
    left = [one for one in processes() if one.pid in family or running.settings.data in " ".join(one.command)]
    assert left == []


async def test_consume_origin_and_nats_server_killed_in_turn_lose_nothing_and_close_no_stream() -> None:
    async with demo() as running:
        for role in ("consume-0", "origin-1", "nats-server"):
            await running.kill(role)
            await running.flows()
        await finished(running, closed=False)


async def test_cars_in_trouble_and_a_killed_nats_server_lose_nothing_and_repeat_nothing() -> None:
    async with demo("--trouble", "--tunnels", "0.1", "--late", "0.2", "--skewed", "0.5") as running:
        await running.flows(200)
        await running.kill("nats-server")
        await running.flows(200)
        await finished(running, closed=False)
        made = await running.heard("trouble that the cars made")
        assert all(word in made for word in ("tunnels", "batches", "sent again", "late", "reboots")), made


async def test_a_killed_ingest_and_a_consume_process_that_hung_lose_nothing_and_close_no_stream() -> None:
    async with demo(member_timeout=1.0) as running:
        await running.kill("ingest")
        await running.flows()
        hung = running.one("consume-1")
        os.kill(hung.pid, signal.SIGSTOP)
        try:
            # All partitions are the other's, though the hung one believes that it still owns its share.
            await running.takes_over("consume-0")
        finally:
            os.kill(hung.pid, signal.SIGCONT)
        await running.flows()
        assert running.one("consume-1").pid == hung.pid
        await finished(running, closed=False)


async def test_a_killed_pushpin_closes_streams_but_loses_nothing_and_resets_nobody() -> None:
    async with demo() as running:
        for role in ("edge-0", "edge-1"):
            await running.kill(role)
            await running.flows(40)
        await finished(running, closed=True)


async def test_a_killed_haproxy_closes_streams_but_loses_nothing_and_resets_nobody() -> None:
    async with demo() as running:
        await running.kill("haproxy")
        await running.flows(40)
        await finished(running, closed=True)


async def test_nats_server_is_killed_just_as_the_verdict_is_made_and_it_is_made_when_it_is_back() -> None:
    async with site(origins=1, edges=1) as here:
        ours = _Demo(Namespace(cars=3, phones=1, json=True), here.settings)
        ours.platform = here.platform
        cars = [share.car(number) for number in range(3)]
        for car in cars:
            await here.send(car, 1)
            await here.reaches(car, 1)
        connection = await connect(here.settings, "verdict")
        try:
            here.kill("nats-server")
            assert await ours._versions(connection) == dict.fromkeys(cars, 1)
        finally:
            await connection.close()

"""Processes are added and removed, with a hundred phones watching and cars sending throughout; and `roll` and `scale` as their
user runs them.
"""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fleetcast.errors import Unusable
from fleetcast.settings import load
from tests.e2e.demo import command, settings_file
from tests.e2e.fleet import fleet
from tests.e2e.outside import Site, client, packet, site
from tests.servers import platform_settings, until


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_consume_an_origin_and_an_edge_are_added_and_removed_while_it_runs() -> None:
    async with site(spare=1) as here, fleet(here) as phones:
        platform = here.platform
        old = platform.admin_ports
        assert await platform.add("consume") == "consume-2"
        assert await platform.add("origin") == "origin-2"
        await phones.flows()
        assert old.items() <= platform.admin_ports.items()  # nobody's port moved
        await until(lambda: takes_part(here, "origin-2"), "the new origin is asked", 60)
        assert phones.closed == 0
        assert await platform.add("edge") == "edge-2"
        async with here.phone("another"):
            assert (await here.sessions())[2] == 1
        assert phones.closed == 0
        # The first ones go: what is left are those that came.
        for name in ("consume-0", "origin-0"):
            await platform.remove(name)
            await phones.flows()
        assert phones.closed == 0
        await platform.remove("edge-0")
        await phones.flows()
        assert platform.layout.numbers("edge") == [1, 2]
        assert sum(await here.sessions()) == 100
        # HAProxy was told by its socket. Should it die, its file says the same.
        killed = here.kill("haproxy")
        await here.started_again("haproxy", killed)
        await until(lambda: phones.connected == 100)
        await phones.flows()
        assert min(await here.sessions()) > 0
        # Numbers that are free are given again.
        assert await platform.add("edge") == "edge-0"
        await phones.judged()


async def takes_part(here: Site, origin: str) -> bool:
    """Whether this origin has answered something."""
    url = f"http://127.0.0.1:{here.platform.admin_ports[origin]}/metrics"
    await here.get("/v1/vehicles/car-00000")
    text = (await here.client.get(url)).text
    return 'fleetcast_latest_total{status="200"}' in text


async def test_what_cannot_be_done_is_said_and_nothing_is_touched() -> None:
    async with site(consumers=1, origins=1, edges=1) as here:
        platform, said = here.platform, list[str]()
        before = here.pids("")
        for what, why in (
            ("haproxy", "its restart cuts every stream"),
            ("nats-server", "cannot be rolled"),
            ("consume-7", "no such process"),
        ):
            with pytest.raises(Unusable, match=why):
                await platform.roll(what, said.append)
        for name in ("consume-0", "origin-0", "edge-0", "ingest"):
            with pytest.raises(Unusable, match=f"{name} is the only "):
                await platform.remove(name)
        with pytest.raises(Unusable, match="can be added"):
            await platform.add("ingest")
        assert here.pids("") == before
        assert said == []


async def test_the_commands_do_it_from_another_terminal(folder: Path) -> None:
    settings = platform_settings(folder / "d", spare=1, partitions=8)
    _, file = settings_file(folder, **{name: getattr(settings, name) for name in settings.__struct_fields__})
    async with command(settings, file, "up") as up, client() as outside:
        await up.heard("ready ")
        socket = Path(settings.data, "run", "control.sock")
        assert mode(socket) == 0o600

        async def given(*arguments: str) -> tuple[int, list[str], list[str]]:
            async with command(settings, file, *arguments) as running:
                return await running.end(), running.printed, running.said

        pid = up.one("consume-1").pid
        status, printed, said = await given("roll", "consume-1", "--set", "enrichers=fleetcast.enrich.motion")
        assert (status, said, len(printed)) == (0, [], 1)
        assert printed[0].startswith("consume-1 is replaced, ")
        assert up.one("consume-1").pid != pid
        assert load(socket.with_name("fleetcast.toml"), {}).enrichers == ("fleetcast.enrich.motion",)
        status, printed, said = await given("scale", "origin=3", "consume=1")
        assert (status, said) == (0, [])
        assert printed == [
            "origin-2 runs",
            "origin-2 is added",
            "origin: 3",
            "consume-1 is removed",
            "consume: 1",
        ]
        for arguments, line in (
            (("roll", "nobody"), "fleetcast: nobody: no such process; there are "),
            (("roll", "consume", "--set", "speed=1"), "fleetcast: --set: speed is not a setting"),
            (("roll", "consume", "--set", "speed"), "fleetcast: --set: speed is not NAME=VALUE"),
            (("scale", "ingest=2"), "fleetcast: ingest: only consume, origin, edge can be added"),
            (("scale", "edge=0"), "fleetcast: edge: there must be 1 or more"),
        ):
            status, printed, said = await given(*arguments)
            assert (status, printed, len(said)) == (2, [], 1)
            assert said[0].startswith(line)
        url = f"http://127.0.0.1:{settings.ingest_port}/v1/vehicles/one/packets"
        kind = {"Content-Type": "application/json"}
        assert (await outside.post(url, content=packet("one", 1), headers=kind)).status_code == 202
        family = up.family()
        assert len([one for one in family if one.command[-1:] == ["origin"]]) == 3
    async with command(settings, file, "roll", "all") as running:
        assert await running.end() == 2
        (line,) = running.said
    assert line.startswith(f"fleetcast: no platform runs in {settings.data}; `fleetcast up`")

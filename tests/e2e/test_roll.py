"""Deploys, with a hundred phones watching and cars sending throughout: what is replaced, added or removed costs no update.

Each test drives what `fleetcast roll` and `scale` drive, and asks the fleet's verdict at the end.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from fleetcast.errors import NotReady, Unusable
from fleetcast.platform import Platform
from fleetcast.settings import load
from tests.e2e.demo import command, settings_file
from tests.e2e.fleet import fleet
from tests.e2e.outside import Site, client, packet, site
from tests.servers import platform_settings, short_folder, until


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


RULE = """
def enrich(state, packet):
    return state.with_signals({"Test.Deployed": True}, packet.sent_at)
"""


def pids(here: Site, *roles: str) -> dict[str, int | None]:
    supervisor = here.platform.supervisor
    return {name: supervisor.pid(name) for name in supervisor.names if name.startswith(roles)}


async def test_rolling_ingest_consume_and_origin_closes_no_stream_and_loses_nothing() -> None:
    async with site() as here, fleet(here) as phones:
        before = pids(here, "ingest", "consume", "origin")
        said: list[str] = []
        for role in ("ingest", "consume", "origin"):
            await here.platform.roll(role, said.append)
            await phones.flows()
        after = pids(here, "ingest", "consume", "origin")
        assert before.keys() == after.keys()
        assert all(after[name] not in (None, pid) for name, pid in before.items())
        assert [line.split()[0] for line in said] == list(before) or len(said) == len(before)
        assert len(here.notes) == 1  # nothing died
        summary = await phones.judged()
        assert summary.streams_closed == 0
        assert phones.turned_away() == 0


async def test_rolling_the_edges_moves_all_phones_and_loses_nothing() -> None:
    async with site() as here, fleet(here) as phones:
        before = pids(here, "edge")
        held = await here.sessions()
        assert min(held) > 0
        said: list[str] = []
        await here.platform.roll("edge", said.append)
        await phones.flows()
        after = pids(here, "edge")
        assert all(after[name] not in (None, pid) for name, pid in before.items())
        assert f"edge-0 is drained; {held[0]} streams move" in said
        assert not [line for line in said if "cut" in line or "room" in line]
        # Those of the first came to the second one, and from there back: nobody was moved more often than that.
        assert held[0] + held[1] < phones.closed <= held[0] + 100
        assert max(watch.streams_closed for watch in phones.phones.watches) == 2
        assert phones.turned_away() == 0
        assert phones.connected == 100
        assert sum(await here.sessions()) == 100
        await phones.judged()


async def test_an_edge_is_rolled_though_a_consume_dies_meanwhile() -> None:
    """The one that comes instead connects once, as the one before it had: that is enough."""
    async with site() as here, fleet(here) as phones:
        said: list[str] = []

        def say(line: str) -> None:
            said.append(line)
            if " is drained; " in line:
                here.kill("consume-0")

        await here.platform.roll("edge", say)
        assert [line for line in said if " is replaced" in line][-1].startswith("edge-1 is replaced")
        await until(lambda: phones.connected == 100)
        await phones.flows()
        await phones.judged()


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


async def test_a_roll_with_new_enrichers_takes_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    with short_folder() as rules:
        (rules / "deployed.py").write_text(RULE)
        monkeypatch.setenv("PYTHONPATH", f"{rules}:{os.environ.get('PYTHONPATH', '')}")
        monkeypatch.syspath_prepend(str(rules))
        async with site() as here, fleet(here) as phones:
            assert "Test.Deployed" not in (await here.latest("car-00000"))["signals"]
            said: list[str] = []
            await here.platform.roll("consume", said.append, enrichers=("deployed",))
            await phones.flows()

            async def everywhere() -> bool:
                answer = await here.get("/v1/vehicles?limit=100&signals=Test.Deployed")
                return all(one["signals"] for one in answer.json()["vehicles"])

            await until(everywhere, "all cars have the new signal")
            with pytest.raises(Unusable, match="enrichers: no_such_rules cannot be loaded"):
                await here.platform.roll("consume", said.append, enrichers="no_such_rules")
            with pytest.raises(Unusable, match="front_port: a roll cannot change it"):
                await here.platform.roll("consume", said.append, front_port=1)
            assert here.platform.settings.enrichers == ("deployed",)
            assert (await phones.judged()).streams_closed == 0


class Badly(Platform):
    """A platform of which one process does not start again as long as `broken` names it."""

    broken = ""

    def environment(self, name: str) -> Mapping[str, str]:
        return {"ENRICHERS": "no_such_rules"} if name == self.broken else {}


async def test_a_process_that_is_not_well_again_stops_the_roll(monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(kind=Badly, member_timeout=1.0) as here, fleet(here) as phones:
        before, said = pids(here, "consume"), list[str]()
        assert isinstance(here.platform, Badly)
        here.platform.broken = "consume-0"
        with monkeypatch.context() as hurried:
            hurried.setattr("fleetcast.platform._STARTING", 3.0)
            with pytest.raises(NotReady, match=r"consume-0 is not ready .*no_such_rules"):
                await here.platform.roll("consume", said.append)
        assert pids(here, "consume")["consume-1"] == before["consume-1"]
        await phones.flows()  # the other has all partitions
        here.platform.broken = ""
        await here.platform.roll("consume", said.append)
        assert len(said) == 2
        assert (await phones.judged()).streams_closed == 0


async def test_what_cannot_be_done_is_said_and_nothing_is_touched() -> None:
    async with site(consumers=1, origins=1, edges=1) as here:
        platform, said = here.platform, list[str]()
        before = pids(here, "")
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
        assert pids(here, "") == before
        assert said == []


async def test_a_phone_of_the_only_edge_and_origin_comes_back_when_they_are_rolled() -> None:
    async with site(consumers=1, origins=1, edges=1) as here, fleet(here, cars=5, phones=10) as phones:
        said: list[str] = []
        await here.platform.roll("all", said.append)
        assert "origin-0 is the only origin: until it is back, new streams are told `unavailable`" in said
        await until(lambda: phones.connected == 10)
        await phones.flows()
        await phones.judged()


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

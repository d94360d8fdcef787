"""Rolling deploys, with a hundred phones watching and cars sending throughout: what is replaced costs no update.

Each test drives what `fleetcast roll` drives, and asks the fleet's verdict at the end. The file beside: `scale`, the commands.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

from fleetcast.errors import NotReady, Unusable
from fleetcast.platform import Platform
from tests.e2e.fleet import fleet
from tests.e2e.outside import site
from tests.servers import short_folder, until

RULE = """
def enrich(state, packet):
    return state.with_signals({"Test.Deployed": True}, packet.sent_at)
"""


async def test_rolling_ingest_consume_and_origin_closes_no_stream_and_loses_nothing() -> None:
    async with site() as here, fleet(here) as phones:
        before = here.pids("ingest", "consume", "origin")
        said: list[str] = []
        for role in ("ingest", "consume", "origin"):
            await here.platform.roll(role, said.append)
            await phones.flows()
        after = here.pids("ingest", "consume", "origin")
        assert before.keys() == after.keys()
        assert all(after[name] not in (None, pid) for name, pid in before.items())
        assert [line.split()[0] for line in said] == list(before) or len(said) == len(before)
        assert len(here.notes) == 1  # nothing died
        summary = await phones.judged()
        assert summary.streams_closed == 0
        assert phones.turned_away() == 0


async def test_rolling_the_edges_moves_all_phones_and_loses_nothing() -> None:
    async with site() as here, fleet(here) as phones:
        before = here.pids("edge")
        held = await here.sessions()
        assert min(held) > 0
        said: list[str] = []
        await here.platform.roll("edge", said.append)
        await phones.flows()
        after = here.pids("edge")
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


async def test_an_edge_that_dies_while_it_is_drained_does_not_stop_the_roll() -> None:
    async with site() as here, fleet(here) as phones:

        def say(line: str) -> None:
            if line.startswith("edge-0 is drained; "):
                here.kill("edge-0")

        await here.platform.roll("edge", say)
        await until(lambda: phones.connected == 100)
        await phones.flows()
        await phones.judged()


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
        before, said = here.pids("consume"), list[str]()
        assert isinstance(here.platform, Badly)
        here.platform.broken = "consume-0"
        with monkeypatch.context() as hurried:
            hurried.setattr("fleetcast.platform._STARTING", 10.0)
            with pytest.raises(NotReady, match=r"consume-0 is not ready .*no_such_rules"):
                await here.platform.roll("consume", said.append)
        assert here.pids("consume")["consume-1"] == before["consume-1"]
        await phones.flows()  # the other has all partitions
        here.platform.broken = ""
        await here.platform.roll("consume", said.append)
        assert len(said) == 2
        assert (await phones.judged()).streams_closed == 0


async def test_a_phone_of_the_only_edge_and_origin_comes_back_when_they_are_rolled() -> None:
    async with site(consumers=1, origins=1, edges=1) as here, fleet(here, cars=5, phones=10) as phones:
        said: list[str] = []
        await here.platform.roll("all", said.append)
        assert "origin-0 is the only origin: until it is back, new streams are told `unavailable`" in said
        await until(lambda: phones.connected == 10)
        await phones.flows()
        await phones.judged()

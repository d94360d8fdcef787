"""What dies is started again and said; what is ended stays ended, with all that it started."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleetcast.supervisor import Program, Supervisor
from tests.servers import until

WAITS = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
POLITE = """
import signal, sys, time
def bye(*_):
    print("bye", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, bye)
print("up", flush=True)
time.sleep(600)
"""
WITH_CHILDREN = """
import os, subprocess, sys, time
for apart in (False, True):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], process_group=0 if apart else None)
    print("child", child.pid, flush=True)
print("up", flush=True)
time.sleep(600)
"""


class Run:
    """A supervisor, and what it said."""

    def __init__(self, logs: Path) -> None:
        self.notices: list[str] = []
        self.supervisor = Supervisor(logs, self.notices.append)

    def start(self, name: str, code: str, **environment: str) -> None:
        self.supervisor.start(Program(name, [sys.executable, "-c", code], environment))

    def log(self, name: str) -> str:
        path = self.supervisor.log(name)
        return path.read_text() if path.exists() else ""

    async def up(self, name: str, times: int = 1) -> int:
        """The process id, once the program has said that it is up so many times."""
        await until(lambda: self.log(name).count("up\n") >= times, f"{name} is up")
        return int(await until(lambda: self.supervisor.pid(name)))

    def children(self, name: str) -> list[int]:
        return [int(line.split()[1]) for line in self.log(name).splitlines() if line.startswith("child ")]


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    made = Run(tmp_path)
    yield made
    await made.supervisor.stop()


def runs(pid: int) -> bool:
    """Whether this process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_output_goes_into_the_log_and_the_environment_is_its_own(run: Run) -> None:
    code = (
        "import os, sys; print(sorted(os.environ), flush=True); print('wrong', file=sys.stderr, flush=True); "
        + WAITS
    )
    run.start("one", code, ONLY="this", PYTHONDONTWRITEBYTECODE="1")
    await run.up("one")
    assert "'ONLY'" in run.log("one")
    assert "wrong" in run.log("one")
    assert "'HOME'" not in run.log("one")
    assert run.supervisor.names == ("one",)
    assert not run.notices


async def test_what_is_killed_is_started_again_and_said(run: Run) -> None:
    run.start("one", WAITS)
    first = await run.up("one")
    os.kill(first, signal.SIGKILL)
    second = await run.up("one", 2)
    assert second != first
    assert not runs(first)
    (notice,) = run.notices
    assert notice.startswith("one died (signal 9); starting it again in ")
    assert str(run.supervisor.log("one")) in notice


async def test_what_ends_by_itself_is_started_again_with_growing_pauses(run: Run) -> None:
    run.start("one", "raise SystemExit(7)")
    await until(lambda: len(run.notices) >= 3)
    assert all(notice.startswith("one died (status 7); ") for notice in run.notices)
    pauses = [float(notice.partition(" again in ")[2].partition(" s.")[0]) for notice in run.notices]
    assert pauses == sorted(set(pauses))


async def test_what_is_no_program_is_said_as_well(run: Run, tmp_path: Path) -> None:
    run.supervisor.start(Program("one", [str(tmp_path / "no-such-program")], {"PATH": os.environ["PATH"]}))
    await until(lambda: run.notices)
    assert run.notices[0].startswith("one died (")


async def test_others_live_on(run: Run) -> None:
    run.start("one", WAITS)
    run.start("two", WAITS)
    one, two = await run.up("one"), await run.up("two")
    os.kill(one, signal.SIGKILL)
    await run.up("one", 2)
    assert run.supervisor.pid("two") == two


@pytest.mark.parametrize("how", ["killed", "ended"])
async def test_no_child_lives_on(run: Run, how: str) -> None:
    """Pushpin's would go on serving. One of these is in a process group of its own, as a service manager's are."""
    run.start("one", WITH_CHILDREN)
    parent = await run.up("one")
    children = run.children("one")
    assert len(children) == 2
    assert all(runs(child) for child in children)
    if how == "killed":
        os.kill(parent, signal.SIGKILL)
        await run.up("one", 2)
    else:
        await run.supervisor.stop_one("one")
    await until(lambda: not any(runs(child) for child in children))
    assert not runs(parent)


async def test_stop_ends_all(run: Run) -> None:
    names = ["one", "two", "three"]
    for name in names:
        run.start(name, POLITE)
    pids = [await run.up(name) for name in names]
    await run.supervisor.stop()
    assert not any(runs(pid) for pid in pids)
    assert all("bye" in run.log(name) for name in names)  # each could finish what it had in hand
    assert [run.supervisor.pid(name) for name in names] == [None] * 3
    assert run.supervisor.names == ()
    assert not run.notices  # nothing died


async def test_the_first_is_ended_last(run: Run) -> None:
    """The others stand on it: it is there until they have ended."""
    run.start("base", POLITE)
    base = await run.up("base")
    code = POLITE.replace('print("bye"', f'import os; os.kill({base}, 0); print("bye"')
    run.start("one", code)
    await run.up("one")
    await run.supervisor.stop()
    assert "bye" in run.log("one")
    assert not runs(base)


async def test_several_can_be_what_the_others_stand_on(run: Run) -> None:
    for name in ("base-0", "base-1"):
        run.supervisor.start(Program(name, [sys.executable, "-c", POLITE], base=True))
    bases = [await run.up("base-0"), await run.up("base-1")]
    kill = "".join(f"os.kill({pid}, 0); " for pid in bases)
    run.start("one", POLITE.replace('print("bye"', f'import os; {kill}print("bye"'))
    await run.up("one")
    await run.supervisor.stop()
    assert "bye" in run.log("one")
    assert not any(runs(pid) for pid in bases)


async def test_a_restart_is_in_good_order_in_its_place_and_no_death(run: Run) -> None:
    run.start("one", POLITE)
    run.start("two", POLITE)
    first, other = await run.up("one"), await run.up("two")
    await run.supervisor.restart("one")
    second = await run.up("one", 2)
    assert "bye" in run.log("one")
    assert not runs(first)
    assert (run.supervisor.pid("one"), run.supervisor.pid("two")) == (second, other)
    assert run.supervisor.names == ("one", "two")
    assert not run.notices
    os.kill(second, signal.SIGKILL)  # it is kept running as before
    await run.up("one", 3)
    assert len(run.notices) == 1


async def test_a_restart_can_be_with_another_program(run: Run) -> None:
    run.start("one", WAITS)
    await run.up("one")
    await run.supervisor.restart("one", Program("one", [sys.executable, "-c", "print('new')\n" + WAITS]))
    pid = await run.up("one", 2)
    os.kill(pid, signal.SIGKILL)
    await run.up("one", 3)
    assert run.log("one").count("new\n") == 2


async def test_a_restart_of_what_waits_to_start_again_starts_it_now(run: Run) -> None:
    run.start("one", "raise SystemExit(1)")
    await until(lambda: len(run.notices) >= 3)
    await run.supervisor.restart("one", Program("one", [sys.executable, "-c", WAITS]))
    await run.up("one")


async def test_stop_during_a_restart_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetcast.supervisor._GRACE", 0.5)
    run.start("one", STUBBORN)
    pid = await run.up("one")
    restarting = asyncio.create_task(run.supervisor.restart("one"))
    await asyncio.sleep(0)
    await run.supervisor.stop()
    await restarting
    assert not runs(pid)
    assert run.supervisor.names == ()
    assert run.supervisor.pid("one") is None


async def test_what_does_not_end_by_itself_is_killed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetcast.supervisor._GRACE", 0.1)
    run.start("one", STUBBORN)
    pid = await run.up("one")
    await run.supervisor.stop()
    assert not runs(pid)


async def test_one_can_be_ended_for_good_and_started_anew(run: Run) -> None:
    run.start("one", WAITS)
    run.start("two", WAITS)
    one, two = await run.up("one"), await run.up("two")
    await run.supervisor.stop_one("one", signal.SIGINT)
    assert not runs(one)
    assert run.supervisor.pid("one") is None
    run.start("one", WAITS)
    again = await run.up("one", 2)
    await run.supervisor.stop()
    assert not any(runs(pid) for pid in (two, again))
    assert not run.notices


async def test_stop_while_a_program_waits_to_start_again(run: Run) -> None:
    run.start("one", "raise SystemExit(1)")
    await until(lambda: run.notices)
    await run.supervisor.stop()
    assert run.supervisor.pid("one") is None
    assert run.supervisor.names == ()


async def test_stop_of_nothing(run: Run) -> None:
    await run.supervisor.stop()
    run.start("one", WAITS)
    await run.supervisor.stop()  # before it was ever started
    assert run.supervisor.pid("one") is None
    assert not run.notices

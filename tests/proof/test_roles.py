"""A trap is met once, at its place and moment, and what was done before it is done."""

import os
import signal

import pytest

from fleetcast.errors import Unavailable
from fleetcast.live import Fenced
from fleetcast.proof.roles import JumpingClock, Trap


class Work:
    def __init__(self) -> None:
        self.done = 0

    async def __call__(self) -> str:
        self.done += 1
        return "done"


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, sign: sent.append((pid, sign)))
    return sent


def set_trap(at: str, when: str, do: str) -> Trap:
    trap = Trap()
    trap.at, trap.when, trap.do = at, when, do
    return trap


@pytest.mark.parametrize(("do", "sign"), [("kill", signal.SIGKILL), ("stop", signal.SIGSTOP)])
async def test_a_trap_springs_once(signals: list[tuple[int, int]], do: str, sign: int) -> None:
    trap, work = set_trap("commit", "after", do), Work()
    assert await trap.around("publish", work, Fenced) == "done"
    assert signals == []
    await trap.around("commit", work, Fenced)
    assert signals == [(os.getpid(), sign)]
    await trap.around("commit", work, Fenced)
    assert len(signals) == 1
    assert work.done == 3


@pytest.mark.parametrize(("when", "done"), [("before", 0), ("after", 1)])
async def test_before_and_after(monkeypatch: pytest.MonkeyPatch, when: str, done: int) -> None:
    work, seen = Work(), list[int]()
    monkeypatch.setattr(os, "kill", lambda *_: seen.append(work.done))
    await set_trap("ack", when, "kill").around("ack", work, Unavailable)
    assert seen == [done]


async def test_a_lost_answer_is_of_what_happened(signals: list[tuple[int, int]]) -> None:
    trap, work = set_trap("put", "after", "lose"), Work()
    with pytest.raises(Unavailable):
        await trap.around("put", work, Unavailable)
    assert work.done == 1
    assert await trap.around("put", work, Unavailable) == "done"
    assert signals == []


def test_a_clock_that_jumps_jumps_for_now_alone() -> None:
    clock = JumpingClock()
    now, monotonic = clock.now(), clock.monotonic()
    clock.ahead = 86_400
    assert clock.now() - now >= 86_400
    assert clock.monotonic() - monotonic < 3600

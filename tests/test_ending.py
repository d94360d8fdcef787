"""Tasks end, even those that lose a cancel."""

from __future__ import annotations

import asyncio

import pytest

from fleetcast import ending


async def test_a_task_that_loses_a_cancel_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "_AGAIN", 0.01)
    cancels = 0

    async def work() -> None:
        nonlocal cancels
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancels += 1
                if cancels == 3:
                    raise

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await ending.ended([task])
    assert (task.cancelled(), cancels) == (True, 3)


async def test_what_a_task_does_last_is_waited_for_and_what_it_raises_is_its_own() -> None:
    done = list[str]()

    async def tidy() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)
            done.append("tidy")

    async def fail() -> None:
        raise ValueError("its own")

    tasks = [asyncio.create_task(tidy()), asyncio.create_task(fail())]
    await asyncio.sleep(0)
    await ending.ended(tasks)
    assert done == ["tidy"]
    assert str(tasks[1].exception()) == "its own"
    await ending.ended([])

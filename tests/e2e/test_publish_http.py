"""Publishing by HTTP POST to every edge replica, the article's first way: the same promises hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.e2e.outside import Site, site


@pytest.fixture(scope="module")
async def here() -> AsyncIterator[Site]:
    async with site(publish="http") as running:
        yield running


async def test_phones_on_both_replicas_get_every_update_in_order(here: Site) -> None:
    async with AsyncExitStack() as stack:
        phones = [await stack.enter_async_context(here.phone("posted")) for _ in range(4)]
        for phone in phones:
            await phone.snapshot()
        assert await here.sessions() == [2, 2]
        for number in range(1, 21):
            await here.send("posted", number)
        for phone in phones:
            assert await phone.versions(20) == list(range(1, 21))
            assert phone.events == phones[0].events
        assert phones[0].view() == await here.latest("posted")
        last = phones[0].last_id
    await here.send("posted", 21)
    await here.reaches("posted", 21)
    async with here.phone("posted", last) as phone:
        assert await phone.versions(1) == [21]
    # It cannot know who listens: each update goes to every replica.
    assert await here.counts("published") == 21
    # Of each replica one for streams, long-polls and WebSockets each: it cannot be known that there are none.
    # So it is with calm streams, when a bucket is over.
    items = await here.counts("published_items")
    assert items >= 126
    assert items % 6 == 0
    assert await here.counts("publish_failed") == 0


async def test_a_replica_that_is_killed_costs_no_update(here: Site) -> None:
    async with here.phone("survives") as phone:
        await phone.snapshot()
        on = (await here.sessions()).index(1)
        pid = here.kill(f"edge-{1 - on}")
        for number in range(1, 11):
            await here.send("survives", number)
        assert await phone.versions(10) == list(range(1, 11))
        await here.started_again(f"edge-{1 - on}", pid)
        await here.send("survives", 11)
        assert await phone.versions(1) == [11]

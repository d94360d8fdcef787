"""How tasks are ended.

A cancel alone may be lost: before Python 3.12 `asyncio.wait_for`, by which nats-py waits for everything, gives the answer back
when it comes in the same moment as the cancel, and a task that loops goes on. Seen as a stop that never ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

_AGAIN = 2.0  # seconds that a task gets for what it does when it is cancelled


async def ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels them, again and again, until all have ended. What they raised is left to whoever asks them."""
    tasks = set(tasks)
    pending = tasks
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # or it would be logged as one that nobody looked at

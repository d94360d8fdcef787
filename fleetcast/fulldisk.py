"""A full disk, and what has to be done once it has room again.

nats-server takes nothing more into a stream after a write that failed, for as long as it runs, however much room there is
by then: publishers get no answer. Nothing acknowledged is lost by that, and a restart mends it. Seen with 2.15.1.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

_EVERY = 1.0
_FULL = 1_000_000  # bytes free: less is as good as none
_ROOM = 20_000_000
_SIGN = b"ritical write error"


class FullDisk:
    """Watches the folder of nats-server's data, and its log. `restart` is called when a disk that was full has room again."""

    def __init__(
        self, store: Path, log: Path, restart: Callable[[], None], notice: Callable[[str], None]
    ) -> None:
        self._store = store
        self._log = log
        self._restart = restart
        self._notice = notice
        self._read = log.stat().st_size if log.exists() else 0
        self._full = False

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_EVERY)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Once. Both signs count: a moment may be missed by the one, and a log on the same disk may not be written."""
        free = _free(self._store)
        if (free < _FULL or self._failed()) and not self._full:
            self._full = True
            self._notice(f"the disk of {self._store} is full: vehicles get 503 until there is room")
        if self._full and free > _ROOM:
            self._full = False
            self._notice("the disk has room again: nats-server is started again, as it takes nothing before")
            self._restart()

    def _failed(self) -> bool:
        """Whether the log has a failed write since the last look."""
        try:
            with self._log.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except OSError:
            return False
        self._read += len(new)
        return _SIGN in new


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize

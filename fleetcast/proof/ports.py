"""Free ports and short folders, for platforms that stand beside others: those of a proof, and of tests.

Ports are below those that the kernel gives to clients, out of blocks that a process holds by a lock, so that processes side
by side never take each other's.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

from fleetcast.errors import Unusable
from fleetcast.settings import Settings

_CLOCK = 1e8  # seconds: three years

_FIRST_PORT, _LAST_PORT, _BLOCK = 11_000, 32_000, 100

_blocks: list[IO[str]] = []  # open for as long as the process lives: that holds the locks
_ports: Iterator[int] = iter(())


def free_ports(count: int) -> list[int]:
    """So many free ports in a row, which no other such process takes as long as this one lives."""
    assert count <= _BLOCK
    global _ports  # noqa: PLW0603 - one supply a process
    run: list[int] = []
    while len(run) < count:
        port = next(_ports, None)
        if port is None:
            _ports = _another_block()
            run = []
        elif _is_free(port):
            run.append(port)
        else:
            run = []
    return run


def _another_block() -> Iterator[int]:
    folder = Path(tempfile.gettempdir()) / f"fleetcast-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for first in range(_FIRST_PORT, _LAST_PORT, _BLOCK):
        file = (folder / str(first)).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
        else:
            _blocks.append(file)
            atexit.register(file.close)
            return iter(range(first, first + _BLOCK))
    raise Unusable("no free ports are left between 11000 and 32000")


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder whose path is short enough for unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def platform_settings(folder: Path, spare: int = 0, **changes: Any) -> Settings:
    """Settings for a platform under `folder`, every port free and another one."""
    edges, consumers, origins = (changes.get(name, 2) + spare for name in ("edges", "consumers", "origins"))
    ports = free_ports(10 * edges + 7 + consumers + 2 * origins)
    edge, one_each = ports[0], ports[10 * edges :]
    given: dict[str, Any] = {
        "data": str(folder),
        "edge_port": edge,  # +0, +1 and +2 are Pushpin's own; +3 and +4 its inputs
        "edge_sub": tuple(f"127.0.0.1:{edge + 10 * number + 3}" for number in range(edges)),
        "edge_http": tuple(f"127.0.0.1:{edge + 10 * number + 4}" for number in range(edges)),
        "front_port": one_each[0],
        "ingest_port": one_each[1],
        "inner_port": one_each[2],
        "haproxy_port": one_each[3],
        "nats": f"nats://127.0.0.1:{one_each[4]}",
        "origin_port": one_each[5],
        "admin_port": one_each[5 + origins],
        "mqtt_port": one_each[-1],
        "edge_connections": 200,
        # Tests and proofs send packets of fixed times; what they are about has nothing to do with today.
        "clock_ahead": _CLOCK,
        "clock_behind": _CLOCK,
        "packets_per_minute": 0,  # few vehicles, each as fast as it can
        "bytes_per_minute": 0,
    }
    return Settings(**(given | changes))

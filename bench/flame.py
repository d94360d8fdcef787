"""Where does the time go in the steps that miss their limit? Flame graphs of ingest and of pull, decode, ack.

Packets of 500 kB as in `bench.steps`, ingest over HTTP and `NatsQueue` in a process of its own, each under py-spy, a profiler
that samples from outside (500 times a second, only what uses the CPU). The table has the innermost functions by the library
that they are of: what C code does, zstd's and msgspec's for example, counts for who called it.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bench import bare
from bench.question import Answer, Bench, Flame, Table
from bench.steps import ingest
from bench.world import Failed, platform

_SIZE = 500_000
_MOST = 12  # rows of a step
_SHARE = 0.01  # less is not told
_FRAME = re.compile(r"(?P<function>[^;]+) \((?P<file>[^;()]+)\)$")
_LINE = re.compile(r":\d+\)")


async def run(bench: Bench) -> Answer:
    """The question."""
    spy = shutil.which("py-spy") or shutil.which("py-spy", path=Path(sys.executable).parent)
    if spy is None:
        raise Failed("py-spy is missing: `make setup-bench` installs it")
    count = bench.size(3_000, 12_000)
    async with platform(bench, consumers=1, edges=1) as world:
        await world.platform.supervisor.stop_one("consume-0")
        work = bare.Work(world.settings, count, _SIZE, 0)
        stored = await _spy(spy, bench.folder / "ingest", "--pid", str(world.leaders()["ingest"]))
        await ingest(world, work)
        stored.send_signal(signal.SIGINT)  # it writes what it has
        child = (sys.executable, "-m", "bench.bare", "fetch_ours", msgspec.json.encode(work).decode())
        found = {"store packets": collapsed(await _written(stored, bench.folder / "ingest"))}
        bench.say(f"ingest: {sum(found['store packets'].values()):,} samples")
        fetched = await _spy(spy, bench.folder / "fetch", "--", *child)
        stacks = found["pull, decode, ack"] = collapsed(await _written(fetched, bench.folder / "fetch"))
        bench.say(f"pull, decode, ack: {sum(stacks.values()):,} samples")
    rows = [row for step, stacks in found.items() for row in shares(step, stacks)]
    columns = ("step", "library", "share of the CPU time", "most of it in")
    table = Table("Where the time goes, packets of 500 kB", columns, rows, f"Of {count:,} packets each.")
    titles = zip(("ingest", "fetch"), found.items(), strict=True)
    flames = [
        Flame(f"flame-{name}", f"CPU time: {step}, packets of 500 kB", stacks)
        for name, (step, stacks) in titles
    ]
    return Answer([table], flames=flames)


def collapsed(text: str) -> Mapping[str, int]:
    """py-spy's raw format, a stack and its samples a line -> samples by stack, without imports and the numbers of lines."""
    found: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, samples = line.rpartition(" ")
        if stack and samples.isdigit() and "<frozen importlib" not in stack:
            found[_LINE.sub(")", stack)] += int(samples)
    return found


def library(frame: str) -> str:
    """What the frame `function (path/of/file.py)` is of: a package, or a module of the standard library."""
    found = _FRAME.match(frame)
    if found is None:
        return "the interpreter"
    parts = [part for part in Path(found["file"]).parts if part not in ("/", "..")]
    return parts[0].removesuffix(".py").removeprefix("<frozen ").removesuffix(">") if parts else "?"


def shares(step: str, stacks: Mapping[str, int]) -> Sequence[tuple[str, str, str, str]]:
    """Rows: the libraries with their shares, most first, and the innermost function of each that took most."""
    found: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for stack, samples in stacks.items():
        frame = stack.rpartition(";")[2]
        found[frame] += samples
        sums[library(frame)] += samples
    whole = sum(found.values())
    if not whole:
        raise Failed(f"py-spy saw nothing of: {step}")
    rows = []
    for name, samples in sums.most_common(_MOST):
        if samples < _SHARE * whole:
            break
        top = max((frame for frame in found if library(frame) == name), key=lambda frame: found[frame])
        where = f"`{top.partition(' (')[0]}`, {found[top] / whole:.1%}"
        rows.append((step, name, f"{samples / whole:.1%}", where))
    return rows


async def _spy(spy: str, file: Path, *whom: str) -> asyncio.subprocess.Process:
    command = (spy, "record", "--rate", "500", "--format", "raw", "--output", str(file), *whom)
    return await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )


async def _written(process: asyncio.subprocess.Process, file: Path) -> str:
    """When it has ended. Raises Failed if it wrote nothing, as when it may not look."""
    async with asyncio.timeout(180):
        _, said = await process.communicate()
    try:
        return await asyncio.to_thread(file.read_text)
    except OSError:
        why = said.decode()[-200:]
        raise Failed(f"py-spy wrote nothing (it needs root, or ptrace_scope 0): {why}") from None

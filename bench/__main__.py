"""Asks the questions, each in a process of its own, prints their tables, and writes the report. See `--help`."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from bench import costs
from bench.machine import describe
from bench.question import Answer, Bench
from bench.report import answered, print_answer, write
from fleetcast.errors import FleetcastError
from fleetcast.proof.ports import short_folder

QUESTIONS = (
    "steps",
    "flame",
    "load",
    "latency",
    "stages",
    "interest",
    "growth",
    "storms",
    "streams",
    "doors",
    "calm",
)
_BROKEN = 1
_USAGE = 2


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures Fleetcast on this machine, against the same work done otherwise. Questions: "
        + ", ".join(QUESTIONS)
        + ". The small size takes less than half an hour, the full one hours.",
    )
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help="only these (default: all)")
    parser.add_argument("--full", action="store_true", help="the size that docs/benchmarks.md tells of")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="where the report is written")
    parser.add_argument(
        "--document", action="store_true", help="write into docs/benchmarks.md and docs/images too"
    )
    parser.add_argument("--one", metavar="QUESTION", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := [name for name in options.questions if name not in QUESTIONS]:
        print(f"there is no question {unknown[0]}; there are {', '.join(QUESTIONS)}", file=sys.stderr)
        return _USAGE
    options.out.mkdir(parents=True, exist_ok=True)
    with short_folder() as temporary:
        folder = options.folder or temporary
        if options.one:
            return _one(options, folder)
        return _all(options, folder)


def _all(options: argparse.Namespace, folder: Path) -> int:
    machine = describe(folder)
    print_answer("machine", Answer([machine]))
    broken: list[str] = []
    for name in options.questions or QUESTIONS:
        print(f"{name}: {_about(name)}", flush=True)
        began = time.monotonic()
        file = options.out / f"{name}.json"
        file.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "bench",
            "--one",
            name,
            "--seed",
            str(options.seed),
            "--out",
            str(options.out),
        ]
        command += ["--full"] if options.full else []
        command += ["--folder", str(options.folder)] if options.folder else []
        process = subprocess.Popen(command, start_new_session=True)
        try:
            process.wait()
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGINT)
            process.wait()
            return 130
        if not file.exists():
            broken.append(f"{name} could not be measured")
            continue
        answer = msgspec.json.decode(file.read_bytes(), type=Answer)
        print_answer(name, answer)
        print(f"  ({time.monotonic() - began:.0f} s)\n", flush=True)
        broken += [f"{name}: {why}" for why in answer.broken]
    parts = {}
    if options.document:
        answers = {name: answered(options.out, name) for name in QUESTIONS}
        try:
            cores, processor = (row[1] for row in machine.rows[:2])
            found = costs.costs(
                {name: one for name, one in answers.items() if one}, f"{processor}, {cores} cores"
            )
        except KeyError as missing:  # a question, or a figure of it
            print(
                f"--document: there is no answer for {missing}; ask steps, load, streams and doors",
                file=sys.stderr,
            )
            return _USAGE
        costs.write(found)
        if (load := answers["load"]) is not None:
            parts["plan"] = costs.compared(found, load.figures)
    write(options.out, machine, " ".join(sys.argv[1:]), QUESTIONS, parts, document=options.document)
    for why in broken:
        print(f"BROKEN {why}", file=sys.stderr)
    return _BROKEN if broken else 0


def _one(options: argparse.Namespace, folder: Path) -> int:
    bench = Bench(folder, full=options.full, seed=options.seed, say=lambda text: print(text, flush=True))
    try:
        answer = asyncio.run(importlib.import_module(f"bench.{options.one}").run(bench))
    except FleetcastError as error:
        print(f"  {options.one}: {error}", file=sys.stderr)
        return _BROKEN
    (options.out / f"{options.one}.json").write_bytes(msgspec.json.encode(answer))
    return 0


def _about(name: str) -> str:
    text = importlib.import_module(f"bench.{name}").__doc__ or ""
    return text.splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())

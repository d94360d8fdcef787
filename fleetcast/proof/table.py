"""The proof's last word: one table, the sentences below it, and whether every promise was kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import IO

import msgspec
from rich.console import Console
from rich.table import Table

from fleetcast.proof.rows import Row, total


def broken(rows: Sequence[Row]) -> bool:
    """Whether a promise was not kept, or nothing was proved."""
    whole = total(rows)
    return not whole.clean or not whole.acked or not whole.times


def clocked(file: IO[str]) -> Callable[[str], None]:
    """Says lines for a person, each with the minutes and seconds since now before it."""
    began = time.monotonic()

    def say(line: str) -> None:
        seconds = int(time.monotonic() - began)
        print(f"{seconds // 60:3d}:{seconds % 60:02d}  {line}", file=file, flush=True)

    return say


def print_table(rows: Sequence[Row], file: IO[str]) -> None:
    """For a person."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("fault", overflow="fold", ratio=1)
    for name in ("times", "acked", "events", "lost", "twice", "reordered", "false resets", "worst heal"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*_cells(row))
    table.add_section()
    table.add_row(*_cells(total(rows)), style="bold")
    console = Console(file=file, width=None if file.isatty() else 140, highlight=False)
    console.print(table)
    for row in rows:
        for note in row.notes:
            console.print(f"  {row.fault}: {note}", markup=False)
    console.print("every promise kept" if not broken(rows) else "PROMISES WERE BROKEN, or nothing was proved")


def as_json(rows: Sequence[Row], seed: int) -> str:
    """For a program, on one line."""
    said = [msgspec.structs.asdict(row) for row in (*rows, total(rows))]
    return json.dumps({"seed": seed, "kept": not broken(rows), "rows": said})


def _cells(row: Row) -> list[str]:
    heal = "" if row.worst_heal is None else f"{row.worst_heal:.1f} s"
    counts = (row.times, row.acked, row.events, row.lost, row.twice, row.reordered, row.false_resets)
    return [
        row.fault,
        *(f"{count:,}" for count in counts),
        heal + (f" ({row.unhealed} not)" if row.unhealed else ""),
    ]

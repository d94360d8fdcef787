"""The demo on a terminal: a table that lives while it runs, and a summary at its end.

In: `verdict.Figures` now and then, notes such as "consume-1 died (signal 9), started again in 0.5 s". Out: on a
terminal one table that keeps its place; elsewhere a plain line every five seconds and each note at once. The summary
is a table for people or one JSON line for programs. Numbers that should be zero are quiet while they are.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TextIO

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fleetcast.simulator.verdict import Figures, Summary

RATE_OVER = 5.0  # s: what "/s" is the mean of
LINE_EVERY = 5.0  # s between two lines where there is no terminal
NOTES = 5  # shown in the table; all of them are printed at the end
WIDTH = 78


class LiveTable:
    """Shows a run on `stream` (standard output) for as long as the block lasts; call `update` a few times a second."""

    def __init__(self, stream: TextIO | None = None, *, console: Console | None = None) -> None:
        self.console = console or Console(file=stream or sys.stdout, highlight=False)
        self.notes: list[str] = []
        self.began = time.monotonic()  # what the clock counts from
        self._history: deque[Figures] = deque()
        self._printed = 0.0
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self.began = self._printed = time.monotonic()
        if self.console.is_terminal:
            # Transient: what stays on the screen is the summary, not a last moment of the table.
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
            for note in self.notes:
                self.console.print(Text(note))

    def update(self, figures: Figures) -> None:
        """Show the run as it is now."""
        self._history.append(figures)
        while len(self._history) > 2 and self._history[1].at <= figures.at - RATE_OVER:
            self._history.popleft()
        if self._live is not None:
            self._live.update(self.table(), refresh=True)
        elif figures.at - self._printed >= LINE_EVERY:
            self._printed = figures.at
            self.console.print(Text(self._line(figures)), soft_wrap=True)

    def note(self, text: str) -> None:
        """Say something that happened, with the time since the start."""
        self.notes.append(f"{_clock(time.monotonic() - self.began)}  {text}")
        if self._live is None:
            self.console.print(Text(self.notes[-1]), soft_wrap=True)
        elif self._history:
            self._live.update(self.table(), refresh=True)

    def table(self) -> RenderableType:
        """The table as it stands after the last update, at least one of which must have been."""
        now = self._history[-1]
        left = _grid(
            ("packets", f"{self._rate('acked'):,.1f} /s"),
            ("before compression", f"{self._rate('raw_bytes') / 1e6:,.1f} MB/s"),
            ("after compression", f"{self._rate('wire_bytes') / 1e6:,.1f} MB/s"),
            ("acknowledged", f"{now.acked:,}"),
            *_doors(now),
        )
        right = _grid(
            ("phones", f"{now.connected:,} of {now.phones:,}"),
            ("updates", f"{self._rate('updates'):,.1f} /s"),
            ("published", f"{now.published:,}"),
            ("skipped, no listener", f"{now.skipped:,}"),
        )
        figures = Table.grid(expand=True)
        figures.add_column(ratio=1)
        figures.add_column(width=6)
        figures.add_column(ratio=1)
        figures.add_row(left, "", right)
        latency = Text.assemble(
            ("acknowledged to seen   ", "dim"),
            ("p50 ", "dim"),
            (_ms(now.p50_ms), "bold"),
            ("   p99 ", "dim"),
            (_ms(now.p99_ms), "bold"),
            ("   last 10 s", "dim"),
        )
        parts: list[RenderableType] = [figures, Text(), latency, Text(), _zeros(now)]
        if self.notes:
            parts += [Text(), *(Text(note, style="yellow", overflow="fold") for note in self.notes[-NOTES:])]
        return Panel(
            Padding(Group(*parts), (1, 2)),
            title=Text(f"fleetcast   {now.cars:,} cars, {now.phones:,} phones", style="bold"),
            title_align="left",
            subtitle=Text(_clock(now.at - self.began), style="dim"),
            subtitle_align="right",
            border_style="dim",
            width=min(WIDTH, self.console.width),
        )

    def _rate(self, field: str) -> float:
        """The mean increase a second of a cumulative figure over the last seconds."""
        first, last = self._history[0], self._history[-1]
        if last.at <= first.at:
            return 0.0
        return float(getattr(last, field) - getattr(first, field)) / (last.at - first.at)

    def _line(self, now: Figures) -> str:
        raw, wire = self._rate("raw_bytes") / 1e6, self._rate("wire_bytes") / 1e6
        return (
            f"{_clock(now.at - self.began)}"
            f"  {self._rate('acked'):.1f} packets/s  {raw:.1f} MB/s ({wire:.1f} compressed)"
            f"  {now.connected}/{now.phones} phones  {self._rate('updates'):.1f} updates/s"
            f"  p50 {_ms(now.p50_ms)} p99 {_ms(now.p99_ms)}"
            f"  published {now.published} skipped {now.skipped}"
            f"  lost {now.lost} twice {now.twice} out of order {now.reordered} resets {now.resets}"
            f" streams closed {now.streams_closed}"
        )


def print_summary(
    summary: Summary,
    broken: Sequence[str],
    *,
    as_json: bool = False,
    stream: TextIO | None = None,
    errors: TextIO | None = None,
) -> None:
    """Print the end of a run to `stream` (standard output).

    With `as_json` that is one JSON line, and the broken promises go to `errors` (standard error).
    """
    out = stream or sys.stdout
    if as_json:
        out.write(f"{msgspec.json.encode(summary).decode()}\n")
        out.flush()
        for sentence in broken:
            (errors or sys.stderr).write(f"broken: {sentence}\n")
        return
    console = Console(file=out, highlight=False)
    console.print()
    console.print(_summary(summary, broken, width=min(WIDTH, console.width)))
    for sentence in broken:
        console.print(Text.assemble(("broken  ", "bold red"), sentence))


def _summary(summary: Summary, broken: Sequence[str], width: int) -> RenderableType:
    left = _grid(
        ("packets acknowledged", f"{summary.acked:,}"),
        *_doors(summary),
        ("in the states", f"{summary.applied:,}"),
        ("skipped, no listener", f"{summary.skipped:,}"),
    )
    right = _grid(
        ("updates due", f"{summary.updates:,}"),
        ("seen by phones", f"{summary.seen:,}"),
        ("p50 / p99", f"{_ms(summary.p50_ms)} / {_ms(summary.p99_ms)}"),
    )
    figures = Table.grid(expand=True)
    figures.add_column(ratio=1)
    figures.add_column(width=6)
    figures.add_column(ratio=1)
    figures.add_row(left, "", right)
    verdict = (
        Text(f"{len(broken)} broken promise{'s' if len(broken) > 1 else ''}", style="bold red")
        if broken
        else Text("every promise kept", style="bold green")
    )
    return Panel(
        Padding(Group(figures, Text(), _zeros(summary), Text(), verdict), (1, 2)),
        title=Text(f"{summary.seconds:g} s   {summary.cars:,} cars, {summary.phones:,} phones", style="bold"),
        title_align="left",
        border_style="red" if broken else "green",
        width=width,
    )


def _grid(*rows: tuple[str, str]) -> Table:
    grid = Table.grid(expand=True)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(justify="right", style="bold", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    return grid


def _doors(figures: Figures | Summary) -> list[tuple[str, str]]:
    """What came by which door, a row each; none if no car goes by MQTT."""
    doors = figures.doors
    if "mqtt" not in doors:
        return []
    return [("  by HTTP", f"{doors.get('http', 0):,}"), ("  by MQTT", f"{doors['mqtt']:,}")]


def _zeros(figures: Figures | Summary) -> Text:
    """The counts that should be zero: quiet while they are."""
    text = Text()
    for label, count, alarm in (
        ("lost", figures.lost, "bold red"),
        ("twice", figures.twice, "bold red"),
        ("out of order", figures.reordered, "bold red"),
        ("resets", figures.resets, "bold red"),
        # Not a broken promise by itself: an edge may die, and its phones come back.
        ("streams closed", figures.streams_closed, "bold yellow"),
    ):
        text.append(f"{label} ", style=alarm if count else "dim")
        text.append(f"{count:,}", style=alarm if count else "green")
        text.append("   ")
    text.rstrip()
    return text


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    return f"{minutes}:{rest:02d}"


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f} ms" if value < 10 else f"{value:,.0f} ms"

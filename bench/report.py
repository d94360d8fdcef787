"""The report: tables for a terminal and in Markdown, charts as SVG; and the places in docs/benchmarks.md where they stand.

A place is `<!-- bench NAME -->` to `<!-- end -->`; what is between is written anew, and nothing else: the words around it are
by people.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table as RichTable

from bench.question import Answer, Cell, Chart, Flame, Table
from bench.stats import show

_DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
_IMAGES = Path("images") / "bench"
_THIN = 0.004  # of the whole: a box that is narrower is not drawn
_LETTERS = 190  # that the whole width has room for


def print_answer(name: str, answer: Answer) -> None:
    """For a terminal."""
    console = Console(width=150, highlight=False)
    for table in answer.tables:
        shown = RichTable(
            title=table.title, title_justify="left", caption=table.note or None, caption_justify="left"
        )
        for number, column in enumerate(table.columns):
            shown.add_column(column, justify="left" if _is_text(table, number) else "right")
        for row in table.rows:
            shown.add_row(*map(show, row))
        console.print(shown)
    for why in answer.broken:
        console.print(f"broken: {name}: {why}")


def markdown(table: Table) -> str:
    """The same for a document."""
    rule = ["---" if _is_text(table, number) else "--:" for number in range(len(table.columns))]
    lines = [table.columns, rule, *(tuple(map(show, row)) for row in table.rows)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"**{table.title}**\n\n{text}\n" + (f"\n{table.note}\n" if table.note else "")


def answered(out: Path, name: str) -> Answer | None:
    """What this question came to when it was last asked."""
    file = out / f"{name}.json"
    return msgspec.json.decode(file.read_bytes(), type=Answer) if file.exists() else None


def write(
    out: Path,
    machine: Table,
    command: str,
    names: Sequence[str],
    more: Mapping[str, Answer],
    *,
    document: bool,
) -> None:
    """`report.md` and its charts under `out`; with `document` the places in docs/benchmarks.md, too."""
    parts = {
        "machine": markdown(machine)
        + f"\n`python -m bench {command}`, {time.strftime('%Y-%m-%d', time.gmtime())}\n"
    }
    for name in [*names, *more]:
        if (answer := more.get(name) or answered(out, name)) is not None:
            text = "\n".join(map(markdown, answer.tables))
            for chart in answer.charts:
                target = (_DOCUMENT.parent if document else out) / _IMAGES / f"{chart.name}.svg"
                draw(chart, target)
                text += f"\n![{chart.title}]({_IMAGES / target.name})\n"
            for flame in answer.flames:
                target = (_DOCUMENT.parent if document else out) / _IMAGES / f"{flame.name}.svg"
                draw_flame(flame, target)
                text += f"\n![{flame.title}]({_IMAGES / target.name})\n"
            parts[name] = text + "".join(f"\nBroken: {why}\n" for why in answer.broken)
    (out / "report.md").write_text("\n".join(f"## {name}\n\n{text}" for name, text in parts.items()))
    if document:
        _DOCUMENT.write_text(filled(_DOCUMENT.read_text(), parts))


def filled(document: str, parts: dict[str, str]) -> str:
    """The document with these parts in their places. Raises ValueError if one has none."""
    for name, text in parts.items():
        place = re.compile(rf"(<!-- bench {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        document, count = place.subn(lambda found, text=text: f"{found[1]}{text}{found[2]}", document)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"docs/benchmarks.md has {count} places for {name}")
    return document


def _plots() -> Any:
    """matplotlib's pyplot; imported here, as only who draws has it installed."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "fleetcast"  # the same data, the same file
    mpl.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    return plt


def draw(chart: Chart, target: Path) -> None:
    """One chart as SVG."""
    plt = _plots()
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name, points in chart.series.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
    if chart.log_x:
        axes.set_xscale("log", base=2)
    if chart.log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set(xlabel=chart.x, ylabel=chart.y, title=chart.title)
    axes.grid(alpha=0.3)
    if len(chart.series) > 1:
        axes.legend()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, format="svg", metadata={"Date": None})
    plt.close(figure)


def boxes(stacks: Mapping[str, int]) -> list[tuple[int, float, float, str]]:
    """(depth, left, width, frame) of a flame graph, in shares of the whole; siblings by name, what is too small left out."""
    whole = sum(stacks.values())
    found: list[tuple[int, float, float, str]] = []

    def below(depth: int, left: float, rows: Sequence[tuple[Sequence[str], int]]) -> None:
        groups: dict[str, list[tuple[Sequence[str], int]]] = {}
        for frames, samples in rows:
            if frames:
                groups.setdefault(frames[0], []).append((frames[1:], samples))
        for frame, inner in sorted(groups.items()):
            width = sum(samples for _, samples in inner) / whole
            if width >= _THIN:
                found.append((depth, left, width, frame))
                below(depth + 1, left, inner)
            left += width

    below(0, 0.0, [(stack.split(";"), samples) for stack, samples in stacks.items()])
    return found


def draw_flame(flame: Flame, target: Path) -> None:
    """A flame graph as SVG: width is CPU time, what is called stands on who calls it; a colour a library."""
    plt = _plots()
    shown = boxes(flame.stacks)
    figure, axes = plt.subplots(figsize=(14, 1 + 0.2 * (1 + max(depth for depth, *_ in shown))))
    for depth, left, width, frame in shown:
        function, _, file = frame.rstrip(")").partition(" (")
        shade = plt.get_cmap("tab20")(zlib.crc32(file.partition("/")[0].encode()) % 20)
        axes.barh(depth, width, left=left, height=1.0, color=shade, edgecolor="white", linewidth=0.5)
        room = int(width * _LETTERS)
        if room > 3:
            text = function if len(function) <= room else function[: room - 1] + "…"
            axes.text(left + width / 2, depth, text, ha="center", va="center", fontsize=7)
    axes.set(xlim=(0, 1), title=flame.title)
    axes.axis("off")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, format="svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


def _is_text(table: Table, number: int) -> bool:
    cells: list[Cell] = [row[number] for row in table.rows]
    return all(isinstance(cell, str) and not re.match(r"[\d.]", cell) for cell in cells) or number == 0

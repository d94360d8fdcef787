"""The table as it looks, and the summary as programs read it."""

from __future__ import annotations

import io

import msgspec
from rich.console import Console

from fleetcast.simulator.table import LiveTable, print_summary
from fleetcast.simulator.verdict import Figures, Summary

GOOD = Summary(30.0, 200, 50, 1003, 1003, 251, 251, 752, 0, 0, 0, 0, 25, 12.3, 148.2)
BAD = msgspec.structs.replace(GOOD, lost=3, twice=1)


def figures(at: float, **more: float) -> Figures:
    return msgspec.convert({"at": at, "cars": 200, "phones": 50, **more}, Figures)


def shown(table: LiveTable) -> str:
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as capture:
        console.print(table.table())
    return " ".join(capture.get().replace("│", " ").split())


def test_rates_are_those_of_the_last_seconds() -> None:
    table = LiveTable(io.StringIO())
    table.update(figures(0.0))
    assert "packets 0.0 /s" in shown(table)
    for second in range(1, 11):
        table.update(figures(float(second), acked=1000, raw_bytes=750_000 * 1000, wire_bytes=250_000 * 1000))
    assert "packets 0.0 /s" in shown(table)
    table.update(figures(11.0, acked=1500, raw_bytes=1_125_000_000, wire_bytes=375_000_000, updates=20))
    text = shown(table)
    for part in (
        "packets 100.0 /s",
        "before compression 75.0 MB/s",
        "after compression 25.0 MB/s",
        "updates 4.0 /s",
    ):
        assert part in text


def test_everything_is_in_the_table() -> None:
    table = LiveTable(io.StringIO())
    table.note("consume-1 died (signal 9), started again in 0.5 s")
    table.update(
        figures(1.0, connected=49, acked=12345, published=7, skipped=8, lost=1, twice=2, reordered=3)
    )
    table.update(
        figures(
            2.0, connected=49, acked=12345, published=7, skipped=8, lost=1, twice=2, p50_ms=1.3, p99_ms=148
        )
    )
    text = shown(table)
    for part in (
        "200 cars, 50 phones",
        "phones 49 of 50",
        "acknowledged 12,345",
        "published 7",
        "skipped, no listener 8",
        "p50 1.3 ms p99 148 ms",
        "lost 1 twice 2 out of order 0 resets 0 streams closed 0",
        "0:00 consume-1 died (signal 9), started again in 0.5 s",
    ):
        assert part in text


def test_without_a_terminal_there_are_plain_lines() -> None:
    stream = io.StringIO()
    with LiveTable(stream) as table:
        begin = table.began
        for tenth in range(1, 121):
            table.update(figures(begin + tenth / 10, acked=tenth, connected=50))
        table.note("origin-0 died (signal 9), [started] again in 0.5 s")
    first, second, note = stream.getvalue().splitlines()
    assert first.startswith(
        "0:05  10.0 packets/s  0.0 MB/s (0.0 compressed)  50/50 phones  0.0 updates/s  p50 - p99 -"
    )
    assert second.startswith("0:10")
    assert note == "0:00  origin-0 died (signal 9), [started] again in 0.5 s"
    assert "\x1b" not in stream.getvalue()


def test_on_a_terminal_the_table_goes_and_the_notes_stay() -> None:
    stream = io.StringIO()
    with LiveTable(console=Console(file=stream, force_terminal=True, width=80)) as table:
        table.note("before the first figures")
        table.update(figures(table.began + 1))
        table.note("pushpin-0 died")
    text = stream.getvalue()
    assert "before compression" in text
    assert text.endswith("0:00  before the first figures\n0:00  pushpin-0 died\n")


def test_the_summary_for_people() -> None:
    good, bad = io.StringIO(), io.StringIO()
    print_summary(GOOD, [], stream=good)
    print_summary(BAD, ["3 updates did not reach [their] phones."], stream=bad)
    assert "every promise kept" in good.getvalue()
    assert "12 ms / 148 ms" in good.getvalue()
    assert "1 broken promise " in bad.getvalue()
    assert bad.getvalue().endswith("broken  3 updates did not reach [their] phones.\n")


def test_the_doors_are_shown_if_one_is_mqtt() -> None:
    out = io.StringIO()
    print_summary(msgspec.structs.replace(GOOD, doors={"http": 1003}), [], stream=out)
    assert "by HTTP" not in out.getvalue()
    print_summary(
        msgspec.structs.replace(GOOD, acked=3003, doors={"http": 1003, "mqtt": 2000}), [], stream=out
    )
    rows = [" ".join(line.replace("│", " ").split()[:3]) for line in out.getvalue().splitlines()]
    assert {"by HTTP 1,003", "by MQTT 2,000"} <= set(rows)
    table = LiveTable(io.StringIO())
    table.update(msgspec.structs.replace(figures(1.0, acked=7), doors={"mqtt": 7}))
    assert "by HTTP 0" in shown(table)
    assert "by MQTT 7" in shown(table)


def test_the_summary_for_programs() -> None:
    out, errors = io.StringIO(), io.StringIO()
    print_summary(BAD, ["One.", "Two."], as_json=True, stream=out, errors=errors)
    assert msgspec.json.decode(out.getvalue(), type=Summary) == BAD
    assert out.getvalue().count("\n") == 1
    assert errors.getvalue() == "broken: One.\nbroken: Two.\n"

"""One line of the proof's table: a fault, how often it was tried, and what the oracle found while it lasted."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

BREACHES = ("lost", "twice", "reordered", "false_resets", "unhealed", "cut", "died", "calm")


class Row(msgspec.Struct):
    """What came of one kind of fault. Counts of packets and of phone events; `worst_heal` in seconds, None if not measured."""

    fault: str
    times: int = 0
    acked: int = 0
    events: int = 0
    lost: int = 0
    twice: int = 0
    reordered: int = 0
    false_resets: int = 0
    unhealed: int = 0
    """How often not all was level again within the bound."""
    cut: int = 0
    """Streams closed that had to stay open."""
    died: int = 0
    """Processes that ended, though nothing ended them."""
    calm: int = 0
    """How often a calm stream told what had to wait, or held back what is urgent, if that was no exception."""
    worst_heal: float | None = None
    notes: list[str] = msgspec.field(default_factory=list)
    """Sentences for a person: what was broken, with names; or what was not tried here, and why."""

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        return not any(getattr(self, name) for name in BREACHES)


def total(rows: Iterable[Row]) -> Row:
    """The sum of the rows, and the worst of the heals."""
    whole = Row("all")
    for row in rows:
        for name in ("times", "acked", "events", *BREACHES):
            setattr(whole, name, getattr(whole, name) + getattr(row, name))
        heals = [heal for heal in (whole.worst_heal, row.worst_heal) if heal is not None]
        whole.worst_heal = max(heals, default=None)
    return whole

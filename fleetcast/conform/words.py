"""What a check comes to. It returns what was seen, in a few words, if the promise was kept; else it raises one of these."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["pass", "FAIL", "not tried"]


class Failed(Exception):
    """The promise was broken: what was seen instead."""


class NotTried(Exception):
    """It could not be tried here, and why: neither good nor bad."""


class Row(msgspec.Struct, frozen=True):
    """A line of the table. `check` is group.name, `promise` a sentence, `seen` what was seen, or why it was not tried."""

    check: str
    promise: str
    verdict: Verdict
    seen: str
    seconds: float


def short(text: object, most: int = 100) -> str:
    """For one line of a table: no control characters, not too long."""
    line = "".join(char if char.isprintable() else "·" for char in str(text))
    return line if len(line) <= most else f"{line[: most - 1]}…"

"""The groups in order, run against one deployment; and the table.

A check that raises what nobody foresaw is FAIL with that error: from outside, a check that cannot cope with an answer, and an
answer that is wrong, look the same. Those that only wait run beside the others.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import IO

import msgspec

from fleetcast.conform import (
    calm,
    crowd,
    errors,
    fleet,
    many,
    polls,
    reset,
    resume,
    state,
    stream,
    tokens,
    views,
    websocket,
)
from fleetcast.conform import (
    status as statuses,
)
from fleetcast.conform.recording import record
from fleetcast.conform.target import Target, Wish, reach
from fleetcast.conform.words import Failed, NotTried, Row, Verdict, short
from fleetcast.errors import Unusable

Check = Callable[[Target], Awaitable[str]]

GROUPS = (
    state,
    statuses,
    fleet,
    stream,
    resume,
    reset,
    views,
    polls,
    calm,
    many,
    websocket,
    tokens,
    crowd,
    errors,
)
_BESIDE = ("stream.keep_alive", "polls.empty", "tokens.ticket_goes_on", "status.told", "calm.buckets")


def checks(only: Sequence[str] = ()) -> Iterator[tuple[str, str, Check]]:
    """(name, promise, check) of each whose name has one of these texts in it, or of all."""
    for group in GROUPS:
        for check in group.CHECKS:
            name = f"{group.__name__.rpartition('.')[2]}.{check.__name__}"
            if not only or any(text in name for text in only):
                yield name, (check.__doc__ or "").partition("\n")[0], check


async def run(wish: Wish, say: Callable[[Row], None]) -> list[Row]:
    """Tries all that `wish.only` names; `say` gets each row as it is done. Raises Unusable if nothing can be tried there."""
    async with reach(wish) as target:
        await _look(target)
        chosen = list(checks(wish.only))
        beside = [asyncio.create_task(_row(target, *one)) for one in chosen if one[0] in _BESIDE]
        rows: list[Row] = []

        def done(row: Row) -> None:
            rows.append(row)
            say(row)

        try:
            try:
                target.recording = await record(target)
            except NotTried as why:
                raise Unusable(f"conform: no stream of {wish.vehicle}: {why}") from None
            if not target.recording.wrong and all(
                event.name != "update" for event in target.recording.events
            ):
                raise Unusable(
                    f"conform: {wish.vehicle} did not change within {wish.patience:.0f} s: name one that sends, "
                    "raise --patience, or let the suite send (--send)"
                )
            for one in chosen:
                if one[0] not in _BESIDE:
                    done(await _row(target, *one))
            for waiting in beside:
                done(await waiting)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
    return rows


async def _look(target: Target) -> None:
    """Whether there is anything to try."""
    where = f"{target.wish.front}{target.path()}"
    try:
        answer = await target.ask("GET", target.path())
    except Failed as why:
        raise Unusable(f"conform: {why} ({target.wish.front})") from None
    if answer.status in (401, 403):
        raise Unusable(f"conform: {where}: {answer.status}; --token must be one that may see this vehicle")
    if answer.status == 404 and target.sender is None:
        raise Unusable(f"conform: {where}: 404; name a vehicle that sends, or let the suite send (--send)")


async def _row(target: Target, name: str, promise: str, check: Check) -> Row:
    began = time.monotonic()
    verdict: Verdict = "FAIL"
    try:
        seen = await check(target)
        verdict = "pass"
    except Failed as why:
        seen = str(why)
    except NotTried as why:
        verdict, seen = "not tried", str(why)
    except Exception as error:  # noqa: BLE001 - see the module's text
        seen = f"{type(error).__name__}: {error}"
    return Row(name, promise, verdict, short(seen, 300), round(time.monotonic() - began, 3))


def status(rows: Sequence[Row]) -> int:
    """The exit status: 1 if a promise was broken, 2 if none was found kept, else 0."""
    verdicts = {row.verdict for row in rows}
    return 1 if "FAIL" in verdicts else 0 if "pass" in verdicts else 2


def print_row(row: Row, file: IO[str]) -> None:
    """A line of the table; below one that failed, what was promised."""
    print(f"{row.verdict:<9}  {row.check:<24}  {row.seen}", file=file, flush=True)
    if row.verdict == "FAIL":
        print(f"{'':<9}  {'':<24}  promised: {row.promise}", file=file, flush=True)


def summary(rows: Sequence[Row]) -> str:
    """The last line."""
    count = {
        verdict: sum(row.verdict == verdict for row in rows) for verdict in ("pass", "FAIL", "not tried")
    }
    word = ("conforms, as far as it was tried", "DOES NOT CONFORM", "nothing could be tried")[status(rows)]
    return f"{count['pass']} passed, {count['FAIL']} failed, {count['not tried']} not tried: {word}"


def as_json(rows: Sequence[Row], wish: Wish) -> str:
    """For a program, on one line; without the tokens."""
    said = {
        "front": wish.front,
        "vehicle": wish.vehicle,
        "conforms": status(rows) == 0,
        "checks": [msgspec.structs.asdict(row) for row in rows],
    }
    return json.dumps(said)

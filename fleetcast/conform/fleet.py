"""The fleet, a page at a time: `GET /v1/{noun}`."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

from fleetcast.conform import shapes
from fleetcast.conform.shapes import View
from fleetcast.conform.target import Target
from fleetcast.conform.words import Failed, NotTried, short

_PAGES = 5
_APPEARS = 4.0  # promised are 3


async def listed(target: Target) -> str:
    """The vehicle is found by its id, without signals unless they are asked for."""
    state, _ = await target.latest()
    found = await found_in_list(target)
    if found.signals:
        raise Failed("signals were shown that were not asked for")
    wanted = [path for path in state.signals if "," not in path][:2]
    signals = (await found_in_list(target, signals=",".join([*wanted, "Conform.None"]))).signals
    if set(signals) != set(wanted):
        raise Failed(f"asked for {', '.join(wanted)}: {short(', '.join(signals)) or 'none'} shown")
    return f"found, with {len(wanted)} signals that were asked for"


async def found_in_list(target: Target, **more: str) -> View:
    """The vehicle in the list, for other groups too; a new one may be missing for some seconds, and each origin has its own."""
    deadline = asyncio.get_running_loop().time() + _APPEARS
    while True:
        page, _ = await _page(target, search=target.vehicle, limit=100, **more)
        found = next((view for view in page if view.vehicle == target.vehicle), None)
        if found is not None:
            return found
        if asyncio.get_running_loop().time() > deadline:
            raise Failed(f"{target.vehicle} is not among the {len(page)} found, after {_APPEARS:.0f} s")
        await asyncio.sleep(0.2)


async def pages(target: Target) -> str:
    """Pages follow each other by `next`, ids rise, and none comes twice; the last page's next is null."""
    after, seen = "", list[str]()
    for _ in range(_PAGES):
        page, following = await _page(target, limit=2, **({"after": after} if after else {}))
        seen += [view.vehicle for view in page]
        if len(page) > 2 or (following is not None and following != seen[-1]):
            raise Failed(f"a page of {len(page)}, next {short(following)}")
        if following is None:
            break
        after = following
    if seen != sorted(set(seen)):
        raise Failed(f"not in order, or twice: {short(', '.join(seen))}")
    end, following = await _page(target, after="~")
    if end or following is not None:
        raise Failed(f"{len(end)} vehicles after the last id there can be")
    return f"{len(seen)} vehicles, 2 a page"


async def limits(target: Target) -> str:
    """A limit that is none, or out of bounds, is a 400."""
    await _page(target)
    for limit in ("0", "101", "-1", "x", "", "1e1", "9" * 400):
        answer = await target.ask("GET", f"/v1/{target.wish.noun}?{urlencode({'limit': limit})}")
        answer.problem(400)
    return "7 of them"


async def _page(target: Target, **query: object) -> tuple[list[View], str | None]:
    """(its vehicles, next)."""
    answer = await target.ask("GET", f"/v1/{target.wish.noun}?{urlencode(query)}")
    if answer.status in (401, 403):
        raise NotTried(f"{answer.status}: the token does not allow it")
    if answer.status != 200:
        raise Failed(answer.said)
    body = answer.json
    vehicles, following = body.get("vehicles"), body.get("next", "missing")
    if not isinstance(vehicles, list) or not (following is None or isinstance(following, str)):
        raise Failed(f"vehicles {short(vehicles, 30)}, next {short(following, 30)}")
    return [shapes.snapshot(one, "a page's vehicle") for one in vehicles], following


CHECKS = (listed, pages, limits)

"""Ids that cannot be continued: never an error, never silence, never a client that is stuck.

The answer is `reset`, then at once a `snapshot`, then what comes.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack

import msgspec

from fleetcast.conform import shapes, story
from fleetcast.conform.target import Stream, Target, Turned
from fleetcast.conform.words import Failed, NotTried, short

_ID = re.compile(r"([0-9a-z_.]{1,80})-([0-9]+)")
"""Ids are opaque to apps; these checks make some that are nearly right."""
_FROM = 80  # so much of the id is told back


async def foreign(target: Target) -> str:
    """An id of another platform, or of a history that is gone, is reset as foreign."""
    epoch, version = _parts(target)
    other = epoch[:-1] + ("0" if epoch[-1] != "0" else "1")
    return await _all_reset(target, [f"{other}-{version}", f"{other}-0", f"0-{version}", "00000000-1"])


async def forged(target: Target) -> str:
    """An id that looks like ours but was never given: ahead, huge, negative, with a leading zero."""
    epoch, version = _parts(target)
    ahead = int(version) + 1_000_000
    forms = [f"{ahead}", "9" * 16, "9" * 40, f"-{version}", f"0{version}", f"{version}.0", f" {version}", ""]
    return await _all_reset(target, [f"{epoch}-{form}" for form in forms])


async def garbage(target: Target) -> str:
    """What is no id at all: words, other forms, SQL, what would break a header or an event."""
    bad = ["garbage", "1", "-", "null", "%00%0d%0aevent:x", "' or 1=1--", "{}", '"', "../../1", "0-0, 0-1"]
    return await _all_reset(target, bad)


async def breaks(target: Target) -> str:
    """Line breaks, NUL and the like, by the query, are reset, and write nothing into the stream."""
    bad = ["a\r\nevent: update\r\ndata: {}", "\n\n", "\0", "data: x\n\n", "\x7f\t", "\ufeff"]
    return await _all_reset(target, bad, by_query=True)


async def very_long(target: Target) -> str:
    """A very long id is reset, up to 14 kB by the header, 3 kB by the query; its first 80 characters are told back."""
    epoch, _ = _parts(target)
    await _all_reset(target, ["z" * 3000], by_query=True)
    return await _all_reset(
        target, ["z" * 81, "9" * 1000, *(f"{epoch}-{'1' * size}" for size in (4000, 9000, 14_000))]
    )


async def non_ascii(target: Target) -> str:
    """An id beyond ASCII is reset: in the header as UTF-8 or as Latin-1, and by the query."""
    texts = ["ä", "é-1", "日本-1", "😀"]
    await _all_reset(target, texts, by_query=True)
    encoded = [text.encode() for text in texts] + [b"\xff\xfe-1", b"\xe4-1"]
    return await _all_reset(target, encoded) + f", {len(texts)} by the query"


async def empty(target: Target) -> str:
    """An empty id is none: the stream begins with a snapshot."""
    async with target.follow(query="") as stream:
        (first,) = await stream.first()
        if first.name != "snapshot":
            raise Failed(f"the first event is {first.name}")
        await target.level(stream)
    return "a snapshot"


async def expired(target: Target) -> str:
    """An id older than the window is reset as expired; one within it never: all of what was missed, or a reset."""
    window = target.wish.window
    if window > target.wish.patience:
        raise NotTried(f"the window is {window:.0f} s: --window and --patience say whether to wait for it")
    last, at = target.recording.left_before(2)
    deadline = asyncio.get_running_loop().time() + window + target.wish.within
    while True:
        async with target.follow(last=last) as stream:
            told = await target.level(stream, at)
        if told.resets:
            break
        if asyncio.get_running_loop().time() > deadline:
            raise Failed(f"served {target.wish.within:.0f} s after the window of {window:.0f} s was over")
        await asyncio.sleep(0.2)
    reason, came_from, to = told.resets[0]
    if (reason, came_from, told.snapshots) != ("expired", last, 1):
        raise Failed(f"{reason} from {short(came_from)}, then {told.snapshots} snapshots")
    async with target.follow(last=to) as stream:
        await stream.until(lambda: stream.comments or stream.events, "a comment or an event")
        again = await target.level(stream, told.at)
        if again.resets:
            raise Failed("the id that a reset gave was reset")
    return f"reset, to {to}"


async def goes_on(target: Target) -> str:
    """After a reset one comes back by the snapshot's id, like after any other."""
    async with target.follow(last="garbage") as stream:
        told = await reset_first(stream, "garbage", told_back=True)
        last = stream.last_id
    await target.change()
    async with target.follow(last=last) as stream:
        if target.sender is None:
            await stream.until(lambda: stream.comments or stream.events, "a comment or an event")
        again = await target.level(stream, told)
        if again.resets or again.snapshots:
            raise Failed("it was reset again")
    return f"{len(again.updates)} updates from there"


def _parts(target: Target) -> tuple[str, str]:
    """The two halves of an id as it is today: what a forger would see."""
    last, _ = target.recording.left_before(1)
    found = _ID.fullmatch(last)
    if found is None:
        raise NotTried(f"ids have another form here ({short(last, 40)}): only garbage can be tried")
    return found[1], found[2]


async def _all_reset(
    target: Target, bad: list[str] | list[bytes] | list[str | bytes], *, by_query: bool = False
) -> str:
    """All at once; each is reset, and then goes on as any other stream."""
    async with AsyncExitStack() as stack:

        async def one(last: str | bytes) -> tuple[Stream, str | bytes]:
            try:
                if by_query:
                    assert isinstance(last, str)
                    stream = await stack.enter_async_context(target.follow(query=last))
                else:
                    stream = await stack.enter_async_context(target.follow(last=last))
                await reset_first(stream, last, told_back=isinstance(last, str))
            except (Failed, Turned) as why:
                # Turned away as if it were temporary, an EventSource would come back with it for ever.
                raise Failed(f"{short(last, 40)}: {why}") from None
            return stream, last

        streams = await asyncio.gather(*(one(last) for last in bad))
        await target.change()
        for stream, last in streams:
            try:
                told = await target.level(stream)
            except Failed as why:
                raise Failed(f"{short(last, 40)}: {why}") from None
            if len(told.resets) != 1:
                raise Failed(f"{short(last, 40)}: {len(told.resets)} resets")
    return f"{len(bad)} ids"


async def reset_first(stream: Stream, last: str | bytes, *, told_back: bool) -> shapes.View:
    """For other groups too. The first two events are a reset as foreign, and the snapshot that it announced."""
    await stream.until(lambda: stream.events, "a reset")
    if stream.events[0].name != "reset":
        raise Failed(f"the first event is {stream.events[0].name}, not a reset")
    first, second = await stream.first(2)
    reason, came_from, to = shapes.reset(story.data(first))
    if first.id is not None:
        raise Failed(f"the reset has an id, {short(first.id, 40)}")
    if reason != "foreign":
        raise Failed(f"it was reset as {reason}")
    if told_back and came_from != str(last)[:_FROM]:
        raise Failed(f"the reset is from {short(came_from, 40)}")
    if second.name != "snapshot" or second.id != to:
        raise Failed(f"a reset to {to} was followed by {second.name} {second.id}")
    return msgspec.structs.replace(shapes.snapshot(story.data(second)))


CHECKS = (foreign, forged, garbage, breaks, very_long, non_ascii, empty, expired, goes_on)

"""One stream from its beginning, with the polled state before: what the checks of streams look at, and come back to.

It is made once, before the checks. With a vehicle of the suite's own six packets are sent meanwhile; somebody else's is
waited for until it has changed a few times, `patience` at most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from fleetcast.conform import story
from fleetcast.conform.events import Event
from fleetcast.conform.shapes import View
from fleetcast.conform.target import Answer, Stream, Target
from fleetcast.conform.words import Failed, NotTried

PACKETS = 6
PROMPT = 5.0
"""Seconds from a packet's acknowledgement to its event. The platform takes milliseconds; what buffers takes for ever."""
_ENOUGH = 4  # of a vehicle that is not ours


class Recording(msgspec.Struct):
    """`events` begin with a snapshot; `delays` are seconds from each packet's acknowledgement to its event, if they were ours.

    `after` is what was polled in the end, which the stream has passed. `zero` is the id of the empty snapshot, if the vehicle
    had never sent before; "" if it had. `wrong` is what kept it from being made to its end.
    """

    vehicle: str
    before: Answer = Answer(0, {}, b"")
    zero: str = ""
    status: int = 0
    headers: Mapping[str, str] = {}
    events: list[Event] = []
    delays: list[float] = []
    after: View | None = None
    wrong: str = ""

    @property
    def updates(self) -> list[Event]:
        """At least one. Raises Failed if the stream was silent though the vehicle changed, else NotTried."""
        found = [event for event in self.events if event.name == "update"]
        if found:
            return found
        raise Failed(self.wrong) if self.wrong else NotTried("the vehicle did not change meanwhile")

    def left_before(self, missed: int) -> tuple[str, View]:
        """(id, view) of an app that left before the last so many updates, or before as many as there are.

        Raises NotTried if what was recorded adds up to nothing: other checks say why.
        """
        try:
            updates = self.updates
            had = self.events[: self.events.index(updates[-min(missed, len(updates))])]
            at = story.tell(had, self.vehicle).at
        except Failed as why:
            raise NotTried(f"the stream to come back to was broken itself: {why}") from None
        if at is None or not had[-1].last_id:
            raise NotTried("the stream to come back to had no snapshot, or no id")
        return had[-1].last_id, at


async def record(target: Target) -> Recording:
    """Makes it, as far as it comes. Raises NotTried if the vehicle cannot be sent as, or may not be followed."""
    made = Recording(target.vehicle)
    try:
        if target.sender is not None:
            await _begin(target, made)
        made.before = await target.ask("GET", target.path())
        async with target.follow() as stream:
            made.status, made.headers = stream.status, stream.headers
            try:
                await stream.first()
                await (_changed(target, stream, made) if target.sender else _watched(target, stream))
                made.after, _ = await target.latest()
                await _level(stream, made.after.version)
            finally:
                made.events = list(stream.events)
    except Failed as why:
        made.wrong = str(why)
    return made


async def _begin(target: Target, made: Recording) -> None:
    assert target.sender is not None
    polled, _ = await target.latest()
    target.sender.version = polled.version
    if polled.version == 0:
        async with target.follow() as stream:
            made.zero = (await stream.first())[0].last_id
    await target.sender.send()
    # With a vehicle that was silent for long its return is a version too: from here on they are packets alone.
    deadline = asyncio.get_running_loop().time() + target.wish.within
    while not target.sender.is_last({"signals": (polled := (await target.latest())[0]).signals}):
        if asyncio.get_running_loop().time() > deadline:
            raise Failed(f"acknowledged, but the latest state is still version {polled.version}")
        await asyncio.sleep(0.05)
    target.sender.settle(polled.version)


async def _changed(target: Target, stream: Stream, made: Recording) -> None:
    sender = target.sender
    assert sender is not None
    prompt = min(PROMPT, target.wish.within)
    for _ in range(PACKETS):
        await sender.send()
        sent = time.monotonic()
        with suppress(Failed):  # goes on: whether an event is missing is seen by the next one
            await stream.until(lambda: stream.version >= sender.version, "an update", prompt)
        made.delays.append(time.monotonic() - sent)
        if made.delays[-1] >= prompt:
            prompt = 0.1  # one is enough to know
    await target.arrived()


async def _watched(target: Target, stream: Stream) -> None:
    def updates() -> int:
        return sum(event.name == "update" for event in stream.events)

    with suppress(Failed):
        await stream.until(lambda: updates() >= _ENOUGH, "updates", target.wish.patience)


async def _level(stream: Stream, version: int) -> None:
    await stream.until(
        lambda: stream.version >= version,
        f"the polled state is version {version}, the stream at {stream.version}",
    )

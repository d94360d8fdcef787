"""Who has been silent for too long, of the vehicles of the partitions that a consume process owns: beside its loop.

`consume` tells which packets it has applied (`heard`), and is woken (`waiting`) when a vehicle's status is due to change:
`take` names such vehicles, `judge` says what each becomes, and `settled` or `again` closes the case. What takes time is done
here in the background: the registry is asked how often a vehicle is to send, when it is first heard and again whenever its
timer strikes; and of partitions that are newly ours the vehicles that are not offline are looked up in the live state, a few
at a time, so that one who fell silent while nobody looked is said to be late rather than never.

Nothing here decides by this machine's clock. The times that packets were stored at are the queue's, and so is the moment up
to which the queue has given out everything of a partition (`Queue.handed`): before that is past a deadline nobody is silent,
however far consumption is behind. That moment allows for the time that a packet needs to come here, which is a guess: so before
anybody is said to be silent, consume asks the queue whether a packet of his is in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress

import structlog

from fleetcast.clock import seconds
from fleetcast.errors import Unavailable
from fleetcast.live import Live
from fleetcast.queue import Queue
from fleetcast.settings import Settings
from fleetcast.silence import OFFLINE, Rule, Silence, Timers, Turn
from fleetcast.state import State
from fleetcast.subjects import partition

log = structlog.get_logger()

Every = Callable[[str], Awaitable[float | None]]
"""How often a vehicle is to send, in seconds, by the registry; None if it is not there. May raise anything."""

_AGAIN = 0.1  # s until one that could not be told is due again
_LOOK = 0.5  # s: the timers are looked at this often at least
_PAUSE = 0.02  # s between two looks at least: what strikes meanwhile is told together
_CALM = 1.0  # s after a partition came, before its vehicles are looked up: more may come
_PIECE = 64  # vehicles looked up, or asked about, at once
_RESTS = 1  # times as long as the looking up took is nothing looked up: most of it is waiting for the server
_HASHED = 250  # ids sorted out at a time
_ANSWERS = 1.0  # s that the registry gets
_MUTE = 5.0  # s in which it is not asked after it did not answer


async def _nothing(vehicle: str) -> float | None:
    return None


class Statuses:
    """See the module's text. `every`: without it all vehicles are expected as the settings say."""

    def __init__(self, queue: Queue, live: Live, settings: Settings, every: Every | None = None) -> None:
        self._queue = queue
        self._live = live
        self._settings = settings
        self._every = every or _nothing
        self._silence = Silence(Rule(settings.quiet_after, settings.offline_after), settings.expected_every)
        self._due: dict[str, None] = {}
        self._struck: list[str] = []
        self._curious: dict[str, None] = {}
        self._asking = asyncio.Event()
        self._unseen: set[int] = set()
        self._looking = asyncio.Event()
        self._mute = 0.0
        self.waiting = asyncio.Event()
        """Set while `take` has vehicles to give."""

    # What consume calls: all of it at once

    def heard(self, vehicle: str, number: int, stored: float) -> None:
        """A packet of it, of this partition, was applied."""
        if self._silence.of(number).heard(vehicle, stored):
            self._curious[vehicle] = None
            self._asking.set()

    def kept(self, vehicle: str) -> bool:
        """Whether it has a status, as far as is known."""
        return self._timers(vehicle).kept(vehicle)

    def forget(self, vehicle: str) -> None:
        """The vehicle was erased."""
        self._timers(vehicle).forget(vehicle)

    def unseen(self, partitions: Iterable[int], *, restored: bool = False) -> None:
        """Somebody else may have looked after these meanwhile; after a restore nothing that was known holds."""
        if restored:
            self._silence.clear()
        self._unseen |= set(partitions)
        self._looking.set()

    def take(self, most: int) -> Sequence[str]:
        """Vehicles whose status is due to change. Each must be `settled`, or be `again`."""
        taken = list(self._due)[:most]
        for vehicle in taken:
            del self._due[vehicle]
        if not self._due:
            self.waiting.clear()
        return taken

    def judge(self, states: Iterable[State]) -> list[tuple[State, Turn]]:
        """What becomes of the vehicles taken, by their states as they are stored; those of which nothing does are settled.

        To be called while everything is handled that was pulled.
        """
        handed = self._queue.handed()
        turns = []
        for state in states:
            timers = self._timers(state.vehicle)
            upto = handed.get(self._number(state.vehicle), 0.0)
            if state.version == 0:  # erased
                timers.forget(state.vehicle)
            elif turn := timers.turn(state.vehicle, upto, state.status, seconds(state.updated_at)):
                turns.append((state, turn))
            else:
                self.settled(state)
        return turns

    def settled(self, state: State) -> None:
        """Closes the case of one that was taken: so it is stored."""
        self._timers(state.vehicle).settled(state.vehicle, state.status, seconds(state.updated_at))

    def again(self, vehicles: Iterable[str]) -> None:
        """These could not be told now, and are due again a little later."""
        for vehicle in vehicles:
            asyncio.get_running_loop().call_later(_AGAIN, lambda one: self._timers(one).again(one), vehicle)

    # In the background

    async def run(self) -> None:
        """For as long as it runs. Nothing that goes wrong here ends it, or consumption."""
        async with asyncio.TaskGroup() as group:
            for work in (self._watch, self._ask, self._look):
                group.create_task(self._for_ever(work))

    async def _for_ever(self, work: Callable[[], Awaitable[float]]) -> None:
        while True:
            try:
                pause = await work()
            except Exception:
                log.exception("statuses: trying again")
                pause = 1.0
            await asyncio.sleep(pause)

    async def _watch(self) -> float:
        """One look at all timers; until the next."""
        handed = self._queue.handed()
        self._silence.keep(handed)
        pause = _LOOK
        for number, upto in handed.items():
            timers = self._silence.of(number)
            due, passed = timers.struck(upto)
            self._struck += due
            self._curious |= dict.fromkeys(passed)
            pause = min(pause, timers.next() - upto)
        if self._struck or self._curious:
            self._asking.set()
        return max(_PAUSE, pause)

    async def _ask(self) -> float:
        """Some vehicles' intervals: of those that struck first, which then are due."""
        await self._asking.wait()
        struck, self._struck = self._struck[:_PIECE], self._struck[_PIECE:]
        curious = list(self._curious)[: 0 if struck else _PIECE]
        for vehicle in curious:
            del self._curious[vehicle]
        if not self._struck and not self._curious:
            self._asking.clear()
        began = asyncio.get_running_loop().time()
        asked = struck or curious
        for vehicle, every in zip(asked, await asyncio.gather(*map(self._interval, asked)), strict=True):
            if every is not None:
                self._timers(vehicle).expect(vehicle, every)
        if struck:
            self._due |= dict.fromkeys(struck)
            self.waiting.set()
            return 0.0
        return _RESTS * (asyncio.get_running_loop().time() - began)

    async def _interval(self, vehicle: str) -> float | None:
        """As the registry has it, or as the settings do; None if the registry does not say now."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._mute:
            return None
        try:
            async with asyncio.timeout(_ANSWERS):
                every = await self._every(vehicle)
        except Exception as error:  # noqa: BLE001 - a maker's registry may raise anything
            if loop.time() >= self._mute:
                log.warning("registry does not answer; going on with what is known", error=str(error))
            self._mute = loop.time() + _MUTE
            return None
        return self._settings.expected_every if every is None else every

    async def _look(self) -> float:
        """The vehicles of partitions that are newly ours, from the live state."""
        await self._looking.wait()
        await asyncio.sleep(_CALM)
        self._looking.clear()
        numbers, self._unseen = self._unseen, set()
        numbers &= self._queue.handed().keys()
        try:
            found = await self._look_up(numbers) if numbers else 0
        except Unavailable as error:
            log.warning("vehicles not looked up yet; trying again", error=str(error))
            self.unseen(numbers)
            return 1.0
        log.info("vehicles looked up", partitions=len(numbers), found=found)
        return 0.0

    async def _look_up(self, numbers: set[int]) -> int:
        loop = asyncio.get_running_loop()
        everyone = await self._live.vehicles()
        found = 0
        for at in range(0, len(everyone), _HASHED):
            began = loop.time()
            ids = [
                vehicle
                for vehicle in everyone[at : at + _HASHED]
                if (number := self._number(vehicle)) in numbers and vehicle not in self._silence.of(number)
            ]
            await asyncio.sleep(_RESTS * (loop.time() - began))
            for start in range(0, len(ids), _PIECE):
                began = loop.time()
                found += self._find(await self._live.latest_of(ids[start : start + _PIECE]))
                await asyncio.sleep(_RESTS * (loop.time() - began))
        return found

    def _find(self, states: Iterable[State]) -> int:
        found = 0
        for state in states:
            timers = self._timers(state.vehicle)
            if state.version and state.status != OFFLINE and state.vehicle not in timers:
                with suppress(ValueError):  # a state of which the time cannot be read
                    timers.heard(state.vehicle, seconds(state.updated_at), state.status)
                    found += 1
        return found

    def _timers(self, vehicle: str) -> Timers:
        return self._silence.of(self._number(vehicle))

    def _number(self, vehicle: str) -> int:
        return partition(vehicle, self._settings.partitions)

"""A vehicle of the suite's own, through the ingest door: what it sent is known, so what an app must see is too.

`version` is where the state must be once everything acknowledged is applied, if nobody else sends as this vehicle; `numbers` is
version -> the number that packet carried.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx2

from fleetcast.conform.story import Story
from fleetcast.conform.words import Failed, NotTried, short

NUMBER = "Conform.Number"
STILL = "Conform.Still"
SAME = "Conform.Same"
TEXT = "Conform.Text"
LIST = "Conform.List"
_HARD = 'ä\u2028"\\\n\r\ndata: x\n\n\0😀'  # what would break a stream that does not escape it
_TRIES = 8


class Sender:
    """Sends packets one after the other, each until it is acknowledged."""

    def __init__(self, url: str, noun: str, vehicle: str, token: str, client: httpx2.AsyncClient) -> None:
        self.vehicle = vehicle
        self.version = 0
        self.numbers: dict[int, int] = {}
        self.acknowledged = 0.0  # when the last packet was, by the monotonic clock
        self._url = f"{url}/v1/{noun}/{quote(vehicle, safe='')}/packets"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = client
        self._boot = int(time.time() * 1000)  # rises with each run
        self._seq = 0

    async def send(self, more: Mapping[str, object] | None = None) -> None:
        """One packet. Raises NotTried if it is refused, or not taken after a while."""
        self._seq += 1
        signals: dict[str, object] = {
            NUMBER: self._seq,
            TEXT: f"{self._seq} {_HARD}",
            LIST: [self._seq, True, "x"],
            SAME: "the value stays, its time does not",
        }
        if self._seq == 1:
            signals[STILL] = "sent once"
        packet = {
            "vehicle": self.vehicle,
            "boot": self._boot,
            "seq": self._seq,
            "sent_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "signals": {path: {"value": value} for path, value in (signals | dict(more or {})).items()},
        }
        for again in range(_TRIES):
            try:
                answer = await self._client.post(self._url, json=packet, headers=self._headers, timeout=20.0)
            except httpx2.HTTPError as error:
                why = f"{self._url}: {type(error).__name__} {error}"
            else:
                if answer.status_code == 202:
                    self.acknowledged = time.monotonic()
                    self.version += 1
                    self.numbers[self.version] = self._seq
                    return
                why = f"{self._url}: {answer.status_code} {short(answer.text)}"
                if answer.status_code not in (429, 503):
                    raise NotTried(f"packets are not taken: {why}")
            await asyncio.sleep(min(4.0, 0.25 * 2**again))
        raise NotTried(f"packets are not taken: {why}")

    def settle(self, version: int) -> None:
        """The last packet led to this version."""
        self.version = version
        self.numbers = {version: self._seq}

    def judge(self, told: Story) -> None:
        """Each packet must be an update of its own, in order, with what was sent in it. Raises Failed."""
        for update in told.updates:
            if update.version not in self.numbers:
                continue  # before this run
            if update.prev != update.version - 1:
                raise Failed(
                    f"packets between {update.prev} and {update.version} changed it, but have no update"
                )
            sent, seen = self.numbers[update.version], update.signals.get(NUMBER)
            if not isinstance(seen, dict) or seen.get("value") != sent:
                raise Failed(f"update {update.version} has {short(seen, 40)}, but packet {sent} was sent")
            if STILL in update.signals and sent != 1:
                raise Failed(f"update {update.version} has a signal that its packet did not")

    def is_last(self, body: Mapping[str, Any]) -> bool:
        """Whether this snapshot or update has the number that was sent last."""
        signals = body.get("signals")
        seen = signals.get(NUMBER) if isinstance(signals, dict) else None
        return isinstance(seen, dict) and seen.get("value") == self._seq

"""The seam between a car and the platform: one try to send a packet, and what came of it.

A car does not know by which door its packets go. `http_door` and `mqtt_door` are the two; who tries again, and when, is
the car's own business (`cars`), the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

from fleetcast.simulator.samples import Parcel

DoorName = Literal["http", "mqtt"]

TokenOf = Callable[[str], str | None]
"""The bearer token of a vehicle, asked for at each connection or request, since tokens expire; None: it has none."""


class Receipt(msgspec.Struct, frozen=True):
    """The platform has the packet on disk. `stored` is its place in the queue, `duplicate` whether the queue knew it; None
    where the door does not say: a PUBACK says neither.
    """

    stored: int | None = None
    duplicate: bool | None = None


class Failed(Exception):
    """Not known to be stored: send the same bytes again. `retry_after` is the header's text, if there was one."""

    def __init__(self, why: str, retry_after: str | None = None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class Refused(Exception):
    """Not stored, and never will be as it is."""


class Door(Protocol):
    """One car's way in. One packet at a time: a car waits for the answer before it sends the next."""

    name: DoorName

    async def send(self, parcel: Parcel) -> Receipt:
        """One try. Returns only once the packet is stored durably. Raises Failed or Refused."""

    async def leave(self) -> None:
        """The car is out of reach: its connection, if it has one of its own, is gone. The next `send` opens another."""


Answer = Receipt | Failed | Refused


class Batching(Protocol):
    """A door that takes several packets at a time."""

    async def send_all(self, parcels: Sequence[Parcel]) -> list[Answer]:
        """One try for the first ones, at least one, in their order, and their answers. Nothing is stored behind what
        failed. Raises Failed or Refused for all.
        """


def no_token(_vehicle: str) -> str | None:
    """For a platform that is open for development."""
    return None

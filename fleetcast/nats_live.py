"""The live state on JetStream: stream LIVE, `state.<vehicle>` for ever and `update.<vehicle>.<version>` by TTL.

A commit is one atomic batch, published to the epoch's own subjects: after a restore the old ones lead nowhere. Each
vehicle's `state` message carries `Nats-Expected-Last-Subject-Sequence`: the fence. Values are JSON in zstd. A commit whose
answer is lost may have happened: it raises Fenced, and the caller reloads from the leader.
"""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import nats.errors
from backports import zstd
from nats.aio.msg import Msg

from fleetcast.errors import Unavailable
from fleetcast.jetstream import AGAIN, NO_MESSAGE, ApiError, Connection, epoch_of
from fleetcast.live import Change, Fenced, Held, Refused
from fleetcast.settings import Settings
from fleetcast.state import State
from fleetcast.subjects import LIVE, commit_subject, state_subject, update_subject
from fleetcast.update import Update
from fleetcast.views import EVERYTHING, View

T = TypeVar("T")

_STATE = msgspec.json.Decoder(State)
_UPDATE = msgspec.json.Decoder(Update)
_WRONG_LAST = (10071, 10164)  # the second: another commit of the same subject is under way
_CONTENT = (10054, 10097, 10165, 10199)
"""A message too large, its headers too large, a time to live that is none, a batch too large. Only these name what is in the
commit; everything else is of the server, or of its cluster, and passes: were it taken for a refusal, good packets would be
put aside. So what is not known is not here."""
_FRAME = 1024  # room for a message's headers below the server's max_payload
_BATCH_MESSAGES = 1000
_PIECE = 256  # updates read at a time; one answer may hold 1,024
_BATCH_BYTES = 64_000_000


class NatsLive:
    """`live.Live` on stream LIVE."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._settings = settings
        self._ttl = f"{max(1, round(settings.window))}s"

    async def epoch(self) -> str:
        """Asked of the stream each time: a restore renews it under a running process, and a leader may be cut off."""
        try:
            info = await self._connection.api(f"STREAM.INFO.{LIVE}")
        except ApiError as error:
            raise Unavailable(f"stream {LIVE}: {error}") from error
        return epoch_of(info)

    async def latest(self, vehicle: str, *, leader: bool = False) -> Held:
        """One get by subject."""
        found = None if leader else await self._direct(state_subject(vehicle))
        # A copy that lags may not have it yet: only the leader can say that there is none.
        if found is None and (leader or self._settings.replicas > 1):
            found = await self._from_leader(state_subject(vehicle))
        if found is None:
            return Held(State(vehicle), 0)
        revision, data = found
        return Held(_decode(_STATE, data), revision)

    async def vehicles(self) -> Sequence[str]:
        """The subjects that the stream knows, a page of them at a time."""
        found: list[str] = []
        while True:
            try:
                page = {"subjects_filter": state_subject("*"), "offset": len(found)}
                info = await self._connection.api(f"STREAM.INFO.{LIVE}", page)
            except ApiError as error:
                raise Unavailable(f"stream {LIVE}: {error}") from error
            subjects = info["state"].get("subjects") or {}
            found += [subject.partition(".")[2] for subject in subjects]
            if not subjects or len(found) >= info.get("total", 0):
                return sorted(found)

    async def latest_of(self, vehicles: Sequence[str]) -> Sequence[State]:
        """One request, if there are no copies that may lag."""
        names = [state_subject(vehicle) for vehicle in vehicles]
        found = await self._multi(names) if self._settings.replicas == 1 else None
        if found is None:
            found = await self._each_from_leader(names)
        return [_decode(_STATE, data) for data in found.values()]

    async def since(
        self, vehicle: str, version: int, *, leader: bool = False, view: View = EVERYTHING
    ) -> tuple[State, Sequence[Update]]:
        """The state first, then what led to it from `version` on: so the window never ends before the state does.

        A phone that missed nothing costs one get, and nobody's whole window is read.
        """
        state = (await self.latest(vehicle, leader=leader)).state
        upto = view.version(state)
        return state, await self._newest(vehicle, version, upto, leader=leader) if version >= 0 else []

    async def commit(self, changes: Sequence[Change], epoch: str = "") -> Sequence[int]:
        """Splits what a batch cannot hold between vehicles, never within one."""
        if not changes:
            return []
        # All sizes are checked before anything is sent.
        everything = [self._encode(change) for change in changes]
        epoch = epoch or await self.epoch()
        revisions: list[int] = []
        part: list[list[tuple[str, bytes, dict[str, str]]]] = []
        messages = size = 0
        for encoded in everything:
            weight = sum(len(data) + _FRAME for _, data, _ in encoded)
            if part and (messages + len(encoded) > _BATCH_MESSAGES or size + weight > _BATCH_BYTES):
                revisions += await self._batch(part, epoch)
                part, messages, size = [], 0, 0
            part.append(encoded)
            messages += len(encoded)
            size += weight
        return revisions + (await self._batch(part, epoch) if part else [])

    def _encode(self, change: Change) -> list[tuple[str, bytes, dict[str, str]]]:
        vehicle = change.state.vehicle
        encoded = [
            (update_subject(vehicle, update.version), self._value(update), {"Nats-TTL": self._ttl})
            for update in change.updates
        ]
        fence = {"Nats-Expected-Last-Subject-Sequence": str(change.revision)}
        return [*encoded, (state_subject(vehicle), self._value(change.state), fence)]

    def _value(self, value: State | Update) -> bytes:
        try:
            text = msgspec.json.encode(value)
        except (
            TypeError,
            ValueError,
            OverflowError,
            msgspec.MsgspecError,
        ) as error:  # what an enricher remembered
            raise Refused(f"{type(value).__name__.lower()} is not JSON: {error}") from error
        if len(text) > self._settings.max_state:
            raise Refused(
                f"{type(value).__name__.lower()} of {len(text)} bytes, more than {self._settings.max_state}"
            )
        data = zstd.compress(text, 1)
        most = self._connection.client.max_payload - _FRAME
        if len(data) > most:
            raise Refused(f"{type(value).__name__.lower()} of {len(data)} bytes compressed, more than {most}")
        return data

    async def _batch(
        self, vehicles: Sequence[Sequence[tuple[str, bytes, dict[str, str]]]], epoch: str
    ) -> list[int]:
        client = self._connection.client
        messages = [message for vehicle in vehicles for message in vehicle]
        batch = {"Nats-Batch-Id": uuid.uuid4().hex}
        try:
            for number, (subject, data, headers) in enumerate(messages[:-1], 1):
                await client.publish(
                    commit_subject(epoch, subject),
                    data,
                    headers={**headers, **batch, "Nats-Batch-Sequence": str(number)},
                )
            subject, data, headers = messages[-1]
            end = {"Nats-Batch-Sequence": str(len(messages)), "Nats-Batch-Commit": "1"}
            reply = await self._connection.ask(
                commit_subject(epoch, subject), data, {**headers, **batch, **end}
            )
        except (Unavailable, nats.errors.Error, OSError, TimeoutError) as error:
            raise Fenced(f"no answer to a commit: {error!r}") from error
        answer = msgspec.json.decode(reply.data)
        if (refused := answer.get("error")) is not None:
            raise _decision(refused)
        last, revisions = int(answer["seq"]), []
        for vehicle in reversed(
            vehicles
        ):  # a vehicle's state is its last message, and sequences are without gaps
            revisions.append(last)
            last -= len(vehicle)
        return revisions[::-1]

    async def _direct(self, subject: str) -> tuple[int, bytes] | None:
        message = await self._connection.ask(f"$JS.API.DIRECT.GET.{LIVE}.{subject}", b"", again=AGAIN)
        headers: dict[str, str] = message.headers or {}
        if (status := headers.get("Status")) is not None:
            if status == "404":
                return None
            raise Unavailable(f"{subject}: status {status}")
        return int(headers["Nats-Sequence"]), message.data

    async def _from_leader(self, subject: str) -> tuple[int, bytes] | None:
        try:
            answer = await self._connection.api(f"STREAM.MSG.GET.{LIVE}", {"last_by_subj": subject})
        except ApiError as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise Unavailable(f"{subject}: {error}") from error
        message = answer["message"]
        return int(message["seq"]), base64.b64decode(message["data"])

    async def _newest(self, vehicle: str, version: int, upto: int, *, leader: bool) -> list[Update]:
        """The newest unbroken run of retained updates after `version`, read backwards in pieces."""
        updates: list[Update] = []
        high = upto
        while high > version:
            low = max(version, high - _PIECE)
            names = [update_subject(vehicle, number) for number in range(low + 1, high + 1)]
            found = None if leader else await self._multi(names)
            # A hole may be a replica's that is behind the one the state came from; the leader knows.
            if found is None or (len(found) < len(names) and self._settings.replicas > 1):
                found = await self._each_from_leader(names)
            run = 0
            while run < len(names) and names[-1 - run] in found:
                run += 1
            updates = [_decode(_UPDATE, found[name]) for name in names[len(names) - run :]] + updates
            if run < len(names):
                break
            high = low
        return updates

    async def _each_from_leader(self, names: Sequence[str]) -> dict[str, bytes]:
        found = await asyncio.gather(*map(self._from_leader, names))
        return {name: item[1] for name, item in zip(names, found, strict=True) if item is not None}

    async def _multi(self, subjects: Sequence[str]) -> dict[str, bytes] | None:
        """The last message of each subject that has one; None if that is more than one answer may hold."""
        client = self._connection.client
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox, pending_bytes_limit=-1, pending_msgs_limit=-1)
        try:
            request = msgspec.json.encode({"multi_last": subjects})
            await client.publish(f"$JS.API.DIRECT.GET.{LIVE}", request, reply=inbox)
            found: dict[str, bytes] = {}
            while True:
                message: Msg = await answers.next_msg(timeout=AGAIN if self._connection.several else 5)
                headers: dict[str, str] = message.headers or {}
                status = headers.get("Status")
                if status is None:
                    found[headers["Nats-Subject"]] = message.data
                elif status == "204":  # the end; with something pending, of what one answer may hold in bytes
                    return found if headers.get("Nats-Num-Pending", "0") == "0" else None
                elif status == "404":  # or one of them went by while it was read
                    return {} if not found and headers.get("Description") == "No Results" else None
                elif status == "413":
                    return None
                else:
                    raise Unavailable(f"{subjects[0]}: status {status}")
        except TimeoutError:
            if self._connection.several:  # that copy died, or hangs: the leader is asked instead
                return None
            raise Unavailable(f"{subjects[0]}: no answer") from None
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"{subjects[0]}: {type(error).__name__}") from error
        finally:
            await answers.unsubscribe()


def _decision(error: dict[str, Any]) -> Fenced | Refused | Unavailable:
    err_code, text = error.get("err_code", 0), error.get("description", "")
    if err_code in _WRONG_LAST:
        return Fenced(f"another process committed first: {text}")
    if err_code in _CONTENT:
        return Refused(f"commit refused: {text} ({err_code})")
    return Unavailable(f"commit not taken: {text} ({err_code})")


def _decode(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    return decoder.decode(zstd.decompress(data))

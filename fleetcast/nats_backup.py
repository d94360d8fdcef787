"""Backup and restore of the four streams: to a folder while everything runs, and back, under a new epoch.

The packets come first, then the live state, then what was rejected: so whatever was acknowledged before a backup began is in
it at least once, and what is in it twice is known by its place in the queue. The packet stream and REJECTED are JetStream's
own snapshots. LIVE is not: a snapshot of a stream that is written to meanwhile lacks every message that was replaced before
the snapshot reached it, and so would lose whole vehicles. It is read from front to end, where a state that was replaced
comes again later. The registry changes seldom: it is snapshotted, and again if it changed meanwhile.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import secrets
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Literal

import msgspec
import nats.errors
from nats.aio.msg import Msg

from fleetcast.clock import rfc3339
from fleetcast.errors import Unavailable, Unusable
from fleetcast.jetstream import (
    EPOCH,
    LINEAGE,
    NAME_TAKEN,
    NO_ROOM,
    NOT_FOUND,
    RESTORED,
    ApiError,
    Connection,
    epoch_of,
    generation,
    live_config,
    make_consumers,
    make_streams,
    new_epoch,
    packets_config,
    registry_config,
    rejected_config,
    stream_info,
)
from fleetcast.nats_read import inbox, messages, next_of
from fleetcast.nats_registry import NatsRegistry
from fleetcast.settings import Settings
from fleetcast.subjects import (
    LIVE,
    PACKETS,
    PARTITION_CONSUMERS,
    REGISTRY,
    REJECTED,
    RESTORING,
    RESTORING_SUBJECTS,
    commit_subject,
    state_subject,
)

Progress = Callable[[str, int], None]
"""Told again and again: the stream, and the bytes done."""
Queue = Literal["restore", "keep", "empty"]

MANIFEST = "manifest.json"
_FORMAT = 2
_FORMATS = (1, 2)
"""The first is without the registry: what there is of it stays when such a backup is restored."""
_CHUNK = 128 * 1024
_BATCH_MESSAGES = 500
_BATCH_BYTES = 16_000_000
_TIMES = 5
_FORGET = 1.5
"""Seconds that LIVE is away at least: an origin asks for the epoch every second, so none serves the new one by the old."""


class Kept(msgspec.Struct, frozen=True):
    """One stream in a backup: its file, and what the stream was."""

    stream: str
    file: str
    bytes: int
    sha256: str
    messages: int
    config: dict[str, Any]
    state: dict[str, Any]


class Manifest(msgspec.Struct, frozen=True):
    """What a backup says of itself."""

    format: int
    fleetcast: str
    server: str
    began_at: str
    ended_at: str
    epoch: str
    partitions: int
    lineage: Sequence[tuple[int, str]]
    vehicles: int
    streams: Sequence[Kept]

    def has(self, stream: str) -> bool:
        """Whether it holds this stream."""
        return any(kept.stream == stream for kept in self.streams)

    def of(self, stream: str) -> Kept:
        """What it holds of this stream."""
        return next(kept for kept in self.streams if kept.stream == stream)


class _Record(msgspec.Struct, array_like=True):
    """One message of LIVE; `expires` in seconds since 1970, 0 if never."""

    subject: str
    expires: float
    data: bytes


# Backup


async def backup(
    connection: Connection, settings: Settings, folder: Path, progress: Progress = lambda stream, size: None
) -> Manifest:
    """Writes a new folder, whole or not at all. Raises Unusable, Unavailable or ApiError."""
    began = time.time()
    with _whole(folder) as partial:
        gone = await _gone_from_rejected(connection)
        packets = await connection.api(f"STREAM.INFO.{PACKETS}")
        epoch = epoch_of(await connection.api(f"STREAM.INFO.{LIVE}"))
        with _Writer(partial / "packets.snapshot", PACKETS, progress) as writer:
            streams = [writer.kept(*await _snapshot(connection, PACKETS, writer))]
        with _Writer(partial / "live.messages", LIVE, progress) as writer:
            config = (await connection.api(f"STREAM.INFO.{LIVE}"))["config"]
            vehicles, count = await _read_live(connection, writer)
            streams.append(writer.kept(config, {}, count))
        with _Writer(partial / "rejected.snapshot", REJECTED, progress) as writer:
            streams.append(writer.kept(*await _snapshot(connection, REJECTED, writer)))
        streams.append(await _registry(connection, partial / "registry.snapshot", progress))
        if epoch_of(await connection.api(f"STREAM.INFO.{LIVE}")) != epoch:
            raise Unavailable("a restore came in between: begin again")
        if await _gone_from_rejected(connection) != gone:  # perhaps into the queue, after that was written
            raise Unavailable("rejected packets were replayed or dropped meanwhile: begin again")
        manifest = Manifest(
            format=_FORMAT,
            fleetcast=version("fleetcast"),
            server=connection.server,
            began_at=rfc3339(began),
            ended_at=rfc3339(time.time()),
            epoch=epoch,
            partitions=settings.partitions,
            lineage=generation(packets, epoch).lineage,
            vehicles=vehicles,
            streams=streams,
        )
        _write(partial / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))
    return manifest


async def _gone_from_rejected(connection: Connection) -> int:
    """How many packets were ever replayed or dropped."""
    state = (await connection.api(f"STREAM.INFO.{REJECTED}"))["state"]
    return int(state["last_seq"]) - int(state["messages"])


async def _registry(connection: Connection, path: Path, progress: Progress) -> Kept:
    registry = NatsRegistry(connection)
    for _ in range(_TIMES):
        before = await registry.stamp()
        with _Writer(path, REGISTRY, progress) as writer:
            kept = writer.kept(*await _snapshot(connection, REGISTRY, writer))
        if await registry.stamp() == before:
            return kept
    raise Unavailable("the registry changes all the time: begin again")


async def _snapshot(
    connection: Connection, stream: str, writer: _Writer
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """JetStream's own; each chunk is answered, which is its flow control."""
    async with inbox(connection) as (address, chunks):
        request = {"deliver_subject": address, "chunk_size": _CHUNK, "no_consumers": True}
        answer = await connection.api(f"STREAM.SNAPSHOT.{stream}", request, timeout=30)
        due = 1
        while True:
            message = await next_of(chunks, stream)
            if not message.data:
                status = (message.headers or {}).get("Status", "204")
                if status != "204":
                    raise Unavailable(f"snapshot of {stream}: status {status}")
                return answer["config"], answer["state"], int(answer["state"]["messages"])
            if message.reply:  # $JS.SNAPSHOT.ACK.<stream>.<id>.<size>.<number>; the last chunk has none
                if int(message.reply.rpartition(".")[2]) != due:
                    raise Unavailable(f"snapshot of {stream}: chunk {due} was lost")
                await connection.client.publish(message.reply)
            due += 1
            writer.write(message.data)


async def _read_live(connection: Connection, writer: _Writer) -> tuple[int, int]:
    """Every message from the oldest on, until none is left; (vehicles, messages)."""
    count, vehicles, unfinished = 0, set[str](), set[str]()
    async for message, pending in messages(connection, LIVE):
        kind, vehicle = message.subject.split(".")[:2]
        # Of a commit the updates come first, then the state: at its end nothing is unfinished.
        (unfinished.discard if kind == "state" else unfinished.add)(vehicle)
        if kind == "state":
            vehicles.add(vehicle)
        writer.record(_record(message))
        count += 1
        if pending == 0 and not unfinished:
            break
    # Nothing must rest on what the consumer believes to be pending: who is missing is asked for by name.
    missing = {vehicle async for vehicle in _vehicles(connection)} - vehicles | unfinished
    for vehicle in sorted(missing):
        answer = await connection.api(f"STREAM.MSG.GET.{LIVE}", {"last_by_subj": state_subject(vehicle)})
        writer.record(_Record(state_subject(vehicle), 0, base64.b64decode(answer["message"]["data"])))
        count += 1
    return len(vehicles | missing), count


def _record(message: Msg) -> _Record:
    lifetime = (message.headers or {}).get("Nats-TTL", "").removesuffix("s")
    stored = int(message.reply.split(".")[-2]) / 1e9
    return _Record(message.subject, stored + float(lifetime) if lifetime else 0, message.data)


async def _vehicles(connection: Connection) -> AsyncIterator[str]:
    offset = 0
    while True:
        page = {"subjects_filter": state_subject("*"), "offset": offset}
        info = await connection.api(f"STREAM.INFO.{LIVE}", page, timeout=30)
        subjects = info["state"].get("subjects") or {}
        for subject in subjects:
            yield subject.partition(".")[2]
        offset += len(subjects)
        if not subjects or offset >= info.get("total", 0):
            return


# Restore


def read(folder: Path) -> Manifest:
    """The manifest of a backup, its files checked against it. Raises Unusable."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise Unusable(f"{folder}: is no backup, there is no {MANIFEST}") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise Unusable(f"{folder / MANIFEST}: {error}") from None
    if manifest.format not in _FORMATS:
        raise Unusable(f"{folder}: is a backup of format {manifest.format}, not {_FORMAT}")
    for kept in manifest.streams:
        try:
            with (folder / kept.file).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise Unusable(f"{folder / kept.file}: {error.strerror}") from None
        if digest != kept.sha256:
            raise Unusable(f"{folder / kept.file}: is damaged, its sha256 is not the manifest's")
    return manifest


async def restore(
    connection: Connection,
    settings: Settings,
    folder: Path,
    *,
    queue: Queue = "restore",
    replace: bool = False,
    progress: Progress = lambda stream, size: None,
) -> str:
    """Puts a backup back, and returns the new epoch. Raises Unusable, Unavailable or ApiError.

    `queue` says what becomes of the packet stream: `restore` it, REJECTED and the registry with it; `keep` all three as they
    are; or make the packet stream anew and `empty`, with the other two kept. `replace`: what the streams hold now may be
    thrown away.

    Processes may run meanwhile. From the moment that LIVE is away they can commit nothing, and until its metadata has the
    new epoch, which is the last thing done to it, they serve nothing. One that starts waits for the end of this.
    """
    manifest = await asyncio.to_thread(read, folder)
    if manifest.partitions != settings.partitions:
        raise Unusable(
            f"partitions: the backup has {manifest.partitions}, the settings say {settings.partitions}"
        )
    everything = (LIVE, PACKETS, REJECTED, *((REGISTRY,) if manifest.has(REGISTRY) else ()))
    going = {"restore": everything, "keep": (LIVE,), "empty": (LIVE, PACKETS)}[queue]
    if not replace:
        await _refuse_data(connection, going)
    if queue == "keep" and await stream_info(connection, PACKETS) is None:
        raise Unusable(f"there is no stream {PACKETS} to keep")
    await connection.api(f"STREAM.CREATE.{RESTORING}", {"name": RESTORING, "subjects": RESTORING_SUBJECTS})
    try:
        epoch = await _replace(connection, settings, folder, manifest, going, queue, progress)
        await _delete(connection, RESTORING)
    except (Unavailable, ApiError) as why:
        again = "nothing is served or applied until it is restored again, with --replace"
        raise Unavailable(f"{why}; {again}") from why
    return epoch


async def _replace(
    connection: Connection,
    settings: Settings,
    folder: Path,
    manifest: Manifest,
    going: Sequence[str],
    queue: Queue,
    progress: Progress,
) -> str:
    for stream in going:  # LIVE first: from then on nobody commits
        await _delete(connection, stream)
    if queue == "keep":
        await _delete_consumers(connection)
    await asyncio.sleep(_FORGET)
    epoch = new_epoch()
    await connection.api(f"STREAM.CREATE.{LIVE}", live_config(settings, epoch))
    await _write_live(connection, folder / manifest.of(LIVE).file, epoch, progress)
    found = (
        await connection.api(f"STREAM.INFO.{LIVE}", {"subjects_filter": state_subject("*")}, timeout=30)
    )["total"]
    if found != manifest.vehicles:
        raise Unavailable(f"{found} vehicles are back, of {manifest.vehicles}: begin again")
    if queue == "restore":
        await _restore_queue(connection, settings, folder, manifest, progress)
    elif queue == "empty":
        await connection.api(f"STREAM.CREATE.{PACKETS}", packets_config(settings))
    live = (await connection.api(f"STREAM.INFO.{LIVE}"))["config"]
    await connection.api(f"STREAM.UPDATE.{LIVE}", live | {"metadata": {EPOCH: epoch}})
    await make_streams(connection, settings)
    await make_consumers(connection, settings)
    return epoch


async def _refuse_data(connection: Connection, streams: Sequence[str]) -> None:
    for stream in streams:
        info = await stream_info(connection, stream)
        if info is not None and (count := info["state"]["messages"]):
            raise Unusable(f"stream {stream} holds {count} messages; --replace throws them away")


async def _delete(connection: Connection, stream: str) -> None:
    try:
        await connection.api(f"STREAM.DELETE.{stream}", timeout=30)
    except ApiError as error:
        if error.err_code != NOT_FOUND:
            raise


async def _delete_consumers(connection: Connection) -> None:
    """Whoever pulls learns it, and what is in hand can no longer be acked."""
    names: list[str] = []
    while True:
        page = await connection.api(f"CONSUMER.NAMES.{PACKETS}", {"offset": len(names)})
        names += (more := page.get("consumers") or [])
        if not more or len(names) >= page.get("total", 0):
            break
    for name in names:
        if name.startswith(PARTITION_CONSUMERS):
            with suppress(ApiError):
                await connection.api(f"CONSUMER.DELETE.{PACKETS}.{name}")


async def _restore_queue(
    connection: Connection, settings: Settings, folder: Path, manifest: Manifest, progress: Progress
) -> None:
    """What comes after the packets of the backup is of another incarnation: states know its positions as other packets'."""
    kept = manifest.of(PACKETS)
    last = int(kept.state["last_seq"])
    lineage = msgspec.json.encode([*manifest.lineage, (last + 1, secrets.token_hex(8))]).decode()
    config = packets_config(settings) | {"metadata": {LINEAGE: lineage}}
    info = await _upload(connection, kept, folder / kept.file, config, progress)
    if info["state"]["last_seq"] < last:
        raise Unavailable(f"stream {PACKETS} ends at {info['state']['last_seq']}, not {last}: begin again")
    kept = manifest.of(REJECTED)
    await _upload(connection, kept, folder / kept.file, rejected_config(settings), progress)
    if manifest.has(REGISTRY):
        kept = manifest.of(REGISTRY)
        config = registry_config(settings) | {"metadata": {RESTORED: secrets.token_hex(8)}}
        await _upload(connection, kept, folder / kept.file, config, progress)


async def _upload(
    connection: Connection, kept: Kept, path: Path, config: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    where, done = await _where_to(connection, kept.stream, {"config": config, "state": kept.state}), 0
    for chunk in _chunks(path):
        if answer := await connection.request(where, chunk, timeout=30):
            raise Unavailable(f"stream {kept.stream}: {_reason(answer)}")
        progress(kept.stream, done := done + len(chunk))
    answer = await connection.request(where, b"", timeout=300)
    info: dict[str, Any] = msgspec.json.decode(answer)
    if "error" in info:
        raise Unavailable(f"stream {kept.stream}: {_reason(answer)}")
    return info


async def _where_to(connection: Connection, stream: str, request: dict[str, Any]) -> str:
    """The subject for the chunks.

    A restore that was broken off before goes on in the server for a while: it holds the room, or even makes the stream.
    """
    for attempt in range(40):
        try:
            return str((await connection.api(f"STREAM.RESTORE.{stream}", request))["deliver_subject"])
        except ApiError as error:
            if error.err_code not in (NO_ROOM, NAME_TAKEN) or attempt == 39:
                raise
        await _delete(connection, stream)
        await asyncio.sleep(0.5)
    raise AssertionError


def _reason(answer: bytes) -> str:
    return str(msgspec.json.decode(answer).get("error", {}).get("description", "refused"))


async def _write_live(connection: Connection, path: Path, epoch: str, progress: Progress) -> None:
    """In atomic batches: an fsync for many. What expired since the backup stays away; the rest keeps what is left to it."""
    batch: list[_Record] = []
    size = done = 0
    for record in _records(path):
        if record.expires and record.expires - time.time() < 1:
            continue
        if batch and (len(batch) >= _BATCH_MESSAGES or size + len(record.data) > _BATCH_BYTES):
            await _write_batch(connection, batch, epoch)
            progress(LIVE, done := done + size)
            batch, size = [], 0
        batch.append(record)
        size += len(record.data)
    if batch:
        await _write_batch(connection, batch, epoch)
        progress(LIVE, done + size)


async def _write_batch(connection: Connection, batch: Sequence[_Record], epoch: str) -> None:
    identity, now = uuid.uuid4().hex, time.time()
    for number, record in enumerate(batch, 1):
        headers = {"Nats-Batch-Id": identity, "Nats-Batch-Sequence": str(number)}
        if record.expires:
            headers["Nats-TTL"] = f"{max(1, round(record.expires - now))}s"
        subject = commit_subject(epoch, record.subject)
        if number < len(batch):
            try:
                await connection.client.publish(subject, record.data, headers=headers)
            except (nats.errors.Error, OSError) as error:
                raise Unavailable(f"nats-server: {type(error).__name__}") from error
        else:
            answer = await connection.request(
                subject, record.data, headers | {"Nats-Batch-Commit": "1"}, timeout=30
            )
            if "error" in msgspec.json.decode(answer):
                raise Unavailable(f"stream {LIVE}: {_reason(answer)}")


# Files


class _Writer:
    """A file of a backup while it is written: counted, hashed, and on disk when it is closed."""

    def __init__(self, path: Path, stream: str, progress: Progress) -> None:
        self._path, self._stream, self._progress = path, stream, progress
        self._file: IO[bytes] = path.open("wb")
        self._hash = hashlib.sha256()
        self._size = 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data)
        self._progress(self._stream, self._size)

    def record(self, record: _Record) -> None:
        """With its length before it."""
        data = msgspec.msgpack.encode(record)
        self.write(len(data).to_bytes(4, "big") + data)

    def kept(self, config: dict[str, Any], state: dict[str, Any], messages: int) -> Kept:
        """What the manifest says of it."""
        digest = self._hash.hexdigest()
        return Kept(self._stream, self._path.name, self._size, digest, messages, config, state)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _records(path: Path) -> Iterator[_Record]:
    decoder = msgspec.msgpack.Decoder(_Record)
    with path.open("rb") as file:
        while length := file.read(4):
            yield decoder.decode(file.read(int.from_bytes(length, "big")))


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to write into that gets its name only at the end; nothing is left of it otherwise."""
    if folder.exists():
        raise Unusable(f"{folder}: is there already; a backup is a new folder")
    partial = folder.with_name(f"{folder.name}.partial-{secrets.token_hex(4)}")
    try:
        partial.mkdir(mode=0o700)
    except OSError as error:
        raise Unusable(f"{partial}: {error.strerror}") from None
    try:
        yield partial
        _sync(partial)
        partial.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        raise Unusable(f"{folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

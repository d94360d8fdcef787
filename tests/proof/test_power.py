"""The power cut act: its disk forgets what was not flushed, its ledger finds every kind of loss, and a real guest keeps all."""

import asyncio
import random
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetcast.errors import Unusable
from fleetcast.proof import guest
from fleetcast.proof.disk import BLOCK, VolatileDisk, serve
from fleetcast.proof.fold import Fold
from fleetcast.proof.ledger import Found, Ledger, View
from fleetcast.proof.packets import body, packet
from fleetcast.proof.rows import Row
from fleetcast.settings import Settings

OLD, NEW, NEWER = (letter * BLOCK for letter in (b"o", b"n", b"m"))


class Forgetful(random.Random):
    """Dice with which nothing of the cache comes to the medium."""

    def random(self) -> float:
        return 0.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[VolatileDisk]:
    medium = tmp_path / "medium"
    medium.write_bytes(OLD * 8)
    made = VolatileDisk(medium)
    yield made
    made.close()


def test_what_was_written_is_read(disk: VolatileDisk) -> None:
    disk.write(BLOCK, NEW + NEWER)
    assert disk.read(0, 4 * BLOCK) == OLD + NEW + NEWER + OLD


def test_what_was_not_flushed_is_lost(disk: VolatileDisk) -> None:
    disk.write(0, NEW)
    disk.flush()
    disk.write(BLOCK, NEW)
    disk.cut(Forgetful())
    assert disk.read(0, 2 * BLOCK) == NEW + OLD
    assert (disk.dropped, disk.kept) == (1, 0)


def test_a_write_with_fua_is_kept_and_not_undone_by_an_older_one(disk: VolatileDisk) -> None:
    disk.write(0, NEWER)
    disk.write(0, NEW, fua=True)
    disk.write(BLOCK, NEWER)
    disk.cut(Forgetful())
    assert disk.read(0, 2 * BLOCK) == NEW + OLD


def test_a_cut_leaves_any_version_of_a_block(disk: VolatileDisk) -> None:
    seen = set()
    for seed in range(40):
        disk.write(0, OLD, fua=True)
        disk.write(0, NEW)
        disk.write(0, NEWER)
        disk.cut(random.Random(seed))
        seen.add(disk.read(0, BLOCK))
    assert seen == {OLD, NEW, NEWER}


async def test_the_disk_speaks_nbd_and_answers_nothing_after_a_cut(disk: VolatileDisk, folder: Path) -> None:
    server = await serve(disk, folder / "disk")
    reader, writer = await asyncio.open_unix_connection(str(folder / "disk"))

    async def ask(kind: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0) -> int:
        writer.write(struct.pack(">IHHQQI", 0x25609513, flags, kind, 7, offset, length) + data)
        magic, error, handle = struct.unpack(">IIQ", await reader.readexactly(16))
        assert (magic, handle) == (0x67446698, 7)
        return int(error)

    try:
        assert await reader.readexactly(18) == b"NBDMAGICIHAVEOPT\0\3"
        writer.write(struct.pack(">I", 3) + struct.pack(">8sII", b"IHAVEOPT", 7, 6) + bytes(6))
        _, _, kind, length = struct.unpack(">QIII", await reader.readexactly(20))
        _, size, flags = struct.unpack(">HQH", await reader.readexactly(length))
        assert (kind, size, flags) == (3, 8 * BLOCK, 1 | 4 | 8)
        await reader.readexactly(20 + 14)  # the size of blocks
        assert struct.unpack(">QIII", await reader.readexactly(20))[2] == 1
        assert await ask(1, BLOCK, BLOCK, NEW) == 0
        assert await ask(0, BLOCK, BLOCK) == 0
        assert await reader.readexactly(BLOCK) == NEW
        assert await ask(3) == 0
        assert disk.flushes == 1
        assert await ask(1, 0, BLOCK, NEWER) == 0
        assert await ask(0, 5, BLOCK) == 22  # not a whole block
        disk.cut(Forgetful())
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await ask(3)
        assert disk.read(0, 2 * BLOCK) == OLD + NEW
    finally:
        writer.transport.abort()
        server.close()


# The ledger


def queued(*numbers: int, vehicle: str = "a") -> list[tuple[str, str, bytes]]:
    return [(vehicle, packet(1, vehicle, n).name, body(1, vehicle, n)[0]) for n in numbers]


def view(vehicle: str, version: int) -> View:
    fold = Fold(1, vehicle)
    stored = "2026-01-01T00:00:00.000Z"
    updates = [(n + 1, n, fold.advance(later=False, stored=stored)[1], stored) for n in range(version)]
    return View(version, dict(fold.signals), updates)


def judged(found: Found, acked: int = 4, committed: int = 0, **opened: int) -> Row:
    ledger = Ledger(1, ["a"], ["x", "y"])
    ledger.acked["a"], ledger.sent["a"] = acked, acked + 1
    ledger.committed["x"] = committed
    if opened:
        ledger.open[0] = opened
    row = Row("power cut")
    ledger.judge(found, row)
    return row


def test_kept_is_what_is_queued_or_applied_and_an_unanswered_one_may_be_there() -> None:
    assert judged(Found(queued(0, 1, 2, 3))).clean
    assert judged(Found(queued(0, 1, 2, 3, 4))).clean
    assert judged(Found(queued(2, 3), {"a": view("a", 2)})).clean
    assert judged(Found(queued(0, 1, 2, 3), {"a": view("a", 2)})).clean  # the ack was lost, not the packet
    assert judged(Found([], {"x": view("x", 5)}), acked=0, committed=5).clean


@pytest.mark.parametrize(
    ("found", "field", "count"),
    [
        (Found(queued(0, 1, 3)), "lost", 1),
        (Found(queued(3), {"a": view("a", 1)}), "lost", 2),
        (Found(), "lost", 4),
        (Found(queued(0, 1, 1, 2, 3)), "twice", 1),
        (Found(queued(0, 2, 1, 3)), "reordered", 1),
        (Found([*queued(0, 1, 2), ("a", "1/4", b"torn")]), "lost", 1),
        (Found(queued(0, 1, 2, 3), {"a": View(2, view("a", 1).signals, view("a", 2).updates)}), "lost", 1),
        (Found(queued(0, 1, 2, 3), {"a": View(2, view("a", 2).signals, view("a", 1).updates)}), "lost", 1),
    ],
)
def test_the_ledger_finds(found: Found, field: str, count: int) -> None:
    row = judged(found)
    assert getattr(row, field) == count
    assert row.notes


def test_a_commit_that_is_gone_or_there_by_half_is_found() -> None:
    assert judged(Found([], {"x": view("x", 3)}), acked=0, committed=5).lost == 2
    half: dict[str, Any] = {"x": view("x", 3)}
    assert judged(Found([], half), acked=0, x=3, y=2).lost == 1
    assert judged(Found([], half | {"y": view("y", 2)}), acked=0, x=3, y=2).clean
    assert judged(Found(), acked=0, x=3, y=2).clean


def test_what_was_applied_may_be_queued_in_the_end_and_nothing_else() -> None:
    ledger, row = Ledger(1, ["a"], []), Row("power cut")
    ledger.settled(Found(queued(0, 1), {"a": view("a", 2)}), row)
    assert row.clean
    ledger.settled(Found(queued(2), {"a": view("a", 2)}), row)
    assert row.unhealed == 1


# The guest


def test_without_its_parts_one_line_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(guest, "PARTS", tmp_path)
    with pytest.raises(Unusable, match=r"a kernel.*make setup-prove"):
        guest.Guest(tmp_path, Settings())


@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(guest.missing()), reason=f"no {guest.missing()}: `make setup-prove` installs it")
def test_a_guest_keeps_all_through_a_cut_and_loses_some_without_fsync() -> None:
    # A process of its own: nats-py leaves a socket behind at each try of a server that is not up yet.
    command = [
        sys.executable,
        "-m",
        "fleetcast.proof.power",
        "--seed=1",
        "--cuts=1",
        "--controls=1",
        "--promises=100",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every promise kept" in done.stdout
    assert re.search(r"control: default sync_interval lost [1-9]", done.stdout)

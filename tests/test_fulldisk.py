"""A disk that was full: nats-server is started again when there is room, and only then. The proof's act `disk` is the whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fleetcast import fulldisk
from fleetcast.fulldisk import FullDisk


class Disk:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 10**9
        self.restarts = 0
        self.notices: list[str] = []
        self.log = folder / "nats-server.log"
        self.log.write_text("[ERR] Filestore [LIVE] Critical write error: of an earlier run\n")
        monkeypatch.setattr(fulldisk, "_free", lambda store: self.free)
        self.watch = FullDisk(folder, self.log, self.restart, self.notices.append)

    def restart(self) -> None:
        self.restarts += 1


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


def test_nothing_happens_while_there_is_room(disk: Disk) -> None:
    disk.watch.look()
    assert (disk.restarts, disk.notices) == (0, [])


def test_a_full_disk_that_has_room_again_needs_one_restart(disk: Disk) -> None:
    disk.free = 0
    disk.watch.look()
    disk.watch.look()
    assert disk.restarts == 0
    disk.free = 10**9
    disk.watch.look()
    disk.watch.look()
    assert disk.restarts == 1
    assert len(disk.notices) == 2


def test_a_full_moment_that_was_missed_is_seen_in_the_log(disk: Disk) -> None:
    with disk.log.open("a") as file:
        file.write("[ERR] Filestore [$MQTT_msgs] Critical write error: no space left on device\n")
    disk.watch.look()
    assert disk.restarts == 1


def test_a_role_whose_log_is_on_a_full_disk_goes_on() -> None:
    code = (
        "import structlog; from fleetcast.settings import Settings; from fleetcast.wiring import configure_logging;"
        "configure_logging(Settings(), 'test'); structlog.get_logger().error('x' * 100_000); print('went on')"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, check=False)
    assert done.stdout == b"went on\n"

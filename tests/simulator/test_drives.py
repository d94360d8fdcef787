"""Speed traces: what is read, how they loop, and how a bad file is told."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fleetcast.simulator.drives import CARRIED, Drive, find_drives, read_drive


def test_the_published_cycles_are_carried() -> None:
    drives = {drive.name: drive for drive in find_drives(CARRIED)}
    assert set(drives) == {"udds", "us06", "hwfet", "wltc_3b"}
    assert len(drives["udds"].speeds) == 1370
    # The distances the cycles are published with, in km.
    for name, km in (("udds", 11.99), ("us06", 12.89), ("hwfet", 16.51), ("wltc_3b", 23.27)):
        assert sum(drives[name].speeds) / 3600 == pytest.approx(km, abs=0.01)


def test_without_a_folder_there_are_drives_with_movement() -> None:
    drives = find_drives()
    assert len(drives) >= 4
    assert all(max(drive.speeds) > 30 for drive in drives)


def test_speed_is_interpolated_and_loops_after_a_parked_pause() -> None:
    drive = Drive("short", [0, 10, 20, 0], pause=10)
    assert drive.period == 14
    assert [drive.speed_at(second) for second in (0, 0.5, 1, 1.25, 3)] == [0, 5, 10, 12.5, 0]
    assert {drive.speed_at(second) for second in range(3, 14)} == {0}
    assert drive.speed_at(15.5) == drive.speed_at(1.5) == 15


def test_a_stop_is_known_from_start_to_end() -> None:
    drive = Drive("short", [0, 10, 20, 0, 0, 0, 30, 0], pause=10)
    assert drive.stop_at(1) is None
    assert drive.stop_at(4) == (3, 5)
    assert drive.stop_at(10) == (7, 18), "from the end over the pause to the first movement of the next loop"
    assert drive.stop_at(0) == (0, 0)


def test_a_trace_that_never_moves_is_one_stop_without_an_end() -> None:
    stop = Drive("parked", [0, 0], pause=0).stop_at(1)
    assert stop is not None
    assert stop[1] == math.inf


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("second,speed\n0,1\n", 1),
        ("second,speed_kmh\n", 2),
        ("second,speed_kmh\n0,1\n2,1\n", 3),
        ("second,speed_kmh\n0,1\n1,fast\n", 3),
        ("second,speed_kmh\n0,1\n1\n", 3),
        ("second,speed_kmh\n0,-1\n", 2),
        ("second,speed_kmh\n0,nan\n", 2),
        ("second,speed_kmh\n0,1\n\n2,1\n", 3),
    ],
)
def test_a_bad_file_is_one_line_with_its_name_and_line(tmp_path: Path, text: str, line: int) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.csv:{line}: ") as caught:
        read_drive(file)
    assert "\n" not in str(caught.value)


def test_a_folder_without_drives_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no drives"):
        find_drives(tmp_path)

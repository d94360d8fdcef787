"""Names hold exactly what they should: nothing in an id can become another subject, channel or URL."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast import subjects
from fleetcast.subjects import (
    channel,
    control_channel,
    control_number,
    is_vehicle,
    partition,
    partition_filter,
    poll_channel,
    put_subject,
    rejected_subject,
    sibling_of,
    split_channel,
    split_ingest,
    state_subject,
    update_subject,
)

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
VEHICLES = st.text(LETTERS, min_size=1, max_size=64)


@given(st.text(max_size=70) | VEHICLES | VEHICLES.map(lambda text: text + "\n"))
def test_is_vehicle_by_another_account(text: str) -> None:
    assert is_vehicle(text) == (1 <= len(text) <= 64 and all(letter in LETTERS for letter in text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a" * 65,
        "car 1",
        "car.1",
        "car/1",
        "car*",
        "car>",
        "car\n",
        "\ncar",
        "car\0",
        "çar",
        "１",
        "car;",
        "a,b",
    ],
)
def test_is_no_vehicle(text: str) -> None:
    """Among them the line break that `$` in a pattern would let pass, and what NATS, GRIP and ZeroMQ read something into."""
    assert not is_vehicle(text)
    assert split_channel(f"v/{text}/all/") is None


@pytest.mark.parametrize("text", ["a", "7", "-", "_", "A" * 64, "car-1_B"])
def test_is_a_vehicle(text: str) -> None:
    assert is_vehicle(text)


@given(VEHICLES, VEHICLES)
def test_no_channel_is_the_beginning_of_another(one: str, other: str) -> None:
    """ZeroMQ matches by prefix: v/1 would also pull v/10."""
    if one != other:
        assert not channel(one).startswith(channel(other))
        assert not channel(other).startswith(channel(one))


@given(VEHICLES)
def test_those_who_long_poll_have_a_sibling_of_each_channel(vehicle: str) -> None:
    name = poll_channel(channel(vehicle))
    assert name == f"poll/v/{vehicle}/all/"
    assert sibling_of(name) == sibling_of(channel(vehicle)) == channel(vehicle)
    assert split_channel(name) is None  # it is nobody's stream


def test_control_channels_are_apart_from_each_other_and_from_vehicles() -> None:
    names = [control_channel(number) for number in range(subjects.CONTROL_CHANNELS)]
    assert len(set(names)) == subjects.CONTROL_CHANNELS
    assert all(not one.startswith(other) for one in names for other in names if one != other)
    assert all(split_channel(name) is None for name in names)
    assert control_channel(3) == "ctl/03/"
    assert control_channel(subjects.CONTROL_CHANNELS + 3) == "ctl/03/"


@given(VEHICLES)
def test_a_channel_reads_back(vehicle: str) -> None:
    assert split_channel(channel(vehicle)) == (vehicle, "all", 0)
    assert split_channel(channel(vehicle, "summary")) == (vehicle, "summary", 0)
    assert split_channel(channel(vehicle, "summary", 30)) == (vehicle, "summary", 30)
    assert not set(channel(vehicle)) & set(",;=\"' \t\n")  # what a GRIP header would read something into


@given(st.text())
def test_split_channel_takes_only_channels(name: str) -> None:
    found = split_channel(name)
    assert found is None or channel(*found) == name


@pytest.mark.parametrize(
    "name",
    [
        "v/a/all",
        "v/a/all/\n",
        "v/a/ALL/",
        *("v/a/all.0/", "v/a/all./", "v/a/all.5.5/", "v/a/all.05/", "v/a/all.٥/"),
        "v//all/",
        "v/a//",
        "w/a/all/",
        " v/a/all/",
        "v/a/all.0/",
        "v/a/all./",
        "v/a/all.5.5/",
    ],
)
def test_split_channel_takes_nothing_that_only_looks_like_one(name: str) -> None:
    assert split_channel(name) is None


@pytest.mark.parametrize(
    ("text", "digest"), [("a", 0xE40C292C), ("foobar", 0xBF9CF968), ("b", 0xE70C2DE5), ("fo", 0x6222E842)]
)
def test_partition_is_fnv_1a(text: str, digest: int) -> None:
    """Vectors of the algorithm's authors: http://www.isthe.com/chongo/src/fnv/test_fnv.c."""
    for partitions in (1, 7, 64, 1024):
        assert partition(text, partitions) == digest % partitions


@given(VEHICLES, st.integers(0, 1023), st.integers(1, 10**15))
def test_subjects_have_as_many_tokens_as_they_say(vehicle: str, number: int, version: int) -> None:
    assert put_subject(vehicle).split(".") == ["$MQTT", "msgs", "vehicles", vehicle, "packets"]
    assert state_subject(vehicle).split(".") == ["state", vehicle]
    assert update_subject(vehicle, version).split(".") == ["update", vehicle, str(version)]
    assert rejected_subject(number, vehicle).split(".") == ["rejected", str(number), vehicle]
    assert partition_filter(number) == f"ingest.{number}.>"
    assert split_ingest(f"ingest.{number}.{vehicle}.packets") == (number, vehicle, "")
    assert split_ingest(f"ingest.{number}.{vehicle}.packets.msgpack") == (number, vehicle, "msgpack")


@given(st.text())
def test_control_number_is_steady_and_one_of_them(text: str) -> None:
    assert 0 <= control_number(text) < subjects.CONTROL_CHANNELS
    assert control_number(text) == control_number(text)

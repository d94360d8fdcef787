"""A packet's bytes: exactly the wanted size, valid in both forms, different each time, compressible as real data is."""

from __future__ import annotations

import random
import zlib
from typing import Any

import msgspec
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.decode import load
from fleetcast.settings import Settings
from fleetcast.simulator.car import Car
from fleetcast.simulator.drives import CARRIED, read_drive
from fleetcast.simulator.samples import MAX_BYTES, Encoding, Form, Samples, content_type, head_of

decode = load(Settings().decoders).decode

SAMPLES = Samples(1)
SIGNALS = Car("car-00001", read_drive(CARRIED / "us06.csv"), 1, 40.0).signals()
HEAD = head_of("car-00001", 1_700_000_000_000, 7, 1_700_000_000.25, SIGNALS)


def inflate(body: bytes, encoding: str) -> bytes:
    if encoding == "zstd":
        return zstd.decompress(body)
    return zlib.decompress(body, wbits=31) if encoding == "gzip" else body


def test_the_head_names_the_packet_and_gives_some_signals_their_own_time() -> None:
    head = msgspec.json.decode(HEAD)
    assert list(head) == ["vehicle", "boot", "seq", "sent_at", "signals"]
    assert head["sent_at"] == "2023-11-14T22:13:20.250Z"
    assert head["signals"]["Simulator.Packet"] == {"value": [1_700_000_000_000, 7]}
    assert head["signals"]["Vehicle.CurrentLocation.Latitude"]["at"] == "2023-11-14T22:13:20.070Z"
    assert "at" not in head["signals"]["Vehicle.Speed"]
    assert head["signals"].keys() - {"Simulator.Packet"} == SIGNALS.keys()


@settings(max_examples=60, deadline=None)
@given(
    size=st.one_of(st.integers(500_000, MAX_BYTES), st.integers(len(HEAD) + 20, len(HEAD) + 60_000)),
    seed=st.integers(0, 1000),
    form=st.sampled_from(["ndjson", "json"]),
)
def test_a_packet_has_exactly_the_wanted_size_and_is_valid(size: int, seed: int, form: Form) -> None:
    body, raw = SAMPLES.body(HEAD, size, random.Random(seed), form=form, encoding="identity")
    assert len(body) == raw == size
    samples: list[Any]
    if form == "ndjson":
        assert body.endswith(b"\n")
        head, *samples = msgspec.json.Decoder().decode_lines(body)
    else:
        head = msgspec.json.decode(body)
        samples = head.pop("samples")
    assert head == msgspec.json.decode(HEAD)
    assert all("sensor" in sample for sample in samples)
    assert sum(len(msgspec.json.encode(sample)) for sample in samples) > (size - len(HEAD)) * 0.8 - 40


@pytest.mark.parametrize("size", [500_000, MAX_BYTES])
def test_the_cheap_form_inflates_to_the_wanted_size_with_the_head_in_a_frame_of_its_own(size: int) -> None:
    body, raw = SAMPLES.body(HEAD, size, random.Random(1), precompressed=True)
    text = zstd.decompress(body)
    assert len(text) == raw == size
    assert all(msgspec.json.Decoder().decode_lines(text))
    first = zstd.ZstdDecompressor().decompress(body)
    assert first.startswith(HEAD + b"\n")
    assert len(first) < 40_000


@pytest.mark.parametrize("form", ["ndjson", "json"])
@pytest.mark.parametrize("encoding", ["zstd", "gzip", "identity"])
def test_the_platform_reads_what_is_made(form: Form, encoding: Encoding) -> None:
    body, raw = SAMPLES.body(HEAD, 600_000, random.Random(2), form=form, encoding=encoding)
    assert raw == len(inflate(body, encoding)) == 600_000
    packet = decode(body, content_type(form), encoding, MAX_BYTES)
    assert (packet.vehicle, packet.boot, packet.seq) == ("car-00001", 1_700_000_000_000, 7)
    assert packet.signals.keys() == {"Simulator.Packet", *SIGNALS}
    assert packet.signals["Vehicle.Speed"].value == SIGNALS["Vehicle.Speed"]
    assert len(packet.samples()) > 10


@pytest.mark.parametrize(("encoding", "precompressed"), [("zstd", False), ("zstd", True), ("gzip", False)])
def test_it_compresses_like_real_sensor_data(encoding: Encoding, precompressed: bool) -> None:
    rng = random.Random(3)
    bodies = [
        SAMPLES.body(HEAD, 750_000, rng, encoding=encoding, precompressed=precompressed)[0] for _ in range(10)
    ]
    for body in bodies:
        assert 3 < 750_000 / len(body) < 6
    # Two packets have lines in common (a quarter of the pool each), but one does not repeat the other.
    both = zstd.compress(
        b"".join(inflate(body, encoding) for body in bodies[:2]),
        options={
            zstd.CompressionParameter.compression_level: 3,
            zstd.CompressionParameter.enable_long_distance_matching: 1,
        },
    )
    assert len(both) > 1.4 * 750_000 / 4.6
    assert len(set(bodies)) == 10


def test_the_same_seeds_make_the_same_bytes() -> None:
    again = Samples(1)
    assert again.body(HEAD, 500_000, random.Random(9)) == SAMPLES.body(HEAD, 500_000, random.Random(9))
    assert Samples(2).body(HEAD, 500_000, random.Random(9)) != SAMPLES.body(HEAD, 500_000, random.Random(9))


@pytest.mark.parametrize("form", ["ndjson", "json"])
def test_a_size_below_the_heads_gives_the_head_alone(form: Form) -> None:
    body, raw = SAMPLES.body(HEAD, 0, random.Random(1), form=form, encoding="identity")
    assert raw == len(body) < len(HEAD) + 20
    assert msgspec.json.decode(body)["seq"] == 7


def test_a_packet_is_never_larger_than_the_platform_takes() -> None:
    with pytest.raises(ValueError, match="cannot make"):
        SAMPLES.body(HEAD, MAX_BYTES + len(HEAD) + 2, random.Random(1))
    with pytest.raises(ValueError, match="over the limit"):
        SAMPLES.body(b'{"a":"' + b"x" * MAX_BYTES + b'"}', 0, random.Random(1))


def test_the_cheap_form_is_refused_where_frames_cannot_be_joined() -> None:
    with pytest.raises(ValueError, match="precompressed"):
        SAMPLES.body(HEAD, 500_000, random.Random(1), form="json", precompressed=True)

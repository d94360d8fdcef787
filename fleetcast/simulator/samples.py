"""The bulk of a packet, and the packet around it.

In: a car's signals and a wanted size. Out: the bytes of one POST: a head (identity and signals), then lines of
high-rate sensor data until the inflated text is exactly the wanted size. The data is a seeded pool of ready-made lines
(noise, drift and quantisation of real sensors, so it compresses about 3 to 6 times, not like zeros), of which each
packet takes a random choice: formatting a megabyte of numbers for every packet would cost more than the platform does.
"""

import random
import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from itertools import accumulate
from statistics import NormalDist
from typing import Literal

import msgspec
from backports import zstd

from fleetcast.clock import rfc3339
from fleetcast.packet import JSON, NDJSON

Form = Literal["ndjson", "json"]
Encoding = Literal["zstd", "gzip", "identity"]

MAX_BYTES = 1_048_576
"""The platform refuses a packet that inflates to more."""

LEVEL = 1
"""What a car's small computer can afford; zstd and gzip alike."""

POOL = 160
FILLER_OPEN, FILLER_CLOSE = b'{"sensor":"can","frames":"', b'"}'
FILLER_MIN = len(FILLER_OPEN) + len(FILLER_CLOSE) + 1
FILLER_TEXT = 65_536
"""Bytes of CAN frames to cut the last line of a packet from: far more than twice the longest line."""

_NORMAL = [NormalDist().inv_cdf((n + 0.5) / 1024) for n in range(1024)]
"""A normal distribution to choose from: quicker than to make each number."""

AGES = {
    "Vehicle.CurrentLocation.Latitude": 0.18,
    "Vehicle.CurrentLocation.Longitude": 0.18,
    "Vehicle.CurrentLocation.Heading": 0.18,
    "Vehicle.Exterior.AirTemperature": 0.4,
}
"""Signals observed some seconds before the packet was sent, which therefore carry their own `at`."""


class Parcel(msgspec.Struct, frozen=True):
    """The bytes of one POST: what is sent again, unchanged, until it is acknowledged.

    `raw_bytes` is the inflated size of `body`; `content_type` and `encoding` are the values of the HTTP headers.
    """

    vehicle: str
    boot: int
    seq: int
    content_type: str
    encoding: Encoding
    body: bytes
    raw_bytes: int


class Samples:
    """A pool of sample lines, made once from a seed (about 3 MB, half a second), then shared by all cars."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(f"samples/{seed}")
        makers = (_imu, _wheels, _motor, _cells, _temperatures)
        self._lines = [makers[n % len(makers)](rng, n) for n in range(POOL)]
        self._filler = _can_frames(rng, FILLER_TEXT)
        self._frames: list[bytes] = []

    def fill(self, size: int, rng: random.Random) -> tuple[list[int], bytes]:
        """Lines that take exactly `size` bytes, one separator byte for each included.

        Returns the pool's line numbers, in random order, and one last line made to measure (empty if it is not
        needed). ValueError if `size` is more than MAX_BYTES, or positive and less than FILLER_MIN.
        """
        if size > MAX_BYTES or 0 < size < FILLER_MIN:
            raise ValueError(f"cannot make samples of {size} bytes")
        chosen: list[int] = []
        for number in rng.sample(range(POOL), POOL):
            rest = size - len(self._lines[number]) - 1
            if rest == 0 or rest >= FILLER_MIN:
                chosen.append(number)
                size = rest
            else:
                break
        if size == 0:
            return chosen, b""
        start = rng.randrange(FILLER_TEXT // 2)
        text = self._filler[start : start + size - FILLER_MIN]
        return chosen, FILLER_OPEN + text + FILLER_CLOSE

    def lines(self, numbers: Iterable[int]) -> list[bytes]:
        """The pool's lines of these numbers, each one JSON object without a line end."""
        return [self._lines[number] for number in numbers]

    def frames(self, numbers: Iterable[int]) -> list[bytes]:
        """The same lines, each with its line end and compressed once for good as a zstd frame of its own."""
        if not self._frames:
            self._frames = [zstd.compress(line + b"\n", LEVEL) for line in self._lines]
        return [self._frames[number] for number in numbers]

    def body(
        self,
        head: bytes,
        size: int,
        rng: random.Random,
        *,
        form: Form = "ndjson",
        encoding: Encoding = "zstd",
        precompressed: bool = False,
    ) -> tuple[bytes, int]:
        """The body of a packet and its inflated size: exactly `size` bytes, unless the head alone is longer.

        `head` is a JSON object. The body is one zstd frame (or gzip member), as a car would send it; `precompressed`
        makes it a frame for the head and one for each line, which costs a load generator next to nothing.
        ValueError if `precompressed` is asked of anything but ndjson and zstd, or the text is over MAX_BYTES.
        """
        if precompressed and (form, encoding) != ("ndjson", "zstd"):
            raise ValueError("precompressed lines are ndjson and zstd only")
        if form == "ndjson":
            opening, separator, closing = head, b"\n", b"\n"
        else:
            opening, separator, closing = head[:-1] + b',"samples":[', b",", b"]}"
        # n lines take n separators as `fill` counts them. ndjson has as many (before each line; its closing is one
        # more), json one less.
        room = size - len(opening) - len(closing) + (form == "json")
        if 0 < room < FILLER_MIN:
            opening, room = opening + b" " * (room - (form == "json")), 0
        numbers, last = self.fill(max(room, 0), rng)
        if precompressed:
            first = opening + b"\n" + (last + b"\n" if last else b"")
            raw = len(first) + sum(len(self._lines[number]) + 1 for number in numbers)
            return _bounded(b"".join([zstd.compress(first, LEVEL), *self.frames(numbers)]), raw)
        lines = self.lines(numbers) + ([last] if last else [])
        # A line's end follows an x-ndjson head; in JSON the samples are a member of the one object.
        start = opening + separator if form == "ndjson" and lines else opening
        text = start + separator.join(lines) + closing
        return _bounded(COMPRESS[encoding](text), len(text))


COMPRESS: dict[Encoding, Callable[[bytes], bytes]] = {
    "zstd": lambda text: zstd.compress(text, LEVEL),
    "gzip": lambda text: zlib.compress(text, LEVEL, wbits=31),
    "identity": bytes,
}


def head_of(vehicle: str, boot: int, seq: int, sent_at: float, signals: Mapping[str, object]) -> bytes:
    """The head of a packet as one JSON object; `sent_at` is in seconds since 1970.

    It adds the signal `Simulator.Packet` with the value [boot, seq]: by it whoever watches the other end knows which
    packet an update came from.
    """
    shaped: dict[str, object] = {"Simulator.Packet": {"value": [boot, seq]}}
    for path, value in signals.items():
        age = AGES.get(path)
        shaped[path] = {"value": value} if age is None else {"value": value, "at": _stamp(sent_at - age)}
    return msgspec.json.encode(
        {"vehicle": vehicle, "boot": boot, "seq": seq, "sent_at": _stamp(sent_at), "signals": shaped}
    )


def content_type(form: Form) -> str:
    """The media type of a form."""
    return NDJSON if form == "ndjson" else JSON


def _stamp(seconds: float) -> str:
    return rfc3339(datetime.fromtimestamp(seconds, UTC))


def _bounded(body: bytes, raw: int) -> tuple[bytes, int]:
    if raw > MAX_BYTES:
        raise ValueError(f"a packet of {raw} bytes is over the limit of {MAX_BYTES}")
    return body, raw


def _line(sensor: str, hertz: int, number: int, **columns: list[str]) -> bytes:
    series = ",".join(f'"{name}":[{",".join(values)}]' for name, values in columns.items())
    return f'{{"sensor":"{sensor}","hz":{hertz},"from_ms":{number * 10_000},{series}}}'.encode()


def _wave(rng: random.Random, count: int, level: float, drift: float, noise: float, step: float) -> list[str]:
    """A sensor's series: a level that drifts, with noise, read in steps of `step` as its converter resolves it."""
    places = max(0, len(f"{step:g}".partition(".")[2]))
    moves = accumulate((drift * one for one in rng.choices(_NORMAL, k=count)), initial=level)
    next(moves)
    errors = rng.choices(_NORMAL, k=count)
    scaled = (
        round((level + noise * error) / step) * step for level, error in zip(moves, errors, strict=True)
    )
    return [f"{value:.{places}f}" for value in scaled]


def _imu(rng: random.Random, number: int) -> bytes:
    return _line(
        "imu", 100, number,
        ax=_wave(rng, 1000, 0.0, 0.02, 0.06, 0.01),
        ay=_wave(rng, 1000, 0.0, 0.02, 0.06, 0.01),
        az=_wave(rng, 1000, 9.81, 0.001, 0.06, 0.01),
        yaw=_wave(rng, 1000, 0.0, 0.02, 0.1, 0.02),
    )  # fmt: skip


def _wheels(rng: random.Random, number: int) -> bytes:
    level = rng.uniform(20, 120)
    names = ("fl", "fr", "rl", "rr")
    return _line("wheels", 100, number, **{n: _wave(rng, 900, level, 0.08, 0.1, 0.02) for n in names})


def _motor(rng: random.Random, number: int) -> bytes:
    return _line(
        "motor", 100, number,
        rpm=_wave(rng, 1000, rng.uniform(1500, 9000), 6.0, 4.0, 1.0),
        torque=_wave(rng, 1000, rng.uniform(-60, 200), 0.8, 0.6, 0.1),
        current=_wave(rng, 1000, rng.uniform(-80, 300), 1.0, 1.2, 0.1),
    )  # fmt: skip


def _cells(rng: random.Random, number: int) -> bytes:
    levels = [rng.gauss(3850, 6) for _ in range(96)]
    columns = {f"c{n}": _wave(rng, 40, level, 0.2, 1.0, 1.0) for n, level in enumerate(levels)}
    return _line("cells_mv", 4, number, **columns)


def _temperatures(rng: random.Random, number: int) -> bytes:
    columns = {f"t{n}": _wave(rng, 200, rng.uniform(15, 60), 0.02, 0.05, 0.1) for n in range(16)}
    return _line("temperatures", 20, number, **columns)


def _can_frames(rng: random.Random, size: int) -> bytes:
    ids = [f"{rng.randrange(0x100, 0x7FF):03X}" for _ in range(24)]
    payload = {key: bytearray(rng.randbytes(8)) for key in ids}
    text: list[str] = []
    for _ in range(size // 21 + 1):  # a frame is 21 characters
        key = rng.choice(ids)
        payload[key][rng.randrange(5, 8)] = rng.randrange(256)  # most of a frame's bytes stay as they were
        text.append(f"{key}#{payload[key].hex().upper()} ")
    return "".join(text).encode()

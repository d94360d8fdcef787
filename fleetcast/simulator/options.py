"""What a simulated fleet is told to do (`Options`), and what it tells (`Acked`, `Totals`)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fleetcast.settings import Noun
from fleetcast.simulator.door import DoorName
from fleetcast.simulator.mqtt_door import host_and_port
from fleetcast.simulator.samples import MAX_BYTES, Encoding
from fleetcast.simulator.trouble import Trouble

MixedForm = Literal["ndjson", "json", "mix"]
MixedDoor = Literal["http", "mqtt", "mix"]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the fleet does. `boot` 0 means the current time in ms, so that a restart has a higher one.

    Sizes are inflated bytes of a packet, drawn evenly between the two. `speedup` is how many seconds the cars live in
    one second. `precompressed` is for load generators: see Samples.body. `mqtt` is HOST:PORT, or mqtts://HOST:PORT. With
    the door `mix` every second car goes by MQTT. `batches`: a backlog by HTTP is one request. `credentials`: the folder of
    a development key.
    """

    ingest: str = "http://127.0.0.1:8081"
    noun: Noun = "vehicles"
    door: MixedDoor = "http"
    mqtt: str = "127.0.0.1:1883"
    cars: Annotated[int, Meta(ge=1)] = 200
    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,48}$")] = "car-"
    per_minute: Annotated[float, Meta(ge=1, le=120)] = 12.0
    min_bytes: Annotated[int, Meta(ge=0)] = 500_000
    max_bytes: Annotated[int, Meta(le=MAX_BYTES)] = MAX_BYTES
    encoding: Encoding = "zstd"
    form: MixedForm = "ndjson"
    precompressed: bool = False
    seed: int = 1
    boot: Annotated[int, Meta(ge=0)] = 0
    drives: str | None = None
    speedup: Annotated[float, Meta(gt=0)] = 1.0
    trouble: Trouble = Trouble()
    batches: bool = False
    credentials: str | None = None

    def __post_init__(self) -> None:
        if self.min_bytes > self.max_bytes:
            raise ValueError("min_bytes is more than max_bytes")
        if self.precompressed and (self.form, self.encoding) != ("ndjson", "zstd"):
            raise ValueError("precompressed needs the form ndjson and the encoding zstd")
        if not self.ingest.startswith(("http://", "https://")):
            raise ValueError("ingest must be a URL, http:// or https://")
        try:
            host_and_port(self.mqtt)
        except ValueError as error:
            raise ValueError(f"mqtt: {error}") from None

    def vehicle(self, number: int) -> str:
        """The vehicle id of a car, numbered from 0."""
        return f"{self.prefix}{number:05d}"

    def by_mqtt(self, number: int) -> bool:
        """Which door that car uses."""
        return self.door == "mqtt" or (self.door == "mix" and number % 2 == 1)


class Acked(msgspec.Struct, frozen=True):
    """A packet that was acknowledged, for the first time. `sent` (first try) and `acked` are time.monotonic(), the same for
    all processes of a Linux machine; `stored` is its place in the queue and `duplicate` whether the queue knew it, None by
    MQTT, which does not say; sizes in bytes before and after compression.
    """

    vehicle: str
    boot: int
    seq: int
    stored: int | None
    duplicate: bool | None
    sent: float
    acked: float
    raw_bytes: int
    wire_bytes: int
    door: DoorName = "http"


class Totals(msgspec.Struct):
    """What happened so far; `run_cars` keeps it up to date. `error` is the last error's text.

    `acked` counts distinct packets, `mqtt` those of them that went by MQTT. `unacknowledged` are packets that were made,
    `unanswered` those of them that were sent: they may be stored. The last five are trouble that was made: `repeats` were
    acknowledged once more, `late` ones sent after newer ones, `batches` are requests of several packets.
    """

    acked: int = 0
    mqtt: int = 0
    duplicates: int = 0
    raw: int = 0
    wire: int = 0
    errors: int = 0
    retries: int = 0
    unacknowledged: int = 0
    unanswered: int = 0
    error: str = ""
    tunnels: int = 0
    repeats: int = 0
    late: int = 0
    reboots: int = 0
    batches: int = 0

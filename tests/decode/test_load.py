"""Decoders are found by their names in the settings; a name that will not do is one line that says which."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import msgspec
import pytest

from fleetcast import decode, ingest
from fleetcast.decode import auto, json, msgpack, ndjson
from fleetcast.errors import Reject, TooLarge, Unusable
from fleetcast.packet import Signal
from fleetcast.queue import Stored
from fleetcast.settings import Settings

pytestmark = pytest.mark.anyio

LIMIT = 1_048_576
FORMS = '''
"""Lines of text: `vehicle boot seq sent_at`, then `path value` each."""

from fleetcast.decode import Decoder
from fleetcast.errors import Reject
from fleetcast.packet import packet_from


def lines(body):
    first, *rest = body.whole().decode("ascii").splitlines()
    vehicle, boot, seq, sent_at = first.split()
    readings = (line.split() for line in rest)
    signals = {path: {"value": float(value)} for path, value in readings}
    return packet_from(
        {"vehicle": vehicle, "boot": int(boot), "seq": int(seq), "sent_at": sent_at, "signals": signals},
        lambda: ["bulk"],
    )


def nothing(body):
    return None


def refusing(body):
    raise Reject("as asked")


DECODER = Decoder(("text/x-lines",), "lines", lines)
BARE = Decoder(("text/x-bare",), "", lines)
NOTHING = Decoder(("text/x-nothing",), None, nothing)
REFUSING = Decoder(("text/x-refusing",), None, refusing)
SAME = Decoder(("text/x-lines",), "same", lines)
TOPIC = Decoder(("text/x-topic",), "lines", lines)
CAPITALS = Decoder(("Text/Lines",), "lines", lines)
PARAMETERS = Decoder(("text/lines; charset=utf-8",), "lines", lines)
DEEP = Decoder(("text/deep",), "a/b", lines)
WILD = Decoder(("text/wild",), "*", lines)
number = 7
'''


@pytest.fixture
def forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of somebody's own forms."""
    (tmp_path / "forms_of_a_test.py").write_text(FORMS)
    (tmp_path / "broken_forms_of_a_test.py").write_text("raise ZeroDivisionError('at import')")
    monkeypatch.syspath_prepend(tmp_path)
    yield "forms_of_a_test"
    sys.modules.pop("forms_of_a_test", None)


def test_those_of_the_settings() -> None:
    loaded = decode.load(Settings().decoders)
    assert loaded.content_types == (
        "application/json",
        "application/x-ndjson",
        "application/msgpack",
        "application/vnd.msgpack",
        "application/x-msgpack",
    )
    assert loaded.suffixes == ("json", "ndjson", "msgpack")
    built_in = {module.__name__: module.DECODER for module in (json, ndjson, msgpack, auto)}
    assert list(built_in) == list(Settings().decoders)


def test_a_form_goes_to_the_decoder_that_takes_it(forms: str) -> None:
    loaded = decode.load([forms, f"{forms}:NOTHING", "fleetcast.decode.json"])
    body = b"car-1 1 2 2026-11-23T10:00:00+01:00\nVehicle.Speed 50.5\n"
    for form in ("text/x-lines", "lines"):
        found = loaded.decode(body, form, "identity", LIMIT)
        assert found.id == "car-1/1/2"
        assert found.signals == {"Vehicle.Speed": Signal(50.5, "2026-11-23T09:00:00.000Z")}
        assert found.samples() == ["bulk"]
    for form in ("application/x-ndjson", "msgpack", "", "bare", "x\n" * 9):
        with pytest.raises(
            Reject, match="is not one of text/x-lines, text/x-nothing, application/json, lines, json"
        ) as why:
            loaded.decode(body, form, "identity", LIMIT)
        assert "\n" not in str(why.value)


def test_the_bare_topic_may_be_somebodys_own(forms: str) -> None:
    loaded = decode.load([f"{forms}:BARE"])
    assert loaded.suffixes == ()
    assert loaded.decode(b"car-1 1 2 2026-11-23T10:00:00Z", "", "identity", LIMIT).id == "car-1/1/2"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"car-1 1 2", "raised ValueError: not enough values to unpack (expected 4, got 3)"),
        (b"\xff", "raised UnicodeDecodeError"),
        (b"", "raised ValueError"),
        (b"car-1 1 2 2026-11-23T10:00:00Z\nx nan", "signal 'x' is NaN or Infinity"),
        (b"car-1 1 2 2026-11-23T10:00:00", "sent_at"),
        (b"car-1 -1 2 2026-11-23T10:00:00Z", "boot"),
        (b"car/1 1 2 2026-11-23T10:00:00Z", "vehicle"),
        (b"car-1 1 2 0001-01-01T00:00:00+23:59", "out of range"),
    ],
)
def test_whatever_ones_own_decoder_raises_is_a_reject(forms: str, body: bytes, why: str) -> None:
    with pytest.raises(Reject) as rejected:
        decode.load([forms]).decode(body, "lines", "identity", LIMIT)
    assert why in str(rejected.value)
    assert "\n" not in str(rejected.value)


def test_what_it_means_to_raise_stays_as_it_is(forms: str) -> None:
    loaded = decode.load([forms, f"{forms}:NOTHING", f"{forms}:REFUSING"])
    with pytest.raises(Reject, match=r"^as asked\Z"):
        loaded.decode(b"", "text/x-refusing", "identity", LIMIT)
    with pytest.raises(Reject, match="returned NoneType, not a Packet"):
        loaded.decode(b"", "text/x-nothing", "identity", LIMIT)
    with pytest.raises(TooLarge):
        loaded.decode(b"x" * 100, "lines", "identity", 99)


class Queue:
    def __init__(self) -> None:
        self.forms: list[str] = []

    async def put(self, vehicle: str, packet_id: str, body: bytes, form: str, encoding: str) -> Stored:
        self.forms.append(form)
        return Stored(len(self.forms), False)


async def test_ingest_takes_the_forms_of_the_settings(forms: str) -> None:
    queue, settings = Queue(), Settings(decoders=(forms, "fleetcast.decode.json"))
    transport = httpx2.ASGITransport(app=ingest.application(queue, settings))  # type: ignore[arg-type] # only put is asked
    async with httpx2.AsyncClient(transport=transport, base_url="http://ingest") as client:

        async def sent(form: str) -> httpx2.Response:
            body = b"car-1 1 2 2026-11-23T10:00:00Z\nVehicle.Speed 50.5"
            return await client.post(
                "/v1/vehicles/car-1/packets", content=body, headers={"content-type": form}
            )

        assert (await sent("text/x-lines")).status_code == 202
        refused = await sent("application/x-ndjson")
        assert refused.status_code == 415
        assert (
            refused.json()["detail"]
            == "send text/x-lines, application/json, or many packets as multipart/mixed"
        )
    assert queue.forms == ["text/x-lines"]


@pytest.mark.parametrize(
    "name",
    [
        "no_such_module",
        "{forms}:missing",
        "{forms}:number",
        "{forms}:lines",
        "broken_{forms}",
        "",
        ":DECODER",
        "{forms}.deeper",
        ".relative",
        "{forms}:CAPITALS",
        "{forms}:PARAMETERS",
        "{forms}:DEEP",
        "{forms}:WILD",
    ],
)
def test_a_name_that_will_not_do_is_named(forms: str, name: str) -> None:
    name = name.format(forms=forms)
    with pytest.raises(Unusable) as unusable:
        decode.load(["fleetcast.decode.json", name])
    assert str(unusable.value).startswith(f"decoders: {name} ")
    assert "\n" not in str(unusable.value)


def test_two_for_one_form_are_named(forms: str) -> None:
    with pytest.raises(Unusable, match=f"decoders: {forms} and {forms}:SAME both take 'text/x-lines'"):
        decode.load([forms, f"{forms}:SAME"])
    with pytest.raises(Unusable, match=f"decoders: {forms} and {forms}:TOPIC both take 'lines'"):
        decode.load([forms, f"{forms}:TOPIC"])
    with pytest.raises(Unusable, match=f"decoders: {forms}:BARE and fleetcast.decode.auto both take ''"):
        decode.load([f"{forms}:BARE", "fleetcast.decode.auto"])
    assert decode.load([forms, forms]).suffixes == ("lines",)


def test_none_at_all() -> None:
    for names in ([], ["fleetcast.decode.auto"]):
        with pytest.raises(Unusable, match="decoders: none that takes a content type"):
            decode.load(names)


def test_a_packet_of_messagepack_is_smaller() -> None:
    """What it is there for."""
    document = {"vehicle": "car-1", "boot": 1, "seq": 2, "sent_at": "2026-11-23T10:00:00Z"}
    document |= {"signals": {f"Vehicle.Signal{number}": {"value": number * 1.1} for number in range(100)}}
    packed, text = msgspec.msgpack.encode(document), msgspec.json.encode(document)
    loaded = decode.load(Settings().decoders)
    assert len(packed) < len(text)
    assert (
        loaded.decode(packed, "msgpack", "identity", LIMIT).signals
        == loaded.decode(text, "json", "identity", LIMIT).signals
    )

from __future__ import annotations

import msgspec
import pytest

from fleetcast.commands.rejected import shown
from fleetcast.decode import load
from fleetcast.settings import Settings

DECODERS = load(Settings().decoders)
HEAD = {"vehicle": "car-1", "boot": 1, "seq": 2, "sent_at": "2026-11-23T10:00:00Z"}
PACKET = HEAD | {"signals": {"Vehicle.Speed": {"value": 48.2}}, "samples": [{"t": 1}]}


@pytest.mark.parametrize("form", ["application/msgpack", "msgpack"])
def test_messagepack_is_shown_as_json(form: str) -> None:
    said = msgspec.json.decode(shown(msgspec.msgpack.encode(PACKET), form, DECODERS))
    assert (said["vehicle"], said["boot"], said["seq"]) == ("car-1", 1, 2)
    assert said["signals"]["Vehicle.Speed"]["value"] == 48.2
    assert said["samples"] == [{"t": 1}]


def test_so_are_samples_that_json_does_not_have() -> None:
    packed = msgspec.msgpack.encode(PACKET | {"samples": [b"\x00\xff", msgspec.msgpack.Ext(7, b"x")]})
    text = shown(packed, "msgpack", DECODERS)
    assert msgspec.json.decode(text)["samples"][0] == "AP8="
    assert "Ext" in text


@pytest.mark.parametrize("text", ['{"vehicle":\n"é"}', "not a packet", ""])
def test_text_is_shown_as_it_is(text: str) -> None:
    assert shown(text.encode(), "application/json", DECODERS) == text


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (msgspec.msgpack.encode(HEAD), "msgpack"),  # no signals
        (msgspec.msgpack.encode(PACKET)[:-3], "msgpack"),
        (b"\x93\x00\x01\x02", "application/json"),
        (b"\x93\x00\x01\x02", "unknown/form"),
        (b"\x00\x1b[31m", "application/json"),  # what a terminal would obey is no text
    ],
)
def test_all_else_is_shown_in_hexadecimal_with_why(body: bytes, form: str) -> None:
    why, _, digits = shown(body, form, DECODERS).partition("\n")
    assert why.startswith("cannot be shown as JSON (")
    assert bytes.fromhex(digits) == body

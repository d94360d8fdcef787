"""The parts of a batch come out as they were put in, however the body is cut; anything else is refused with the reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.policy import HTTP
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.errors import Refuse
from fleetcast.multipart import PARTS, Part, boundary_of, read_parts

BOUNDARIES = st.from_regex(r"[0-9A-Za-z'()+_,./:=?-]{1,70}", fullmatch=True)
TYPES = st.sampled_from(["application/json", "text/plain; charset=utf-8"])
BODIES = st.binary(max_size=200) | st.lists(
    st.sampled_from(["\r", "\n", "-", "--", "\r\n--", "b"]), max_size=30
).map(lambda pieces: "".join(pieces).encode())


def batch(parts: Iterable[tuple[str, bytes]], boundary: str = "b", ending: bytes = b"--\r\n") -> bytes:
    text = b"".join(
        f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode() + body + b"\r\n" for kind, body in parts
    )
    return text + f"--{boundary}".encode() + ending


def read(body: bytes, boundary: bytes = b"b", cuts: Iterable[int] = ()) -> list[Part]:
    async def pieces() -> AsyncIterator[bytes]:
        places = [0, *sorted({cut % (len(body) + 1) for cut in cuts}), len(body)]
        for start, end in pairwise(places):
            yield body[start:end]

    return asyncio.run(read_parts(pieces(), boundary))


@settings(deadline=None)
@given(
    parts=st.lists(st.tuples(TYPES, BODIES), min_size=1, max_size=5),
    boundary=BOUNDARIES,
    cuts=st.lists(st.integers(0, 10_000), max_size=8),
    epilogue=st.sampled_from([b"--", b"--\r\n", b"--\r\nepilogue\r\n"]),
)
def test_parts_come_out_as_they_were_put_in(
    parts: list[tuple[str, bytes]], boundary: str, cuts: list[int], epilogue: bytes
) -> None:
    delimiter = f"\r\n--{boundary}".encode()
    parts = [(kind, body) for kind, body in parts if delimiter not in b"\r\n" + body] or [("a/b", b"")]
    found = read(batch(parts, boundary, epilogue), boundary.encode(), cuts)
    assert [(part.headers["content-type"], part.body) for part in found] == parts


def test_what_the_standard_library_writes_is_read() -> None:
    message = MIMEMultipart("mixed")
    for number in range(3):
        one = MIMEApplication(b"", "json", _encoder=lambda _: None)
        one.set_payload(f'{{"n": {number}}}')
        message.attach(one)
    head, _, body = message.as_bytes(policy=HTTP).partition(b"\r\n\r\n")
    boundary = boundary_of(str(message["content-type"]))
    assert boundary is not None
    assert boundary in head
    found = read(body, boundary)
    assert [part.body for part in found] == [b'{"n": 0}', b'{"n": 1}', b'{"n": 2}']
    assert {part.headers["content-type"] for part in found} == {"application/json"}


def test_names_of_headers_are_in_small_letters_and_the_last_holds() -> None:
    body = b"--b\r\nCONTENT-type:a/b \r\nX: 1\r\nx:  2\r\n\r\nbody\r\n--b--"
    assert read(body) == [Part({"content-type": "a/b", "x": "2"}, b"body")]
    assert read(b"--b\r\n\r\nbody\r\n--b--") == [Part({}, b"body")]


GOOD = batch([("application/json", b"{}"), ("application/json", b"[]")])


@settings(deadline=None)
@given(end=st.integers(0, len(GOOD) - 3))
def test_cut_anywhere_it_is_refused(end: int) -> None:
    with pytest.raises(Refuse) as why:
        read(GOOD[:end] if not GOOD[:end].endswith(b"--b--") else b"")
    assert why.value.status == 400


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_bytes_are_parts_or_refused(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.binary(max_size=200) | st.just(GOOD)))
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=4)):
        if body:
            body[place % len(body)] = byte
    cuts = data.draw(st.lists(st.integers(0, 500), max_size=4))
    refused = None
    try:
        assert read(bytes(body), cuts=cuts)
    except Refuse as why:
        refused = why
    if refused is not None:
        assert refused.status == 400
        assert "\n" not in str(refused)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b--\r\n",
        b"--c\r\n\r\nbody\r\n--c--",
        b"a preamble\r\n--b\r\n\r\nbody\r\n--b--",
        b"--b\n\nbody\n--b--",
        b"--b\r\n\r\nbody\r\n--b",
        b"--b\r\nno colon\r\n\r\nbody\r\n--b--",
        b"--b\r\n: no name\r\n\r\nbody\r\n--b--",
        b"--b\r\nX: " + b"x" * 10_000 + b"\r\n\r\nbody\r\n--b--",
        b"--b\r\n" + b"X: x\r\n" * 100 + b"\r\nbody\r\n--b--",
        b"--b\r\nX: x\r\n",
    ],
    ids=range(11),
)
def test_what_is_malformed_is_said_to_be(body: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Refuse) as why:
        read(body)
    assert (why.value.status, why.value.title) == (400, "Bad batch")
    assert why.value.detail
    assert capfd.readouterr().err == ""


def test_so_many_parts_and_no_more() -> None:
    assert len(read(batch([("a/b", b"")] * PARTS))) == PARTS
    with pytest.raises(Refuse) as why:
        read(batch([("a/b", b"")] * (PARTS + 1)))
    assert why.value.status == 413


@pytest.mark.parametrize(
    "header",
    ["application/json", "", "multipart/form-data; boundary=b", "multipart/mixedx; boundary=b", "multipart"],
)
def test_other_types_are_no_batch(header: str) -> None:
    assert boundary_of(header) is None


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        ("multipart/mixed; boundary=b", b"b"),
        ("Multipart/Mixed;Boundary=b", b"b"),
        ('multipart/mixed; charset=utf-8; boundary="a b:c"', b"a b:c"),
        ("multipart/mixed ; boundary=" + "x" * 70, b"x" * 70),
    ],
)
def test_its_boundary(header: str, boundary: bytes) -> None:
    assert boundary_of(header) == boundary


@pytest.mark.parametrize(
    "parameters",
    [
        *(
            "",
            ";",
            "; x=y",
            "; boundary=",
            '; boundary=""',
            '; boundary="',
            "; boundary=\xe9",
            '; boundary="a "',
        ),
        *("; boundary=" + "x" * 71, "; boundary*=b", "; boundary=a\0b"),
    ],
)
def test_a_batch_without_a_boundary_is_refused(parameters: str) -> None:
    with pytest.raises(Refuse) as why:
        boundary_of(f"multipart/mixed{parameters}")
    assert why.value.status == 400

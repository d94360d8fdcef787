"""schemathesis drives both applications by docs/openapi.yaml: what it finds to send, they answer as documented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.types import ASGIApp

from tests.docs.test_openapi import ingesting, serving

FILE = Path(__file__).parents[2] / "docs" / "openapi.yaml"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@schemathesis.serializer("application/x-ndjson")
def a_head_and_a_sample(context: schemathesis.SerializationContext, value: Any) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{text}\n[1, 2]\n".encode("utf-8", "replace")


@schemathesis.serializer("application/msgpack", "application/x-msgpack", "application/vnd.msgpack")
def packed(context: schemathesis.SerializationContext, value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, UnicodeEncodeError):  # of JSON's integers and texts it does not have all
        return b"\xc1"


@schemathesis.serializer("multipart/mixed")
def a_batch(context: schemathesis.SerializationContext, value: Any) -> bytes:
    """The text as a part of each form, among good ones."""
    text = str(value).encode("utf-8", "replace")
    vehicle = context.case.path_parameters["vehicle"]
    good = {"vehicle": vehicle, "boot": 1, "seq": 1, "sent_at": "2026-11-23T10:00:00Z", "signals": {}}
    bodies = [
        ("application/json", json.dumps(good).encode()),
        ("application/msgpack", msgspec.msgpack.encode(good)),
    ]
    bodies += [
        (kind, text)
        for kind in ("application/json", "application/x-ndjson", "application/msgpack", "text/plain")
    ]
    parts = (
        b"--b\r\nContent-Type: " + kind.encode() + b"\r\n\r\n" + body + b"\r\n"
        for kind, body in [*bodies, bodies[0]]
    )
    return b"".join(parts) + b"--b--\r\n"


def driving(app: ASGIApp) -> schemathesis.BaseSchema:
    schema = schemathesis.openapi.from_path(FILE)
    schema.app = app
    return schema


sending = driving(ingesting()).include(operation_id="sendPacket")
# A stream is endless behind the edge; the answer that begins it is held against the document in test_openapi.
reading = driving(serving()).include(tag="apps").exclude(operation_id="followVehicle")


@sending.parametrize()
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_ingest_server_answers_as_documented(case: schemathesis.Case[Any]) -> None:
    if case.media_type == "multipart/mixed":
        case.headers["Content-Type"] = "multipart/mixed; boundary=b"
    case.call_and_validate(checks=CHECKS)


@reading.parametrize()
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_origin_answers_as_documented(case: schemathesis.Case[Any]) -> None:
    case.call_and_validate(checks=CHECKS)

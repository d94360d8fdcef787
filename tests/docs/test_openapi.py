"""docs/openapi.yaml says what the two applications answer: asked anything at all, they answer nothing else."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp

from fleetcast import ingest, origin
from fleetcast.admission import Admit
from fleetcast.clock import SystemClock
from fleetcast.errors import Unavailable
from fleetcast.known import Known
from fleetcast.live import Change, Held
from fleetcast.packet import Signal
from fleetcast.queue import Stored
from fleetcast.registry import Vehicle
from fleetcast.settings import Settings
from fleetcast.sse import Event, Parser
from fleetcast.state import State
from fleetcast.update import Update, diff
from fleetcast.views import EVERYTHING, View
from tests.test_access import Ground, KeptStreams

FILE = Path(__file__).parents[2] / "docs" / "openapi.yaml"
LIMIT = 4096
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


# The document. It is written in a part of YAML that these few lines read: block mappings and lists, `>-`, and JSON.


def read_yaml(text: str) -> Any:
    """The document; whatever is not of that part of YAML raises."""
    lines = [line for line in text.splitlines() if line.strip()]
    document, rest = _block(lines, 0)
    assert not rest, f"not understood: {rest[0]}"
    return document


def _block(lines: list[str], depth: int) -> tuple[Any, list[str]]:
    if lines[0].lstrip().startswith("- "):
        items: list[Any] = []
        while lines and _depth(lines[0]) == depth and lines[0].lstrip().startswith("- "):
            item, lines = _block([lines[0].replace("- ", "  ", 1), *lines[1:]], depth + 2)
            items.append(item)
        return items, lines
    mapping: dict[str, Any] = {}
    while lines and _depth(lines[0]) == depth:
        found = re.fullmatch(r'("[^"]*"|[^\s"]+):(?: (.*))?', lines[0].strip())
        assert found, f"not understood: {lines[0]}"
        key, value, lines = found[1].strip('"'), found[2], lines[1:]
        assert key not in mapping, f"{key} is there twice"
        if value == ">-":
            words = []
            while lines and _depth(lines[0]) > depth:
                words.append(lines.pop(0).strip())
            mapping[key] = " ".join(words)
        elif value is None:
            mapping[key], lines = _block(lines, _depth(lines[0]))
        else:
            mapping[key] = _scalar(value)
    return mapping, lines


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _scalar(text: str) -> Any:
    if text[0] in '"[{' or text in ("true", "false") or re.fullmatch(r"[0-9]+", text):
        return json.loads(text)
    assert ": " not in text, f"to be quoted: {text}"
    assert " #" not in text, f"to be quoted: {text}"
    assert text[0] not in "'|>&*!%@`-", f"to be quoted: {text}"
    return text


DOCUMENT = read_yaml(FILE.read_text())


def follow(node: Any) -> Any:
    """What a `$ref` names."""
    while isinstance(node, dict) and "$ref" in node:
        path = node["$ref"].removeprefix("#/").split("/")
        node = DOCUMENT
        for part in path:
            node = node[part]
    return node


OPERATIONS: dict[str, tuple[str, str, Any]] = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if method != "parameters"
}


# Its schemas


KINDS: dict[str, Callable[[Any], bool]] = {
    "null": lambda v: v is None,
    "boolean": lambda v: isinstance(v, bool),
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "string": lambda v: isinstance(v, str),
    "array": lambda v: isinstance(v, list),
    "object": lambda v: isinstance(v, dict),
}
WORDS = {
    *(
        "type",
        "const",
        "enum",
        "pattern",
        "format",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
        "default",
    ),
    *("required", "properties", "additionalProperties", "propertyNames", "items", "anyOf", "description"),
}


def wrong(value: Any, schema: Any, where: str = "$") -> Iterator[str]:
    """What in the value is not as the schema says; for the words that the document uses."""
    schema = follow(schema)
    assert not schema.keys() - WORDS, f"words that this check does not know: {schema.keys() - WORDS}"
    kinds = schema.get("type", list(KINDS))
    if not any(KINDS[kind](value) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        yield f"{where}: {value!r} is not {kinds}"
        return
    if "const" in schema and value != schema["const"]:
        yield f"{where}: {value!r} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"
    if "anyOf" in schema and all(list(wrong(value, one, where)) for one in schema["anyOf"]):
        yield f"{where}: {value!r} is none of what it may be"
    if isinstance(value, str):
        if not re.search(schema.get("pattern", ""), value):
            yield f"{where}: {value!r} is not {schema['pattern']}"
        if schema.get("format") == "date-time" and not _is_time(value):
            yield f"{where}: {value!r} is no time"
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield f"{where}: {value!r} is too short or too long"
    elif KINDS["number"](value) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{where}: {value!r} is out of bounds"
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from wrong(one, schema.get("items", {}), f"{where}[{number}]")
    elif isinstance(value, dict):
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{where}: {name} is missing"
        for name, one in value.items():
            yield from wrong(name, schema.get("propertyNames", {}), f"{where}, name {name}")
            known = schema.get("properties", {})
            yield from wrong(one, known.get(name, schema.get("additionalProperties", {})), f"{where}.{name}")


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def as_documented(name: str, answer: httpx2.Response) -> None:
    """Status, headers, content type and body are what the document says of this operation."""
    method, _, operation = OPERATIONS[name]
    asked = answer.request.method
    said = f"{asked} {answer.request.url}: {answer.status_code} {answer.text[:200]}"
    assert str(answer.status_code) in operation["responses"], said
    response = follow(operation["responses"][str(answer.status_code)])
    for header, reference in response.get("headers", {}).items():
        meaning = follow(reference)
        assert header in answer.headers or not meaning.get("required"), f"{header} is missing; {said}"
        if header in answer.headers:
            text = answer.headers[header]
            number = follow(meaning["schema"]).get("type") == "integer"
            assert not list(wrong(int(text) if number else text, meaning["schema"], header))
    if answer.status_code == 405:
        assert asked not in (method, "HEAD" if method == "GET" else ""), said
    if "content" not in response:
        assert answer.content == b"", said
        return
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in response["content"], said
    if asked == "HEAD":
        return
    media = response["content"][kind]
    if kind == "text/event-stream":
        for event in Parser().feed(answer.content):
            is_event(event, media)
    else:
        body = json.loads(answer.content)
        assert not list(wrong(body, media["schema"])), said
        if kind == "application/problem+json":
            assert body["status"] == answer.status_code


def is_event(event: Event, media: Any) -> None:
    data = json.loads(event.data)
    assert not list(wrong(data, media["x-events"][event.event]))


# The applications


class Puts:
    """The put side of a queue, in memory; of some vehicles it stores nothing."""

    def __init__(self) -> None:
        self.stored: list[str] = []

    async def put(self, vehicle: str, packet_id: str, body: bytes, form: str, encoding: str) -> Stored:
        if vehicle.startswith("down"):
            raise Unavailable("no answer")
        if packet_id not in self.stored:
            self.stored.append(packet_id)
            return Stored(len(self.stored), False)
        return Stored(self.stored.index(packet_id) + 1, True)


class Lives:
    """A live state in memory: `car` has three versions, of which the last two updates are retained."""

    def __init__(self, down: bool) -> None:
        self.down = down
        self.states = [State("car")]
        self.updates: list[Update] = []
        for version in (1, 2, 3):
            time = f"2026-11-23T10:00:0{version}.000Z"
            signals = {
                "Vehicle.Speed": Signal(version, time, skewed=version == 2),
                f"Only.{version}": Signal([True, "x"], time),
            }
            self.states.append(State("car", version, time, signals))
            self.updates.append(diff(*self.states[-2:]))

    async def epoch(self) -> str:
        return "ab12"

    async def vehicles(self) -> Sequence[str]:
        self._check()
        return ["car", "car-2"]

    async def latest_of(self, vehicles: Sequence[str]) -> Sequence[State]:
        raise AssertionError("for consume only")

    async def latest(self, vehicle: str, *, leader: bool = False) -> Held:
        self._check()
        state = self.states[-1] if vehicle == "car" else State(vehicle)
        return Held(state, state.version)

    async def since(
        self, vehicle: str, version: int, *, leader: bool = False, view: View = EVERYTHING
    ) -> tuple[State, Sequence[Update]]:
        state = (await self.latest(vehicle)).state
        return state, [one for one in self.updates[1:] if one.version > version] if vehicle == "car" else []

    async def commit(self, changes: Sequence[Change], epoch: str = "") -> Sequence[int]:
        raise AssertionError("an origin never writes")

    def _check(self) -> None:
        if self.down:
            raise Unavailable("no answer")


def ingesting(admit: Admit | None = None, **changes: Any) -> ASGIApp:
    settings = Settings(**{"max_packet": LIMIT, "max_batch": 3 * LIMIT, **changes})
    return ingest.application(Puts(), settings, admit=admit)  # type: ignore[arg-type] # only put is asked


class Registered:
    """A registry of one vehicle, which is disabled; `away` is not."""

    async def get(self, vehicle: str) -> Vehicle | None:
        if vehicle == "away":
            raise Unavailable("away")
        return Vehicle(vehicle, enabled=False) if vehicle == "my-car" else None

    async def stamp(self) -> str:
        return "s"


def serving(down: bool = False, signed: bool = True) -> ASGIApp:
    return origin.application(
        Lives(down),
        Settings(),
        signed=lambda _: signed,
        hold=lambda name, at, control, link, begins: [("Grip-Hold", "stream")],
        hold_poll=lambda name, at, wait: [("Grip-Hold", "response")],
        last_ids=lambda _: {},
        asked=KeptStreams(),
    )


def ask(app: ASGIApp, method: str, url: str, **more: Any) -> httpx2.Response:
    async def asked() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=app)  # a bug raises here, and fails the test
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, url, **more)

    return asyncio.run(asked())


# What is asked of them

IDS = st.sampled_from(["car", "car-2", "never_sent", "down-1", "a" * 64, "a" * 65]) | st.text(
    st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda text: text not in (".", ".."))
PRINTED = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30).map(str.strip)
LAST_IDS = st.sampled_from(["ab12-0", "ab12-1", "ab12-3", "ab12-9", "cd-1", "*"]) | PRINTED
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
VALUES = JSON | st.lists(st.booleans() | st.text(max_size=3), max_size=3)
READINGS = st.fixed_dictionaries(
    {"value": VALUES}, optional={"at": st.sampled_from(["2026-11-23T10:00:00+01:00", "yesterday", None])}
)
PACKETS = st.fixed_dictionaries(
    {
        "boot": st.sampled_from([0, 1, 2**53, -1]),
        "seq": st.sampled_from([1, 7, 0, 2**53 - 1, "1"]),
        "sent_at": st.sampled_from(
            ["2026-11-23T10:00:00Z", "2026-11-23T10:00:00", "0001-01-01T00:00:00+23:00"]
        ),
        "signals": st.dictionaries(st.text(max_size=12), READINGS, max_size=3),
    },
    optional={"samples": JSON},
)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
}


@st.composite
def bodies(draw: st.DrawFn, vehicle: str) -> tuple[bytes, dict[str, str]]:
    """A packet's body and headers: mostly good, sometimes not."""
    kind = draw(st.sampled_from(["good", "good", "packet", "json", "bytes", "large"]))
    sent_as = draw(st.sampled_from(["identity", "gzip", "zstd"]))
    head: dict[str, Any] = {"vehicle": vehicle, **draw(PACKETS)}
    if kind == "good":
        signals = {path or "x": {"value": 1} for path in head["signals"]}
        head |= {"boot": 1, "seq": 1, "sent_at": "2026-11-23T10:00:00Z", "signals": signals}
    text = json.dumps(draw(JSON) if kind == "json" else head).encode("utf-8", "surrogatepass")
    headers = {"content-encoding": sent_as, "content-type": "application/json"}
    if draw(st.booleans()):
        headers["content-type"] = draw(
            st.sampled_from(["application/x-ndjson", "application/json; charset=utf-8", "text/plain", ""])
        )
    elif kind in ("good", "packet") and draw(st.booleans()):
        with suppress(OverflowError, UnicodeEncodeError):  # of JSON's numbers and texts it does not have all
            text, headers["content-type"] = msgspec.msgpack.encode(head), "application/msgpack"
    body = draw(st.binary(max_size=50)) if kind == "bytes" else COMPRESS[sent_as](text)
    if kind == "large":
        body = COMPRESS[sent_as](text + b" " * LIMIT)
    if draw(st.integers(0, 5)) == 0:
        headers["content-encoding"] = draw(st.sampled_from(["br", "gzip, zstd", "", "GZIP"]))
    return body, headers


@st.composite
def batches(draw: st.DrawFn, vehicle: str) -> tuple[bytes, dict[str, str]]:
    """Some bodies as one; sometimes without its end."""
    text = b""
    for body, headers in draw(st.lists(bodies(vehicle), max_size=4)):
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        text += b"--b\r\n" + lines.encode() + b"\r\n" + body + b"\r\n"
    text += draw(st.sampled_from([b"--b--", b"--b--\r\n", b"--b\r\n", b""]))
    kind = draw(
        st.sampled_from(["multipart/mixed; boundary=b", 'Multipart/Mixed; boundary="b"', "multipart/mixed"])
    )
    return text, {"content-type": kind}


@settings(max_examples=250)
@given(st.data())
def test_ingest_answers_as_documented(data: st.DataObject) -> None:
    vehicle = data.draw(IDS)
    body, headers = data.draw(bodies(vehicle) | batches(vehicle))
    method = data.draw(st.sampled_from(["POST", "POST", "POST", *METHODS]))
    url = f"/v1/vehicles/{quote(vehicle, safe='')}/packets"
    answer = ask(ingesting(), method, url, content=body, headers=headers)
    as_documented("sendPacket", answer)
    assert answer.status_code < 500 or (answer.status_code == 503 and vehicle.startswith("down"))


@pytest.mark.parametrize(("vehicle", "status"), [("my-car", 403), ("your-car", 403), ("away", 503)])
def test_a_vehicle_that_may_not_send_is_answered_as_documented(vehicle: str, status: int) -> None:
    known = Known(Registered(), SystemClock(), refuse_unknown=True)  # type: ignore[arg-type] # no more is asked
    answer = ask(ingesting(known.admit), "POST", f"/v1/vehicles/{vehicle}/packets", content=b"{}")
    as_documented("sendPacket", answer)
    assert answer.status_code == status
    documented = OPERATIONS["sendPacket"][2]["responses"][str(status)]["content"]["application/problem+json"]
    if vehicle == "my-car":
        assert answer.json() == documented["examples"]["disabled"]["value"]


@settings(max_examples=250)
@given(st.data())
def test_origin_answers_as_documented(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["listVehicles", "latestState", "followVehicle"]))
    method = data.draw(st.sampled_from(["GET", "GET", "GET", *METHODS]))
    down = data.draw(st.sampled_from([False, False, True]))
    _, path, _ = OPERATIONS[name]
    url = path.replace("{vehicle}", quote(data.draw(IDS), safe=""))
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
    limits = st.sampled_from(["1", "100", "0", "101", "٣", "-1", "1e2"]) | text
    fields = {"search": text, "after": text, "limit": limits, "signals": text, "last_event_id": LAST_IDS}
    fields["wait"] = st.sampled_from(["1", "60", "0", "61", "٣", "-1", "2s", ""])
    query = data.draw(st.fixed_dictionaries({}, optional=fields))
    tags = LAST_IDS.map(lambda one: f'"{one}"') | PRINTED
    named = {
        "accept": st.sampled_from(["text/event-stream", "application/json", "*/*"]),
        "last-event-id": LAST_IDS,
        "if-none-match": tags | st.lists(tags, max_size=3).map(", ".join),
    }
    headers = data.draw(st.fixed_dictionaries({}, optional=named))
    answer = ask(serving(down), method, url, params=query, headers=headers)
    as_documented(name, answer)
    assert answer.status_code < 500 or (answer.status_code == 503 and down)


def test_with_keys_an_origin_answers_as_documented(tmp_path: Path) -> None:
    async def asked() -> None:
        ground = Ground(tmp_path)
        ground.live.states["my-car"] = ground.live.states["car-1"]
        good, narrow = ground.token(vehicles=["*"]), ground.token(vehicles=["my-car"])
        for token, statuses in (("", (401, 401, 401)), (good, (200, 200, 200)), (narrow, (200, 403, 403))):
            for name, status in zip(("listVehicles", "latestState", "followVehicle"), statuses, strict=True):
                path = OPERATIONS[name][1].replace("{vehicle}", "car-2")
                answer = await ground.get(path, token)
                assert answer.status_code == status
                if status != 200:  # what is shown there is no vehicle's
                    as_documented(name, answer)
        for body, status in (
            (b"", 201),
            (b'{"vehicles": ["car-2"]}', 403),
            (b"1", 400),
            (b" " * 70_000, 413),
        ):
            shown = {"Authorization": f"Bearer {narrow}"}
            answer = await ground.client.post("/v1/tickets", content=body, headers=shown)
            assert answer.status_code == status
            as_documented("newTicket", answer)
        as_documented("newTicket", await ground.client.post("/v1/tickets"))
        as_documented("beginSession", await ground.client.post("/v1/session"))
        as_documented("beginSession", await ground.client.post("/v1/session", headers=shown))
        as_documented("endSession", await ground.client.delete("/v1/session"))

    asyncio.run(asked())


@pytest.mark.parametrize(
    ("last", "names"),
    [
        ("", ["snapshot"]),
        ("ab12-3", []),
        ("ab12-1", ["update", "update"]),
        ("ab12-0", ["reset", "snapshot"]),
        ("cd34-1", ["reset", "snapshot"]),
    ],
)
def test_a_stream_begins_with_documented_events(last: str, names: list[str]) -> None:
    answer = ask(serving(), "GET", "/v1/vehicles/car/events", headers={"Last-Event-ID": last})
    as_documented("followVehicle", answer)
    found = Parser().feed(answer.content)
    assert [event.event for event in found] == names
    assert [bool(event.id) for event in found] == [name != "reset" for name in names]


@pytest.mark.parametrize(
    ("last", "names"),
    [("", ["snapshot"]), ("ab12-3", []), ("ab12-1", ["update", "update"]), ("cd34-1", ["reset", "snapshot"])],
)
def test_a_long_poll_is_answered_with_documented_events(last: str, names: list[str]) -> None:
    answer = ask(serving(), "GET", "/v1/vehicles/car/events?wait=5", headers={"Last-Event-ID": last})
    as_documented("followVehicle", answer)
    assert [event["event"] for event in answer.json()["events"]] == names
    streamed = OPERATIONS["followVehicle"][2]["responses"]["200"]["content"]["text/event-stream"]["x-events"]
    for event in answer.json()["events"]:
        assert not list(wrong(event["data"], streamed[event["event"]]))


@settings(max_examples=100)
@given(
    JSON
    | st.fixed_dictionaries(
        {"vehicles": st.lists(IDS, max_size=3)}, optional={"versions": st.dictionaries(IDS, LAST_IDS)}
    )
)
def test_streams_of_many_are_answered_as_documented(body: Any) -> None:
    async def asked() -> None:
        transport = httpx2.ASGITransport(app=serving())
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            text = json.dumps(body).encode("utf-8", "surrogatepass")
            made = await client.post("/v1/streams", content=text)
            as_documented("newStream", made)
            url = made.json().get("url", "/v1/streams/none")
            for headers in ({}, {"Last-Event-ID": "ab12-1"}):
                answer = await client.get(url, headers=headers)
                as_documented("followMany", answer)
                assert (answer.status_code == 200) == (made.status_code == 201)

    asyncio.run(asked())


def test_a_stream_that_cannot_be_served_says_so_in_band() -> None:
    url, headers = "/v1/vehicles/car/events", {"Accept": "text/event-stream"}
    answer = ask(serving(down=True), "GET", url, headers=headers)
    as_documented("followVehicle", answer)
    (event,) = Parser().feed(answer.content)
    assert (answer.status_code, event.event, event.id) == (200, "unavailable", "")


def test_an_origin_that_is_asked_directly_answers_with_a_problem() -> None:
    answer = ask(serving(signed=False), "GET", "/v1/vehicles")
    assert answer.status_code == 403
    assert not list(wrong(answer.json(), DOCUMENT["components"]["schemas"]["Problem"]))


NOT_FOR_APPS = {"/": "the page", "/static": "what it is made of", "/next/{link:int}": "the edge's alone"}


def test_the_documented_paths_and_methods_are_those_there_are(tmp_path: Path) -> None:
    apps = origin.application(
        Lives(False),
        Settings(),
        signed=lambda _: True,
        hold=lambda name, at, control, link, begins: [],
        hold_poll=lambda name, at, wait: [],
        last_ids=lambda _: {},
        access=Ground(tmp_path).access,  # with keys, since some are there only then
        asked=KeptStreams(),
    )
    there: set[tuple[str, str]] = set()
    for route in (*ingesting().routes, *apps.app.routes):  # type: ignore[attr-defined] # each is a Starlette
        if route.path not in NOT_FOR_APPS:
            methods = getattr(route, "methods", None) or {"GET"}
            there |= {(method, route.path) for method in methods - {"HEAD"}}
    there.remove(
        ("POST", "/v1/vehicles/{vehicle}/ws")
    )  # the edge's alone, by which it hands on what is said on sockets
    documented = {
        (method.upper(), path)
        for path, item in DOCUMENT["paths"].items()
        for method in item
        if method.upper() in METHODS
    }
    assert documented == there


def examples(node: Any) -> Iterator[tuple[Any, Any]]:
    """Each media type that has examples, with each of them."""
    if isinstance(node, dict):
        if "schema" in node and "examples" in node:
            for one in node["examples"].values():
                yield node, one["value"]
        for inner in node.values():
            yield from examples(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from examples(inner)


def test_the_documented_examples_are_as_documented() -> None:
    found = list(examples(DOCUMENT))
    assert len(found) > 15
    for media, value in found:
        assert not list(wrong(value, media["schema"]))
        for event in Parser().feed(value.encode()) if "x-events" in media else ():
            is_event(event, media)


def test_beyond_its_budget_a_vehicle_is_answered_as_documented() -> None:
    content = OPERATIONS["sendPacket"][2]["requestBody"]["content"]["multipart/mixed"]
    batch = content["examples"]["tunnel"]["value"].encode()
    headers = {"content-type": "multipart/mixed; boundary=b"}
    url = "/v1/vehicles/my-car/packets"
    for limit, status, parts in ((2, 207, [202, 202]), (1, 207, [202, 429])):
        app = ingesting(packets_per_minute=limit)
        answer = ask(app, "POST", url, content=batch, headers=headers)
        as_documented("sendPacket", answer)
        assert answer.status_code == status
        assert [one["status"] for one in answer.json()] == parts
        again = ask(app, "POST", url, content=batch, headers=headers)
        as_documented("sendPacket", again)
        assert again.status_code == 429


@pytest.mark.parametrize("media", ["application/json", "application/x-ndjson"])
def test_the_documented_packets_are_taken(media: str) -> None:
    content = OPERATIONS["sendPacket"][2]["requestBody"]["content"][media]
    for one in content["examples"].values():
        value = one["value"]
        body = value if isinstance(value, str) else json.dumps(value)
        answer = ask(
            ingesting(), "POST", "/v1/vehicles/my-car/packets", content=body, headers={"content-type": media}
        )
        assert answer.status_code == 202, answer.text
        as_documented("sendPacket", answer)


def test_every_reference_leads_somewhere() -> None:
    for path in re.findall(r'\$ref: "(.*)"', FILE.read_text()):
        assert follow({"$ref": path}) is not None

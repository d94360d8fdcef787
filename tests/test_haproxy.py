"""HAProxy's configuration: HAProxy takes it, each line that a promise hangs on is in it, and its limits fit Pushpin's."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast import wsevents
from fleetcast.haproxy import (
    configuration,
    connections,
    edge_server,
    files_needed,
    most_connections,
    origin_server,
)
from fleetcast.pushpin import client_maxconn
from fleetcast.pushpin import configuration as pushpin_configuration
from fleetcast.settings import Settings
from fleetcast.sse import Event, Parser

ORIGINS = [("127.0.0.1:8090", 8074), ("127.0.0.1:8091", 8075)]


def with_edges(edges: int, **changes: object) -> Settings:
    ports = range(8103, 8103 + 10 * edges, 10)
    return msgspec.structs.replace(
        Settings(),
        edges=edges,
        edge_sub=tuple(f"127.0.0.1:{port}" for port in ports),
        edge_http=tuple(f"127.0.0.1:{port + 1}" for port in ports),
        **changes,
    )


def sections(text: str) -> dict[str, list[str]]:
    """`backend streams` -> its lines, without comments."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            found[line] = []
        elif line.strip() and not line.strip().startswith("#"):
            found[next(reversed(found))].append(line.strip())
    return found


def rendered(settings: Settings | None = None) -> dict[str, list[str]]:
    return sections(configuration(settings or Settings(), ORIGINS, Path("/run"))["haproxy.cfg"])


@pytest.mark.parametrize("edges", [1, 2, 16])
def test_haproxy_takes_it(folder: Path, edges: int) -> None:
    settings = with_edges(edges, edge_connections=20)
    for name, text in configuration(settings, ORIGINS, folder).items():
        (folder / name).write_text(text)
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    checked = subprocess.run(
        ["haproxy", "-c", "-f", str(folder / "haproxy.cfg")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment,
    )
    assert checked.returncode == 0, checked.stderr
    assert "ALERT" not in checked.stderr


def test_a_head_that_the_edge_would_not_take_is_refused_for_good() -> None:
    """Else its app would be told to try again, for ever: `conform`'s errors.too_large tries it."""
    front = rendered()["frontend front"]
    words = ("set-header Last-Event-ID", " 414 ", " 431 ", "lua.pace")
    order = [next(n for n, line in enumerate(front) if word in line) for word in words]
    assert order == sorted(order)
    edge = pushpin_configuration(Settings(), 0, Path("/run"))["pushpin.conf"]
    takes = {
        "url": 4096,
        "req.hdrs": int(edge.partition("client_buffer_size=")[2].split()[0]),
        "req.fhdr_cnt": 64,
    }
    for line in front:
        if found := re.match(
            r"http-request return status (\d+) .* string '(.*)' if { ([a-z._]+).* gt (\d+) }", line
        ):
            status, text, what, limit = found.groups()
            assert json.loads(text)["status"] == int(status)
            assert int(limit) < takes.pop(what)
    assert takes == {}


def test_what_the_promises_hang_on() -> None:
    found = rendered()
    assert "option http-no-delay" in found["defaults"]  # else each event waits 200 ms
    assert "option abortonclose" in found["defaults"]  # else phones that left are listeners for ever
    assert (
        "http-request lua.pace if events || socket" in found["frontend front"]
    )  # else a storm breaks the edge
    assert "http-request reject if events !{ var(txn.paced) -m found }" in found["frontend front"]  # the same
    assert "http-request reject if socket !{ var(txn.paced) -m found }" in found["frontend front"]  # the same
    assert "http-request del-header meta- -m beg" in found["frontend front"]  # an edge says that on sockets
    assert "http-request del-header grip- -m beg" in found["frontend front"]
    for backend in ("backend streams", "backend polls", "backend plain"):
        assert "http-check send meth GET uri / ver HTTP/1.1 hdr Host alive.invalid" in found[backend]
        assert any("on-marked-down shutdown-sessions" in line for line in found[backend])
    assert "option httpchk GET /live" in found["backend origins"]
    assert "default_backend origins" in found["frontend inner"]


@pytest.mark.parametrize("keep_alive", [1, 25, 60])
def test_a_stream_outlives_missed_keep_alives(keep_alive: int) -> None:
    found = rendered(msgspec.structs.replace(Settings(), keep_alive=keep_alive))["defaults"]
    for side in ("client", "server", "tunnel"):
        assert f"timeout {side} {3 * keep_alive}s" in found


@settings(deadline=None)
@given(st.integers(1, 16), st.integers(20, 500_000))
def test_an_edge_never_reaches_its_own_limit(edges: int, phones: int) -> None:
    """Pushpin stops altogether when it does: whatever both pools send, and the health checks, must fit below."""
    settings = with_edges(edges, edge_connections=phones)
    found = rendered(settings)
    most = 0
    for backend in ("backend streams", "backend polls", "backend plain"):
        (limit,) = [
            int(match[1]) for line in found[backend] if (match := re.search(r" maxconn (\d+)$", line))
        ]
        assert f"server edge{edges - 1} 127.0.0.1:{8100 + 10 * (edges - 1)}" in found[backend]
        most += limit
    assert most + 10 < client_maxconn(settings)
    assert connections(settings) > edges * phones
    assert f"maxconn {connections(settings)}" in found["global"]
    assert files_needed(settings) >= 2 * connections(settings)


def test_each_edge_is_found_where_it_listens() -> None:
    settings = with_edges(3, edge_port=9100)
    servers = [
        line.split()[2] for line in rendered(settings)["backend streams"] if line.startswith("server ")
    ]
    for number, address in enumerate(servers):
        assert f"http_port={address}" in pushpin_configuration(settings, number, Path("/run"))["pushpin.conf"]
        assert pushpin_configuration(settings, number, Path("/run"))["routes"].splitlines() == [
            "alive.invalid test",
            f"* {settings.host}:{settings.inner_port},over_http",
        ]
    assert rendered(settings)["frontend inner"][0] == f"bind {settings.host}:{settings.inner_port}"


def test_each_origin_is_checked_on_its_own_port() -> None:
    servers = [line for line in rendered()["backend origins"] if line.startswith("server ")]
    assert servers == [
        "server origin0 127.0.0.1:8090 check port 8074",
        "server origin1 127.0.0.1:8091 check port 8075",
    ]


def test_numbers_may_have_gaps_after_a_removal() -> None:
    text = configuration(with_edges(3), {0: ORIGINS[0], 4: ORIGINS[1]}, Path("/run"), edges=[0, 2], most=777)[
        "haproxy.cfg"
    ]
    found = sections(text)
    servers = [line for line in found["backend plain"] if line.startswith("server ")]
    assert servers == ["server edge0 127.0.0.1:8100", "server edge2 127.0.0.1:8120"]
    assert "server origin4 127.0.0.1:8091 check port 8075" in found["backend origins"]
    assert "maxconn 777" in found["global"]


def test_a_server_that_is_added_is_as_those_of_the_file() -> None:
    """HAProxy gives an added server nothing of `default-server`."""
    found = rendered()
    for backend in ("streams", "polls", "plain"):
        (default,) = [line for line in found[f"backend {backend}"] if line.startswith("default-server ")]
        whole = f"127.0.0.1:8110 {default.removeprefix('default-server ')}"
        assert edge_server(Settings(), 1, backend) == whole
    (default,) = [line for line in found["backend origins"] if line.startswith("default-server ")]
    whole = f"127.0.0.1:8090 check port 8074 {default.removeprefix('default-server ')}"
    assert origin_server(*ORIGINS[0]) == whole


def test_long_polls_have_a_pool_of_their_own_and_time() -> None:
    found = rendered(msgspec.structs.replace(Settings(), keep_alive=1))
    front = found["frontend front"]
    sockets, polls, streams = (front.index(line) for line in front if line.startswith("use_backend "))
    assert polls < streams  # whatever they accept
    assert front[sockets] == "use_backend streams if socket"
    assert front[polls] == "use_backend polls if events poll"
    assert any("set-timeout server url_param(wait),add(7)" in line for line in found["backend polls"])
    assert "retry-on conn-failure empty-response response-timeout" in found["backend polls"]
    assert "observe" not in edge_server(Settings(), 0, "polls")


def test_what_is_said_on_a_websocket_is_never_answered_by_an_error() -> None:
    """The edge would cut the socket, and with all origins away every one."""
    found = rendered()
    assert "use_backend sockets if { hdr(meta-socket) -m found }" in found["frontend inner"]
    sockets, origins = found["backend sockets"], found["backend origins"]
    assert "http-after-response set-status 200 if { status 502 503 504 }" in sockets
    for backend in (sockets, origins):
        assert [line for line in backend if line.startswith("server ")] == [
            "server origin0 127.0.0.1:8090 check port 8074",
            "server origin1 127.0.0.1:8091 check port 8075",
        ]
    (event,) = wsevents.parse(configuration(Settings(), ORIGINS, Path("/run"))["later"].encode())
    assert event.kind == "TEXT"
    assert json.loads(event.content.removeprefix(b"m:")) == {
        "event": "unavailable",
        "retry": 2000,
        "data": {"reason": "origin"},
    }


def test_an_edge_that_refuses_a_stream_is_checked_at_once_and_one_that_refuses_a_plain_request_is_not() -> (
    None
):
    """Marked down in between, plain requests that were being tried again got no answer at all."""
    assert "observe layer4" in edge_server(Settings(), 0, "streams")
    assert "observe" not in edge_server(Settings(), 0, "plain")


def test_there_is_room_for_edges_that_are_added_as_far_as_there_are_files() -> None:
    ours = with_edges(2, edge_connections=1000)
    assert most_connections(ours, 1_000_000) == connections(with_edges(4, edge_connections=1000))
    assert connections(ours) < most_connections(ours, 8_400) == 4_000
    assert most_connections(ours, 100) == connections(ours)


def test_a_phone_is_told_in_band() -> None:
    text = configuration(Settings(), ORIGINS, Path("/run"))["unavailable"]
    stream, numbers = re.subn(r"%\[rand\(3000\),add\(1000\)\]", "1234", text)
    assert numbers == 1
    assert "%" not in stream
    parser = Parser()
    assert parser.feed(stream.encode()) == [Event("unavailable", '{"reason":"edge"}')]
    assert parser.retry == 1234
    assert parser.last_id == ""  # a phone keeps the id that it has


def test_everything_else_is_told_by_a_problem() -> None:
    problem = json.loads(configuration(Settings(), ORIGINS, Path("/run"))["problem"])
    assert (problem["type"], problem["status"]) == ("about:blank", 503)
    assert problem["title"]


def test_nothing_but_the_front_door_could_listen_elsewhere() -> None:
    for section, found in rendered().items():
        for line in found:
            if line.startswith("bind ") and section != "frontend front":
                assert line.startswith("bind 127.0.0.1:")


def test_the_defaults_start_where_a_process_may_open_20000_files() -> None:
    assert files_needed(Settings()) <= 20_000
    assert client_maxconn(Settings()) < 20_000

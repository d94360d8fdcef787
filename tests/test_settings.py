"""Settings from a file, the environment and the command line; what will not do is one line that names it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.errors import Unusable
from fleetcast.settings import PREFIX, Settings, changed, dump, is_loopback, load

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"))
CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "data": TEXTS,
    "sig_key": st.just("") | st.from_regex(r"[A-Za-z0-9_-]{32,64}", fullmatch=True),
    "member": TEXTS,
    "host": st.sampled_from(["127.0.0.1", "127.1.2.3", "localhost"]),
    "front_port": st.integers(1, 65535),
    "noun": st.from_regex(r"[a-z]{1,20}", fullmatch=True),
    "edge_sub": st.lists(st.from_regex(r"[a-z]{1,9}:[1-9][0-9]{3}", fullmatch=True), min_size=1).map(tuple),
    "enrichers": st.lists(TEXTS).map(tuple),
    "window": st.floats(1e-9, 1e8),
    "member_timeout": st.integers(1, 1000).map(float),
    "queue_bytes": st.integers(1, 2**53),
    "replicas": st.sampled_from([1, 3, 5]),
    "publish": st.sampled_from(["zmq", "http"]),
    "log": st.sampled_from(["auto", "text", "json"]),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "fleetcast.toml"


def refused(path: Path | None, environment: dict[str, str], given: dict[str, Any] | None = None) -> str:
    with pytest.raises(Unusable) as unusable:
        load(path, environment, given)
    line = str(unusable.value)
    assert line
    assert "\n" not in line
    return line


# What is read


def test_defaults() -> None:
    assert load(None, {}) == Settings()
    assert Settings().noun == "vehicles"
    assert (
        load(None, {"PATH": "/bin", "fleetcast_log": "x", PREFIX + "CONFIG": "elsewhere.toml"}) == Settings()
    )


@pytest.mark.parametrize("explain", [False, True])
def test_every_default_is_dumped_and_read_again(file: Path, explain: bool) -> None:
    text = dump(Settings(), explain=explain)
    file.write_text(text)
    assert load(file, {}) == Settings()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line.partition(" = ")[0] for line in lines] == list(Settings.__struct_fields__)


@pytest.fixture(scope="module")
def shared_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings") / "fleetcast.toml"


@settings(deadline=None)
@given(changes=st.fixed_dictionaries({}, optional=CHANGES))
def test_whatever_is_dumped_is_read_again(shared_file: Path, changes: dict[str, Any]) -> None:
    ours = msgspec.structs.replace(Settings(), **changes)
    shared_file.write_text(dump(ours), encoding="utf-8")
    assert load(shared_file, {}) == ours


def test_a_control_character_is_dumped_and_read_again(file: Path) -> None:
    """TOML, unlike JSON, does not take DEL as it is."""
    ours = msgspec.structs.replace(Settings(), member="a\x7fb")
    file.write_text(dump(ours))
    assert load(file, {}) == ours


def test_a_file_sets_what_it_names(file: Path) -> None:
    file.write_text('front_port = 9000\nwindow = 60\nenrichers = ["mine:rules"]\n')
    found = load(file, {})
    assert (found.front_port, found.window, found.enrichers) == (9000, 60.0, ("mine:rules",))
    assert found.ingest_port == Settings().ingest_port


def test_the_environment_sets_what_it_names() -> None:
    environment = {
        "FLEETCAST_FRONT_PORT": "9000",
        "FLEETCAST_WINDOW": "60.5",
        "FLEETCAST_ENRICHERS": "a, b:c ,,",
        "FLEETCAST_MEMBER": "123",
        "FLEETCAST_PUBLISH": "http",
        "FLEETCAST_REPLICAS": "3",
    }
    found = load(None, environment)
    assert (found.front_port, found.window, found.enrichers) == (9000, 60.5, ("a", "b:c"))
    assert (found.member, found.publish, found.replicas) == ("123", "http", 3)


def test_the_command_line_wins_over_the_environment_over_the_file(file: Path) -> None:
    file.write_text("front_port = 1001\ningest_port = 1002\norigin_port = 1003\n")
    environment = {"FLEETCAST_FRONT_PORT": "2001", "FLEETCAST_INGEST_PORT": "2002"}
    found = load(file, environment, {"front_port": 3001, "inner_port": None})
    assert (found.front_port, found.ingest_port, found.origin_port) == (3001, 2002, 1003)
    assert found.inner_port == Settings().inner_port  # what was not given is not set to nothing


# What is refused


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("no_such_thing = 1", "no_such_thing"),
        ("[front_port]\na = 1", "front_port"),
        ("front_port = 0", "front_port"),
        ("front_port = 65536", "front_port"),
        ('front_port = "8080"', "front_port"),
        ("front_port = 80.5", "front_port"),
        ("partitions = true", "partitions"),
        ("partitions = 0", "partitions"),
        ('sig_key = "short"', "sig_key"),
        ('edge_sub = ["a:1", "b:"]', "edge_sub"),
        ("window = 0", "window"),
        ("window = nan", "window"),
        ("window = inf", "window"),
        ('publish = "pigeon"', "publish"),
        ("replicas = 2", "replicas"),
        ('edge_sub = "127.0.0.1:1"', "edge_sub"),
        ("edge_sub = [1]", "edge_sub"),
        ('edge_sub = ["localhost"]', "edge_sub"),
        ('edge_http = ["localhost:http"]', "edge_http"),
        ('enrichers = ["a", 2]', "enrichers"),
        ("max_packet = 1023", "max_packet"),
        ('noun = ""', "noun"),
        ('noun = "Devices"', "noun"),
        ('noun = "smart/devices"', "noun"),
        ('noun = "devices\\n"', "noun"),
        (f'noun = "{"x" * 21}"', "noun"),
        ("max_packet = 5000000\nmax_state = 4999999", "max_state"),
        ("poison_packets = 9", "poison_packets"),
        ("poison_packets = -1", "poison_packets"),
        ("poison_vehicles = 0", "poison_vehicles"),
        ("clock_ahead = 0", "clock_ahead"),
        ("front_port = ", "fleetcast.toml: "),
        ("front_port = 1\nfront_port = 2", "fleetcast.toml: "),
    ],
)
def test_a_file_that_will_not_do(file: Path, text: str, named: str) -> None:
    file.write_text(text)
    assert named in refused(file, {})


@pytest.mark.parametrize("content", [b"\xff", b"front_port = \x00"])
def test_a_file_that_is_no_text(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert str(file) in refused(file, {})


def test_a_file_that_is_not_there(file: Path) -> None:
    assert refused(file, {}) == f"{file}: no such settings file"
    assert str(file.parent) in refused(file.parent, {})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("NO_SUCH_THING", "1"),
        ("FRONT_PORT", "eighty"),
        ("FRONT_PORT", ""),
        ("FRONT_PORT", "70000"),
        ("FRONT_PORT", "80.5"),
        ("WINDOW", "-1"),
        ("WINDOW", "nan"),
        ("WINDOW", "inf"),
        ("WINDOW", "ten minutes"),
        ("PUBLISH", "ZMQ"),
        ("REPLICAS", "2"),
        ("LOG_LEVEL", "loud"),
        ("SIG_KEY", "k" * 32 + "\n"),
        ("EDGE_SUB", "localhost"),
        ("MAX_STATE", "1024"),
    ],
)
def test_an_environment_that_will_not_do(name: str, text: str) -> None:
    assert name.lower() in refused(None, {PREFIX + name: text})


def test_it_is_said_where_it_stands(file: Path) -> None:
    file.write_text("partitions = 0")
    assert refused(file, {}).startswith(f"{file}: ")
    assert refused(None, {"FLEETCAST_PARTITIONS": "0"}).startswith("environment: ")
    assert "partitions" in refused(None, {}, {"partitions": 0})
    assert "no_such_thing" in refused(None, {}, {"no_such_thing": 1})


def test_a_wrong_file_is_said_even_if_the_environment_would_mend_it(file: Path) -> None:
    file.write_text("partitions = 0")
    assert "partitions" in refused(file, {"FLEETCAST_PARTITIONS": "8"})


# Open for development means this machine only


LOOPBACK = ["127.0.0.1", "127.9.9.9", "localhost"]
ELSEWHERE = [
    "0.0.0.0",
    "::",
    "192.168.1.7",
    "8.8.8.8",
    "",
    "0",
    "*",
    "fe80::1",
    "::ffff:192.168.1.7",
    "127.0.0.1 x",
    "[::1]",
]


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_is_let_be(host: str) -> None:
    assert is_loopback(host)
    assert load(None, {"FLEETCAST_HOST": host}).host == host


@pytest.mark.parametrize("host", ELSEWHERE)
def test_anywhere_else_is_refused(host: str) -> None:
    assert not is_loopback(host)
    said = refused(None, {"FLEETCAST_HOST": host})
    assert said.startswith((f"host: {host}", f"host: {host!r}"))
    assert "\n" not in said
    assert refused(None, {}, {"host": host}).startswith("host: ")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "8.8.8.8"])
def test_the_front_goes_elsewhere_with_tokens_and_tls_only(host: str) -> None:
    keys: dict[str, Any] = {"app_keys": "k.pem"}
    tls = {"front_cert": "c.pem", "front_key": "c-key.pem"}
    for enough in (keys | tls, keys | {"front_plain": True}, keys | tls | {"front_plain": True}):
        assert load(None, {}, enough | {"host": host}).host == host
    assert load(None, {"FLEETCAST_FRONT_PLAIN": "true"}, keys | {"host": host}).host == host
    wanting: list[tuple[dict[str, Any], str]] = [
        ({}, "set app_keys"),
        (tls, "set app_keys"),
        ({"front_plain": True}, "set app_keys"),
        (IDENTITY | tls, "set app_keys"),
        (keys, "set front_cert and front_key, or front_plain = true"),
    ]
    for some, what in wanting:
        said = refused(None, {}, some | {"host": host})
        assert said.startswith(f"host: {host} is not loopback")
        assert what in said
        assert "\n" not in said


@pytest.mark.parametrize(
    "host", ["", "*", "::", "fe80::1", "[::1]", "127.0.0.1 x", "127.0.0.1:80", "0.0.0.0\n"]
)
def test_what_is_no_address_for_the_front_is_refused(host: str) -> None:
    assert refused(None, {}, {"app_keys": "k.pem", "front_plain": True, "host": host}).startswith("host: ")


IDENTITY = {"vehicle_keys": "k.pem", "tls_cert": "c.pem", "tls_key": "c-key.pem"}


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "8.8.8.8"])
def test_the_vehicles_doors_go_elsewhere_with_identity_and_tls_only(host: str) -> None:
    assert load(None, {}, IDENTITY | {"vehicle_host": host}).vehicle_host == host
    for missing in ({"vehicle_keys": ""}, {"tls_cert": "", "tls_key": ""}):
        assert refused(None, {}, IDENTITY | missing | {"vehicle_host": host}).startswith(
            f"vehicle_host: {host}"
        )
    assert refused(None, {}, IDENTITY | {"host": host}).startswith(f"host: {host}")


@pytest.mark.parametrize("host", ["", "::1", '1.2.3.4"', "a b", "*", "1.2.3.4\n"])
def test_what_is_no_host_is_refused(host: str) -> None:
    assert "vehicle_host" in refused(None, {}, IDENTITY | {"vehicle_host": host})


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"tls_cert": "c.pem"}, "tls_cert and tls_key"),
        ({"tls_key": "c.pem"}, "tls_cert and tls_key"),
        ({"vehicle_ca": "ca.pem"}, "vehicle_ca"),
        ({"vehicle_issuer": "us"}, "vehicle_issuer"),
        ({"vehicle_audience": "us"}, "vehicle_audience"),
        ({"nats_seed": "SUAKYRHVIOREXV7EUZTBHUHL7NUMHPMAS7QMDU3GTIUWEI5LDNOXD43IZY"}, "nats_seed"),
        ({"nats_password": "short"}, "nats_password"),
    ],
)
def test_half_an_identity_is_said(given: dict[str, str], name: str) -> None:
    assert refused(None, {}, given).startswith(name)


def test_which_credentials_the_mqtt_door_wants() -> None:
    ca = {"vehicle_ca": "ca.pem"}
    assert not Settings().mqtt_identity
    assert load(None, {}, IDENTITY | ca).mqtt_identity
    assert not load(None, {}, IDENTITY | {"mqtt_port": 0}).mqtt_identity
    assert not load(None, {}, IDENTITY | ca).mqtt_certificates
    assert load(None, {}, IDENTITY | ca | {"vehicle_keys": ""}).mqtt_certificates


def test_ipv6_is_not_served_yet() -> None:
    assert is_loopback("::1")
    assert refused(None, {"FLEETCAST_HOST": "::1"}).startswith("host: ::1: only IPv4")


@pytest.mark.parametrize(
    ("addresses", "loopback"),
    [(["127.0.0.1", "::1"], True), (["127.0.0.1", "10.0.0.1"], False), (["10.0.0.1"], False), (None, False)],
)
def test_a_name_is_loopback_if_all_its_addresses_are(
    addresses: list[str] | None, loopback: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(host: str, port: None) -> list[Any]:
        if addresses is None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert is_loopback("a-name") is loopback


def test_some_are_changed_by_texts_or_values() -> None:
    ours = Settings(front_port=9000)
    found = changed(ours, {"enrichers": "a, b:c", "window": "20", "batch_packets": 7})
    assert (found.enrichers, found.window, found.batch_packets) == (("a", "b:c"), 20.0, 7)
    assert found.front_port == 9000
    assert changed(ours, {"enrichers": ["a"]}).enrichers == ("a",)
    assert changed(ours, {}) == ours


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"speed": "1"}, "--set: speed is not a setting"),
        ({"window": "soon"}, "window"),
        ({"max_state": "2048"}, "max_state"),
    ],
)
def test_a_change_that_will_not_do_is_named(changes: dict[str, str], word: str) -> None:
    with pytest.raises(Unusable, match=word):
        changed(Settings(), changes)

import re
from pathlib import Path

import msgspec
import pytest

from fleetcast import haproxy, jetstream, natsserver, pushpin, traps
from fleetcast.nats_jwt import new_seed
from fleetcast.settings import Settings

SETTINGS = Settings(sig_key="a-secret-of-more-than-thirty-two-characters")
FOLDER = Path("/tmp/fleetcast")

PUSHPIN = pushpin.configuration(SETTINGS, 0, FOLDER)
HAPROXY = haproxy.configuration(SETTINGS, [("127.0.0.1:8090", 8073)], FOLDER)["haproxy.cfg"]
NATS = natsserver.configuration(SETTINGS, FOLDER, mqtt=True)


def bad(findings: object) -> list[str]:
    assert isinstance(findings, list)
    return [finding.what for finding in findings if not finding.well]


def test_what_we_render_has_none_of_the_traps() -> None:
    assert bad(list(traps.pushpin(PUSHPIN["pushpin.conf"], PUSHPIN["routes"], SETTINGS))) == []
    assert bad(list(traps.haproxy(HAPROXY, SETTINGS))) == []
    assert bad(list(traps.nats(NATS, SETTINGS))) == []


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        ("message_rate=0", "message_rate=2500", "message_rate"),
        ("message_rate=0", "", "message_rate"),
        ("message_hwm=0", "", "message_hwm"),
        ("services=condure,zurl,", "services=condure,", "zurl"),
        ("zurl_in_specs=", "#", "zurl"),
        ("port_offset=0", "port_offset=10", "port_offset"),
        ("log_level=1", "log_level=2", "log_level"),
        (r"client_maxconn=\d+", "client_maxconn=4000", "client_maxconn"),
        ("\nstats_spec=\n", "\n", "stats_spec"),
        ("\nstats_spec=\n", "\nstats_spec=ipc://{rundir}/proxy-stats\n", "stats_spec"),
        ("connection_subscription_max=500", "", "connection_subscription_max"),
        (r"push_in_max_body_size=\d+", r"push_in_http_max_body_size=16000000", "push_in_max_body_size"),
        ("sig_key=.*", "sig_key=changeme", "sig_key"),
        ("sig_key=.*", "sig_key=another-one", "sig_key"),
        (r"http_port=127.0.0.1:", "http_port=", "http_port"),
        (r"push_in_http_port=\d+", "push_in_http_port=40001", "32768"),
        (r"command_spec=tcp://127.0.0.1:\d+", "command_spec=tcp://127.0.0.1:50000", "32768"),
        ("auto_cross_origin=false", "auto_cross_origin=true", "auto_cross_origin"),
    ],
)
def test_each_trap_of_pushpin_is_seen(line: str, instead: str, said: str) -> None:
    text, count = re.subn(line, instead, PUSHPIN["pushpin.conf"])
    assert count
    assert any(said in what for what in bad(list(traps.pushpin(text, PUSHPIN["routes"], SETTINGS))))


def test_a_health_check_that_reaches_an_origin_is_seen() -> None:
    findings = bad(list(traps.pushpin(PUSHPIN["pushpin.conf"], "* 127.0.0.1:8085,over_http\n", SETTINGS)))
    assert findings == ["pushpin: the first route answers the health check"]


def test_an_edge_that_hands_websockets_on_as_such_is_seen() -> None:
    routes = "alive.invalid test\n* 127.0.0.1:8085\n"
    findings = bad(list(traps.pushpin(PUSHPIN["pushpin.conf"], routes, SETTINGS)))
    assert findings == ["pushpin: WebSockets reach origins as requests"]


def test_debians_own_pushpin_configuration_is_full_of_traps() -> None:
    text = Path("/etc/pushpin/pushpin.conf").read_text()
    said = " ".join(bad(list(traps.pushpin(text, "* test\n", SETTINGS))))
    for trap in (
        "message_rate",
        "message_hwm",
        "zurl",
        "log_level",
        "sig_key",
        "http_port",
        "connection_subscription_max",
    ):
        assert trap in said


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        ("option http-no-delay", "", "no-delay"),
        (r"url_param\(wait\)", "url_param(other)", "long-polls"),
        ("option abortonclose", "", "abortonclose"),
        ("Host alive.invalid", "Host origin", "health check"),
        ("on-marked-down shutdown-sessions", "", "dead edge"),
        ("http-request lua.pace if events", "", "paced"),
        ("http-after-response set-status 200.*", "", "in band"),
        (r" maxconn 3500", " maxconn 5000", "maxconn"),
        (r" maxconn 3500", "", "maxconn"),
        (r"timeout client \d+s", "timeout client 20s", "timeout client"),
        (r"timeout server \d+s", "timeout server 20000", "timeout server"),
        (r"tune\.bufsize \d+", "", "tune.bufsize"),
        (r"tune\.http\.maxhdr \d+", "tune.http.maxhdr 400", "tune.http.maxhdr"),
        (r"tune\.pool-high-fd-ratio 98", "", "kept"),
        (r" maxconn 32", "", "so many requests"),
    ],
)
def test_each_trap_of_haproxy_is_seen(line: str, instead: str, said: str) -> None:
    text, count = re.subn(line, instead, HAPROXY)
    assert count
    assert any(said in what for what in bad(list(traps.haproxy(text, SETTINGS))))


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        ("sync_interval: always", "", "sync_interval"),
        ("sync_interval: always", 'sync_interval: "2m"', "sync_interval"),
        (r"max_payload: \d+", "", "max_payload"),
        (r"max_payload: \d+", "max_payload: 1MB", "max_payload"),
        ("max_buffered_size: 1GB", "", "max_buffered_size"),
        ("js_api_timeout: .*", "", "js_api_timeout"),
        ("reject_qos2_publish: true", "", "reject_qos2_publish"),
    ],
)
def test_each_trap_of_nats_is_seen(line: str, instead: str, said: str) -> None:
    text, count = re.subn(line, instead, NATS)
    assert count
    assert any(said in what for what in bad(list(traps.nats(text, SETTINGS))))


IDENTIFIED = msgspec.structs.replace(
    SETTINGS, vehicle_keys="k.pem", nats_password="p" * 32, nats_seed=new_seed()
)
WITH_IDENTITY = natsserver.configuration(IDENTIFIED, FOLDER, mqtt=True)


def test_with_identity_ours_has_none_of_them_either() -> None:
    assert bad(list(traps.nats(WITH_IDENTITY, IDENTIFIED))) == []


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        (r"auth_callout \{[^}]*\}", "", "auth_callout"),
        (r"issuer: \w+", f"issuer: A{'B' * 55}", "nats_seed"),
        ("fleetcast.roles", "others", "nats_user"),
        ("system_account: SYS", "", "system account"),
        ("authorization {", 'authorization {\n  no_auth_user: "x"', "without credentials"),
    ],
)
def test_each_trap_of_its_authorization_is_seen(line: str, instead: str, said: str) -> None:
    text, count = re.subn(line, instead, WITH_IDENTITY)
    assert count
    assert any(said in what for what in bad(list(traps.nats(text, IDENTIFIED))))
    assert not any(said in what for what in bad(list(traps.nats(text, SETTINGS))))


def test_a_file_without_any_authorization_is_seen() -> None:
    assert len(bad(list(traps.nats(NATS, IDENTIFIED)))) == 4


def test_a_payload_in_megabytes_is_understood() -> None:
    text = re.sub(r"max_payload: \d+", "max_payload: 2MB", NATS)
    assert bad(list(traps.nats(text, SETTINGS))) == []


def test_a_stream_of_another_kind_is_seen_and_one_of_ours_is_not() -> None:
    wanted = jetstream.packets_config(SETTINGS)
    assert list(traps.stream("S", {**wanted, "created": "then", "metadata": {}}, wanted)) == []
    findings = list(traps.stream("S", {**wanted, "retention": "limits"}, wanted))
    assert [finding.well for finding in findings] == [False]
    assert "retention" in findings[0].what
    assert "must not run" in findings[0].mend


def test_a_copy_that_is_away_or_lags_is_seen() -> None:
    well = {"name": "b", "current": True}
    assert list(traps.copies("S", {})) == []
    assert list(traps.copies("S", {"cluster": {"leader": "a", "replicas": [well]}})) == []
    away, late = {"name": "b", "current": False, "offline": True}, {"name": "c", "current": False, "lag": 7}
    found = list(traps.copies("S", {"cluster": {"leader": "a", "replicas": [away, late]}}))
    assert [finding.what for finding in found] == [
        "stream S: the copy on b is away",
        "stream S: the copy on c lags by 7 operations",
    ]
    assert not any(finding.well for finding in found)

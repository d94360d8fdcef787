"""What is said to Pushpin and heard from it: headers, signatures and its configuration. (The server itself: contracts/.)"""

from __future__ import annotations

import base64
import configparser
import json
import time
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.pushpin import addresses, client_maxconn, configuration, hold, last_ids, signed_by_edge
from fleetcast.settings import Settings
from fleetcast.subjects import CONTROL_CHANNELS, NEXT_LINKS, channel

KEY = "k" * 43
VEHICLES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
IDS = st.from_regex(r"[0-9a-f]{1,32}-[0-9]{1,16}", fullmatch=True)


# Holding


def test_the_headers_that_hold_a_stream() -> None:
    ours = msgspec.structs.replace(Settings(), next_poll=30, keep_alive=20)
    assert hold("v/car/all/", "ab12-7", 5, 3, ours) == [
        ("Grip-Hold", "stream"),
        ("Grip-Channel", "v/car/all/; prev-id=ab12-7"),
        ("Grip-Channel", "ctl/05/"),
        ("Grip-Link", "</next/3>; rel=next; timeout=33"),
        ("Grip-Keep-Alive", ":\\n\\n; format=cstring; timeout=20; mode=interval"),
    ]


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_few_links_each_with_a_time_of_its_own(control: int, link: int) -> None:
    """Pushpin asks for ten unlike links a second, and for all idle streams of one link at the same moment."""
    held = dict(hold("v/car/all/", "ab-1", control, link, Settings())[2:])
    number = link % NEXT_LINKS
    assert held["Grip-Link"] == f"</next/{number}>; rel=next; timeout={Settings().next_poll + number}"
    assert held["Grip-Channel"] == f"ctl/{control % CONTROL_CHANNELS:02d}/"


# Coming back


@given(st.dictionaries(VEHICLES, IDS, max_size=4))
def test_last_ids_read_back(ids: dict[str, str]) -> None:
    by_channel = {channel(vehicle): last for vehicle, last in ids.items()}
    assert last_ids([f"{name}; last-id={last}" for name, last in by_channel.items()]) == by_channel
    assert last_ids([f'{name} ;last-id="{last}"' for name, last in by_channel.items()]) == by_channel


@given(st.lists(st.text() | st.text(';="a-id l,\t')))
def test_last_ids_of_anything(values: list[str]) -> None:
    assert all(isinstance(last, str) for last in last_ids(values).values())


@pytest.mark.parametrize("value", ["", "v/car/all/", "v/car/all/; prev-id=ab-1", "v/car/all/; id=ab-1", ";"])
def test_what_names_no_last_id_is_left_out(value: str) -> None:
    assert last_ids([value, "v/other/all/; last-id=ab-2"]) == {"v/other/all/": "ab-2"}


# Whose request it is


def signature(key: str = KEY, algorithm: str = "HS256", **claims: Any) -> str:
    return jwt.encode({"iss": "fleetcast-edge", "exp": int(time.time()) + 3600} | claims, key, algorithm)


def test_the_edges_signature() -> None:
    assert signed_by_edge(signature(), KEY)


UNSIGNED = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
FORGED = {
    "missing": None,
    "empty": "",
    "of another key": signature(key="x" * 43),
    "expired": signature(exp=int(time.time()) - 1),
    "without an end": jwt.encode({"iss": "fleetcast-edge"}, KEY, "HS256"),
    "by another algorithm": jwt.encode({"exp": int(time.time()) + 3600}, KEY * 2, "HS512"),
    "empty parts": "e30.e30.e30",
    "cut": signature()[:-2],
    "longer": signature() + "x",
    "without its signature": signature().rpartition(".")[0] + ".",
    "that says it is not signed": f"{UNSIGNED}.{signature().split('.')[1]}.",
    "in another form": "Bearer " + signature(),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_anything_else_is_not(forged: str | None) -> None:
    assert not signed_by_edge(forged, KEY)


@settings(deadline=None)
@given(
    st.text()
    | st.text("eyJ.-_=", max_size=40)
    | st.binary(max_size=40).map(lambda raw: raw.decode("latin-1"))
)
def test_no_header_breaks_the_check(forged: str) -> None:
    assert not signed_by_edge(forged, KEY)


@given(st.integers(0, 200), st.characters(codec="latin-1"))
def test_one_changed_character_is_enough(place: int, letter: str) -> None:
    ours = signature()
    place %= len(ours) - 1  # the last one carries bits that do not count
    changed = ours[:place] + letter + ours[place + 1 :]
    assert signed_by_edge(changed, KEY) == (changed == ours)


# Its configuration


def parsed(ours: Settings, number: int = 0) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(configuration(ours, number, Path("/run/edge"))["pushpin.conf"])
    return parser


def test_the_traps_are_avoided() -> None:
    found = parsed(msgspec.structs.replace(Settings(), sig_key="secret"))
    assert found["handler"]["message_rate"] == "0"  # 2500 holds messages up for seconds
    assert found["handler"]["message_hwm"] == "0"
    assert found["runner"]["services"] == "condure,zurl,pushpin-proxy,pushpin-handler"
    for spec, end in (("out_specs", "in"), ("out_stream_specs", "in-stream"), ("in_specs", "out")):
        assert found["proxy"][f"zurl_{spec}"] == f"ipc://{{rundir}}/{{ipc_prefix}}zurl-{end}"
    assert found["proxy"]["auto_cross_origin"] == "false"
    assert found["proxy"]["sig_key"] == "secret"
    assert found["runner"]["log_level"] == "1"  # 2 logs queries, and so tokens
    assert found["handler"]["push_in_sub_connect"] == "false"
    assert int(found["handler"]["connection_subscription_max"]) > 20
    assert found["global"]["port_offset"] == "0"


def test_the_largest_update_fits_its_http_input() -> None:
    """An update is JSON in an item's JSON: at worst every byte of it is escaped."""
    escaped = json.dumps('{"' * 1000)
    assert len(escaped) <= 2 * 2000
    assert int(parsed(Settings())["handler"]["push_in_max_body_size"]) >= 2 * Settings().max_state + 10_000


@settings(deadline=None)
@given(st.integers(20, 500_000))
def test_its_own_limit_lies_above_what_it_is_sent(phones: int) -> None:
    ours = msgspec.structs.replace(Settings(), edge_connections=phones)
    assert int(parsed(ours)["runner"]["client_maxconn"]) == client_maxconn(ours) > phones


def test_replicas_are_apart_on_one_machine() -> None:
    ours = Settings()
    one, other = parsed(ours, 0), parsed(ours, 1)
    keys = [("global", "ipc_prefix"), ("runner", "http_port")]
    keys += [
        ("handler", key) for key in ("push_in_spec", "push_in_sub_specs", "push_in_http_port", "command_spec")
    ]
    for section, key in keys:
        assert one[section][key] != other[section][key], key
    used = [
        value.rpartition(":")[2]
        for section, key in keys[1:]
        for value in (one[section][key], other[section][key])
    ]
    assert len(set(used)) == len(used)


def test_everything_of_it_is_on_loopback() -> None:
    found = parsed(Settings())
    assert found["runner"]["http_port"].startswith("127.0.0.1:")
    assert found["handler"]["push_in_http_addr"] == "127.0.0.1"
    for key in ("push_in_spec", "push_in_sub_specs", "command_spec"):
        assert found["handler"][key].startswith("tcp://127.0.0.1:")


# Where the replicas are


async def test_addresses() -> None:
    assert await addresses(["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:1"]) == {"127.0.0.1:1", "127.0.0.1:2"}
    assert "127.0.0.1:7" in await addresses(["localhost:7"])
    assert await addresses([]) == frozenset()


async def test_a_name_that_is_unknown_is_no_replica_and_no_error() -> None:
    assert await addresses(["no-such-name.invalid:1", "127.0.0.1:2"]) == {"127.0.0.1:2"}

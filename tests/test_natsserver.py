"""nats-server's configuration keeps every acknowledgement on disk, and is one that nats-server takes."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleetcast.errors import Unusable
from fleetcast.natsserver import Node, address, addresses, configuration
from fleetcast.settings import Settings


def with_nats(nats: str) -> Settings:
    return msgspec.structs.replace(Settings(), nats=nats)


@pytest.mark.parametrize(
    ("nats", "found"),
    [("nats://127.0.0.1:4222", ("127.0.0.1", 4222)), ("nats://queue.example:1/", ("queue.example", 1))],
)
def test_address(nats: str, found: tuple[str, int]) -> None:
    assert address(with_nats(nats)) == found


@pytest.mark.parametrize(
    "nats",
    [
        "",
        "127.0.0.1:4222",
        "nats://127.0.0.1",
        "nats://:4222",
        "tls://a:1",
        "nats://a:b",
        "nats://a:70000",
        "nats://[::1",
    ],
)
def test_an_address_that_will_not_do_is_named(nats: str) -> None:
    with pytest.raises(Unusable, match=r"^nats: "):
        address(with_nats(nats))


def test_several_servers_are_separated_by_commas() -> None:
    settings = with_nats("nats://a:1, nats://b:2,nats://me:secret@c:3,")
    assert addresses(settings) == [("a", 1), ("b", 2), ("c", 3)]
    assert addresses(Settings()) == [address(Settings())]
    with pytest.raises(Unusable, match=r"^nats: tcp://b:2 is not"):
        addresses(with_nats("nats://a:1,tcp://b:2"))


@pytest.mark.parametrize("changes", [{"nats": "nats://a:1,nats://b:2"}, {"replicas": 3}])
def test_a_platform_on_one_machine_runs_no_cluster(changes: dict[str, Any]) -> None:
    with pytest.raises(Unusable, match=r"^nats: `up` runs one"):
        address(msgspec.structs.replace(Settings(), **changes))


def lines(settings: Settings, store: Path = Path("/data/nats")) -> list[str]:
    return [line.strip() for line in configuration(settings, store).splitlines()]


def test_what_is_acknowledged_is_on_disk() -> None:
    assert "sync_interval: always" in lines(Settings())


@pytest.mark.parametrize("max_packet", [1024, 1_048_576, 1_990_000, 8_000_000])
def test_a_packet_fits_with_its_headers(max_packet: int) -> None:
    settings = msgspec.structs.replace(Settings(), max_packet=max_packet, max_state=8_000_000)
    (payload,) = [line for line in lines(settings) if line.startswith("max_payload: ")]
    assert int(payload.removeprefix("max_payload: ")) >= max_packet + 64 * 1024


def test_the_streams_fit_all_together() -> None:
    settings = msgspec.structs.replace(Settings(), queue_bytes=5, live_bytes=7, rejected_bytes=11)
    (files,) = [line for line in lines(settings) if line.startswith("max_file_store: ")]
    assert int(files.removeprefix("max_file_store: ")) > 5 + 7 + 11


NODE = Node("a", "127.0.0.1", 4222, 6222, ["127.0.0.1:6222", "127.0.0.1:6223"])


@pytest.mark.parametrize("node", [None, NODE])
@pytest.mark.parametrize("name", ["nats", "with space", "it's", 'quo"te', "käse"])
def test_nats_server_takes_it(tmp_path: Path, name: str, node: Node | None) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(configuration(Settings(), tmp_path / name, node), encoding="utf-8")
    ours = Path(sys.executable).parent / "nats-server"
    command = [str(ours) if ours.exists() else "nats-server", "-t", "-c", str(config)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("files", "connections"),
    [(300, 100), (1_024, 824), (20_000, 18_000), (resource.RLIM_INFINITY, 1_000_000)],
)
def test_connections_leave_files_for_the_streams(
    monkeypatch: pytest.MonkeyPatch, files: int, connections: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert f"\nmax_connections: {connections}\n" in configuration(Settings(), Path("/tmp/nats"))

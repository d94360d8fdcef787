"""What a platform runs, and what whoever runs it under other conditions can have otherwise."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from fleetcast.errors import Unusable
from fleetcast.platform import Platform
from fleetcast.settings import Settings, load
from tests.servers import platform_settings


class Otherwise(Platform):
    def command(self, role: str) -> list[str]:
        return ["old/python", "-m", "fleetcast"] if role == "consume" else super().command(role)

    def environment(self, name: str) -> Mapping[str, str]:
        return {"NATS": "nats://127.0.0.1:9"} if name == "origin-1" else {}

    def edge_settings(self, number: int) -> Settings:
        return msgspec.structs.replace(self.settings, inner_port=9) if number == 1 else self.settings


def own(platform: Platform, name: str) -> dict[str, str]:
    """The settings that this process is given in its environment."""
    environment = platform.prepared(name).environment
    return {key: value for key, value in environment.items() if key.startswith("FLEETCAST_")}


def test_what_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETCAST_WINDOW", "7")  # it is in the file by then
    settings = platform_settings(folder)
    platform = Platform(settings, print)
    config = str(folder / "run" / "fleetcast.toml")
    program = platform.prepared("consume-1")
    assert list(program.command) == [sys.executable, "-m", "fleetcast", "--config", config, "consume"]
    ports = platform.admin_ports
    assert own(platform, "consume-1") == {
        "FLEETCAST_ADMIN_PORT": str(ports["consume-1"]),
        "FLEETCAST_MEMBER": "consume-1",
    }
    assert own(platform, "origin-1") == {
        "FLEETCAST_ADMIN_PORT": str(ports["origin-1"]),
        "FLEETCAST_ORIGIN_PORT": str(settings.origin_port + 1),
    }
    assert own(platform, "ingest") == {"FLEETCAST_ADMIN_PORT": str(ports["ingest"])}


def test_what_can_be_otherwise(folder: Path) -> None:
    platform = Otherwise(platform_settings(folder), print)
    assert list(platform.prepared("consume-0").command)[:3] == ["old/python", "-m", "fleetcast"]
    assert platform.prepared("ingest").command[0] == sys.executable
    assert own(platform, "origin-1")["FLEETCAST_NATS"] == "nats://127.0.0.1:9"
    assert "FLEETCAST_NATS" not in own(platform, "origin-0")
    for name, port in (("edge-0", platform.settings.inner_port), ("edge-1", 9)):
        platform.prepared(name)
        assert f"* 127.0.0.1:{port},over_http\n" in (folder / "run" / name / "routes").read_text()


async def test_configured_settings_are_what_starts_from_then_on(folder: Path) -> None:
    platform = Platform(platform_settings(folder), print)
    make(folder / "run" / "haproxy")
    await platform.configure(enrichers="fleetcast.enrich.belts", window=30)
    found = load(folder / "run" / "fleetcast.toml", {})
    assert (found.enrichers, found.window) == (("fleetcast.enrich.belts",), 30.0)
    assert found.edge_sub == platform.settings.edge_sub
    refused: list[tuple[dict[str, str], str]] = [
        ({"partitions": "3"}, "partitions: a roll cannot change it"),
        ({"enrichers": "none_such"}, "enrichers: none_such cannot be loaded"),
        ({"decoders": "none_such"}, "decoders: none_such cannot be loaded"),
        ({"bytes_per_minute": "5"}, "bytes_per_minute: 5 is less than max_packet"),
        ({"window": "-1"}, "window"),
    ]
    for changes, word in refused:
        with pytest.raises(Unusable, match=word):
            await platform.configure(**changes)
    assert load(folder / "run" / "fleetcast.toml", {}) == found


def make(folder: Path) -> None:
    folder.mkdir(parents=True)

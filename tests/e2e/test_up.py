"""`fleetcast up`: a platform that starts again on what it kept, and clear words when it cannot start."""

from __future__ import annotations

import signal
import socket
from contextlib import closing
from pathlib import Path

import pytest

from fleetcast.settings import Settings, dump
from tests.e2e.demo import Command, command, processes, settings_file
from tests.e2e.outside import Phone, client, data, packet
from tests.servers import platform_settings, until


async def ready(running: Command) -> str:
    """The front door, once `ready <url>` is printed; nothing else is."""
    url = (await running.heard("ready ")).removeprefix("ready ")
    assert running.printed == [f"ready {url}"]
    assert url == f"http://127.0.0.1:{running.settings.front_port}"
    return url


async def ended(running: Command, sign: signal.Signals) -> None:
    """By this signal, with status 0, and nothing of it stays behind."""
    family = {one.pid for one in running.family()}
    assert await running.end(sign) == 0
    assert [one for one in processes() if one.pid in family] == []


async def test_a_second_up_on_the_same_folder_has_the_epoch_and_the_states_of_the_first(folder: Path) -> None:
    settings, file = settings_file(folder)
    async with client() as outside:
        ingest = f"http://127.0.0.1:{settings.ingest_port}/v1/vehicles/kept/packets"
        kind = {"Content-Type": "application/json"}

        async def latest(url: str, version: int) -> tuple[str, str]:
            async def there() -> tuple[str, str] | None:
                answer = await outside.get(f"{url}/v1/vehicles/kept")
                level = answer.status_code == 200 and answer.json()["version"] == version
                return (answer.text, answer.headers["etag"]) if level else None

            found: tuple[str, str] = await until(there, f"version {version}")
            return found

        async with command(settings, file, "up") as first:
            url = await ready(first)
            for seq in (1, 2):
                answer = await outside.post(ingest, content=packet("kept", seq), headers=kind)
                assert answer.status_code == 202
            before = await latest(url, 2)
            await ended(first, signal.SIGINT)
        async with command(settings, file, "up") as second:
            url = await ready(second)
            assert await latest(url, 2) == before
            # The queue has forgotten packet 2 with its restart, the state has not: it is applied once all the same.
            for seq in (2, 3):
                answer = await outside.post(ingest, content=packet("kept", seq), headers=kind)
                assert answer.status_code == 202
            _, tag = await latest(url, 3)
            # A phone of the first one's time comes back to the second.
            phone = Phone("kept")
            last = {"Accept": "text/event-stream", "Last-Event-ID": before[1].strip('"')}
            async with outside.stream("GET", f"{url}/v1/vehicles/kept/events", headers=last) as stream:
                async for chunk in stream.aiter_raw():
                    phone.events += phone._parser.feed(chunk)
                    if phone.events:
                        break
            assert [(one.event, one.id, data(one)["prev"]) for one in phone.events] == [
                ("update", tag.strip('"'), 2)
            ]
            await ended(second, signal.SIGTERM)


async def refused(settings: Settings, file: Path, *arguments: str) -> str:
    """The one line in which it says why it does not start; its exit status is 2 and nothing of it runs."""
    async with command(settings, file, *arguments) as running:
        status = await running.end(bound=30)
        said = [line for line in running.said if not line.startswith("starting ")]
        assert (status, running.printed, len(said)) == (2, [], 1), running.said
        return said[0]


@pytest.mark.parametrize("arguments", [["up"], ["demo", "--json"]], ids=["up", "demo"])
async def test_a_port_that_is_taken_is_one_clear_line(folder: Path, arguments: list[str]) -> None:
    settings, file = settings_file(folder)
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", settings.front_port))
        taken.listen()
        line = await refused(settings, file, *arguments)
    assert line.startswith("fleetcast: front_port")
    assert str(settings.front_port) in line
    assert "in use" in line


async def test_a_second_platform_on_the_same_folder_is_one_clear_line(folder: Path) -> None:
    settings, file = settings_file(folder)
    async with command(settings, file, "up") as running:
        await ready(running)
        other = folder / "other.toml"
        elsewhere = platform_settings(folder / "d")  # other ports, the same folder
        other.write_text(dump(elsewhere))
        line = await refused(elsewhere, other, "up")
        assert line == f"fleetcast: data: {settings.data} is in use by a running platform"
        assert not running.ended
        await ended(running, signal.SIGINT)


async def test_ctrl_c_while_it_starts_leaves_nothing_behind(folder: Path) -> None:
    settings, file = settings_file(folder)
    async with command(settings, file, "up") as running:
        await until(lambda: any("nats-server" in one.command[0] for one in running.family()))
        await ended(running, signal.SIGINT)
        assert running.printed == []


async def test_a_setting_that_does_not_exist_is_one_clear_line(folder: Path) -> None:
    settings, file = settings_file(folder)
    file.write_text(file.read_text() + "speed = 1\n")
    assert "speed is not a setting" in await refused(settings, file, "up")


@pytest.mark.parametrize("plugins", ["enrichers", "decoders"])
async def test_a_plugin_that_cannot_be_loaded_is_named_at_once(folder: Path, plugins: str) -> None:
    settings, file = settings_file(folder, **{plugins: ("no_such_module",)})
    assert f"{plugins}: no_such_module cannot be loaded" in await refused(settings, file, "up")

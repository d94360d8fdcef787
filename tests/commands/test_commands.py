import argparse
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fleetcast import settings
from fleetcast.commands import MODULES, main, parser
from fleetcast.devpki import DevelopmentPki
from fleetcast.settings import Settings
from tests.servers import platform_settings


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as its user runs it; with no settings but these."""
    clean = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONWARNINGS": "error", **environment}
    command = [sys.executable, "-m", "fleetcast", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=clean)


def test_help_teaches() -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in ("demo", "up", "ingest", "consume", "origin", "simulate", "doctor", "settings", "curl"):
        assert word in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "up",
        "roll",
        "scale",
        "ingest",
        "consume",
        "origin",
        "simulate",
        "simulate cars",
        "simulate phones",
        "conform",
        "doctor",
        "settings",
    ],
)
def test_each_command_has_its_own_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert command.split(maxsplit=1)[0] in capsys.readouterr().out


def choices(command: str = "") -> list[str]:
    """The commands that the parser for this one, or for all, knows."""
    (commands,) = (one for one in parser(command)._actions if isinstance(one, argparse._SubParsersAction))
    return list(commands.choices)


def test_only_the_module_of_the_command_that_is_given_is_needed() -> None:
    """Each process of a role imports its own: all of them would take it half as long again to start."""
    assert choices() == list(MODULES)
    for command, module in MODULES.items():
        assert choices(command) == [name for name, other in MODULES.items() if other == module]
    folder = Path(settings.__file__).parent / "commands"
    assert set(MODULES.values()) == {file.stem for file in folder.glob("*.py")} - {"__init__"}
    loads = "import sys, fleetcast.commands as c; {}; print(*sys.modules)"
    one = loads.format("c.parser(c._command(['--config', 'demo', 'settings']))")
    found = subprocess.run(
        [sys.executable, "-c", one], capture_output=True, text=True, timeout=60, check=True
    )
    assert "fleetcast.commands.settings" in found.stdout.split()
    assert "fleetcast.commands.demo" not in found.stdout.split()


@pytest.mark.parametrize("given", [["no-such-command"], [], ["--config"], ["--config", "demo"]])
def test_without_a_command_or_with_a_wrong_one_it_says_which_there_are(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(given)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "usage: fleetcast" in said
    assert "doctor" in said or "no-such-command" not in given


def test_settings_come_out_as_toml_that_goes_in_again(tmp_path: Path) -> None:
    done = run("settings", FLEETCAST_FRONT_PORT="9000")
    assert done.returncode == 0
    assert tomllib.loads(done.stdout)["front_port"] == 9000
    file = tmp_path / "fleetcast.toml"
    file.write_text(done.stdout)
    assert settings.load(file, {}) == Settings(front_port=9000)


def test_settings_explain_each_setting() -> None:
    lines = run("settings").stdout.splitlines()
    keys = [number for number, line in enumerate(lines) if not line.startswith("#") and line]
    assert all(lines[number - 1].startswith("# ") for number in keys)


def test_settings_never_print_a_secret() -> None:
    done = run(
        "settings",
        FLEETCAST_SIG_KEY="very-secret-" * 4,
        FLEETCAST_TICKET_KEY="very-secret-" * 4,
        FLEETCAST_NATS="nats://me:very-secret@127.0.0.1:4222",
    )
    assert "very-secret" not in done.stdout
    assert "127.0.0.1:4222" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["settings"], {"FLEETCAST_FRONTPORT": "1"}, "frontport"),
        (["settings"], {"FLEETCAST_FRONT_PORT": "many"}, "front_port"),
        (["settings"], {"FLEETCAST_HOST": "0.0.0.0"}, "host"),
        (["--config", "/nowhere/x.toml", "settings"], {}, "/nowhere/x.toml"),
        (["consume"], {"FLEETCAST_ENRICHERS": "no.such.module"}, "no.such.module"),
        (["origin"], {}, "sig_key"),
        (["up"], {"FLEETCAST_NATS": "tcp://x"}, "nats"),
        (["up"], {"FLEETCAST_APP_KEYS": "/nowhere/keys.pem"}, "app_keys"),
        (["settings"], {"FLEETCAST_APP_ISSUER": "x"}, "app_keys"),
        (["revoke", ""], {}, "revoke"),
        (["enroll"], {}, "VEHICLE"),
        (["enroll", "car-1", "--vehicles", "car-1"], {}, "--vehicles"),
        (["enroll", "--app", "ann", "--vehicles", "a/b"], {}, "a/b"),
        (["enroll", "--app", "../ann"], {}, "--app"),
        (["enroll", "--app", "ann", "--days", "31"], {}, "--days"),
        (["tail", "car-1", "--token", "/nowhere/token"], {}, "/nowhere/token"),
        (["demo", "--cars", "0"], {}, "--cars"),
        (["demo", "--share"], {"FLEETCAST_APP_KEYS": "k.pem"}, "--share"),
        (["demo"], {"FLEETCAST_APP_KEYS": "k.pem"}, "app_keys"),
        (["simulate", "cars", "--credentials", "/nowhere"], {}, "token-key.pem"),
        (["simulate", "phones", "--token", "/nowhere/token"], {}, "/nowhere/token"),
        (["demo", "--late", "2"], {}, "--late"),
        (["demo", "--door", "mix"], {"FLEETCAST_MQTT_PORT": "0"}, "mqtt_port"),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(
    arguments: list[str], environment: dict[str, str], said: str
) -> None:
    done = run(*arguments, **environment)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert done.stdout == ""


def test_the_doctor_is_content_with_this_machine(tmp_path: Path) -> None:
    file = tmp_path / "fleetcast.toml"
    file.write_text(
        settings.dump(
            platform_settings(tmp_path, queue_bytes=1_000_000, live_bytes=1_000_000, rejected_bytes=1_000_000)
        )
    )
    done = run("--config", str(file), "doctor")
    assert done.returncode == 0, done.stdout
    assert "all is well" in done.stdout
    assert "BAD" not in done.stdout


def test_the_doctor_is_content_with_identity_before_anything_was_started(tmp_path: Path) -> None:
    pki = DevelopmentPki(tmp_path / "pki")
    ours = platform_settings(
        tmp_path / "d",
        queue_bytes=1_000_000,
        live_bytes=1_000_000,
        rejected_bytes=1_000_000,
        vehicle_keys=str(pki.vehicle_keys),
        tls_cert=str(pki.server),
        tls_key=str(pki.server_key),
    )
    file = tmp_path / "settings.toml"
    file.write_text(settings.dump(ours))
    done = run("--config", str(file), "doctor")
    assert "all is well" in done.stdout, done.stdout
    assert "ok  nats: asks ingest who may connect" in done.stdout
    assert not (tmp_path / "d").exists()


def test_the_doctor_says_what_is_missing_and_how_to_mend_it(tmp_path: Path) -> None:
    file = tmp_path / "nats.conf"
    file.write_text("jetstream { store_dir: x }\n")
    done = run("doctor", "--nats", str(file), PATH="/nowhere")
    assert done.returncode == 1
    assert "pushpin is missing" in done.stdout
    assert "make setup" in done.stdout
    assert "sync_interval" in done.stdout

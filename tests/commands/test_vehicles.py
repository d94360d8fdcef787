"""`fleetcast vehicles`: what a file may hold, what is refused in one line, and the verbs against a real nats-server."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast.commands import main
from fleetcast.commands.vehicles import Entry, parsed
from fleetcast.errors import Unusable
from fleetcast.jetstream import provision
from fleetcast.nats_registry import NatsRegistry
from fleetcast.registry import Vehicle
from fleetcast.settings import Settings, dump
from tests.conftest import Connect

# Files

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
ENTRIES = st.lists(
    st.builds(
        Entry,
        NAMES,
        st.none() | st.lists(NAMES, min_size=1).map(tuple),
        st.none() | st.floats(min_value=0, max_value=1e8, exclude_min=True),
        st.none() | st.booleans(),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda entry: entry.vehicle,
)


@given(ENTRIES, st.booleans())
def test_json_lines_come_back(entries: Sequence[Entry], spaced: bool) -> None:
    lines = [
        {name: value for name in one.__struct_fields__ if (value := getattr(one, name)) is not None}
        for one in entries
    ]
    text = ("\n\n" if spaced else "\n").join(json.dumps(line) for line in lines)
    assert parsed(text) == entries


@given(ENTRIES, st.permutations(["vehicle", "fleets", "every", "enabled"]), st.sampled_from(["\n", "\r\n"]))
def test_csv_comes_back(entries: Sequence[Entry], names: Sequence[str], end: str) -> None:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator=end)
    writer.writerow(names)
    for one in entries:
        cells = {
            "vehicle": one.vehicle,
            "fleets": " ".join(one.fleets or ()),
            "every": "" if one.every is None else repr(one.every),
            "enabled": "" if one.enabled is None else str(one.enabled),
        }
        writer.writerow([cells[name] for name in names])
    assert parsed("\ufeff" + file.getvalue()) == entries


@given(st.lists(NAMES.filter(lambda name: name != "vehicle"), min_size=1, unique=True))
def test_a_list_of_ids_comes_back(ids: Sequence[str]) -> None:
    assert parsed("\n".join(ids)) == [Entry(one) for one in ids]
    assert parsed("vehicle\n" + "\n".join(ids)) == [Entry(one) for one in ids]


@given(st.text() | st.text('{}":,[]vehiclfts \n01.-'))
def test_whatever_is_in_a_file_is_read_or_refused_in_one_line(text: str) -> None:
    said = ""
    try:
        assert parsed(text)
    except Unusable as why:
        said = str(why)
    assert said == "" or said.startswith("vehicles add: ")
    assert len(said.splitlines()) <= 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no vehicle in it"),
        (" \n\n", "no vehicle in it"),
        ("vehicle\n", "no vehicle in it"),
        ("car-1\ncar 2\n", "line 2: 'car 2' is no vehicle id"),
        ("car-1\n\ncar-1\n", "line 3: car-1 is there twice"),
        ("vehicle,every\ncar-1,0\n", "line 2: every: 0.0"),
        ("vehicle,every\ncar-1,nan\n", "line 2: every: nan"),
        ("vehicle,every\ncar-1,often\n", "line 2: could not convert"),
        ("vehicle,every\ncar-1\n", "line 2: 1 cells, and 2 columns"),
        ("vehicle,enabled\ncar-1,maybe\n", "line 2: enabled: maybe"),
        ("vehicle,fleets\ncar-1,a/b\n", "line 2: 'a/b' is no fleet's name"),
        ('vehicle,fleets\ncar-1,"a\n', "line 2: unexpected end of data"),
        ("vehicle,color\ncar-1,red\n", "line 1: a CSV file begins with"),
        ("vehicle,vehicle\ncar-1,red\n", "line 1: a CSV file begins with"),
        ("car-1,north\n", "line 1: a CSV file begins with"),
        ('{"vehicle":"car-1"}\n{"vehicle":"car-2",}', "line 2: JSON is malformed"),
        ('{"vehicle":"car-1","color":"red"}', "line 1: Object contains unknown field `color`"),
        ('{"vehicle":"car-1","fleets":"north"}', "line 1: Expected `array"),
        ('{"fleets":[]}', "line 1: Object missing required field `vehicle`"),
        ('{"vehicle":"car-1"}\ncar-2', "line 2: JSON is malformed"),
    ],
)
def test_a_bad_line_is_named(text: str, said: str) -> None:
    with pytest.raises(Unusable) as why:
        parsed(text)
    assert said in str(why.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add"], "give ids, or --from FILE"),
        (["add", "car-1", "--from", "-"], "give ids, or --from FILE"),
        (["add", "car/1"], "'car/1' is no vehicle id"),
        (["add", "car-1", "--fleet", "a b"], "'a b' is no fleet's name"),
        (["add", "car-1", "--every", "0"], "every: 0.0"),
        (["add", "--from", "/nowhere/cars.csv"], "/nowhere/cars.csv: No such file"),
        (["list", "--fleet", ""], "'' is no fleet's name"),
        (["show", "x" * 65], "is no vehicle id"),
        (["enable", "car-1", "é"], "'é' is no vehicle id"),
        (["disable", "$KV"], "'$KV' is no vehicle id"),
        (["forget", ">", "--yes"], "'>' is no vehicle id"),
        (["forget", "*", "--yes"], "'*' is no vehicle id"),
        (["forget", "car-1"], "say --yes"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_asked(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["vehicles", *arguments]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.count("\n") == 1
    assert said in errors


@pytest.mark.parametrize("command", ["", "add", "list", "show", "enable", "disable", "forget"])
def test_each_verb_has_its_own_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["vehicles", *command.split(), "--help"])
    assert ended.value.code == 0
    assert f"vehicles {command}".strip() in capsys.readouterr().out


# The verbs


class Operator:
    def __init__(self, config: Path, registry: NatsRegistry) -> None:
        self.registry = registry
        self._config = config

    async def run(self, *arguments: str, status: int = 0, stdin: str = "") -> str:
        """Its output; what it says on standard error, if it fails."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fleetcast", "--config", str(self._config), "vehicles", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, errors = await process.communicate(stdin.encode())
        assert process.returncode == status, (out.decode(), errors.decode())
        return (errors if status else out).decode()


@pytest.fixture
async def operator(connected: Connect, settings: Settings, folder: Path) -> Operator:
    connection = await connected()
    await provision(connection, settings)
    config = folder / "fleetcast.toml"
    config.write_text(dump(settings))
    return Operator(config, NatsRegistry(connection))


async def test_vehicles_are_added_listed_switched_and_shown(operator: Operator) -> None:
    assert await operator.run("list") == "no vehicle is registered\n"
    assert await operator.run("add", "car-2", "car-1", "--fleet", "north", "--fleet", "trial") == "2 added\n"
    assert await operator.run("add", "car-3", "--every", "2.5") == "1 added\n"
    assert (await operator.run("list")).splitlines() == [
        "car-1\tnorth trial\t60\tenabled",
        "car-2\tnorth trial\t60\tenabled",
        "car-3\t\t2.5\tenabled",
    ]
    assert "every door knows within 5 s" in await operator.run("disable", "car-2", "car-3")
    assert [
        json.loads(line) for line in (await operator.run("list", "--fleet", "trial", "--json")).splitlines()
    ] == [
        {"vehicle": "car-1", "fleets": ["north", "trial"], "every": 60, "enabled": True},
        {"vehicle": "car-2", "fleets": ["north", "trial"], "every": 60, "enabled": False},
    ]
    assert await operator.run("list", "--fleet", "south") == "no vehicle is registered in fleet south\n"
    # One that is there keeps what is not given, that it is disabled above all.
    assert await operator.run("add", "car-2", "car-4", "--every", "9") == "1 added, 1 were there\n"
    assert await operator.registry.get("car-2") == Vehicle("car-2", ("north", "trial"), 9, False)
    shown = await operator.run("show", "car-2")
    assert "disabled; fleets: north trial; expected every 9 s" in shown
    assert "none: it has never sent" in shown
    await operator.run("enable", "car-2")
    assert (await operator.registry.get("car-2") or Vehicle("")).enabled
    assert "not there" in await operator.run("show", "stranger")


async def test_what_is_not_there_is_not_switched_nor_any_beside_it(operator: Operator) -> None:
    await operator.run("add", "car-1")
    said = await operator.run("disable", "car-1", "car-9", status=2)
    assert said.count("\n") == 1
    assert "car-9 is not in the registry" in said
    assert await operator.registry.get("car-1") == Vehicle("car-1")


async def test_many_are_added_from_a_file_and_again(operator: Operator, folder: Path) -> None:
    file = folder / "cars.csv"
    rows = [f"car-{number:05},{'even' if number % 2 == 0 else ''},{number % 7 + 1}" for number in range(3000)]
    file.write_text("\n".join(["vehicle,fleets,every", *rows]))
    assert await operator.run("add", "--from", str(file), "--fleet", "odd") == "3,000 added\n"
    assert await operator.registry.get("car-00013") == Vehicle("car-00013", ("odd",), 7)
    assert len((await operator.run("list", "--fleet", "even")).splitlines()) == 1500
    await operator.run("disable", "car-00013")
    assert await operator.run("add", "--from", str(file)) == "0 added, 3,000 were there\n"
    assert not (await operator.registry.get("car-00013") or Vehicle("")).enabled
    last = '{"vehicle": "car-00013", "enabled": true}\n{"vehicle": "last"}\n'
    assert await operator.run("add", "--from", "-", stdin=last) == "1 added, 1 were there\n"
    assert (await operator.registry.get("car-00013") or Vehicle("")).enabled


async def test_a_file_with_a_bad_line_changes_nothing(operator: Operator) -> None:
    said = await operator.run("add", "--from", "-", stdin="car-1\ncar-2\ncar/3\n", status=2)
    assert (
        said
        == "fleetcast: vehicles add: line 3: 'car/3' is no vehicle id: it is 1 to 64 of A-Z a-z 0-9 - _\n"
    )
    assert await operator.run("list") == "no vehicle is registered\n"

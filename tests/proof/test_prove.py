"""`fleetcast prove` as its user runs it: what it refuses, and a small proof with everything in it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fleetcast.proof.acts import ACTS, fault_names
from fleetcast.proof.rows import BREACHES


def prove(*arguments: str, timeout: float = 30, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fleetcast", "prove", *arguments]
    given = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=given)


def marked(mark: str) -> list[str]:
    """The commands of all processes with this in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_text(errors="replace"):
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ("--acts", "nonsense"),
        ("--acts", "faults,nonsense"),
        ("--cars", "0"),
        ("--phones", "-1"),
        ("--rate", "0"),
        ("--faults", "0"),
        ("--window", "1"),
        ("--only", "no such fault"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(arguments: tuple[str, ...]) -> None:
    done = prove(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "prove: " in done.stderr
    assert done.stdout == ""


def test_it_says_which_faults_and_acts_there_are() -> None:
    done = prove("--list")
    assert (done.returncode, done.stdout.splitlines()) == (0, fault_names())
    done = prove("--help")
    assert done.returncode == 0
    for name, act in ACTS.items():
        assert name in done.stdout
        assert act.text in done.stdout


def test_a_small_proof_keeps_every_promise_and_leaves_nothing_behind() -> None:
    mark = f"PROOF_MARK=test-{os.getpid()}"
    name, _, value = mark.partition("=")
    only = ("consume killed after commit", "ingest killed between", "all phones come back", "sent again")
    done = prove(
        *("--seed", "5", "--faults", "4", "--cars", "6", "--phones", "17", "--rate", "40", "--json"),
        *(part for one in only for part in ("--only", one)),
        timeout=110,
        **{name: value},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    rows, whole = said["rows"][:-1], said["rows"][-1]
    assert (said["seed"], said["kept"]) == (5, True)
    assert {row["fault"] for row in rows if row["times"]} == {
        fault for fault in fault_names() if any(part in fault for part in only)
    }
    for column in BREACHES:
        assert [row[column] for row in rows] == [0] * len(rows), rows
    assert whole["times"] == 4
    assert whole["acked"] > 0
    assert whole["events"] > 0
    assert done.stderr.count("healed in") == 4
    assert marked(mark) == []

"""Enrichers are found by their names in the settings; a name that will not do is one line that says which."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetcast import enrich
from fleetcast.enrich import belts, doors, motion, tyres
from fleetcast.errors import Unusable
from fleetcast.settings import Settings

RULES = """
def enrich(state, packet):
    return state.with_signals({"rule": 1}, packet.sent_at)

def another(state, packet):
    return state

number = 7
"""


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of somebody's own rules."""
    (tmp_path / "rules_of_a_test.py").write_text(RULES)
    (tmp_path / "broken_rules_of_a_test.py").write_text("raise ZeroDivisionError('at import')")
    monkeypatch.syspath_prepend(tmp_path)
    yield "rules_of_a_test"
    sys.modules.pop("rules_of_a_test", None)


def test_those_of_the_settings_in_their_order() -> None:
    loaded = enrich.load(Settings().enrichers)
    assert [one.enrich for one in loaded] == [motion.enrich, tyres.enrich, belts.enrich, doors.enrich]
    assert [one.name for one in loaded] == list(Settings().enrichers)


def test_ones_own(rules: str) -> None:
    module, function = enrich.load([rules, f"{rules}:another"])
    assert module.name == rules
    assert module.enrich.__name__ == "enrich"
    assert function.name == f"{rules}:another"
    assert function.enrich.__name__ == "another"


def test_none() -> None:
    assert enrich.load([]) == ()


@pytest.mark.parametrize(
    "name",
    [
        "no_such_module",
        "{rules}:missing",
        "{rules}:number",
        "broken_{rules}",
        "",
        ":enrich",
        "{rules}.deeper",
        ".relative",
    ],
)
def test_a_name_that_will_not_do_is_named(rules: str, name: str) -> None:
    name = name.format(rules=rules)
    with pytest.raises(Unusable) as unusable:
        enrich.load(["fleetcast.enrich.motion", name])
    assert str(unusable.value).startswith(f"enrichers: {name} ")
    assert "\n" not in str(unusable.value)

"""The mutants do not rot: each diff applies to the tree and says what it breaks; `tests.mutants.run` tries them."""

import subprocess
from pathlib import Path

import pytest

from fleetcast.conform import suite
from tests.mutants import conform
from tests.mutants.run import HERE, MUTANTS, TREE

DIFFS = sorted(HERE.glob("*.diff"))


@pytest.mark.parametrize("diff", DIFFS, ids=lambda diff: diff.stem)
def test_each_mutant_applies_to_the_tree_and_says_what_it_breaks(diff: Path) -> None:
    first, second, *_ = diff.read_text().splitlines()
    assert first.endswith(".")
    assert second == ""
    check = ["git", "apply", "--check", "--include=fleetcast/*", str(diff)]
    done = subprocess.run(check, cwd=TREE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"make it anew: {done.stderr}"


def test_the_mutants_that_conform_must_find_are_there() -> None:
    assert set(conform.MUTANTS) - set(MUTANTS) == conform.ONLY
    assert set(conform.MUTANTS.values()) <= {name for name, _, _ in suite.checks()}


def test_each_mutant_has_a_proof_that_finds_it() -> None:
    assert {diff.stem for diff in DIFFS} == set(MUTANTS) | conform.ONLY

"""Each partition has one owner whoever is there, and a member that comes or goes moves only its share."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.members import Members, owned, owners

NAMES = st.text(min_size=1, max_size=8)
GROUPS = st.sets(NAMES, min_size=1, max_size=8)
TIMEOUT = 3.0


class HandClock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


@settings(deadline=None)
@given(GROUPS, st.integers(1, 64))
def test_each_partition_has_exactly_one_owner(members: set[str], partitions: int) -> None:
    shares = [owned(member, partitions, members) for member in members]
    assert sorted(number for share in shares for number in share) == list(range(partitions))


@settings(deadline=None)
@given(GROUPS, NAMES, st.integers(1, 64))
def test_shares_differ_by_one_at_most(members: set[str], name: str, partitions: int) -> None:
    shares = [len(owned(member, partitions, members | {name})) for member in members | {name}]
    assert max(shares) - min(shares) <= 1


@settings(deadline=None)
@given(GROUPS, st.integers(1, 64), st.randoms(use_true_random=False))
def test_everybody_computes_the_same_whatever_the_order(
    members: set[str], partitions: int, random: object
) -> None:
    shuffled = sorted(members, key=lambda member: hash((member, random)))
    assert owners(partitions, frozenset(shuffled)) == owners(partitions, frozenset(members))


@pytest.mark.parametrize("partitions", [16, 64, 256])
def test_who_comes_or_goes_moves_little_more_than_its_share(partitions: int) -> None:
    """On average over many sets: the equal shares cost a few moves among the others."""
    moved = share = 0
    for trial in range(50):
        members = frozenset(f"consume-{trial}-{number}" for number in range(4))
        before, after = owners(partitions, members), owners(partitions, members | {"new"})
        moved += sum(one != other for one, other in zip(before, after, strict=True))
        share += after.count("new")
    assert share <= moved < 1.7 * share


def test_one_alone_owns_all() -> None:
    assert owned("me", 64, []) == frozenset(range(64))
    assert owned("me", 64, ["me"]) == frozenset(range(64))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.just("heard") | st.just("leaving"), st.sampled_from("abcm"))
        | st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0, TIMEOUT, 5.0])),
        max_size=30,
    )
)
def test_who_is_there(steps: list[tuple[str, str | float]]) -> None:
    """By a model: alive is who was heard within the timeout and did not leave; each change is told once."""
    clock, changes = HandClock(), list[frozenset[str]]()
    members = Members("m", clock, TIMEOUT, lambda: changes.append(members.names))
    alive: dict[str, float] = {}
    for what, which in steps:
        told, before = len(changes), frozenset(alive)
        if isinstance(which, float):
            clock.time += which
            members.expire()
            alive = {name: when for name, when in alive.items() if clock.time - when <= TIMEOUT}
        else:
            news = members.heard(which, leaving=what == "leaving")
            if which != "m" and what == "heard":
                assert news == (which not in alive)
                alive[which] = clock.time
            elif which != "m":
                assert not news
                alive.pop(which, None)
        assert members.names == {"m", *alive}
        assert changes[told:] == ([members.names] if frozenset(alive) != before else [])


@pytest.mark.parametrize("leaving", [False, True])
def test_ones_own_word_is_no_news(leaving: bool) -> None:
    def never() -> None:
        raise AssertionError("nothing changed")

    members = Members("me", HandClock(), TIMEOUT, never)
    assert not members.heard("me", leaving=leaving)
    assert members.names == {"me"}

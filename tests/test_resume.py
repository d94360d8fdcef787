"""Whoever comes back gets every update once and in order, or is told; and is told only when the window would not do."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.packet import Signal
from fleetcast.resume import EXPIRED, FOREIGN, Ahead, Replay, Reset, event_id, resume, version_of
from fleetcast.state import State
from fleetcast.update import Snapshot, Update, patched

EPOCH = "0123456789abcdef"
EPOCHS = st.text("0123456789abcdef", min_size=1, max_size=32)


class History:
    """A view's whole chain. Versions may jump: not every packet changes every view."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.versions = [0, *accumulate(steps)]
        self.updates = [
            Update("car", version, prev, f"t{version}", {"n": Signal(version, "t")})
            for prev, version in zip(self.versions, self.versions[1:], strict=False)
        ]
        self.state = State("car", self.versions[-1])

    def missed_by(self, version: int) -> list[Update]:
        return [update for update in self.updates if update.version > version]


HISTORIES = st.lists(st.integers(1, 3), max_size=12).map(History)


@settings(deadline=None)
@given(HISTORIES, st.data())
def test_never_a_gap_never_twice_and_a_reset_only_if_it_must_be(
    history: History, data: st.DataObject
) -> None:
    """The phone was at any version of the chain; the window has kept any number of the newest updates."""
    at = data.draw(st.sampled_from(history.versions), "the phone's version")
    kept = data.draw(st.integers(0, len(history.updates)), "updates retained")
    leader = data.draw(st.booleans())
    window = history.updates[len(history.updates) - kept :]
    if data.draw(st.booleans(), "read from the version on"):
        window = [update for update in window if update.version > at]
    found = resume(EPOCH, event_id(EPOCH, at), history.state, window, leader=leader)
    missed = history.missed_by(at)
    if len(missed) <= kept:
        assert found == Replay(missed, history.state.version)
        view = Snapshot("car", at, "", {})
        for update in found.updates:
            view = patched(view, update)  # raises if it does not follow
        assert view.version == history.state.version
    else:
        assert found == Reset(EXPIRED, event_id(EPOCH, at), history.state.version)


@settings(deadline=None)
@given(HISTORIES, st.integers(0, 40), st.data())
def test_a_replay_is_a_chain_whatever_was_retained(history: History, at: int, data: st.DataObject) -> None:
    """Any part of the window may be gone, in its middle too, and the id may name a version that this view never had."""
    window = [update for update in history.updates if data.draw(st.booleans())]
    found = resume(EPOCH, event_id(EPOCH, at), history.state, window, leader=True)
    if isinstance(found, Replay):
        assert found.upto == history.state.version
        versions = [at, *(update.version for update in found.updates)]
        assert [update.prev for update in found.updates] == versions[:-1]
        assert versions[-1] == history.state.version
        assert [update.version for update in found.updates] == [
            update.version for update in history.missed_by(at)
        ]
    else:
        assert isinstance(found, Reset)
        assert found.to == history.state.version


@given(HISTORIES)
def test_who_is_there_gets_nothing_even_if_nothing_was_retained(history: History) -> None:
    last = event_id(EPOCH, history.state.version)
    assert resume(EPOCH, last, history.state, [], leader=False) == Replay([], history.state.version)


def test_the_last_update_seen_need_not_be_retained() -> None:
    history = History([1, 1, 1, 1])
    found = resume(EPOCH, event_id(EPOCH, 2), history.state, history.updates[2:], leader=False)
    assert found == Replay(history.updates[2:], 4)


@settings(deadline=None)
@given(HISTORIES, st.data())
def test_updates_newer_than_the_state_read_are_left_to_the_channel(
    history: History, data: st.DataObject
) -> None:
    """They come anyway; sent here as well, with an older `prev-id`, they would come twice."""
    upto = data.draw(st.sampled_from(history.versions))
    at = data.draw(st.sampled_from([version for version in history.versions if version <= upto]))
    found = resume(EPOCH, event_id(EPOCH, at), State("car", upto), history.updates, leader=False)
    expected = [update for update in history.updates if at < update.version <= upto]
    assert found == Replay(expected, upto)


@given(HISTORIES, st.integers(1, 10**9))
def test_who_is_ahead_is_not_reset_before_the_leader_was_asked(history: History, more: int) -> None:
    last = event_id(EPOCH, history.state.version + more)
    assert resume(EPOCH, last, history.state, history.updates, leader=False) == Ahead()
    assert resume(EPOCH, last, history.state, history.updates, leader=True) == Reset(
        FOREIGN, last, history.state.version
    )


@given(HISTORIES, EPOCHS, st.integers(0, 20), st.booleans())
def test_another_epoch_is_foreign(history: History, epoch: str, version: int, leader: bool) -> None:
    last = event_id(epoch, version)
    found = resume(EPOCH, last, history.state, history.updates, leader=leader)
    if epoch != EPOCH:
        assert found == Reset(FOREIGN, last, history.state.version)


@given(EPOCHS, st.integers(0, 10**16 - 1))
def test_ids_read_back(epoch: str, version: int) -> None:
    assert version_of(epoch, event_id(epoch, version)) == version


@settings(max_examples=300)
@given(
    EPOCHS,
    st.integers(0, 99),
    st.text(max_size=12)
    | st.text("0123456789abcdef-+ \n\r\0٣", max_size=12)
    | st.from_regex(r"[0-9a-f]{1,3}-[0-9]{1,17}"),
)
def test_only_what_we_wrote_is_an_id(epoch: str, version: int, text: str) -> None:
    """Whatever is read as a version is written as exactly that text: no second spelling of an id passes."""
    ours = event_id(epoch, version)
    for forged in (text, f"{epoch}-{text}", f"{epoch}{text}{version}", ours + text, text + ours):
        found = version_of(epoch, forged)
        assert found is None or event_id(epoch, found) == forged


@pytest.mark.parametrize(
    "forged",
    [
        "",
        "-",
        "-1",
        "1",
        EPOCH,
        f"{EPOCH}-",
        f"{EPOCH}--1",
        f"{EPOCH}-+1",
        f"{EPOCH}-01",
        f"{EPOCH}-1.0",
        f"{EPOCH}-1_0",
        f"{EPOCH}-٣",
        f"{EPOCH}-1\n",
        f"\n{EPOCH}-1",
        f" {EPOCH}-1",
        f"{EPOCH}-1 ",
        f"{EPOCH}-1\0",
        f"{EPOCH}-{'9' * 17}",
        f"{EPOCH}-{'9' * 5000}",
        f"{EPOCH.upper()}-1",
        f'{EPOCH}-1"; channel=v/other/all/',
    ],
)
def test_forged_ids_are_foreign(forged: str) -> None:
    history = History([1, 1])
    for leader in (False, True):
        found = resume(EPOCH, forged, history.state, history.updates, leader=leader)
        assert found == Reset(FOREIGN, forged, 2)


def test_a_vehicle_that_never_sent() -> None:
    empty = State("car")
    assert resume(EPOCH, event_id(EPOCH, 0), empty, [], leader=False) == Replay([], 0)
    assert resume(EPOCH, event_id(EPOCH, 1), empty, [], leader=True) == Reset(FOREIGN, f"{EPOCH}-1", 0)


# Lives: a vehicle that was forgotten begins anew


LIVES = st.sampled_from(["", "0a1b2c3d", "ffffffff", "00000000"])


@settings(deadline=None)
@given(HISTORIES, LIVES, LIVES, st.integers(0, 40), st.booleans())
def test_an_id_of_another_life_is_never_taken_for_one_of_this(
    history: History, before: str, now: str, version: int, leader: bool
) -> None:
    """Its version may be any: below this life's, the same, or above. Nobody gets updates onto a state of before."""
    state = msgspec.structs.replace(history.state, life=now)
    last = event_id(EPOCH, version, before)
    found = resume(EPOCH, last, state, history.updates, leader=leader)
    if version and before != now:
        assert found == (Reset(FOREIGN, last, state.version) if leader else Ahead())
    else:
        without = resume(EPOCH, event_id(EPOCH, version), history.state, history.updates, leader=leader)
        if isinstance(without, Reset):
            without = Reset(without.reason, last, without.to)
        assert found == without, "a life of one's own changes nothing"


@given(HISTORIES, LIVES)
def test_who_has_the_empty_view_may_follow_any_life(history: History, life: str) -> None:
    state = msgspec.structs.replace(history.state, life=life)
    last = event_id(EPOCH, 0, "whatever")
    assert last == f"{EPOCH}-0"
    assert resume(EPOCH, last, state, history.updates, leader=False) == Replay(history.updates, state.version)


@given(EPOCHS, LIVES, st.integers(0, 10**16 - 1))
def test_ids_of_lives_read_back(epoch: str, life: str, version: int) -> None:
    assert version_of(epoch, event_id(epoch, version, life)) == version


@pytest.mark.parametrize(
    "forged",
    [
        f"{EPOCH}.-1",
        f"{EPOCH}.0a1b2c3d-0",
        f"{EPOCH}.0a1b2c3-1",
        f"{EPOCH}.0a1b2c3d.0a1b2c3d-1",
        f"{EPOCH}.0A1B2C3D-1",
    ],
)
def test_what_looks_like_a_life_is_none(forged: str) -> None:
    history = History([1, 1])
    state = msgspec.structs.replace(history.state, life="0a1b2c3d")
    assert resume(EPOCH, forged, state, history.updates, leader=True) == Reset(FOREIGN, forged, 2)

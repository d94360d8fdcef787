"""A view's phones get every update that touches it, once and in order, with its signals alone; whatever else happens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from fleetcast import signals
from fleetcast.errors import Unusable
from fleetcast.packet import Packet, Signal
from fleetcast.resume import EXPIRED, FOREIGN, Ahead, Replay, Reset, event_id, resume, version_of
from fleetcast.settings import Settings
from fleetcast.state import State, apply
from fleetcast.update import Update, diff, patched, snapshot
from fleetcast.views import EVERYTHING, View, Views

EPOCH = "ab12"
DEFINED = ("low: A.* B.X", "deep: **.Z", "one: C", "none: Never.**")
VIEWS = Views(DEFINED)
PATHS = ("A.X", "A.Y", "B.X", "B.Y", "C", "C.Z", "D.E.Z", "A.Z")
LEVELS = st.sampled_from(["a", "b", "ab", "", "*"])


def globbed(glob: str, path: str) -> bool:
    """As a regular expression says it."""
    levels = [
        "(?:[^.]*[.])*" if level == "**" else r"[^.]*[.]" if level == "*" else re.escape(level) + "[.]"
        for level in glob.split(".")
    ]
    return re.fullmatch("".join(levels), path + ".") is not None


# Definitions


@examples(max_examples=400)
@given(
    st.lists(st.one_of(LEVELS.filter(bool), st.sampled_from(["*", "**"])), min_size=1, max_size=5),
    st.lists(LEVELS, min_size=1, max_size=6),
)
def test_a_glob_covers_what_it_says(glob: list[str], path: list[str]) -> None:
    text = ".".join(glob)
    assert View("any", [text]).covers(".".join(path)) is globbed(text, ".".join(path))


@pytest.mark.parametrize(
    ("glob", "path", "covered"),
    [
        ("Vehicle.Speed", "Vehicle.Speed", True),
        ("Vehicle.Speed", "Vehicle.Speed.Limit", False),
        ("Vehicle.*", "Vehicle.Speed", True),
        ("Vehicle.*", "Vehicle.Cabin.Door", False),
        ("Vehicle.**", "Vehicle.Cabin.Door.Row1", True),
        ("Vehicle.**", "Vehicles.Speed", False),
        ("**.IsOpen", "Vehicle.Cabin.Door.Row1.IsOpen", True),
        ("**", "anything at all", True),
        # Where the car is: only if it is named.
        ("**", "Vehicle.CurrentLocation.Latitude", False),
        ("Vehicle.**", "Vehicle.CurrentLocation.Latitude", False),
        ("Vehicle.*.Latitude", "Vehicle.CurrentLocation.Latitude", False),
        ("Vehicle.*", "Vehicle.CurrentLocation", False),
        ("**.Latitude", "Vehicle.CurrentLocation.Latitude", False),
        ("Vehicle.CurrentLocation.**", "Vehicle.CurrentLocation.Latitude", True),
        ("Vehicle.CurrentLocation.*", "Vehicle.CurrentLocation.Latitude", True),
        ("Vehicle.CurrentLocation.Latitude", "Vehicle.CurrentLocation.Latitude", True),
        ("**", "Vehicle.CurrentLocations", True),
    ],
)
def test_globs_by_example(glob: str, path: str, covered: bool) -> None:
    assert View("any", [glob]).covers(path) is covered


def test_a_path_made_to_be_slow_is_not() -> None:
    """Vehicles choose paths: 256 characters, here of as many levels, against globs that match in countless ways."""
    glob = ".".join(["**", "a"] * 20 + ["b"])
    assert not View("any", [glob]).covers(".".join("a" * 128))


def test_the_views_that_are_there_without_settings() -> None:
    views = Views(Settings().views).named
    assert list(views) == ["all", "summary", "tyres", "security", "location"]

    def of(path: str) -> set[str]:
        return {name for name, view in views.items() if view.covers(path)}

    assert of(signals.SPEED) == {"all", "summary"}
    assert of(signals.pressure("Row1.Left")) == {"all", "tyres"}
    assert of(signals.TYRES_LOW) == {"all", "summary", "tyres"}
    assert of("Vehicle.Cabin.Door.Row1.DriverSide.IsLocked") == {"all", "security"}
    assert of("Vehicle.CurrentLocation.Latitude") == {"all", "location"}
    assert of("Vehicle.VehicleIdentification.VIN") == {"all"}
    assert {path for path in (entry.path for entry in signals.CATALOGUE) if of(path) == {"all"}} == {
        *(signals.belted(seat) for seat in signals.SEATS),
        *(signals.occupancy(seat) for seat in signals.SEATS),
    }


@pytest.mark.parametrize(
    ("definitions", "said"),
    [
        (["tyres Vehicle.**"], "views: 'tyres Vehicle.**' is not `name: glob glob …`"),
        (["Tyres: Vehicle.**"], "with a name of a-z"),
        ([f"{'a' * 21}: X"], "with a name of a-z"),
        ([": X"], "with a name of a-z"),
        (["tyres:"], "views: tyres has no signals"),
        (["tyres: A..B"], "views: tyres: A..B is not a dotted path"),
        (["tyres: A.B*"], "views: tyres: A.B* is not a dotted path"),
        (["tyres: .A"], "views: tyres: .A is not a dotted path"),
        (["a: X", "b: Y", "a: Z"], "views: a is there twice"),
        (["all: X"], "views: all is every signal, always"),
    ],
)
def test_a_bad_definition_is_one_line(definitions: list[str], said: str) -> None:
    with pytest.raises(Unusable, match=re.escape(said)) as refused:
        Views(definitions)
    assert "\n" not in str(refused.value)
    with pytest.raises(Unusable):
        Settings(views=tuple(definitions)).checked()


def test_a_key_is_of_the_name_and_of_what_it_means() -> None:
    def key(text: str) -> str:
        return list(Views([text]).named.values())[1].key

    assert key("a: X Y") == key("a:  Y X X") != key("a: X")
    assert key("a: X") != key("b: X")
    assert version_of(EPOCH, event_id(EPOCH, 7, "00000000", key("a: X")), key("a: X")) == 7
    assert EVERYTHING.key == ""


# Chains


class History:
    """A vehicle as consume processes with these views, one after the other, have made it."""

    def __init__(self) -> None:
        self.states = [State("car")]
        self.updates: list[Update] = []

    def drive(self, values: dict[str, int | None], views: Views = VIEWS) -> None:
        """A packet that sets these, and takes those away that are None (as an enricher may)."""
        before = self.states[-1]
        n = len(self.states)
        there = {path: Signal(value, f"t{n}") for path, value in values.items() if value is not None}
        packet = Packet("car", 1, n, f"t{n}", there)
        after = apply(before, packet, "stream", n, f"s{n}", [])
        kept = {p: s for p, s in after.signals.items() if p not in values or values[p] is not None}
        after = msgspec.structs.replace(after, signals=kept)
        after, update = views.chained(before, after, diff(before, after))
        # As they are stored and read.
        self.states.append(msgspec.json.decode(msgspec.json.encode(after), type=State))
        self.updates.append(msgspec.json.decode(msgspec.json.encode(update), type=Update))


CHANGES = st.dictionaries(st.sampled_from(PATHS), st.none() | st.integers(0, 2), max_size=4)
DRIVES = st.lists(CHANGES, max_size=12)


def history(drives: Sequence[dict[str, int | None]]) -> History:
    made = History()
    for values in drives:
        made.drive(values)
    return made


def filtered(state: State, view: View) -> dict[str, Signal]:
    return {path: signal for path, signal in state.signals.items() if view.covers(path)}


@given(DRIVES)
def test_a_views_updates_come_to_what_all_updates_come_to_filtered(drives: list[dict[str, Any]]) -> None:
    made = history(drives)
    for view in VIEWS.named.values():
        shown = view.snapshot(made.states[0])
        for state, update in zip(made.states[1:], made.updates, strict=True):
            if (one := view.of(update)) is not None:
                shown = patched(shown, one)  # raises if it does not follow
                assert one.prevs == {}
                assert all(map(view.covers, one.signals))
                assert one.signals or view is EVERYTHING
            assert shown.signals == filtered(state, view)
            assert shown == view.snapshot(state)


@given(DRIVES)
def test_only_what_changes_one_of_its_signals_touches_a_view(drives: list[dict[str, Any]]) -> None:
    made = history(drives)
    for view in VIEWS.named.values():
        if view is EVERYTHING:
            continue
        touching = [u.version for u in made.updates if any(map(view.covers, u.signals))]
        chain = [one for update in made.updates if (one := view.of(update)) is not None]
        assert [one.version for one in chain] == touching
        assert [one.prev for one in chain] == [0, *touching][: len(touching)]
        assert view.version(made.states[-1]) == [0, *touching][-1]
    names = [view.name for view in VIEWS.touched(made.updates)]
    assert names == ["all", *(n for n, v in VIEWS.named.items() if v.key and v.version(made.states[-1]))]


@given(DRIVES)
def test_all_is_the_state_as_it_is(drives: list[dict[str, Any]]) -> None:
    made = history(drives)
    assert EVERYTHING.snapshot(made.states[-1]) == snapshot(made.states[-1])
    bare = [msgspec.structs.replace(update, prevs={}) for update in made.updates]
    assert [EVERYTHING.of(update) for update in made.updates] == bare
    assert b"prevs" not in msgspec.json.encode([EVERYTHING.of(update) for update in made.updates])


def test_what_touches_no_view_costs_no_new_map() -> None:
    made = history([{"A.X": 1, "C": 1}])
    before = made.states[-1]
    after = msgspec.structs.replace(before, version=2, signals={**before.signals, "Other": Signal(1, "t")})
    kept, update = VIEWS.chained(before, after, diff(before, after))
    assert kept is after
    assert kept.views is before.views
    assert update.prevs == {}


# Coming back


@examples(deadline=None)
@given(DRIVES, st.sampled_from(list(VIEWS.named)), st.data())
def test_who_comes_back_to_a_view_misses_nothing_and_is_reset_only_if_it_must_be(
    drives: list[dict[str, Any]], name: str, data: st.DataObject
) -> None:
    made, view = history(drives), VIEWS.named[name]
    state = made.states[-1]
    chain = [one for update in made.updates if (one := view.of(update)) is not None]
    at = data.draw(st.sampled_from([0, *(update.version for update in chain)]), "the phone's version")
    kept = data.draw(st.integers(0, len(made.updates)), "updates retained")
    window = made.updates[len(made.updates) - kept :]
    last = event_id(EPOCH, at, state.life, view.key)
    found = resume(EPOCH, last, state, window, leader=data.draw(st.booleans()), view=view)
    missed = [update for update in chain if update.version > at]
    if all(update.version > len(made.updates) - kept for update in missed):
        assert found == Replay(missed, view.version(state))
    else:
        assert found == Reset(EXPIRED, last, view.version(state))


@given(DRIVES, st.sampled_from(list(VIEWS.named)), st.sampled_from(list(VIEWS.named)), st.integers(0, 12))
def test_an_id_of_another_view_is_foreign(
    drives: list[dict[str, Any]], name: str, other: str, version: int
) -> None:
    assume(name != other)
    made = history(drives)
    view, state = VIEWS.named[name], made.states[-1]
    last = event_id(EPOCH, version, state.life, VIEWS.named[other].key)
    found = resume(EPOCH, last, state, made.updates, leader=True, view=view)
    assert found == Reset(FOREIGN, last, view.version(state))


def test_who_is_ahead_of_a_view_is_not_reset_before_the_leader_was_asked() -> None:
    made, view = history([{"A.X": 1}, {"B.Y": 1}]), VIEWS.named["low"]
    last = event_id(EPOCH, 2, made.states[-1].life, view.key)
    assert resume(EPOCH, last, made.states[-1], made.updates, leader=False, view=view) == Ahead()
    assert resume(EPOCH, last, made.states[-1], made.updates, leader=True, view=view) == Reset(
        FOREIGN, last, 1
    )


# Deploys that change the views

OTHERWISE = Views(["low: A.* B.X D.**", "deep: **.Z"])
BEFORE = Views([])


def test_a_view_defined_otherwise_begins_anew_with_a_reset() -> None:
    made = history([{"A.X": 1}, {"A.X": 2}])
    old, new = VIEWS.named["low"], OTHERWISE.named["low"]
    last = event_id(EPOCH, 2, made.states[-1].life, old.key)
    found = resume(EPOCH, last, made.states[-1], made.updates, leader=False, view=new)
    assert found == Reset(FOREIGN, last, 2)
    made.drive({"D.E.Z": 1}, OTHERWISE)
    assert set(made.states[-1].views) == {view.key for view in OTHERWISE.named.values() if view.key}
    assert new.of(made.updates[-1]) == Update("car", 3, 2, "s3", {"D.E.Z": Signal(1, "t3")})
    # What both define alike goes on.
    assert OTHERWISE.named["deep"].of(made.updates[-1]) == Update(
        "car", 3, 0, "s3", {"D.E.Z": Signal(1, "t3")}
    )


@examples(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(CHANGES, st.sampled_from([VIEWS, OTHERWISE, BEFORE])), max_size=14),
    st.sampled_from(["low", "deep", "one"]),
    st.data(),
)
def test_no_update_is_passed_over_whichever_process_made_it(
    drives: list[tuple[dict[str, Any], Views]], name: str, data: st.DataObject
) -> None:
    """Consume processes with other views take turns, as while a deploy or its rollback goes on. A phone looks at any moment."""
    made, view = History(), VIEWS.named[name]
    shown = None
    for values, views in [({}, VIEWS), *drives]:
        made.drive(values, views)
        state = made.states[-1]
        if shown is not None and data.draw(st.booleans(), "it comes back"):
            last = event_id(EPOCH, shown.version, state.life, view.key)
            found = resume(EPOCH, last, state, made.updates, leader=True, view=view)
            if isinstance(found, Replay):
                for update in found.updates:
                    shown = patched(shown, update)
                assert shown.signals == filtered(state, view)
            else:
                assert any(views is not VIEWS for _, views in drives), "a reset for nothing"
                shown = None
        if shown is None and data.draw(st.booleans(), "it begins"):
            shown = view.snapshot(state)


def test_updates_and_states_of_before_there_were_views_still_decode() -> None:
    stored = b'{"vehicle":"car","version":5,"prev":4,"updated_at":"t","signals":{"A.X":{"value":1,"at":"t"}}}'
    update = msgspec.json.decode(stored, type=Update)
    assert EVERYTHING.of(update) is update
    assert msgspec.json.encode(update) == stored
    assert VIEWS.named["low"].of(update) is None
    state = msgspec.json.decode(
        b'{"vehicle":"car","version":5,"updated_at":"t","signals":{"A.X":{"value":1,"at":"t"}}}', type=State
    )
    low = VIEWS.named["low"]
    assert low.version(state) == 5
    assert low.snapshot(state).signals == state.signals
    last = event_id(EPOCH, 4, "", low.key)
    assert resume(EPOCH, last, state, [update], leader=True, view=low) == Reset(EXPIRED, last, 5)

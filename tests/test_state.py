"""A packet changes a state once, a late one never turns it back, and no enricher can break what phones rely on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.errors import Reject
from fleetcast.packet import Packet, Signal
from fleetcast.state import Named, Origin, State, apply, stored_already

REMEMBERED = 63

EMPTY = State("car")
IDS = st.tuples(st.integers(1, 3), st.integers(1, REMEMBERED))


def at(second: int) -> str:
    return f"2026-11-23T10:{second // 60:02d}:{second % 60:02d}.000Z"


def packet(boot: int, seq: int, signals: dict[str, Signal] | None = None) -> Packet:
    sent = at((boot * 100 + seq) % 3600)
    if signals is None:
        signals = {"last": Signal(f"{boot}/{seq}", sent), f"own.{boot}.{seq}": Signal(seq, sent)}
    return Packet("car", boot, seq, sent, signals)


def applied(packets: Iterable[Packet], enrichers: tuple[Named, ...] = (), state: State = EMPTY) -> State:
    for position, one in enumerate(packets, state.position + 1):
        state = apply(state, one, "stream", position, f"t{position}", enrichers)
    return state


def counting(state: State, packet: Packet) -> State:
    """An enricher that shows how often it ran."""
    count = int(state.recall("count").get("n", 0)) + 1
    return state.remember("count", {"n": count}).with_signals({"count": count}, packet.sent_at)


COUNTING = Named("count", counting)


# Once


@settings(deadline=None)
@given(st.lists(st.integers(1, REMEMBERED), min_size=1, max_size=60))
def test_each_packet_once_in_any_order_and_however_often(seqs: list[int]) -> None:
    """Within one start of the sender, and within the window of packets that a state remembers."""
    state = applied(packet(1, seq) for seq in seqs)
    assert state.version == len(set(seqs))
    assert (state.boot, state.seq) == (1, max(seqs))
    assert state.value("last") == f"1/{max(seqs)}"
    assert {path for path in state.signals if path != "last"} == {f"own.1.{seq}" for seq in seqs}
    for seq in range(1, 2 * REMEMBERED):
        if seq > max(seqs) or max(seqs) - seq <= REMEMBERED:
            assert state.includes(packet(1, seq)) == (seq in seqs)


@settings(deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=20), st.data())
def test_a_repeat_gives_back_the_same_state(seqs: list[int], data: st.DataObject) -> None:
    state = applied(packet(1, seq) for seq in seqs)
    again = data.draw(st.sampled_from([seq for seq in seqs if max(seqs) - seq <= REMEMBERED]))
    assert apply(state, packet(1, again), "stream", 999, "t999", (COUNTING,)) is state


@settings(deadline=None)
@given(st.lists(IDS, min_size=1, max_size=60), st.booleans())
def test_what_is_remembered_fits_what_is_stored(ids: list[tuple[int, int]], enriched: bool) -> None:
    state = applied((packet(*one) for one in ids), (COUNTING,) if enriched else ())
    assert state.seen < 2**63
    assert msgspec.json.decode(msgspec.json.encode(state), type=State) == state


def test_the_window_slides_with_the_newest() -> None:
    state = applied(packet(1, seq) for seq in (1, 2, 60, 64))
    assert state.includes(packet(1, 1))  # exactly at its edge
    state = applied([packet(1, 65)], state=state)
    assert not state.includes(packet(1, 1))  # too long ago to tell
    assert state.includes(packet(1, 2))
    assert not state.includes(packet(1, 3))
    state = applied([packet(1, 10**12)], state=state)
    assert [seq for seq in range(10**12 - 100, 10**12 + 1) if state.includes(packet(1, seq))] == [10**12]


def test_the_same_seq_after_a_restart_is_another_packet() -> None:
    state = applied([packet(1, 1), packet(1, 2), packet(2, 1)])
    assert (state.version, state.boot, state.seq) == (3, 2, 1)
    assert not state.includes(packet(2, 2))
    assert applied([packet(2, 2)], state=state).value("last") == "2/2"


def test_a_boot_of_zero_is_a_boot_like_any() -> None:
    state = applied([packet(0, 3), packet(0, 1), packet(0, 3), packet(0, 2)])
    assert (state.version, state.boot, state.seq) == (3, 0, 3)


@given(st.integers(1, 10**9), st.integers(-5, 5))
def test_a_redelivery_is_known_by_its_place(position: int, more: int) -> None:
    state = State("car", 1, incarnation="stream", position=position)
    assert stored_already(state, "stream", position + more) == (more <= 0)
    assert not stored_already(state, "another", position + more)  # its positions say nothing here
    assert not stored_already(State("car"), "stream", 1)


# Order


@settings(deadline=None)
@given(st.lists(IDS, min_size=1, max_size=40))
def test_versions_count_applied_packets(ids: list[tuple[int, int]]) -> None:
    state = State("car")
    for position, one in enumerate(ids, 1):
        after = apply(state, packet(*one), "stream", position, f"t{position}", ())
        if after is state:
            continue
        assert after.version == state.version + 1
        assert (after.incarnation, after.position, after.updated_at) == ("stream", position, f"t{position}")
        assert (after.boot, after.seq) == max((state.boot, state.seq), one)
        state = after


@settings(deadline=None)
@given(st.permutations(range(1, 12)), st.data())
def test_a_late_packet_never_turns_a_signal_back(order: list[int], data: st.DataObject) -> None:
    """Observed in the order of their seq, arriving in any: what is live is always the newest observation that came."""
    carried = {seq: data.draw(st.sets(st.sampled_from("abc"))) for seq in order}
    state, newest = State("car"), dict[str, int]()
    for position, seq in enumerate(order, 1):
        signals = {path: Signal(seq, at(seq)) for path in carried[seq]}
        state = apply(state, packet(1, seq, signals), "stream", position, "t", ())
        newest |= {path: max(seq, newest.get(path, 0)) for path in carried[seq]}
        assert {path: signal.value for path, signal in state.signals.items()} == newest
    assert state.version == len(order)


def test_a_late_packet_fills_in_what_was_not_known() -> None:
    state = applied([packet(1, 5, {"a": Signal(5, at(5))})])
    late = packet(1, 3, {"a": Signal(3, at(3)), "b": Signal(3, at(3))})
    state = applied([late], (COUNTING,), state)
    assert (state.value("a"), state.value("b"), state.version, state.seq) == (5, 3, 2, 5)
    assert state.value("count") is None  # enrichers run on what is newer only


def test_a_packet_of_an_earlier_start_is_late() -> None:
    state = applied([packet(2, 1, {"a": Signal("new", at(50))}), packet(1, 99, {"a": Signal("old", at(40))})])
    assert (state.value("a"), state.boot, state.seq, state.version) == ("new", 2, 1, 2)


def test_what_was_observed_earlier_does_not_replace_what_was_observed_later_even_in_a_newer_packet() -> None:
    state = applied([packet(1, 1, {"a": Signal(1, at(50))}), packet(1, 2, {"a": Signal(2, at(10))})])
    assert state.signals["a"] == Signal(1, at(50))
    state = applied([packet(1, 3, {"a": Signal(3, at(50))})], state=state)
    assert state.signals["a"] == Signal(3, at(50))  # of equal times the newer packet's


# Few paths and times, so that packets meet; seqs far apart, so that repeats are beyond what a state remembers.
PLACES = st.tuples(st.integers(0, 2), st.integers(1, 5) | st.integers(60, 70) | st.integers(1000, 1005))
CARRIED = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 4), max_size=4)
CARS = st.dictionaries(PLACES, CARRIED, min_size=1, max_size=12)


def packets_of(car: dict[tuple[int, int], dict[str, int]], *, skewed: bool = False) -> list[Packet]:
    """Each value names its packet."""
    return [
        packet(*place, {path: Signal(f"{place}", at(second), skewed) for path, second in carried.items()})
        for place, carried in car.items()
    ]


def in_any_order(data: st.DataObject, packets: list[Packet]) -> list[Packet]:
    """Each once, and some again."""
    again = data.draw(st.lists(st.sampled_from(packets), max_size=12))
    return data.draw(st.permutations(packets + again))


@settings(deadline=None)
@given(CARS, st.data())
def test_any_permutation_and_duplication_ends_in_the_same_reported_signals(
    car: dict[tuple[int, int], dict[str, int]], data: st.DataObject
) -> None:
    """The greatest (at, boot, seq) of each path, whatever enrichers do besides, and over a store that keeps JSON."""
    due: dict[str, tuple[int, tuple[int, int]]] = {}
    for place, carried in car.items():
        for path, second in carried.items():
            due[path] = max((second, place), due.get(path, (-1, (0, 0))))
    state = EMPTY
    for one in in_any_order(data, packets_of(car)):
        state = applied([one], (COUNTING,), state)
        state = msgspec.json.decode(msgspec.json.encode(state), type=State)
    reported = {path: signal for path, signal in state.signals.items() if path != "count"}
    assert reported == {path: Signal(f"{place}", at(second)) for path, (second, place) in due.items()}


@settings(deadline=None)
@given(CARS, st.data())
def test_no_packet_turns_a_signal_back(
    car: dict[tuple[int, int], dict[str, int]], data: st.DataObject
) -> None:
    places = {f"{place}": place for place in car}
    state, shown = EMPTY, dict[str, tuple[str, tuple[int, int]]]()
    for one in in_any_order(data, packets_of(car)):
        state = applied([one], state=state)
        now = {path: (signal.at, places[str(signal.value)]) for path, signal in state.signals.items()}
        assert all(now[path] >= before for path, before in shown.items())
        shown = now


@settings(deadline=None)
@given(CARS, st.data())
def test_without_a_clock_to_believe_the_count_alone_decides(
    car: dict[tuple[int, int], dict[str, int]], data: st.DataObject
) -> None:
    due: dict[str, tuple[int, int]] = {}
    for place, carried in car.items():
        due |= {path: max(place, due.get(path, (-1, 0))) for path in carried}
    state = applied(in_any_order(data, packets_of(car, skewed=True)))
    assert {path: signal.value for path, signal in state.signals.items()} == {
        path: f"{place}" for path, place in due.items()
    }


def test_a_late_packet_stored_later_does_not_replace_a_newer_one_of_the_same_wrong_clock() -> None:
    """Both have the time of their storing: a late one would seem to be the last observed."""
    newer = packet(1, 2, {"a": Signal(2, at(20), skewed=True)})
    late = packet(1, 1, {"a": Signal(1, at(30), skewed=True), "b": Signal(1, at(30), skewed=True)})
    state = applied([newer, late])
    assert (state.value("a"), state.value("b")) == (2, 1)


def test_the_first_time_that_is_believed_replaces_one_that_was_not() -> None:
    """Though it was observed a moment before the other one was stored."""
    skewed = packet(1, 1, {"a": Signal(1, at(20), skewed=True)})
    right = packet(1, 2, {"a": Signal(2, at(19))})
    assert applied([skewed, right]).signals["a"] == Signal(2, at(19))
    assert applied([right, skewed]).signals["a"] == Signal(2, at(19))


def test_where_signals_came_from_is_kept_only_of_those_that_the_newest_packet_did_not_bring() -> None:
    state = applied([packet(1, 1, {"a": Signal(1, at(1)), "b": Signal(1, at(1))})])
    assert state.origins == {}
    state = applied([packet(1, 2, {"a": Signal(2, at(2))})], state=state)
    assert state.origins == {"b": Origin(1, 1)}
    state = applied([packet(1, 4, {"a": Signal(4, at(4)), "b": Signal(4, at(4))})], state=state)
    assert state.origins == {}
    state = applied([packet(1, 3, {"c": Signal(3, at(3))})], state=state)
    assert state.origins == {"c": Origin(1, 3)}


def test_a_state_of_before_there_were_origins_is_read_and_never_turned_back() -> None:
    kept = (
        b'{"vehicle":"car","version":5,"boot":1,"seq":5,"signals":{"a":{"value":5,"at":"%s"}}}'
        % at(5).encode()
    )
    state = msgspec.json.decode(kept, type=State)
    assert applied([packet(1, 4, {"a": Signal(4, at(5))})], state=state).value("a") == 5
    assert applied([packet(1, 6, {"a": Signal(6, at(5))})], state=state).value("a") == 6
    state = applied([packet(1, 7, {"b": Signal(7, at(7))})], state=state)
    assert state.origins == {"a": Origin(1, 5)}


def test_of_a_path_that_a_car_and_an_enricher_write_the_last_observed_wins_too() -> None:
    def corrected(state: State, packet: Packet) -> State:
        return state.with_signals({"a": "corrected"}, packet.sent_at)

    rules = (Named("corrected", corrected),)
    first = Packet("car", 1, 2, at(20), {"a": Signal(1, at(15))})
    state = applied([first], rules)
    assert state.signals["a"] == Signal("corrected", at(20))
    late = Packet("car", 1, 1, at(10), {"a": Signal(0, at(10))})
    assert applied([late], rules, state).signals["a"] == Signal("corrected", at(20))
    assert (
        applied([Packet("car", 1, 3, at(30), {"a": Signal(3, at(19))})], (), state).value("a") == "corrected"
    )
    assert applied([Packet("car", 1, 3, at(30), {"a": Signal(3, at(30))})], (), state).value("a") == 3


def test_what_derives_from_a_packet_whose_clock_is_not_believed_is_marked_too() -> None:
    def skewed(seq: int, value: int) -> Packet:
        return Packet("car", 1, seq, at(seq), {"a": Signal(value, at(seq), skewed=True)}, skewed=True)

    def derived(state: State, packet: Packet) -> State:
        return state.with_signals({"twice": 2 * (state.number("a") or 0)}, packet.sent_at)

    rules = (Named("derived", derived),)
    state = applied([skewed(1, 4)], rules)
    assert state.signals["twice"] == Signal(8, at(1), skewed=True)
    state = applied([skewed(2, 4)], rules, state)
    assert state.signals["twice"] == Signal(8, at(1), skewed=True)  # as old as its last change
    state = applied([packet(1, 3, {"a": Signal(5, at(103))})], rules, state)
    assert state.signals["twice"] == Signal(10, at(103))


def test_the_state_before_is_left_as_it_was() -> None:
    before = applied([packet(1, 1)], (COUNTING,))
    kept = msgspec.json.encode(before)
    applied([packet(1, 2), packet(1, 3)], (COUNTING,), before)
    assert msgspec.json.encode(before) == kept


# Enrichers


def apply_with(enrich: Callable[[State, Packet], Any], state: State = EMPTY) -> State:
    return apply(state, packet(1, 1), "stream", 7, "t7", (Named("rules:mine", enrich),))


def test_enrichers_run_in_order_and_see_the_packet_in_the_state() -> None:
    def first(state: State, packet: Packet) -> State:
        assert state.value("last") == f"{packet.boot}/{packet.seq}"
        return state.with_signals({"one": 1}, packet.sent_at)

    def second(state: State, packet: Packet) -> State:
        assert state.value("one") == 1
        return state.with_signals({"two": 2}, packet.sent_at)

    state = apply(State("car"), packet(1, 1), "s", 1, "t", (Named("a", first), Named("b", second)))
    assert (state.value("one"), state.value("two")) == (1, 2)


@pytest.mark.parametrize(
    "error", [ValueError("no such gear"), KeyError("gear"), ZeroDivisionError(), RecursionError()]
)
def test_an_enricher_that_raises_rejects_the_packet_by_name(error: Exception) -> None:
    def enrich(state: State, packet: Packet) -> State:
        raise error

    with pytest.raises(Reject) as rejected:
        apply_with(enrich)
    assert "rules:mine" in str(rejected.value)
    assert type(error).__name__ in str(rejected.value)
    assert str(error) in str(rejected.value)


def test_an_enricher_may_reject_in_its_own_words() -> None:
    def enrich(state: State, packet: Packet) -> State:
        raise Reject("a car cannot be that fast")

    with pytest.raises(Reject, match=r"^a car cannot be that fast$"):
        apply_with(enrich)


@pytest.mark.parametrize("returned", [None, {}, "state", 0])
def test_an_enricher_that_returns_something_else_rejects(returned: Any) -> None:
    with pytest.raises(Reject, match=f"rules:mine returned {type(returned).__name__}"):
        apply_with(lambda state, packet: returned)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 99},
        {"vehicle": "another"},
        {"boot": 9, "seq": 9, "seen": 0},
        {"incarnation": "another", "position": 0},
        {"updated_at": "never"},
    ],
)
def test_an_enricher_cannot_touch_what_counts_and_orders(changes: dict[str, Any]) -> None:
    plain = apply_with(lambda state, packet: state)
    touched = apply_with(lambda state, packet: msgspec.structs.replace(state, **changes))
    assert touched == plain


UNREADABLE = {
    "nan": float("nan"),
    "inf": float("inf"),
    "nan in a list": [1.0, float("nan")],
    "null": None,
    "null in a list": [None],
    "object": {"a": 1},
    "list in a list": [[1]],
    "bytes": b"x",
    "set": {1, 2},
    "foreign": object(),
    "endless": 10**4400,
    "half a character": "\ud800",
}


@pytest.mark.parametrize("value", UNREADABLE.values(), ids=UNREADABLE)
def test_an_enricher_cannot_set_what_no_phone_could_read(value: Any) -> None:
    def derived(state: State, packet: Packet) -> State:
        return state.with_signals({"x": value}, packet.sent_at)

    def replaced(state: State, packet: Packet) -> State:
        signals = {**state.signals, "x": Signal(value, packet.sent_at)}
        return msgspec.structs.replace(state, signals=signals)

    for enrich in (derived, replaced):
        with pytest.raises(Reject, match="rules:mine"):
            apply_with(enrich, State("car", 1, signals={"x": Signal(1, at(0))}))


def test_an_enricher_that_writes_in_place_gets_no_further() -> None:
    """It must not, but nothing holds it back: what it wrote is held against the same."""

    def enrich(state: State, packet: Packet) -> State:
        state.signals["x"] = Signal(float("nan"), packet.sent_at)
        return state

    before = State("car", 1, signals={"x": Signal(1, at(0))})
    with pytest.raises(Reject, match="rules:mine"):
        apply_with(enrich, before)
    assert before.value("x") == 1


def test_an_enricher_that_remembers_in_place_gets_no_further() -> None:
    def enrich(state: State, packet: Packet) -> State:
        state.memory["mine"] = {"x": object()}
        return state

    before = State("car", 1, memory={"mine": {"x": 1}})
    with pytest.raises(Reject, match="rules:mine"):
        apply_with(enrich, before)
    assert before.recall("mine") == {"x": 1}


def remembering(state: State, packet: Packet, memory: dict[str, Any]) -> State:
    return state.remember("mine", memory)


@pytest.mark.parametrize("kind", ["foreign", "endless", "half a character"])
def test_an_enricher_cannot_remember_what_cannot_be_kept(kind: str) -> None:
    """It would be found out by the commit, which no packet after it would get past."""
    for memory in ({"x": UNREADABLE[kind]}, {"x": {"y": [UNREADABLE[kind]]}}):
        with pytest.raises(Reject, match="rules:mine"):
            apply_with(partial(remembering, memory=memory))


@pytest.mark.parametrize(
    "memory", [{}, {"n": 4}, {"n": 4, "of an older version": [1]}, {"quite": "another", "n": 0}]
)
def test_what_an_older_version_remembered_is_read(memory: dict[str, Any]) -> None:
    """As it comes out of the store, unknown fields of an older or newer State included."""
    document = json.loads(msgspec.json.encode(State("car", 3, memory={"count": memory})))
    document["of another release"] = {"a": 1}
    kept = msgspec.json.decode(json.dumps(document).encode(), type=State)
    assert applied([packet(1, 1)], (COUNTING,), kept).value("count") == memory.get("n", 0) + 1


def test_memories_are_apart() -> None:
    state = State("car").remember("a", {"x": 1}).remember("b", {"x": 2})
    assert (state.recall("a"), state.recall("b"), state.recall("c")) == ({"x": 1}, {"x": 2}, {})
    assert state.remember("a", {"x": 1}) is state
    assert state.remember("a", {}).recall("b") == {"x": 2}


@pytest.mark.parametrize(("value", "number"), [(1, 1), (2.5, 2.5), (True, None), ("1", None), ([1], None)])
def test_number_is_a_number(value: Any, number: float | None) -> None:
    state = State("car").with_signals({"x": value}, at(1))
    assert state.number("x") == number
    assert state.value("x") == value
    assert state.number("y") is None
    assert state.value("y") is None


def test_a_derived_signal_is_as_old_as_its_last_change() -> None:
    state = State("car").with_signals({"x": 1, "y": False}, at(1))
    assert state.with_signals({"x": 1}, at(2)) is state
    assert state.with_signals({"x": 2}, at(2)).signals["x"] == Signal(2, at(2))
    assert state.with_signals({"y": 0}, at(2)).signals["y"] == Signal(0, at(2))  # false is not 0


def test_a_vehicle_has_one_life_until_it_is_forgotten() -> None:
    first = apply(State("car"), packet(1, 1), "s", 7, "t", [])
    second = apply(first, packet(1, 2), "s", 8, "t", [])
    assert len(first.life) == 8
    assert second.life == first.life
    assert apply(State("car"), packet(1, 1), "s", 9, "t", []).life != first.life, "it begins anew"
    assert apply(State("car"), packet(1, 1), "t", 7, "t", []).life != first.life, "in another queue"


def test_a_state_of_before_there_were_lives_stays_as_it_is() -> None:
    """Its phones' ids have none."""
    old = State("car", version=3, boot=1, seq=3)
    assert apply(old, packet(1, 4), "s", 7, "t", []).life == ""

"""The timers: whatever is heard and whenever one looks, each is said to be quiet and offline when it was, and not else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleetcast.silence import LIVE, OFFLINE, QUIET, UNKEPT, Rule, Silence, Timers, Turn

RULE = Rule(1.5, 10.0)
CARS = ("a", "b", "c")

moments = st.floats(0, 2000, allow_nan=False)


def told(timers: Timers, upto: float, states: dict[str, tuple[str, float]]) -> list[tuple[str, Turn]]:
    """One look, as consume takes it: each that struck is judged by its state, told, and settled."""
    found = []
    for vehicle in timers.struck(upto)[0]:
        status, last = states[vehicle]
        if turn := timers.turn(vehicle, upto, status, last):
            status = turn.status
            states[vehicle] = (status, last)
            found.append((vehicle, turn))
        timers.settled(vehicle, status, last)
    return found


@given(
    looks=st.lists(
        st.tuples(moments, st.lists(st.tuples(st.sampled_from(CARS), moments), max_size=4)), max_size=30
    ),
    every=st.dictionaries(st.sampled_from(CARS), st.sampled_from([0.0, 1.0, 10.0, 60.0, 300.0])),
)
def test_each_is_what_its_last_packet_says_at_every_look(
    looks: list[tuple[float, list[tuple[str, float]]]], every: dict[str, float]
) -> None:
    timers = Timers(RULE, 60.0)
    states: dict[str, tuple[str, float]] = {}
    for upto, packets in sorted(looks, key=lambda look: look[0]):
        for vehicle, stored in packets:
            if stored <= upto and stored > states.get(vehicle, ("", -1.0))[1]:
                timers.heard(vehicle, stored)
                timers.expect(vehicle, every.get(vehicle, 60.0))
                states[vehicle] = (LIVE, stored)
        turns = told(timers, upto, states)
        assert told(timers, upto, states) == []
        for vehicle, turn in turns:
            last, interval = states[vehicle][1], every.get(vehicle, 60.0)
            after = RULE.quiet_after if turn.status == QUIET else RULE.offline_after
            assert turn.since == last + after * interval <= upto
        for vehicle, (status, last) in states.items():
            interval = every.get(vehicle, 60.0)
            silent = upto - last
            if interval == 0:
                assert status == LIVE
            elif status == LIVE:
                assert silent <= RULE.quiet_after * interval + 1e-6
            elif status == QUIET:
                assert (RULE.quiet_after - 1e-6) * interval <= silent + 1e-6
                assert silent <= RULE.offline_after * interval + 1e-6
            else:
                assert silent + 1e-6 >= RULE.offline_after * interval


def test_quiet_then_offline_then_no_timer() -> None:
    timers, states = Timers(RULE, 60.0), {"a": (LIVE, 100.0)}
    assert timers.heard("a", 100.0)
    assert told(timers, 189.9, states) == []
    assert told(timers, 190.0, states) == [("a", Turn(QUIET, 190.0))]
    assert told(timers, 699.9, states) == []
    assert told(timers, 700.0, states) == [("a", Turn(OFFLINE, 700.0))]
    assert "a" not in timers
    assert timers.next() == float("inf")
    assert timers.heard("a", 800.0), "its interval is to be asked for again"


def test_who_was_silent_for_long_is_offline_at_once() -> None:
    timers, states = Timers(RULE, 60.0), {"a": (LIVE, 100.0), "b": (QUIET, 100.0)}
    timers.heard("a", 100.0)
    timers.heard("b", 100.0, QUIET)
    assert sorted(told(timers, 5000.0, states)) == [("a", Turn(OFFLINE, 700.0)), ("b", Turn(OFFLINE, 700.0))]


def test_one_that_comes_back_is_quiet_again_in_time() -> None:
    timers, states = Timers(RULE, 60.0), {"a": (LIVE, 100.0)}
    timers.heard("a", 100.0)
    assert told(timers, 200.0, states)
    timers.heard("a", 210.0)
    states["a"] = (LIVE, 210.0)
    assert told(timers, 299.9, states) == []
    assert told(timers, 300.0, states) == [("a", Turn(QUIET, 300.0))]


def test_a_changed_interval_holds_from_when_it_is_known() -> None:
    timers, states = Timers(RULE, 60.0), {"a": (LIVE, 100.0)}
    timers.heard("a", 100.0)
    timers.expect("a", 10.0)
    assert told(timers, 115.0, states) == [("a", Turn(QUIET, 115.0))]
    timers.heard("a", 120.0)
    states["a"] = (LIVE, 120.0)
    timers.expect("a", 100.0)
    assert told(timers, 269.0, states) == []
    assert told(timers, 270.0, states) == [("a", Turn(QUIET, 270.0))]


def test_an_interval_that_is_known_only_once_it_struck_counts() -> None:
    timers = Timers(RULE, 60.0)
    timers.heard("a", 100.0)
    assert timers.struck(190.0) == (["a"], [])
    timers.expect("a", 600.0)
    assert timers.turn("a", 190.0, LIVE, 100.0) is None
    timers.settled("a", LIVE, 100.0)
    assert timers.struck(999.0) == ([], [])
    assert timers.struck(1000.0) == (["a"], [])


def test_a_newer_packet_of_another_process_is_in_the_state() -> None:
    timers = Timers(RULE, 60.0)
    timers.heard("a", 100.0)
    assert timers.struck(190.0)[0] == ["a"]
    assert timers.turn("a", 190.0, LIVE, 180.0) is None
    timers.settled("a", LIVE, 180.0)
    assert timers.struck(269.0)[0] == []
    assert timers.struck(270.0)[0] == ["a"]


def test_one_without_a_status_is_asked_about_now_and_then_and_forgotten_at_last() -> None:
    timers = Timers(RULE, 0.0)
    timers.heard("a", 100.0)
    assert not timers.kept("a")
    timers.heard("a", 600.0)
    assert timers.struck(100.0 + UNKEPT) == ([], ["a"])
    assert timers.struck(600.0 + UNKEPT) == ([], [])
    assert "a" not in timers


def test_one_that_sends_costs_one_entry_however_often() -> None:
    timers = Timers(RULE, 60.0)
    for number in range(10_000):
        timers.heard("a", float(number))
        timers.struck(float(number))
    assert len(timers._heap) == 1


def test_partitions_of_others_are_forgotten() -> None:
    silence = Silence(RULE, 60.0)
    silence.of(1).heard("a", 100.0)
    silence.of(2).heard("b", 100.0)
    silence.keep({2: 0.0, 3: 0.0})
    assert "a" not in silence.of(1)
    assert "b" in silence.of(2)

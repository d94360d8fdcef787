from fleetcast.tally import Tallies, Tally, total


def test_each_kind_is_counted_for_its_vehicle() -> None:
    tallies = Tallies(10, "2026-11-23T10:00:00.000Z")
    tallies.duplicate("a")
    tallies.duplicate("a")
    tallies.late("a")
    tallies.skewed("b")
    tallies.rejected("b")
    assert tallies.get("a") == Tally(duplicate=2, late=1)
    assert tallies.get("b") == Tally(skewed=1, rejected=1)
    assert tallies.get("c") == Tally()
    assert tallies.since == "2026-11-23T10:00:00.000Z"


def test_the_vehicles_counted_last_are_remembered() -> None:
    tallies = Tallies(2)
    for vehicle in ("a", "b", "a", "c"):
        tallies.late(vehicle)
    assert [tallies.get(vehicle).late for vehicle in "abc"] == [2, 0, 1]


def test_processes_add_up() -> None:
    assert total([Tally(1, 2, 3, 4), Tally(10, 20, 30, 40)]) == Tally(11, 22, 33, 44)
    assert total([]) == Tally()

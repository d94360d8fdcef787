"""The oracle is silent when every promise is kept, whatever the order of things; and each breach is counted in its column."""

from collections.abc import Callable
from functools import partial

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.clock import rfc3339, seconds
from fleetcast.packet import Signal
from fleetcast.proof.fold import LIVE, OFFLINE, QUIET, shown
from fleetcast.proof.oracle import Mood
from fleetcast.proof.packets import packet
from fleetcast.proof.rows import BREACHES, Row, total
from fleetcast.proof.shown import Chain
from fleetcast.update import Update, merged
from tests.proof.faithful import EPOCH, EVERY, SEED, SILENCE, WINDOW, Car, Phone, Platform

STEPS = (
    "send",
    "ack",
    "commit",
    "read",
    "deliver",
    "comes back",
    "begins anew",
    "goes",
    "time passes",
    "tell",
)


def found(platform: Platform) -> dict[str, int]:
    """The columns that are not zero."""
    row = total(platform.oracle.rows.values())
    return {name: getattr(row, name) for name in BREACHES if getattr(row, name)}


def notes(platform: Platform) -> str:
    return "\n".join(note for row in platform.oracle.rows.values() for note in row.notes)


@given(
    warm=st.sampled_from((0, 3, 97)),  # 97: the next but one is poison
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 11)), max_size=60),
)
@settings(max_examples=60)
def test_a_faithful_platform_breaks_nothing(warm: int, steps: list[tuple[str, int]]) -> None:
    platform = Platform(cars=2, phones=12)  # of each car one on all, and one on each view; and the same, calm
    platform.drive(platform.cars[0], warm)
    for step, number in steps:
        car, phone = platform.cars[number % 2], platform.phones[number]
        does: dict[str, Callable[[], None]] = {
            "send": partial(platform.send, car),
            "ack": partial(platform.ack, car),
            "commit": partial(platform.commit, car),
            "read": partial(platform.read, car),
            "deliver": partial(platform.deliver, phone),
            "comes back": partial(platform.comes, phone),
            "begins anew": partial(platform.comes, phone, anew=True),
            "tell": partial(platform.tell, car),
            "goes": partial(platform.goes, phone),
        }
        if step == "time passes":
            platform.now += 15 * (number + 1)
            # A follower is never behind for long, and the oracle judges a reset by what it has read.
            for one in platform.cars:
                platform.read(one)
        else:
            does[step]()
        platform.oracle.turn(step)
    platform.settle()
    assert found(platform) == {}
    assert notes(platform) == ""
    assert not platform.oracle.lags(platform.oracle.due())
    assert platform.oracle.all_acked == sum(len(car.sent) for car in platform.cars)


def driven(packets: int = 5, phones: int = 1) -> tuple[Platform, Car, Phone]:
    """A platform on which all is well so far."""
    platform = Platform(phones=phones)
    platform.drive(platform.cars[0], packets)
    assert found(platform) == {}
    return platform, platform.cars[0], platform.phones[0]


def skip(platform: Platform, car: Car, packets: int = 1) -> None:
    """Acknowledged, and never applied."""
    for _ in range(packets):
        platform.send(car)
        platform.ack(car)
        car.handled += 1


def test_a_packet_that_is_acked_and_never_applied_is_lost() -> None:
    platform, car, _ = driven()
    skip(platform, car)
    platform.drive(car, 3)
    assert found(platform)["lost"] >= 1
    assert "packet 1/7 applied where 1/6 was due" in notes(platform)


def test_the_last_packet_lost_is_found_at_the_end() -> None:
    platform, car, _ = driven()
    skip(platform, car, 2)
    assert found(platform) == {}
    assert platform.oracle.uncommitted(platform.oracle.due()) == 2
    platform.settle()
    assert found(platform) == {"lost": 2}
    assert "7 packets are to be applied, LIVE took 5" in notes(platform)


def test_a_hole_of_many_packets_is_said_once() -> None:
    platform, car, _ = driven()
    skip(platform, car, 10)
    platform.drive(car, 1)
    said = notes(platform)
    platform.drive(car, 10)
    assert notes(platform).count("applied where") == said.count("applied where") == 1


def test_a_packet_that_is_applied_twice() -> None:
    platform, car, _ = driven()
    car.handled -= 1
    car.states[-1] = msgspec.structs.replace(car.states[-1], seen=0, seq=0, boot=0)
    platform.drive(car, 1)
    assert found(platform)["twice"] >= 1
    assert "packet ? applied again, or late, where 1/6 was due" in notes(platform)  # it changes no name


def test_a_version_that_is_committed_again() -> None:
    platform, car, _ = driven()
    platform.oracle.committed(car.name, msgspec.json.encode(car.updates[-1]), platform.now)
    assert found(platform) == {"twice": 1}


def test_packets_that_are_applied_out_of_order() -> None:
    platform, car, _ = driven()
    platform.send(car)
    platform.send(car)
    car.handled += 1
    platform.commit(car)
    platform.read(car)
    car.handled = 5
    del car.sent[-1]
    platform.commit(car)
    platform.read(car)
    broken = found(platform)
    assert broken["lost"] >= 1
    assert broken["twice"] >= 1


def test_versions_that_live_never_took() -> None:
    platform, car, _ = driven()
    platform.send(car)
    platform.commit(car)
    car.read += 1
    platform.drive(car, 1)
    assert found(platform)["lost"] >= 1
    assert "version 6->7 in LIVE where 6 was due" in notes(platform)


def test_an_update_with_another_content() -> None:
    platform, car, _ = driven()
    platform.send(car)
    platform.commit(car)
    signals = car.updates[-1].signals | {"Proof.Count": Signal(0, "2026-01-01T00:00:00.000Z")}
    car.updates[-1] = msgspec.structs.replace(car.updates[-1], signals=signals)
    platform.read(car)
    assert found(platform) == {"lost": 1}
    assert "changes ['Proof.Count'] otherwise than it must" in notes(platform)


def test_a_state_in_the_store_that_is_another() -> None:
    platform, car, _ = driven()
    car.states[-1] = msgspec.structs.replace(car.states[-1], signals={})
    platform.look()
    assert found(platform) == {"lost": 1}
    assert "the state in the store is not what its packets come to" in notes(platform)


def test_poison_that_is_not_rejected() -> None:
    platform, car, _ = driven(101)
    assert car.rejected == ["1/100"]
    car.rejected.clear()
    platform.look()
    assert found(platform) == {"lost": 1}


def test_a_good_packet_that_is_applied_and_rejected_as_well() -> None:
    """A mutant lived by it: that was said, and not counted."""
    platform, car, _ = driven()
    car.rejected.append(packet(SEED, car.name, 3).name)
    platform.settle()
    assert found(platform) == {"twice": 1}
    assert "rejected are ['1/4'], and should be []" in notes(platform)


def test_a_good_packet_that_is_rejected_and_not_applied() -> None:
    platform, car, _ = driven()
    skip(platform, car)
    car.rejected.append(packet(SEED, car.name, 5).name)
    platform.settle()
    assert found(platform)["lost"] >= 1


def test_a_version_that_names_another_before_it() -> None:
    platform, car, _ = driven()
    platform.send(car)
    platform.commit(car)
    car.updates[-1] = msgspec.structs.replace(car.updates[-1], prev=3)
    platform.read(car)
    assert found(platform) == {"lost": 1}
    assert "version 3->6 in LIVE where 6 was due" in notes(platform)


def test_a_rule_that_is_not_deployed_yet() -> None:
    platform, car, _ = driven()
    platform.send(car)
    platform.commit(car)
    signals = car.updates[-1].signals | {"Proof.Rules": Signal(2, packet(SEED, car.name, 5).sent_at)}
    car.updates[-1] = msgspec.structs.replace(car.updates[-1], signals=signals)
    platform.read(car)
    assert found(platform) == {"lost": 1}


def test_cars_that_skip_a_packet_prove_nothing() -> None:
    platform, car, _ = driven()
    platform.oracle.acked(car.name, 6)
    assert found(platform)["lost"] == 1


def test_an_update_that_a_phone_misses() -> None:
    platform, car, phone = driven()
    platform.send(car)
    platform.send(car)
    platform.commit(car)
    platform.read(car)
    platform.update(phone, car.updates[-1])
    assert found(platform) == {"lost": 1}
    assert "got 6->7 after 5: a gap" in notes(platform)


def test_an_update_that_a_phone_sees_twice() -> None:
    platform, car, phone = driven()
    platform.update(phone, car.updates[-1])
    assert found(platform) == {"twice": 1}


def test_an_update_that_does_not_follow_what_a_phone_has() -> None:
    platform, car, phone = driven()
    platform.send(car)
    platform.commit(car)
    platform.update(phone, msgspec.structs.replace(car.updates[-1], prev=3))
    assert found(platform)["reordered"] == 1


def test_updates_that_a_phone_sees_in_another_order() -> None:
    platform, car, phone = driven()
    platform.send(car)
    platform.send(car)
    platform.commit(car)
    platform.read(car)
    for update in (car.updates[-1], car.updates[-2]):
        platform.update(phone, update)
    assert found(platform) == {"lost": 1, "twice": 1}


def test_an_update_before_the_snapshot() -> None:
    platform, car, phone = driven()
    platform.oracle.listens(Mood(phone.number, car.name, True, False, True))
    platform.update(phone, car.updates[-1])
    assert found(platform) == {"reordered": 1}


def test_an_update_of_another_epoch_without_a_reset() -> None:
    platform, car, phone = driven()
    platform.send(car)
    platform.commit(car)
    platform.oracle._phones[phone.number].epoch = "before"
    platform.deliver(phone)
    assert found(platform)["lost"] == 1
    assert "of epoch e after one of before, without a reset" in notes(platform)


def test_an_update_with_another_content_than_live_took() -> None:
    platform, car, phone = driven()
    platform.send(car)
    platform.commit(car)
    platform.read(car)
    platform.event(phone, "update", version=6, prev=5, checksum=1)
    assert found(platform) == {"lost": 1}
    assert "version 6 is not what LIVE took" in notes(platform)


@pytest.mark.parametrize("late", [False, True])
def test_an_update_that_a_phone_sees_before_live_took_it(late: bool) -> None:
    platform, car, phone = driven()
    platform.send(car)
    platform.commit(car)
    if not late:
        platform.read(car)
    car.stored[-1] = platform.now + 5
    if not late:
        platform.oracle._vehicles[car.name].chains[""].stored[-1] = car.stored[-1]
    platform.deliver(phone)
    platform.read(car)
    assert found(platform) == {"reordered": 1}
    assert "before LIVE took it" in notes(platform)


def test_an_update_that_live_never_takes() -> None:
    platform, car, phone = driven()
    platform.event(phone, "update", version=6, prev=5, checksum=1)
    platform.oracle.finish({car.name: platform.oracle.view(car.name)}, {})
    assert found(platform) == {"lost": 1}
    assert "phones saw 1 updates that LIVE never took" in notes(platform)


@pytest.mark.parametrize("reads", [True, False])
def test_a_snapshot_that_is_not_what_its_packets_come_to(reads: bool) -> None:
    platform, car, phone = driven()
    platform.send(car)
    platform.commit(car)
    if reads:
        platform.read(car)
    platform.oracle.listens(Mood(phone.number, car.name, True, False, True))
    platform.event(phone, "snapshot", version=6, checksum=1)
    platform.read(car)
    assert found(platform) == {"lost": 1}


def test_a_snapshot_that_nothing_asked_for() -> None:
    platform, _, phone = driven()
    platform.snapshot(phone)
    assert found(platform) == {"false_resets": 1}


@pytest.mark.parametrize(
    ("reason", "last", "passes", "true"),
    [
        ("expired", f"{EPOCH}-3", 0.0, False),
        ("expired", f"{EPOCH}-5", WINDOW * 2, False),  # it had everything
        ("expired", f"{EPOCH}-3", WINDOW, True),
        ("foreign", f"{EPOCH}-3", 0.0, False),
        ("foreign", "other-3", 0.0, True),
    ],
)
def test_a_reset_must_be_true(reason: str, last: str, passes: float, true: bool) -> None:
    platform, _, phone = driven()
    platform.now += passes
    platform.event(phone, "reset", reason=reason, last=last)
    platform.snapshot(phone)
    assert found(platform) == ({} if true else {"false_resets": 1})
    assert platform.oracle.resets == 1


def test_a_phone_that_shows_something_else_in_the_end() -> None:
    platform, _, phone = driven()
    phone.signals["Proof.Count"] = {"value": 0, "at": ""}
    platform.look()
    assert found(platform) == {"lost": 1}


def test_who_listens_and_has_not_got_everything_is_behind() -> None:
    platform, car, phone = driven(phones=2)
    platform.send(car)
    platform.ack(car)
    due = platform.oracle.due()
    assert due == {car.name: 6}
    assert platform.oracle.uncommitted(due) == 1
    platform.commit(car)
    platform.read(car)
    assert platform.oracle.behind(due) == [0, 1]
    platform.goes(platform.phones[1])
    platform.deliver(phone)
    assert platform.oracle.behind(due) == []
    assert platform.oracle.asleep == 1
    assert not platform.oracle.lags(due)
    platform.comes(platform.phones[1])
    assert platform.oracle.asleep == 0
    assert found(platform) == {}


def test_findings_are_on_the_row_of_the_fault_they_came_in() -> None:
    platform, car, phone = driven()
    row = platform.oracle.turn("a fault")
    platform.update(phone, car.updates[-1])
    platform.oracle.turn("another")
    assert (row.twice, row.events) == (1, 1)
    assert platform.oracle.turn("a fault") is row
    assert all(one.clean for one in platform.oracle.rows.values() if one is not row)
    assert isinstance(row, Row)


def test_what_a_restore_takes_back_is_due_no_more() -> None:
    platform, car, phone = driven()
    platform.oracle.mark()
    platform.drive(car, 3)
    platform.oracle.rewind("later", rejected=False)
    del car.states[6:], car.updates[5:], car.stored[5:]
    car.read = 5
    platform.event(phone, "reset", reason="foreign", last=phone.last)
    assert platform.oracle.due() == {car.name: 5}
    assert found(platform) == {}


# Views


def viewing() -> tuple[Platform, Car, Phone, list[Update]]:
    """A phone on a view of which it has not got the last two updates; these."""
    platform = Platform(phones=2)
    car, phone = platform.cars[0], platform.phones[1]
    assert phone.view.name == "some"
    while len(platform.chain(phone)) < 4:
        platform.drive(car)
    missed = platform.chain(phone)[-2:]
    platform.goes(phone)
    platform.comes(phone, anew=True)
    assert found(platform) == {}
    # As it was two updates before.
    at = missed[0].prev
    phone.signals = msgspec.to_builtins(phone.view.snapshot(car.states[at]).signals)
    platform.oracle.listens(Mood(phone.number, car.name, True, False, True, "some"))
    platform.event(phone, "snapshot", version=at, checksum=-phone.digest)
    assert found(platform) == {}
    assert platform.oracle.behind(platform.oracle.due()) == [phone.number]
    return platform, car, phone, missed


def test_a_views_updates_one_after_the_other_are_right() -> None:
    platform, _, phone, missed = viewing()
    for update in missed:
        platform.update(phone, update)
    assert platform.oracle.behind(platform.oracle.due()) == []
    platform.settle()
    assert found(platform) == {}


def test_an_update_of_a_view_that_is_passed_over_silently() -> None:
    platform, _, phone, (first, second) = viewing()
    platform.update(phone, msgspec.structs.replace(second, prev=first.prev))
    assert found(platform) == {"lost": 1}
    assert "is not what LIVE took" in notes(platform)


def test_an_update_of_a_view_that_is_passed_over_and_seen() -> None:
    platform, _, phone, (_, second) = viewing()
    platform.update(phone, second)
    assert "a gap" in notes(platform)


def test_a_phone_of_a_view_that_sees_other_signals() -> None:
    platform, car, phone, (first, _) = viewing()
    whole = msgspec.structs.replace(car.updates[first.version - 1], prev=first.prev)
    assert set(whole.signals) > set(first.signals)
    platform.update(phone, whole)
    assert found(platform) == {"lost": 1}


def test_a_phone_of_a_view_that_gets_what_did_not_touch_it() -> None:
    platform, car, phone, missed = viewing()
    for update in missed:
        platform.update(phone, update)
    while platform.chain(phone)[-1].version == len(car.updates):
        platform.drive(car)
    before, after = phone.version, len(car.updates)
    platform.update(phone, Update(car.name, after, before, "t", {}))
    assert found(platform)["lost"] == 1
    assert f"version {after} is none of some" in notes(platform)


def test_a_snapshot_of_a_view_by_a_version_that_did_not_touch_it() -> None:
    platform, car, phone, _ = viewing()
    while platform.chain(phone)[-1].version == len(car.updates):
        platform.drive(car)
    phone.signals = msgspec.to_builtins(phone.view.snapshot(car.states[-1]).signals)
    platform.oracle.listens(Mood(phone.number, car.name, True, False, True, "some"))
    platform.event(phone, "snapshot", version=len(car.updates), checksum=-phone.digest)
    assert "is none of some" in notes(platform)


def test_a_reset_of_a_view_is_judged_by_its_own_last_update() -> None:
    """Its next one is within the window, though others after its last are not."""
    platform, car, phone, (first, second) = viewing()
    for update in (first, second):
        platform.update(phone, update)
    assert platform.oracle.resets == 0
    platform.now += WINDOW + 5
    while platform.chain(phone)[-1] == second:
        platform.drive(car)
    phone.version, phone.last = second.version, f"{EPOCH}-{second.version}"
    platform.event(phone, "reset", reason="expired", last=phone.last)
    assert found(platform)["false_resets"] == 1


def test_a_phone_that_shows_other_signals_of_a_view_in_the_end() -> None:
    platform, car, phone, missed = viewing()
    for update in missed:
        platform.update(phone, update)
    platform.oracle.level(phone.number, phone.version, phone.digest)
    assert found(platform) == {}
    signals = msgspec.to_builtins(car.states[-1].signals)
    platform.oracle.level(phone.number, phone.version, shown(signals, phone.status, phone.since))
    assert found(platform) == {"lost": 1}


# Status


def silent(packets: int = 3) -> tuple[Platform, Car, Phone]:
    """A car that is quiet, and a phone that was told."""
    platform, car, phone = driven(packets)
    platform.now += SILENCE.quiet
    tell(platform, car)
    assert car.states[-1].status == QUIET
    assert phone.status == QUIET
    assert found(platform) == {}
    return platform, car, phone


def tell(platform: Platform, car: Car) -> None:
    platform.tell(car)
    platform.read(car)
    for phone in platform.phones:
        platform.deliver(phone)


def test_who_is_silent_is_told_to_be_quiet_then_offline_and_live_again_when_it_sends() -> None:
    platform, car, phone = silent()
    platform.drive(car, 2)
    assert [update.status for update in car.updates[-4:]] == [QUIET, LIVE, "", ""]
    platform.now += SILENCE.offline
    tell(platform, car)
    platform.look()
    assert (found(platform), phone.status, platform.oracle.heard) == ({}, OFFLINE, [])


@pytest.mark.parametrize(
    ("status", "after", "passes"),
    [
        (QUIET, SILENCE.quiet, SILENCE.quiet - 1),  # before it was due
        (QUIET, SILENCE.quiet + 1, SILENCE.quiet + 2),  # since another moment
        (OFFLINE, SILENCE.quiet, SILENCE.offline + 1),
        ("asleep", SILENCE.quiet, SILENCE.quiet + 1),
        (LIVE, 0, 1),  # which it was
    ],
)
def test_a_status_that_is_not_so(status: str, after: float, passes: float) -> None:
    platform, car, _ = driven(3)
    heard = seconds(car.states[-1].updated_at)
    platform.now = heard + passes
    platform.turn(car, status, rfc3339(heard + after))
    platform.read(car)
    assert found(platform) == {"lost": 1}
    assert "version 4 says what is not so" in notes(platform)


def test_a_car_that_had_sent_before_it_was_said_to_be_silent() -> None:
    platform, car, _ = driven(3)
    heard = seconds(car.states[-1].updated_at)
    platform.send(car)
    platform.now = heard + SILENCE.quiet + 1
    platform.turn(car, QUIET, rfc3339(heard + SILENCE.quiet))
    platform.commit(car)
    platform.read(car)
    assert found(platform) == {"lost": 1}
    assert "was said to be silent, and had sent" in notes(platform)


@pytest.mark.parametrize("since", [None, "2026-01-01T00:00:01.000Z"])
def test_a_packet_of_a_silent_car_that_is_not_said_to_be_live_since_then(since: str | None) -> None:
    platform, car, _ = silent()
    if since:
        platform.turn(car, LIVE, since)
    else:
        car.states[-1] = msgspec.structs.replace(car.states[-1], status="")
    platform.send(car)
    platform.commit(car)
    platform.read(car)
    assert found(platform) == {"lost": 1}
    assert f"{LIVE if since else QUIET} since" in notes(platform)


def test_a_status_that_phones_of_a_view_are_not_told() -> None:
    platform, car, phone, missed = viewing()
    for update in missed:
        platform.update(phone, update)
    platform.now += SILENCE.quiet
    platform.tell(car)
    platform.read(car)
    assert platform.oracle.behind(platform.oracle.due()) == [0, phone.number]
    platform.deliver(platform.phones[0])
    assert platform.oracle.behind(platform.oracle.due()) == [phone.number]
    platform.look()
    assert found(platform) == {"lost": 1}


def test_an_update_by_the_name_of_another_event() -> None:
    chain = Chain(0, "car-0")
    for name, said in (("status", {}), ("update", {"status": QUIET, "since": "t"})):
        data = msgspec.json.encode({"version": 2, "prev": 1, "signals": {}} | said)
        event = chain.take(name, "e-2", data, 0.0)
        assert event is not None
        assert event.checksum == 0  # which nothing has


# Calm streams


def calm(packets: int) -> tuple[Platform, Car, Phone]:
    """A calm phone that got its snapshot before so many packets, all of one bucket, and nothing since."""
    platform = Platform(phones=4)
    car, phone = platform.cars[0], platform.phones[3]
    assert phone.every
    platform.now = platform.now // EVERY * EVERY
    for _ in range(packets):
        platform.send(car)
    platform.ack(car)
    platform.commit(car)
    platform.read(car)
    now = platform.now
    for one in platform.phones[:3]:
        platform.deliver(one)
    platform.now = now
    return platform, car, phone


def test_a_calm_phone_is_behind_once_its_bucket_is_over_for_a_while() -> None:
    platform, car, phone = calm(4)
    due, end = platform.oracle.due(), platform.now // EVERY * EVERY + EVERY
    assert platform.oracle.behind(due, end) == []
    assert platform.oracle.behind(due, end + 3) == [phone.number]
    assert platform.oracle.behind(due) == [phone.number]
    platform.now = end
    platform.deliver(phone)
    assert platform.oracle.behind(due) == []
    assert (phone.version, found(platform)) == (len(car.updates), {})


def test_a_calm_phone_is_behind_at_once_in_what_is_urgent() -> None:
    platform, car, phone = calm(150)
    urgent = [update.version for update in car.updates if update.urgent]
    assert len(urgent) > 1
    assert platform.oracle.behind(platform.oracle.due(), platform.now) == [phone.number]
    platform.deliver(phone)
    assert phone.version == urgent[-1]
    assert platform.oracle.behind(platform.oracle.due(), platform.now) == []


def test_updates_of_a_calm_stream_that_do_not_wait_for_each_other() -> None:
    platform, car, phone = calm(6)
    for update in car.updates:
        platform.update(phone, update)
    platform.look()
    assert found(platform) == {"calm": 5}  # the last one waits for nothing


def test_updates_of_a_calm_stream_that_come_a_bucket_late() -> None:
    platform = Platform(phones=5)
    car, phone = platform.cars[0], platform.phones[4]
    assert phone.every
    assert phone.view.name == "some"  # nothing urgent is in it
    for _ in range(6):
        at = len(car.updates)
        platform.drive(car, 10)
        missed = [one for update in car.updates[at:] if (one := phone.view.of(update))]
        assert phone.version < missed[0].version
        platform.now += 2 * EVERY
        platform.update(phone, merged(missed))
    platform.look()
    assert found(platform)["calm"] >= 5  # the first one may have been what it missed
    assert "updates of calm streams came late" in notes(platform)


def test_updates_of_a_calm_stream_that_hold_back_what_is_urgent() -> None:
    platform, car, phone = calm(800)
    inside = 0
    for at in range(0, len(car.updates), 25):
        run = car.updates[at : at + 25]
        inside += any(update.urgent for update in run[:-1])
        platform.update(phone, merged(run))
    assert inside > 4
    platform.look()
    assert found(platform)["calm"] >= inside


def test_a_calm_update_that_does_not_lead_where_it_says() -> None:
    platform, car, phone = calm(6)
    oldest = merged(car.updates[::-1])
    platform.update(phone, msgspec.structs.replace(merged(car.updates), signals=oldest.signals))
    assert found(platform) == {"lost": 1}
    assert "version 6 is not what LIVE took" in notes(platform)

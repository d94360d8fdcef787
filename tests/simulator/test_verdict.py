"""The verdict is good on a good run, and names each way in which a run is not."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fleetcast.simulator.phone import Counts
from fleetcast.simulator.verdict import Summary, Verdict

BOOT = 1_700_000_000_000


def phone(number: int, vehicle: str = "car-0", **counts: Any) -> dict[str, Any]:
    said = {
        **msgspec.structs.asdict(Counts()),
        "streams_closed": 0,
        "refused": 0,
        "level": True,
        "faults": [],
    }
    return {"phone": number, "vehicle": vehicle, **said, **counts}


def report(*phones: dict[str, Any]) -> dict[str, Any]:
    level = sum(phone["level"] for phone in phones)
    return {"done": True, "phones": list(phones), "level": level, "unlevel": len(phones) - level}


def ran(acked: int = 5, seen: int = 5, phones: int = 1) -> Verdict:
    """A run of one car that began at version 10; each phone saw the first `seen` packets."""
    verdict = Verdict(1, phones)
    for number in range(phones):
        verdict.snapshot("car-0", number, BOOT - 1, 10, 10)
    for seq in range(1, acked + 1):
        verdict.acked("car-0", BOOT, seq, 100.0 + seq)
        for number in range(phones):
            if seq <= seen:
                verdict.seen("car-0", number, BOOT, seq, 100.02 + seq, 10 + seq)
    verdict.versions("car-0", 10, 10 + acked)
    return verdict


def test_a_good_run() -> None:
    verdict = ran(phones=2)
    verdict.counters(published=5, skipped=3)
    verdict.phones_report(report(phone(0, streams_closed=1), phone(1)))
    assert verdict.summary() == Summary(
        seconds=4.0,
        cars=1,
        phones=2,
        acked=5,
        applied=5,
        updates=10,
        seen=10,
        skipped=3,
        lost=0,
        twice=0,
        reordered=0,
        resets=0,
        streams_closed=1,
        p50_ms=20.0,
        p99_ms=20.0,
        doors={"http": 5},
    )
    assert verdict.broken() == []


def test_the_summary_has_its_fields_in_order() -> None:
    line = msgspec.json.encode(ran().summary(30)).decode()
    names = (
        "seconds,cars,phones,acked,applied,updates,seen,skipped,lost,twice,reordered,resets,streams_closed"
    )
    assert ",".join(msgspec.json.decode(line)) == f"{names},p50_ms,p99_ms,doors"
    assert ran().summary(30).seconds == 30.0


def test_an_update_that_a_phone_did_not_see_is_lost() -> None:
    verdict = ran(acked=5, seen=3)
    verdict.phones_report(report(phone(0)))
    summary = verdict.summary()
    assert (summary.updates, summary.seen, summary.lost) == (5, 3, 2)
    assert verdict.broken() == [f"2 updates did not reach their phones: phone 0 missed car-0 {BOOT}/4."]


def test_a_phone_that_was_given_nothing_missed_all() -> None:
    verdict = Verdict(1, 1)
    verdict.acked("car-0", BOOT, 1, 1.0)
    verdict.versions("car-0", 0, 1)
    verdict.phones_report(report(phone(0)))
    assert verdict.summary().lost == 1


def test_the_first_snapshot_stands_for_what_was_before() -> None:
    verdict = Verdict(1, 1)
    for boot, seq in [(BOOT - 1, 7), (BOOT - 1, 8), (BOOT, 1), (BOOT, 2), (BOOT, 3)]:
        verdict.acked("car-0", boot, seq, 1.0)
    verdict.snapshot("car-0", 0, BOOT, 2, 4)
    verdict.seen("car-0", 0, BOOT, 3, 1.1, 5)
    verdict.versions("car-0", 0, 5)
    verdict.phones_report(report(phone(0)))
    assert (verdict.summary().updates, verdict.summary().seen, verdict.broken()) == (5, 5, [])


def test_an_empty_snapshot_stands_for_nothing() -> None:
    verdict = Verdict(1, 1)
    verdict.snapshot("car-0", 0, 0, 0, 0)
    verdict.acked("car-0", BOOT, 1, 1.0)
    verdict.versions("car-0", 0, 1)
    assert verdict.summary().lost == 1


def test_a_snapshot_after_a_reset_does_not_stand_for_what_was_lost_before() -> None:
    verdict = Verdict(1, 1)
    verdict.snapshot("car-0", 0, 0, 0, 0)
    for seq in range(1, 9):
        verdict.acked("car-0", BOOT, seq, 1.0)
    verdict.acked("car-0", BOOT + 1, 1, 1.0)
    verdict.acked("car-0", BOOT + 2, 1, 1.0)
    verdict.seen("car-0", 0, BOOT, 1, 1.0, 1)
    verdict.seen("car-0", 0, BOOT, 3, 1.0, 3)
    verdict.snapshot("car-0", 0, BOOT, 5, 5)
    verdict.seen("car-0", 0, BOOT, 6, 1.0, 6)
    verdict.snapshot("car-0", 0, BOOT + 2, 1, 10)
    verdict.versions("car-0", 0, 10)
    verdict.phones_report(report(phone(0, resets=2, faults=["reset (expired) from 3 to 5, at version 3"])))
    assert verdict.summary().lost == 1
    assert verdict.broken() == [
        f"1 updates did not reach their phones: phone 0 missed car-0 {BOOT}/2.",
        "2 resets were sent though nothing had expired: phone 0 on car-0: reset (expired) from 3 to 5, at version 3.",
    ]


def test_a_packet_that_no_state_includes_is_lost() -> None:
    verdict = ran()
    verdict.versions("car-0", 10, 14)
    verdict.phones_report(report(phone(0)))
    assert (verdict.summary().applied, verdict.summary().lost) == (4, 1)
    assert verdict.broken() == ["1 acknowledged packets are in no state: car-0 5 acknowledged, 4 applied."]


def test_a_state_that_nobody_read_includes_nothing() -> None:
    verdict = ran()
    verdict.acked("car-7", BOOT, 1, 1.0)
    assert verdict.summary().lost == 1


def test_a_packet_that_was_applied_twice() -> None:
    verdict = ran()
    verdict.versions("car-0", 10, 16)
    verdict.phones_report(report(phone(0)))
    assert verdict.summary().twice == 1
    assert verdict.broken() == ["1 packets were applied twice: car-0 5 acknowledged, 6 applied."]


def test_a_packet_whose_answer_was_lost_may_be_applied_once() -> None:
    verdict = ran()
    verdict.seen("car-0", 0, BOOT, 6, 107.0, 16)
    verdict.versions("car-0", 10, 16)
    assert verdict.summary().twice == 0
    verdict.versions("car-0", 10, 17)
    assert verdict.summary().twice == 1
    verdict.cars_line({"done": True, "unanswered": 1, "errors": 0})
    assert verdict.summary().twice == 1  # the one unanswered packet is the one that was seen
    verdict.cars_line({"done": True, "unanswered": 2, "errors": 0})
    assert verdict.summary().twice == 0


def test_an_acknowledgement_told_again_counts_once() -> None:
    verdict = ran()
    verdict.acked("car-0", BOOT, 5, 500.0)
    assert (verdict.summary().acked, verdict.summary().seconds, verdict.acked_of("car-0")) == (5, 4.0, 5)
    assert verdict.acked_of("car-1") == 0


def test_the_doors_are_told_apart_and_each_packet_counts_once() -> None:
    verdict = Verdict(2, 0)
    rows = [["car-0", BOOT, 1, 1.0, False, "http"], ["car-1", BOOT, 1, 1.0, None, "mqtt"]]
    for _ in range(2):
        verdict.cars_line({"acked": rows, "raw": 0, "wire": 0, "errors": 0, "retries": 0})
    verdict.acked("car-1", BOOT, 2, 2.0, "mqtt")
    assert verdict.summary().doors == verdict.figures(2.0).doors == {"http": 1, "mqtt": 2}
    assert verdict.summary().acked == 3


def late(unnamed: int, applied: int = 6, lost: int = 0) -> Verdict:
    """Packets 1 to 6 were acknowledged, 3 and 4 after 5; a phone was told of all but these, and of `unnamed` updates."""
    verdict = Verdict(1, 1)
    verdict.snapshot("car-0", 0, 0, 0, 0)
    for seq in (1, 2, 5, 3, 4, 6):
        verdict.acked("car-0", BOOT, seq, 1.0)
    for version, seq in enumerate((1, 2, 5), 1):
        verdict.seen("car-0", 0, BOOT, seq, 1.1, version)
    verdict.seen("car-0", 0, BOOT, 6, 1.1, 6)
    verdict.versions("car-0", 0, applied)
    verdict.phones_report(report(phone(0, unnamed=unnamed, lost=lost)))
    return verdict


def test_late_packets_are_matched_by_their_number() -> None:
    verdict = late(unnamed=2)
    assert verdict.broken() == []
    assert (verdict.summary().updates, verdict.summary().seen, verdict.summary().lost) == (6, 6, 0)


def test_a_late_packet_that_did_not_come_is_lost() -> None:
    verdict = late(unnamed=1, lost=1)
    assert verdict.summary().lost == 1
    assert verdict.broken() == [f"1 updates did not reach their phones: phone 0 missed car-0 {BOOT}/3."]
    assert late(unnamed=0, lost=2).summary().lost == 2


def test_a_late_packet_that_is_in_no_state() -> None:
    verdict = late(unnamed=1, applied=5)
    assert (verdict.summary().applied, verdict.summary().lost) == (5, 2)  # its phone misses it, too


def test_an_update_without_a_name_stands_for_no_packet_that_was_not_late() -> None:
    verdict = ran(acked=5, seen=4)
    verdict.phones_report(report(phone(0, unnamed=1)))
    assert verdict.broken() == [f"1 updates did not reach their phones: phone 0 missed car-0 {BOOT}/5."]


def test_what_phones_counted_is_in_the_summary() -> None:
    verdict = ran(phones=2)
    gap = phone(0, lost=2, reordered=1, faults=["versions 4 to 5 are missing"])
    wrong = phone(
        1,
        twice=1,
        foreign=1,
        malformed=1,
        level=False,
        faults=["first", "the phone has version 3, the latest is 4"],
    )
    verdict.phones_report(report(gap, wrong))
    summary = verdict.summary()
    assert (summary.lost, summary.twice, summary.reordered, summary.resets) == (2, 1, 1, 0)
    assert verdict.broken() == [
        "2 versions were missing in the chains that phones got: phone 0 on car-0: versions 4 to 5 are missing.",
        "1 updates came twice: phone 1 on car-0: first.",
        "1 updates came out of order: phone 0 on car-0: versions 4 to 5 are missing.",
        "1 events went to phones of another vehicle: phone 1 on car-0: first.",
        "1 events could not be read: phone 1 on car-0: first.",
        "1 phones do not show the latest state: phone 1 on car-0: the phone has version 3, the latest is 4.",
    ]


def test_a_gap_that_is_also_an_unseen_update_counts_once() -> None:
    verdict = ran(acked=5, seen=3)
    verdict.phones_report(report(phone(0, lost=2)))
    assert verdict.summary().lost == 2


def test_a_packet_at_two_versions_is_out_of_order() -> None:
    verdict = ran(phones=2)
    verdict.seen("car-0", 0, BOOT, 6, 107.0, 16)
    verdict.seen("car-0", 1, BOOT, 6, 107.0, 17)
    verdict.phones_report(report(phone(0), phone(1)))
    assert verdict.summary().reordered == 1
    assert verdict.broken() == [f"1 packets were seen at two versions: car-0 {BOOT}/6 as versions 16 and 17."]


def test_no_report_and_no_packets_prove_nothing() -> None:
    assert ran().broken() == ["The phones gave no report, so what they missed is not known."]
    assert Verdict(1, 0).broken() == ["Nothing was acknowledged, so nothing was proved."]
    assert Verdict(1, 0).summary().p50_ms is None


def test_phones_that_are_missing_from_the_report() -> None:
    verdict = ran(phones=2)
    verdict.phones_report(report(phone(0)))
    assert verdict.broken() == ["1 of 2 phones are missing from the report."]


def test_refused_packets_are_said() -> None:
    verdict = ran()
    verdict.phones_report(report(phone(0)))
    verdict.cars_line({"done": True, "unanswered": 0, "errors": 2})
    assert verdict.broken() == ["2 good packets were refused."]


def test_lines_of_cars_and_phones_give_the_live_figures() -> None:
    verdict = Verdict(1, 1)
    counts = ("lost", "twice", "reordered", "resets", "foreign", "malformed", "streams_closed")
    line = {
        "snapshots": [["car-0", 0, 0, 0, 0]],
        "seen": [["car-0", 0, BOOT, 1, 10.05, 1]],
        "connected": 1,
        "updates": 1,
    }
    verdict.phones_line({**dict.fromkeys(counts, 0), **line})
    verdict.cars_line(
        {
            "acked": [["car-0", BOOT, 1, 10.0, False, "http"]],
            "raw": 900,
            "wire": 300,
            "errors": 0,
            "retries": 0,
        }
    )
    verdict.counters(1, 0)
    figures = verdict.figures(12.0)
    assert (figures.connected, figures.acked, figures.updates, figures.published) == (1, 1, 1, 1)
    assert (figures.raw_bytes, figures.wire_bytes, figures.p50_ms, figures.lost) == (900, 300, 50.0, 0)
    assert verdict.figures(30.0).p50_ms is None
    verdict.phones_line(report(phone(0)))
    verdict.versions("car-0", 0, 1)
    assert verdict.broken() == []


@given(st.data())
def test_exactly_what_was_dropped_is_lost(data: st.DataObject) -> None:
    """Each phone joins at some moment, sees some of what comes after, in any mix of cars and boots."""
    packets = [
        (vehicle, boot, seq) for vehicle in ("car-0", "car-1") for boot in (5, 9) for seq in range(1, 7)
    ]
    verdict = Verdict(2, 3)
    for packet in data.draw(st.permutations(packets)):
        verdict.acked(*packet, 1.0)
    lost = 0
    for number, vehicle in enumerate(["car-0", "car-1", "car-0"]):
        sent = [packet for packet in packets if packet[0] == vehicle]
        joined = data.draw(st.integers(0, len(sent)))
        _, boot, seq = sent[joined - 1] if joined else (vehicle, 0, 0)
        verdict.snapshot(vehicle, number, boot, seq, joined)
        dropped = data.draw(st.sets(st.integers(joined, len(sent) - 1))) if joined < len(sent) else set()
        for place in range(joined, len(sent)):
            if place not in dropped:
                verdict.seen(vehicle, number, *sent[place][1:], 2.0, place + 1)
        lost += len(dropped)
    for vehicle in ("car-0", "car-1"):
        verdict.versions(vehicle, 3, 15)
    summary = verdict.summary()
    assert (summary.lost, summary.updates, summary.seen) == (lost, 36, 36 - lost)
    assert (summary.acked, summary.applied, summary.twice, summary.reordered) == (24, 24, 0, 0)

from __future__ import annotations

import socket
import threading

import pytest

from bench import loopback
from bench.stages import STAGES, Found, Point, judge
from bench.stats import Records


def records(*rows: tuple[int, int, int, int]) -> Records:
    made = Records()
    for row in rows:
        made.add(*row)
    return made


SECOND = 10**9


def test_a_packet_is_seen_with_its_version_or_a_later_one() -> None:
    acked = records(
        (7, 1, 1 * SECOND, 0), (7, 2, 2 * SECOND, 0), (7, 3, 3 * SECOND, 0), (7, 4, 4 * SECOND, 0)
    )
    sights = records((7, 1, 2 * SECOND, 0), (7, 3, 5 * SECOND, 0), (8, 9, 1, 0))
    seen = judge(acked, sights, 0, 10 * SECOND)
    assert sorted(seen.ages) == [1, 2, 3]
    assert (seen.skipped, seen.unseen) == (2, 1)


def test_only_packets_acknowledged_in_that_time_count() -> None:
    acked = records((0, 1, 10, 0), (0, 2, 20, 0), (0, 3, 30, 0))
    sights = records((0, 1, 11, 0), (0, 2, 21, 0), (0, 3, 31, 0))
    assert len(judge(acked, sights, 20, 30).ages) == 1


def test_a_phone_that_is_told_before_the_vehicle_has_its_answer_is_of_age_nought() -> None:
    assert judge(records((0, 1, 10, 0)), records((0, 1, 9, 0)), 0, 100).ages == [0]


def test_what_held_above_a_point_that_gave_in_does_not_count() -> None:
    found = Found(STAGES[0])
    found.points = {
        100: [Point(100)],
        200: [Point(200), Point(200)],
        400: [Point(400), Point(400, "late")],
        800: [Point(800)],
    }
    assert found.held() == 200
    gave_in = found.gave_in()
    assert gave_in is not None
    assert gave_in.n == 400


def matches(program: list[tuple[int, int, int, int]], source: int, target: int, protocol: int = 6) -> bool:
    """Runs the few instructions that the filter is made of, on an IP header of 20 bytes and these ports."""
    loads = {(0x30, 9): protocol, (0x48, 0): source, (0x48, 2): target}
    at = value = 0
    while True:
        code, yes, no, k = program[at]
        at += 1
        if code == 0x06:
            return k > 0
        if code == 0x15:
            at += yes if value == k else no
        elif code != 0xB1:
            value = loads[code, k]


@pytest.mark.parametrize("ports", [[5562], [5562, 5572, 5582]])
def test_the_filter_takes_tcp_of_these_ports_in_both_directions(ports: list[int]) -> None:
    program = loopback.program(ports)
    for port in ports:
        assert matches(program, port, 40_000)
        assert matches(program, 40_000, port)
        assert not matches(program, port, 40_000, protocol=17)
    assert not matches(program, 40_000, 40_001)


async def test_bytes_on_loopback_are_counted_once_with_their_headers() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]

    def send() -> None:
        with socket.create_connection(("127.0.0.1", port)) as one, server.accept()[0] as other:
            one.sendall(b"x" * 1000)
            other.recv(2000)

    sending = threading.Timer(0.1, send)
    sending.start()
    try:
        found = await loopback.counted({"here": [port], "elsewhere": [1]}, 0.4)
    except PermissionError:
        pytest.skip("needs CAP_NET_RAW")
    finally:
        sending.join()
        server.close()
    assert 1000 < 0.4 * found["here"] < 2000
    assert found["elsewhere"] == 0

"""Scripts of trouble: every packet is sent once, and nothing that a state would not recognise."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast.packet import Packet as PlatformPacket
from fleetcast.simulator.phone import Packet
from fleetcast.simulator.trouble import (
    BURST,
    HOUR,
    SOME,
    TUNNEL,
    Backlog,
    Make,
    Script,
    Send,
    Step,
    Trouble,
    Vanish,
    told,
)
from fleetcast.state import State, apply

BOOT = 1_700_000_000_000
RATES = st.floats(0, 1)
TROUBLE = st.builds(Trouble, *[RATES] * 6)


def steps_of(trouble: Trouble, ticks: int, seed: int = 1, vehicle: str = "car-00000") -> list[Step]:
    script = Script(trouble, seed, vehicle, BOOT)
    return [step for _ in range(ticks) for step in script.tick()] + list(script.end())


def sends(steps: list[Step]) -> list[Send]:
    """All, in their order."""
    found: list[Send] = []
    for step in steps:
        if isinstance(step, Backlog):
            found += step.sends
        elif isinstance(step, Send):
            found.append(step)
    return found


def made(steps: list[Step]) -> list[Packet]:
    return [step.packet for step in steps if isinstance(step, Make)]


def test_without_trouble_each_packet_is_made_and_sent() -> None:
    expected: list[Step] = []
    for seq in range(1, 6):
        expected += [Make(Packet(BOOT, seq)), Send(Packet(BOOT, seq))]
    assert steps_of(Trouble(), 5) == expected
    assert Script(Trouble(), 1, "car", BOOT).clock == "right"


@given(TROUBLE, st.integers(1, 80), st.integers())
def test_every_packet_is_sent_once_after_it_was_made(trouble: Trouble, ticks: int, seed: int) -> None:
    steps = steps_of(trouble, ticks, seed)
    assert steps == steps_of(trouble, ticks, seed), "the same seed gives the same"
    there: set[Packet] = set()
    acknowledged: dict[Packet, bool] = {}
    for step in steps:
        if isinstance(step, Make):
            there.add(step.packet)
        for send in sends([step]):
            if send.again:
                assert acknowledged[send.packet], "its bytes were to be kept"
                assert not send.repeated
            else:
                assert send.packet in there
                assert send.packet not in acknowledged
                acknowledged[send.packet] = send.repeated
    assert set(acknowledged) == there == set(made(steps))
    assert len(made(steps)) >= ticks


@given(TROUBLE, st.integers(1, 80), st.integers())
def test_boots_rise_and_numbers_begin_at_one(trouble: Trouble, ticks: int, seed: int) -> None:
    before = Packet(BOOT, 0)
    for packet in made(steps_of(trouble, ticks, seed)):
        assert packet in (Packet(before.boot, before.seq + 1), Packet(before.boot + 1, 1))
        before = packet


@given(TROUBLE, st.integers(1, 80), st.integers())
def test_the_state_counts_each_packet_once(trouble: Trouble, ticks: int, seed: int) -> None:
    """Whatever is repeated, whatever is late, with every packet stored twice by chance as well: what the verdict claims."""
    steps = steps_of(trouble, ticks, seed)
    state = State("car-00000")
    for position, send in enumerate(sends(steps), 1):
        for _ in range(1 + position % 2):
            packet = PlatformPacket("car-00000", *send.packet, f"{position:024}", {})
            state = apply(state, packet, "one", position, "now", ())
    assert state.version == len(made(steps))
    newest = max(made(steps))
    assert (state.boot, state.seq) == newest


@given(TROUBLE, st.integers(1, 80), st.integers())
def test_in_a_tunnel_nothing_is_sent_and_the_oldest_comes_out_first(
    trouble: Trouble, ticks: int, seed: int
) -> None:
    inside: list[Packet] | None = None
    for step in steps_of(trouble, ticks, seed):
        match step:
            case Vanish():
                assert inside is None
                inside = []
            case Make(packet):
                if inside is not None:
                    inside.append(packet)
            case Backlog(sent):
                assert [send.packet for send in sent] == inside
                assert len(sent) <= TUNNEL[1] * BURST[1]
                inside = None
            case Send():
                assert inside is None


def _burst(steps: list[Step]) -> bool:
    return len(made(steps)) > 1


def _again(steps: list[Step]) -> bool:
    return any(send.again for send in sends(steps))


def _late(steps: list[Step]) -> bool:
    order = [send.packet for send in sends(steps) if not send.again]
    return order != sorted(order)


def _reboot(steps: list[Step]) -> bool:
    return len({packet.boot for packet in made(steps)}) > 1


def _tunnel(steps: list[Step]) -> bool:
    return any(isinstance(step, Vanish) for step in steps)


KINDS: dict[str, Callable[[list[Step]], bool]] = {
    "duplicates": _again,
    "late": _late,
    "reboots": _reboot,
    "tunnels": _tunnel,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_rate_makes_its_own_trouble_and_no_other(kind: str) -> None:
    steps = steps_of(Trouble(**{kind: 0.3}), 100)
    assert [name for name, seen in KINDS.items() if seen(steps)] == [kind]
    assert len(made(steps)) == 100


def test_bursts() -> None:
    script = Script(Trouble(bursts=0.3), 1, "car-00000", BOOT)
    sizes = [len(made(list(script.tick()))) for _ in range(100)]
    assert set(sizes) == {1, *range(BURST[0], BURST[1] + 1)}
    assert 15 < sum(size > 1 for size in sizes) < 45


def test_some_of_all_within_a_minute_of_a_hundred_cars() -> None:
    fleet = [steps_of(SOME, 12, vehicle=f"car-{number:05d}") for number in range(100)]
    for name, seen in KINDS.items():
        assert sum(map(seen, fleet)) > 5, name
    clocks = [Script(SOME, 1, f"car-{number:05d}", BOOT).clock for number in range(200)]
    assert {clocks.count("ahead") > 2, clocks.count("1970") > 2, clocks.count("right") > 150} == {True}
    assert len({msgspec.json.encode(sends(steps)) for steps in fleet}) > 30, "each car has its own"


def test_clocks() -> None:
    assert told("right", 1.7e9, 3.0) == 1.7e9
    assert told("ahead", 1.7e9, 3.0) == 1.7e9 + HOUR
    assert told("1970", 1.7e9, 3.0) == 3.0
